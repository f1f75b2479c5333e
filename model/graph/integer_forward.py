"""The integer reader of a network: every node by the model of its operator, bit for bit.

What it computes is the definition of a network's result; hardware and machine must equal it.
"""

from functools import singledispatch

import numpy as np

from systola.hw.contract.numbers import GELU_SHIFT
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
from systola.model.graph.softmax_operators import softmax_operator
from systola.model.operators.deferred import deferred_context, row_factors
from systola.model.operators.ibert_gelu import ibert_gelu
from systola.model.operators.ibert_layernorm import ibert_layernorm
from systola.model.operators.l1_layernorm import l1_layernorm
from systola.model.operators.layernorm import layernorm_requant
from systola.model.operators.matmul import linear, matmul
from systola.model.operators.norm_codes import norm_codes
from systola.model.operators.requant import requantize, residual_add
from systola.model.operators.row_mean import row_mean
from systola.model.operators.shiftgelu import shiftgelu

__all__ = ["check_inputs", "check_kept", "compute", "forward"]

_CHUNK = 32  # images at a time, so that a layer's tensors stay in the cache


def forward(graph, inputs, *, keep=None):
    """Run an integer network and return its tensors by name.

    Parameters
    ----------
    graph : Graph
        The integer network.
    inputs : dict of str to int array
        For every `Input`, (rows, channels) or (B, rows, channels) within its signed bits.
    keep : collection of str, optional
        Tensors to return; by default those of all nodes that are neither inputs nor constants.

    Returns
    -------
    dict of str to int64 array
        By name in the order of the nodes, of shape ``graph.tensors[name].shape``; a batch adds a
        leading axis to all. Attention that `Context` divides is the exponentials.

    Raises
    ------
    ValueError
        If the network is a float one, an input is missing, unknown, of another shape or out of
        range, or `keep` has an unknown name.
    """
    inputs, batch = check_inputs(graph, inputs)
    keep = check_kept(graph, keep)
    parts = [_run(graph, {name: value[start:start + _CHUNK].astype(np.int64)
                          for name, value in inputs.items()}, keep)
             for start in range(0, max(len(next(iter(inputs.values()))), 1), _CHUNK)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return whole if batch else {name: value[0] for name, value in whole.items()}


def check_kept(graph, keep):
    """Return the names in `keep` in the order of the nodes, by default those of all results."""
    names = [node.name for node in graph.nodes if node.inputs]
    unknown = set() if keep is None else set(keep) - set(names)
    if unknown:
        raise ValueError(f"keep must name tensors of the network, not {sorted(unknown)}")
    return names if keep is None else [name for name in names if name in set(keep)]


def check_inputs(graph, inputs):
    """Return integer inputs with a leading batch axis, and whether they came with one."""
    if not graph.is_integer:
        raise ValueError("the network must be an integer one; quantize it first")
    wanted = {node.name: node for node in graph.inputs}
    if inputs.keys() != wanted.keys():
        raise ValueError(f"inputs must be {', '.join(wanted)}, not "
                         f"{', '.join(map(str, inputs)) or 'none'}")
    values, sizes = {}, set()
    for name, node in wanted.items():
        value, shape = np.asarray(inputs[name]), (node.rows, node.channels)
        if value.ndim not in (2, 3) or value.shape[-2:] != shape:
            raise ValueError(f"input {name!r} must be of shape {shape} or "
                             f"(B, {shape[0]}, {shape[1]}), not {value.shape}")
        half = 1 << node.bits - 1
        if value.dtype.kind not in "iu" or (value.size and not (
                -half <= value.min() <= value.max() < half)):
            raise ValueError(f"input {name!r} must hold integers from {-half} to {half - 1}")
        sizes.add(len(value) if value.ndim == 3 else None)
        values[name] = value.reshape(-1, *shape)
    if len(sizes) > 1:
        shown = sorted("one without an axis" if size is None else str(size) for size in sizes)
        raise ValueError(f"inputs must all have the same number of images, not "
                         f"{' and '.join(shown)}")
    return values, sizes != {None}


def _run(graph, inputs, keep):
    """Run inputs (B, rows, channels) and return the tensors in `keep`."""
    left = {name: len(readers) for name, readers in graph.consumers.items()}
    values, kept, batch = dict(inputs), {}, len(next(iter(inputs.values())))
    for node in graph.nodes:
        if node.name in inputs:
            continue
        if isinstance(node, Constant):
            values[node.name] = np.broadcast_to(node.values.astype(np.int64),
                                                (batch, *node.values.shape))
            continue
        values[node.name] = compute(node, graph, *(values[name] for name in node.inputs))
        if node.name in keep:
            kept[node.name] = values[node.name]
        for name in dict.fromkeys(node.inputs):
            left[name] -= 1
            if not left[name]:
                del values[name]
    return kept


@singledispatch
def compute(node, graph, *inputs):
    """Return the tensor that one node makes of its inputs, (B, ...) arrays in integer arithmetic.

    Of `graph` only the tensors' sequences matter.
    """
    raise TypeError(f"node {node.name!r}: kind {node.kind} has no integer arithmetic")


@compute.register
def _(node: Linear, graph, x, residual=None):
    extra = {} if residual is None else {"residual": residual, "res_mult": node.res_mult,
                                         "res_shift": node.res_shift}
    return requantize(linear(x, node.weight, node.bias), node.mult, node.shift, node.bits,
                      symmetric=node.symmetric, **extra)


@compute.register
def _(node: Scores, graph, query, key):
    q = heads_of(query, node.query_channel, node.heads, node.head_dim)
    k = heads_of(key, node.key_channel, node.heads, node.head_dim)

    def one(query, key, bias=None):
        extra = {} if bias is None else {"residual": bias.astype(np.int64),
                                         "res_mult": node.bias_mult, "res_shift": node.bias_shift}
        return requantize(matmul(query, key), node.mult, node.shift, node.bits, **extra)

    return between_rows(graph.tensors[node.name].spans, one, q, k, score_bias(node))


@compute.register
def _(node: Softmax, graph, scores):
    return over_keys(graph.tensors[node.input].runs, softmax_operator(node), scores)


@compute.register
def _(node: Context, graph, attention, value):
    v = heads_of(value, node.value_channel, attention.shape[-3], node.head_dim)

    def one(a, values):
        if node.factor_bits is None:
            return requantize(matmul(a, np.swapaxes(values, -1, -2)), node.mult, node.shift,
                              node.bits)
        factors = row_factors(a.sum(axis=-1), node.mult, node.factor_bits)
        return deferred_context(a, factors, values, node.shift, node.bits)

    return side_by_side(graph.tensors[node.attention].spans, one, attention, v)


@compute.register
def _(node: Activation, graph, x):
    if node.variant == "table":
        return node.table.astype(np.int64)[x + 128]
    y = (ibert_gelu(x, node.constants) if node.variant == "ibert"
         else shiftgelu(x, -node.unit, GELU_SHIFT))
    return requantize(y, node.mult, node.shift, node.bits)


@compute.register
def _(node: Norm, graph, x):
    parts = x.reshape(*x.shape[:-1], node.groups, x.shape[-1] // node.groups)
    if node.variant == "compared":
        return norm_codes(parts, node.share, node.bits, node.epsilon).reshape(x.shape)
    shape = node.groups, parts.shape[-1]
    bias, mult, shift = (a.reshape(shape) for a in (node.bias, node.mult, node.shift))
    if node.variant in _NORMS:
        y = requantize(_NORMS[node.variant](parts) + bias.astype(np.int64), mult, shift, node.bits)
    else:
        y = layernorm_requant(parts, bias, mult, shift, node.bits, node.variant, node.epsilon or 0)
    return y.reshape(x.shape)


_NORMS = {"ibert": ibert_layernorm, "l1": l1_layernorm}


@compute.register
def _(node: Add, graph, x, other):
    return residual_add(x, node.mult, node.shift, other, node.other_mult, node.other_shift,
                        node.bits)


@compute.register
def _(node: Rows, graph, *sources):
    return gathered(node.index, node.beside, *sources)


@compute.register
def _(node: Mean, graph, x):
    groups = x.reshape(*x.shape[:-2], node.groups, -1, x.shape[-1])
    return row_mean(groups, node.mult, node.shift, node.bits)
