"""Real arithmetic of every kind of node in PyTorch, whose gradients stand for those of integers."""

from functools import singledispatch

import torch
from torch.nn import functional

from systola.model.graph.nodes import (
    Activation,
    Add,
    Constant,
    Context,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)

__all__ = ["surrogate"]

_FUNCTIONS = {"gelu": functional.gelu,
              "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
              "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}

_LEAST_DEVIATION = 1e-12


@singledispatch
def surrogate(node, graph, given, *inputs):
    """Return what an integer node stands for in real arithmetic, a tensor (B, ...).

    Parameters
    ----------
    node : Node
        Of the integer network.
    graph : Graph
        That network; of it only sequences and shapes matter.
    given : dict of str to Tensor or float
        Real parameters of the node by name: those of `systola.model.training.real_network.TRAINED`,
        and ``gain``, ``offset`` or ``epsilon``.
    *inputs : Tensor
        Real values of what it reads, (B, ...).
    """
    raise TypeError(f"node {node.name!r}: kind {node.kind} cannot be trained")


@surrogate.register
def _(node: Constant, graph, given):
    return given["values"]


@surrogate.register
def _(node: Linear, graph, given, x, residual=None):
    y = functional.linear(x, given["weight"], given["bias"])
    return y if residual is None else y + residual


@surrogate.register
def _(node: Scores, graph, given, query, key):
    q = _heads(query, node.query_channel, node.heads, node.head_dim)
    k = _heads(key, node.key_channel, node.heads, node.head_dim)
    bias = None
    if node.bias_index is not None:
        index = torch.from_numpy(node.bias_index).to(query.device).long()
        bias = given["bias_table"][index].permute(2, 0, 1)

    def one(part, keys):
        stationary = k[..., part.start:part.start + keys, :]
        scores = q[..., part, :] @ stationary.transpose(-1, -2) * given["gain"]
        return scores if bias is None else scores + bias[:, part, :keys]

    return _over_keys(graph.tensors[node.name].spans, one)


@surrogate.register
def _(node: Softmax, graph, given, scores):
    return _over_keys(graph.tensors[node.input].runs,
                      lambda part, keys: torch.softmax(scores[..., part, :keys], dim=-1),
                      scores.shape[-1])


@surrogate.register
def _(node: Context, graph, given, attention, value):
    v = _heads(value, node.value_channel, attention.shape[-3], node.head_dim)
    context = torch.cat([
        attention[..., first:first + rows, :keys] @ v[..., first:first + keys, :]
        for first, rows, keys in graph.tensors[node.attention].spans], dim=-2)
    return context.transpose(-3, -2).flatten(-2)


@surrogate.register
def _(node: Activation, graph, given, x):
    return _FUNCTIONS[node.function](x) + given["offset"]


@surrogate.register
def _(node: Norm, graph, given, x):
    parts = x.unflatten(-1, (node.groups, -1))
    centred = parts - parts.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    normal = centred * torch.rsqrt(variance + max(given["epsilon"], _LEAST_DEVIATION))
    # One of comparisons has no gains and biases.
    return normal.flatten(-2) * given.get("weight", 1.0) + given.get("bias", 0.0)


@surrogate.register
def _(node: Add, graph, given, x, other):
    return x + other


@surrogate.register
def _(node: Rows, graph, given, *sources):
    batch = max(map(len, sources))
    starts = [0]
    for source in sources:
        starts.append(starts[-1] + source.shape[-2])
    rows = torch.tensor([starts[which] + row for which, row in node.index.tolist()],
                        device=sources[0].device)
    whole = torch.cat([source.expand(batch, -1, -1) for source in sources], dim=1)
    return whole.index_select(1, rows).reshape(batch, len(rows) // node.beside, -1)


@surrogate.register
def _(node: Mean, graph, given, x):
    return x.unflatten(-2, (node.groups, -1)).mean(dim=-2)


def _heads(x, first, heads, width):
    """Return channels of (B, rows, C) as heads (B, heads, rows, width)."""
    return x[..., first:first + heads * width].unflatten(-1, (heads, width)).transpose(-3, -2)


def _over_keys(runs, function, most=None):
    """Return ``function(rows, keys)`` of all runs, with `most` keys or those of the longest."""
    most = most or max(keys for _, _, keys in runs)
    return torch.cat([
        functional.pad(function(slice(first, first + rows), keys), (0, most - keys))
        for first, rows, keys in runs], dim=-2)
