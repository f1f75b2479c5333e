"""Nodes as steps of the kernel: packed parameters, and the bounds under which a step is exact.

A step computes in 32 bits and rounds in float64. Products of codes are summed in 32 bits, which
wrap, so that only the result has to fit. A sum z becomes ``rne(z * mult / 2**shift)`` as the low
bits of ``z * (mult * 2**-shift) + 1.5 * 2**52``, in one rounding where the machine fuses product
and sum, and else if the product stays below 2**53: then it is exact before. Either way the result
must fit into 32 bits before it is saturated. What a bound does not allow is left to the model of
the operator.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, singledispatch

import numpy as np

from systola.hw.contract.numbers import (
    BRANCH_BITS,
    GELU_SHIFT,
    INT_BITS,
    MAX31,
    NORM_FRACTION,
    NORM_NUMERATOR,
    NORMALISED_PEAK,
    PEAK,
    RESIDUAL_BITS,
    SOFTMAX_SHIFT,
    TABLE_BYTES,
)
from systola.model.graph.nodes import (
    ALTERNATIVES,
    DEFERRED,
    Activation,
    Add,
    Context,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)
from systola.model.graph.row_arrays import score_bias
from systola.model.kernel.compile import SOURCE
from systola.model.operators.normalised import row_bound
from systola.model.operators.requant import requantize
from systola.model.operators.shiftgelu import shiftgelu
from systola.model.operators.shiftmax import shift_exp

__all__ = ["Step", "Unfit", "fields_of", "is_wide", "row_stride", "step_of"]

_SUM = 1 << 30
"""What each rounded branch stays below, so that two of them fit 32 bits."""

_BRANCH = (1 << BRANCH_BITS - 1) - (1 << RESIDUAL_BITS - 1)
"""Up to here a branch of a sum leaves its saturation as it is, see `requantize`."""

_EXACT = 1 << 53


class Unfit(Exception):
    """A node is left to the model of its operator; the message says why."""


@dataclass(kw_only=True)
class Step:
    """One call: a function of the kernel, numbers and arrays by the names of its fields.

    ``tensors`` are fields that get the places of tensors; ``scratch`` is how many bytes it needs
    for itself; ``places`` makes fields that need all places.
    """

    function: str
    tensors: dict
    numbers: dict
    scratch: int = 0
    places: Callable | None = None


@cache
def fields_of(function):
    """Return the fields of a function's parameters in order: (type, name) as the C source says."""
    body = re.search(rf"struct {function} {{(.*?)}};", SOURCE.read_text(), re.DOTALL)[1]
    return tuple((kind.strip(), name.strip()) for kind, names in re.findall(
        r"(i64|f64|const \w+ \*)\s*([^;]+);", body) for name in names.split(","))


def is_wide(tensor):
    """Return whether a tensor has 16-bit numbers in the workspace."""
    return int(tensor.bits > 8)


def row_stride(tensor, library):
    """Return how many numbers lie between the starts of a tensor's rows in the workspace."""
    step = library.call("keys_step") if tensor.heads else 1
    return -(-tensor.channels // step) * step


def _modelled(node):
    """Return the refusal of a variant that is there to compare with."""
    words = ALTERNATIVES[type(node)][node.variant].words
    return Unfit(f"variant {node.variant!r} of node {node.name!r} ({words}) has no C code, only "
                 f"the model of its operator")


@singledispatch
def step_of(node, graph, library):
    """Return the `Step` of a node; raises `Unfit` where there is none."""
    raise Unfit(f"{node.kind} has no C code")


@step_of.register
def _(node: Linear, graph, library):
    x, channels = graph.tensors[node.input], len(node.weight)
    norms = np.abs(node.weight.astype(np.int64)).sum(axis=1)
    bound = (norms << x.bits - 1) + np.abs(node.bias.astype(np.int64))
    if bound.max() > MAX31:
        raise Unfit(f"sums reach {bound.max()}")
    mult = _factor(bound, node.mult, node.shift, library)
    weights = np.zeros(library.call("packed_bytes", channels, x.channels, is_wide(x)) + 64,
                       np.int8)
    start = np.zeros(_lanes(channels), np.int32)
    library.call("pack_weights", weights, start, np.ascontiguousarray(node.weight, np.int8),
                 np.ascontiguousarray(node.bias, np.int32), channels, x.channels, is_wide(x))
    tensors = {"x": node.input, "y": node.name}
    numbers = {"wide_x": is_wide(x), "rows": x.rows, "inputs": x.channels, "channels": channels,
               "weights": weights, "start": start, "mult": _padded(mult), "has_residual": 0,
               **_output(node)}
    if node.residual is not None:
        other = graph.tensors[node.residual]
        tensors["residual"] = node.residual
        numbers |= {"has_residual": 1, "wide_residual": is_wide(other),
                    "residual_mult": _branch(other.bits, node.res_mult, node.res_shift, library)}
    return Step(function="linear", tensors=tensors, numbers=numbers, scratch=library.call(
        "room_bytes", x.rows, x.channels, 1, is_wide(x)))


@step_of.register
def _(node: Scores, graph, library):
    query, key, y = (graph.tensors[name] for name in (node.query, node.key, node.name))
    bound = node.head_dim << query.bits + key.bits - 2
    if bound > MAX31:
        raise Unfit(f"sums reach {bound}")
    numbers = {"query_stride": query.channels, "query_channel": node.query_channel,
               "key_stride": key.channels, "key_channel": node.key_channel,
               "head_dim": node.head_dim, **_matrices(y), **_triples("spans", y.spans),
               "mult": _factor(bound, node.mult, node.shift, library), **_limits(node),
               "has_bias": 0}
    if node.bias_index is not None:
        bias = np.ascontiguousarray(score_bias(node), np.int16)
        numbers |= {"has_bias": 1, "bias": bias, "bias_mult": _branch(
            RESIDUAL_BITS, node.bias_mult, node.bias_shift, library)}
    return Step(function="scores", tensors={"query": node.query, "key": node.key, "y": node.name},
                numbers=numbers, scratch=library.call(
                    "room_bytes", _longest(y), node.head_dim, y.channels, 0))


@step_of.register
def _(node: Softmax, graph, library):
    y = graph.tensors[node.name]
    tensors = {"x": node.input, "y": node.name}
    numbers = {**_matrices(y), **_triples("runs", y.runs)}
    if node.variant in DEFERRED:
        return Step(function="exponentials", tensors=tensors, scratch=row_stride(y, library),
                    numbers={**numbers, "table": node.exponentials()})
    if node.variant == "normalised":
        return _normalised(node, tensors, numbers, row_stride(y, library))
    if node.variant != "published":
        raise _modelled(node)
    reciprocal = (1 << _RECIPROCAL_SHIFT) // node.unit + 1
    if not _shift_exp_fits(node.unit, reciprocal):
        raise Unfit(f"exponentials of unit {node.unit} do not fit 31 bits")
    return Step(function="shiftmax", tensors=tensors, scratch=4 * row_stride(y, library), numbers={
        **numbers, "wide_y": is_wide(y), "unit": node.unit, "octaves": SOFTMAX_SHIFT,
        "reciprocal": reciprocal, "reciprocal_shift": _RECIPROCAL_SHIFT,
        "output_shift": INT_BITS + 1 - node.bits, "top": (1 << node.bits - 1) - 1})


def _normalised(node, tensors, numbers, stride):
    """Return the step of normalised attention."""
    most = numbers["keys"] * NORMALISED_PEAK
    if most >= 1 << 32:
        raise Unfit(f"exponentials add up to {most}")
    table = np.minimum(node.exponentials(), np.uint16(NORMALISED_PEAK))
    return Step(function="normalised", tensors=tensors, scratch=3 * stride,
                numbers={**numbers, "table": table})


_RECIPROCAL_SHIFT = 22


def _shift_exp_fits(unit, reciprocal):
    """Return whether the kernel's ShiftExp is that of the model, for all that it can be given."""
    wanted, x = shift_exp(-np.arange(TABLE_BYTES), -unit, SOFTMAX_SHIFT), -np.arange(TABLE_BYTES)
    p = np.maximum(x + (x >> 1) - (x >> 4), -unit * SOFTMAX_SHIFT)
    q = -p * reciprocal >> _RECIPROCAL_SHIFT
    doubled = (p + unit * q + 2 * unit) << np.maximum(SOFTMAX_SHIFT - q, 0)
    return bool(max(wanted.max(), (-p * reciprocal).max(), doubled.max() >> 1) <= MAX31
                and q.max() <= SOFTMAX_SHIFT and np.array_equal(wanted, doubled >> 1))


@step_of.register
def _(node: Context, graph, library):
    attention, value = graph.tensors[node.attention], graph.tensors[node.value]
    softmax = graph.by_name[node.attention]
    if isinstance(softmax, Softmax) and softmax.variant in ALTERNATIVES[Softmax]:
        raise _modelled(softmax)
    if attention.stage not in {"shares", "exponentials"}:
        raise Unfit(f"attention of {attention.stage} has no C code")
    most = _row_sum(graph, node) << value.bits - 1
    if most > MAX31:
        raise Unfit(f"sums reach {most}")
    wide, keys = is_wide(attention), attention.channels
    numbers = {"wide_attention": wide, "value_stride": value.channels,
               "value_channel": node.value_channel, "head_dim": node.head_dim,
               **_matrices(attention), **_triples("spans", attention.spans), **_limits(node)}
    if node.factor_bits is None:
        numbers |= {"is_deferred": 0, "mult": _factor(most, node.mult, node.shift, library)}
    else:
        # A row's sum times its factor is at most the numerator, and so is a code's part.
        _factor(int(node.mult) << value.bits - 1, 1, node.shift, library)
        numbers |= {"is_deferred": 1, "mult": float(np.ldexp(1.0, -int(node.shift))),
                    "numerator": int(node.mult), "top": (1 << node.factor_bits) - 1}
    return Step(function="context", numbers=numbers, tensors={
        "attention": node.attention, "value": node.value, "y": node.name},
        scratch=library.call("room_bytes", _longest(attention), keys, node.head_dim, wide))


def _row_sum(graph, context):
    """Return what the attention of a row adds up to at most."""
    attention, source = graph.tensors[context.attention], graph.by_name[context.attention]
    if attention.stage == "exponentials":
        return (row_bound(attention.channels) if attention.bits > 8
                else attention.channels * PEAK)
    full = 1 << attention.bits - 1
    if isinstance(source, Softmax) and attention.channels * int(
            shift_exp(0, -source.unit, SOFTMAX_SHIFT)) <= MAX31:
        return full  # the sum is not clamped, so that shares are of the whole
    return attention.channels * (full - 1)


@step_of.register
def _(node: Activation, graph, library):
    x = graph.tensors[node.input]
    if node.variant == "table":
        table = node.table
    elif node.variant == "published":
        table = _gelu_tables(node)
    else:
        raise _modelled(node)
    return Step(function="table", tensors={"x": node.input, "y": node.name}, numbers={
        "rows": x.rows, "channels": x.channels, "by_maximum": int(node.variant == "published"),
        "table": np.ascontiguousarray(table, np.int8)})


def _gelu_tables(node):
    """Return the results of all codes for all maxima of a row, int8 (256 maxima, 256 codes)."""
    codes = np.arange(-128, 128)
    y = shiftgelu(np.minimum(codes, codes[:, None]), -node.unit, GELU_SHIFT)
    return requantize(y, node.mult, node.shift, node.bits)


@step_of.register
def _(node: Norm, graph, library):
    x = graph.tensors[node.input]
    channels = x.channels // node.groups
    if node.variant == "compared":
        raise Unfit(f"node {node.name!r}: a compared layer norm has no C code, only the model of "
                    f"its operator")
    if node.variant not in _NORM_BITS:
        raise _modelled(node)
    if channels << RESIDUAL_BITS - 1 > MAX31:
        raise Unfit(f"sums of {channels} channels reach 32 bits")
    bound = (1 << _NORM_BITS[node.variant]) + np.abs(node.bias.astype(np.int64))
    numbers = {"wide_x": is_wide(x), "rows": x.rows, "groups": node.groups, "channels": channels,
               "bias": node.bias.astype(np.float64),
               "mult": _factor(bound, node.mult, node.shift, library), **_output(node)}
    if node.variant == "normalised":
        numbers |= {"epsilon": node.epsilon, "fraction": NORM_FRACTION,
                    "numerator": NORM_NUMERATOR}
    else:
        numbers["leading_one"] = int(node.variant == "leading_one")
    return Step(function="normalised_norm" if node.variant == "normalised" else "norm",
                tensors={"x": node.input, "y": node.name}, numbers=numbers)


_NORM_BITS = {"published": INT_BITS - 1, "leading_one": INT_BITS - 1, "normalised": INT_BITS}
"""Bits of what a layer norm makes before its bias: a root is never below that of the largest
square, or hardly."""


@step_of.register
def _(node: Add, graph, library):
    x, other = graph.tensors[node.input], graph.tensors[node.other]
    branches = ((x.bits, node.mult, node.shift), (other.bits, node.other_mult, node.other_shift))
    factors = [_factor(1 << bits - 1, mult, shift, library) for bits, mult, shift in branches]
    if min(abs(factor) * 2.0 ** (bits - 1)
           for factor, (bits, _, _) in zip(factors, branches, strict=True)) > _BRANCH:
        raise Unfit("both branches may leave the bits of a branch")
    return Step(function="add", tensors={"x": node.input, "other": node.other, "y": node.name},
                numbers={"wide_x": is_wide(x), "wide_other": is_wide(other),
                         "elements": x.rows * x.channels, "mult": factors[0],
                         "other_mult": factors[1], **_output(node)})


@step_of.register
def _(node: Mean, graph, library):
    x = graph.tensors[node.input]
    rows = x.rows // node.groups
    bound = rows << x.bits - 1
    if bound > MAX31:
        raise Unfit(f"sums reach {bound}")
    return Step(function="mean", tensors={"x": node.input, "y": node.name}, numbers={
        "wide_x": is_wide(x), "groups": node.groups, "rows": rows, "channels": x.channels,
        "mult": _factor(bound, node.mult, node.shift, library), **_output(node)})


@step_of.register
def _(node: Rows, graph, library):
    y, count = graph.tensors[node.name], graph.tensors[node.sources[0]].channels
    size = count << is_wide(y)
    which, row = node.index.T.astype(np.int64)
    starts = np.flatnonzero(np.r_[True, (np.diff(which) != 0) | (np.diff(row) != 1)])
    lengths = np.diff(np.r_[starts, len(row)])

    def copies(places):
        sources = np.array([places[name] for name in node.sources])
        table = np.stack([places[node.name] + starts * size,
                          sources[which[starts]] + row[starts] * size, lengths * size], axis=1)
        return {"count": len(table), "copies": np.ascontiguousarray(table)}

    return Step(function="rows", tensors={}, numbers={}, places=copies)


def _factor(bound, mult, shift, library):
    """Return ``mult * 2**-shift`` as float64, if sums up to `bound` are rescaled exactly."""
    mult, shift = np.asarray(mult, np.int64), np.asarray(shift, np.int64)
    factor = np.ldexp(mult.astype(np.float64), -shift)
    reach = np.max(np.abs(factor) * np.asarray(bound, np.float64))
    if reach >= _SUM:
        raise Unfit(f"rescaled sums reach {reach:.3g}")
    product = np.max(np.abs(mult).astype(np.float64) * np.asarray(bound, np.float64))
    if product >= _EXACT and not library.has_fma:
        raise Unfit(f"products reach {product:.3g} without fused rounding")
    return factor if factor.ndim else float(factor)


def _branch(bits, mult, shift, library):
    """Return the factor of a second branch of `bits`, if it never decides over the first."""
    factor = _factor(1 << bits - 1, mult, shift, library)
    if abs(factor) * 2.0 ** (bits - 1) > _BRANCH:
        raise Unfit("the rescaled residual may leave the bits of a branch")
    return factor


def _limits(node):
    """Return the fields of saturation."""
    symmetric = getattr(node, "symmetric", False)
    return {"low": int(symmetric) - (1 << node.bits - 1), "high": (1 << node.bits - 1) - 1}


def _output(node):
    """Return the fields of saturation and of a result that may be wide."""
    return {"wide_y": int(node.bits > 8), **_limits(node)}


def _matrices(tensor):
    return {"heads": tensor.heads, "rows": tensor.rows, "keys": tensor.channels}


def _triples(name, parts):
    return {"count": len(parts), name: np.array(parts, np.int64)}


def _longest(tensor):
    """Return the most rows of a sequence."""
    return max(rows for _, rows in tensor.sequences)


def _lanes(channels):
    return -(-channels // _MOST_LANES) * _MOST_LANES


_MOST_LANES = 64
"""Channels are read in multiples of at most so many."""


def _padded(values):
    """Return numbers of channels with room behind them, where nothing is used but all is read."""
    return np.pad(values, (0, _lanes(len(values)) - len(values)))
