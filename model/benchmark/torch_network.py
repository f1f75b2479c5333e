"""A float network in plain PyTorch, with its own weights."""

import numpy as np
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

__all__ = ["torch_network"]

_FUNCTIONS = {"gelu": functional.gelu,
              "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
              "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


def torch_network(graph, threads):
    """Return a function from inputs by name, float32 (B, rows, C), to the first output.

    Attention is PyTorch's own fused one. Networks with a bias or a mask on scores, or sequences,
    are refused with ``ValueError``.
    """
    steps = [_step(node, graph) for node in graph.nodes if node.inputs or isinstance(node,
                                                                                     Constant)]

    @torch.inference_mode()
    def run(inputs):
        torch.set_num_threads(threads)
        values = {name: torch.from_numpy(value) for name, value in inputs.items()}
        for node, step in steps:
            values[node.name] = step(*(values[name] for name in node.inputs))
        return values[graph.outputs[0]].numpy()

    return run


def _step(node, graph):
    if isinstance(node, Constant):
        value = torch.from_numpy(node.values.copy())
        return node, lambda: value[None]
    if isinstance(node, Linear):
        weight, bias = torch.from_numpy(node.weight.copy()), torch.from_numpy(node.bias.copy())

        def linear(x, residual=None):
            y = functional.linear(x, weight, bias)
            return y if residual is None else y + residual

        return node, linear
    if isinstance(node, Norm):
        return node, _norm(node, graph)
    if isinstance(node, Activation):
        return node, _FUNCTIONS[node.function]
    if isinstance(node, Scores):
        if (node.bias_index is not None or node.key_counts is not None
                or len(node.sequences) > 1):
            raise ValueError(f"node {node.name!r}: attention must be plain to be compared")
        return node, lambda query, key: (
            _heads(query, node.query_channel, node.heads, node.head_dim),
            _heads(key, node.key_channel, node.heads, node.head_dim), node.scale)
    if isinstance(node, Softmax):
        return node, lambda scores: scores
    if isinstance(node, Context):
        return node, lambda attention, value: _attended(node, attention, value)
    if isinstance(node, Rows):
        return node, _rows(node, graph)
    if isinstance(node, Add):
        return node, torch.add
    if isinstance(node, Mean):
        return node, lambda x: x.reshape(len(x), node.groups, -1, x.shape[-1]).mean(dim=2)
    raise ValueError(f"node {node.name!r}: kind {node.kind} has no PyTorch form")


def _norm(node, graph):
    weight, bias = torch.from_numpy(node.weight.copy()), torch.from_numpy(node.bias.copy())
    channels = graph.tensors[node.name].channels
    if node.groups == 1:
        return lambda x: functional.layer_norm(x, (channels,), weight, bias, node.eps)
    width = channels // node.groups
    return lambda x: functional.layer_norm(
        x.unflatten(-1, (node.groups, width)), (width,), eps=node.eps).flatten(-2) * weight + bias


def _heads(x, first, heads, width):
    part = x[..., first:first + heads * width]
    return part.reshape(*part.shape[:2], heads, width).transpose(1, 2)


def _attended(node, attention, value):
    query, key, scale = attention
    values = _heads(value, node.value_channel, query.shape[1], node.head_dim)
    context = functional.scaled_dot_product_attention(query, key, values, scale=scale)
    return context.transpose(1, 2).flatten(2)


def _rows(node, graph):
    starts = np.cumsum([0, *(graph.tensors[name].rows for name in node.sources)])
    index = torch.from_numpy(starts[node.index[:, 0]] + node.index[:, 1])
    plain = torch.equal(index, torch.arange(int(starts[-1])))

    def rows(*sources):
        batch = max(map(len, sources))
        whole = torch.cat([source.expand(batch, -1, -1) for source in sources], dim=1)
        picked = whole if plain else whole[:, index]
        return picked.reshape(batch, len(index) // node.beside, -1)

    return rows
