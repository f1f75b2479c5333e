"""The float reader of a network: float32 in numpy, the reference for accuracy and ranges."""

from functools import singledispatch

import numpy as np

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
from systola.model.graph.row_arrays import (
    between_rows,
    gathered,
    heads_of,
    over_keys,
    score_bias,
    side_by_side,
)

__all__ = ["compute", "float_forward", "gelu", "gelu_tanh", "quick_gelu", "resumed", "softmax"]


def float_forward(graph, inputs, hook=None):
    """Run a float network and return its outputs.

    Parameters
    ----------
    graph : Graph
        The float network.
    inputs : dict of str to ndarray
        For every `Input`, (B, rows, channels).
    hook : callable, optional
        Called as ``hook(name, array)`` with every tensor that is no constant, inputs first.

    Returns
    -------
    dict of str to float32 array
        ``graph.outputs``, each (B, *shape of the tensor).

    Raises
    ------
    ValueError
        If the network is an integer one, or the inputs do not fit it.
    """
    if graph.is_integer:
        raise ValueError("the network must be a float one")
    wanted = {node.name: (node.rows, node.channels) for node in graph.inputs}
    if inputs.keys() != wanted.keys():
        raise ValueError(f"inputs must be {', '.join(wanted)}, not "
                         f"{', '.join(map(str, inputs)) or 'none'}")
    values = {name: np.asarray(value, np.float32) for name, value in inputs.items()}
    for name, shape in wanted.items():
        if values[name].ndim != 3 or values[name].shape[1:] != shape:
            raise ValueError(f"input {name!r} must be of shape (B, {shape[0]}, {shape[1]}), "
                             f"not {values[name].shape}")
    sizes = {len(value) for value in values.values()}
    if len(sizes) > 1:
        raise ValueError(f"inputs must all have the same number of images, not "
                         f"{' and '.join(map(str, sorted(sizes)))}")
    (batch,) = sizes
    left = {name: len(readers) for name, readers in graph.consumers.items()}
    results = {}
    for node in graph.nodes:
        if isinstance(node, Constant):
            values[node.name] = np.broadcast_to(node.values, (batch, *node.values.shape))
        elif node.inputs:
            values[node.name] = compute(node, graph, *(values[name] for name in node.inputs))
        if hook and not isinstance(node, Constant):
            hook(node.name, values[node.name])
        if node.name in graph.outputs:
            results[node.name] = values[node.name]
        for name in dict.fromkeys(node.inputs):
            left[name] -= 1
            if not left[name]:
                del values[name]
    return results


def resumed(graph, real, changed):
    """Return the outputs of a float network in which some tensors are others than computed.

    Parameters
    ----------
    graph : Graph
        The float network.
    real : dict of str to ndarray
        Its tensors for some images, (B, *shape of the tensor).
    changed : dict of str to float32 array
        What some of them are instead. Only what depends on these is computed again.
    """
    changed = dict(changed)
    for node in graph.nodes:
        if node.name not in changed and any(name in changed for name in node.inputs):
            changed[node.name] = compute(node, graph, *(changed.get(name, real[name])
                                                        for name in node.inputs))
    return {name: changed.get(name, real[name]) for name in graph.outputs}


def softmax(x):
    """Return the softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


_ERF = 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429


def gelu(x):
    """Return ``x * Phi(x)`` within ``2e-7 * max(|x|, 1)``.

    The error function is approximated by Abramowitz and Stegun's formula 7.1.26.
    """
    x = x.astype(np.float32)
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911 / np.sqrt(2)) * size)
    tail = np.float32(_ERF[-1])
    for factor in _ERF[-2::-1]:
        tail = tail * t + np.float32(factor)
    tail *= t * np.exp(-x * x / 2)  # erfc(|x| / sqrt 2)
    return np.maximum(x, 0) - size * tail / 2


def gelu_tanh(x):
    """Return ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x**3)))``."""
    x = x.astype(np.float32)
    return x / 2 * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)))


def quick_gelu(x):
    """Return ``x / (1 + exp(-1.702 x))``."""
    x = x.astype(np.float32)
    return x / 2 * (1 + np.tanh(np.float32(0.851) * x))  # the same, and never overflows


_FUNCTIONS = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}


@singledispatch
def compute(node, graph, *inputs):
    """Return the tensor that one node makes of its inputs, (B, ...) arrays in float arithmetic.

    Of `graph` only the tensors' sequences matter.
    """
    raise TypeError(f"node {node.name!r}: kind {node.kind} has no float arithmetic")


@compute.register
def _(node: Linear, graph, x, residual=None):
    y = x @ node.weight.T + node.bias
    return y if residual is None else residual + y


@compute.register
def _(node: Scores, graph, query, key):
    q = heads_of(query, node.query_channel, node.heads, node.head_dim)
    k = heads_of(key, node.key_channel, node.heads, node.head_dim)
    return between_rows(graph.tensors[node.name].spans, lambda q, k, bias=0: q @ k.swapaxes(-1, -2)
                        * np.float32(node.scale) + bias, q, k, score_bias(node))


@compute.register
def _(node: Softmax, graph, scores):
    return over_keys(graph.tensors[node.input].runs, softmax, scores)


@compute.register
def _(node: Context, graph, attention, value):
    v = heads_of(value, node.value_channel, attention.shape[-3], node.head_dim)
    return side_by_side(graph.tensors[node.attention].spans, np.matmul, attention, v)


@compute.register
def _(node: Activation, graph, x):
    y = _FUNCTIONS[node.function](x)
    return y if node.offset is None else y + np.float32(node.offset)


@compute.register
def _(node: Norm, graph, x):
    parts = x.reshape(*x.shape[:-1], node.groups, x.shape[-1] // node.groups)
    centred = parts - parts.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(variance + np.float32(node.eps))
    return normal.reshape(x.shape) * node.weight + node.bias


@compute.register
def _(node: Add, graph, x, other):
    return x + other


@compute.register
def _(node: Rows, graph, *sources):
    return gathered(node.index, node.beside, *sources)


@compute.register
def _(node: Mean, graph, x):
    return x.reshape(*x.shape[:-2], node.groups, -1, x.shape[-1]).mean(axis=-2)
