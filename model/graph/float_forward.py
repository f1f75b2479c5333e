"""The float reader of a network: float32 in numpy, the reference for accuracy and ranges."""

from functools import singledispatch
from math import erf

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

__all__ = ["float_forward", "gelu", "softmax"]


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
            values[node.name] = _compute(node, graph, *(values[name] for name in node.inputs))
        if hook and not isinstance(node, Constant):
            hook(node.name, values[node.name])
        if node.name in graph.outputs:
            results[node.name] = values[node.name]
        for name in dict.fromkeys(node.inputs):
            left[name] -= 1
            if not left[name]:
                del values[name]
    return results


def softmax(x):
    """Return the softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


_erf = np.frompyfunc(erf, 1, 1)
_GRID = np.linspace(-6, 6, 24001)
_GRID_GELU = _GRID * 0.5 * (1 + _erf(_GRID / np.sqrt(2)).astype(np.float64))


def gelu(x):
    """Return ``x * Phi(x)``, interpolated on a grid of 1/2000: within 1e-7 of the exact value."""
    inner = np.interp(x, _GRID, _GRID_GELU)
    return np.where(np.abs(x) < 6, inner, np.maximum(x, 0)).astype(np.float32)


@singledispatch
def _compute(node, graph, *inputs):
    raise TypeError(f"node {node.name!r}: kind {node.kind} has no float arithmetic")


@_compute.register
def _(node: Linear, graph, x, residual=None):
    y = x @ node.weight.T + node.bias
    return y if residual is None else residual + y


@_compute.register
def _(node: Scores, graph, query, key):
    q = _heads(query, node.query_channel, node.heads, node.head_dim)
    k = _heads(key, node.key_channel, node.heads, node.head_dim)
    most = max(rows for _, rows in node.sequences)
    out = np.zeros((*q.shape[:-1], most), np.float32)
    for first, rows in node.sequences:
        part = slice(first, first + rows)
        out[..., part, :rows] = (q[..., part, :] @ k[..., part, :].swapaxes(-1, -2)
                                 * np.float32(node.scale))
    return out


@_compute.register
def _(node: Softmax, graph, scores):
    out = np.zeros_like(scores)
    for first, rows in graph.tensors[node.input].sequences:
        part = slice(first, first + rows)
        out[..., part, :rows] = softmax(scores[..., part, :rows])
    return out


@_compute.register
def _(node: Context, graph, attention, value):
    heads = attention.shape[-3]
    v = _heads(value, node.value_channel, heads, node.head_dim)
    context = np.concatenate([
        attention[..., first:first + rows, :rows] @ v[..., first:first + rows, :]
        for first, rows in graph.tensors[node.attention].sequences], axis=-2)
    return context.swapaxes(-3, -2).reshape(*value.shape[:-1], heads * node.head_dim)


@_compute.register
def _(node: Activation, graph, x):
    return gelu(x)


@_compute.register
def _(node: Norm, graph, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(node.eps)) * node.weight + node.bias


@_compute.register
def _(node: Add, graph, x, other):
    return x + other


@_compute.register
def _(node: Rows, graph, *sources):
    rows = np.cumsum([0, *(source.shape[-2] for source in sources)])
    return np.concatenate(sources, axis=-2)[..., rows[node.index[:, 0]] + node.index[:, 1], :]


@_compute.register
def _(node: Mean, graph, x):
    return x.reshape(*x.shape[:-2], node.groups, -1, x.shape[-1]).mean(axis=-2)


def _heads(x, first, heads, width):
    """Return channels of (..., rows, C) from `first` on as heads (..., heads, rows, width)."""
    part = x[..., first:first + heads * width]
    return np.swapaxes(part.reshape(*x.shape[:-1], heads, width), -3, -2)
