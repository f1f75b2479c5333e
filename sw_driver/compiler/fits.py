"""Whether a network fits an accelerator: every limit of the hardware, node by node."""

from functools import singledispatch

import numpy as np

from systola.hw.contract.numbers import (
    BRANCH_BITS,
    CODE_BITS,
    COMPARED_BITS,
    COMPARED_ROW,
    PEAK,
    RESIDUAL_BITS,
    SOFTMAX_SHIFT,
)
from systola.model.graph.nodes import (
    ALTERNATIVES,
    DEFERRED,
    Activation,
    Constant,
    Context,
    Input,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)
from systola.model.operators.deferred import numerator_bits
from systola.model.operators.normalised import row_bound
from systola.sw_driver.compiler.layout import CompileError

__all__ = ["check_network"]


def check_network(graph, config):
    """Raise `CompileError` naming the first node and value that `config` cannot run."""
    if not graph.is_integer:
        raise CompileError("the network must be an integer one; quantize it first")
    for node in graph.nodes:
        tensor = graph.tensors[node.name]
        for name, value in ("rows", tensor.rows), ("channels", tensor.channels):
            if value > 0xFFFF:
                raise _refused(node, name, "at most 65535", value)
        alternative = ALTERNATIVES.get(type(node), {}).get(getattr(node, "variant", None))
        if alternative:
            raise _unsupported(node, alternative.words)
        _check(node, graph, config)


def _unsupported(node, what):
    return CompileError(f"node {node.name!r}: the accelerator has no {what}; `systola evaluate` "
                        f"runs the network as a model")


def _refused(node, what, expected, value):
    return CompileError(f"node {node.name!r}: {what} must be {expected}, not {value}")


@singledispatch
def _check(node, graph, config):
    raise CompileError(f"node {node.name!r}: this accelerator has no operation for {node.kind!r} "
                       f"nodes")


@_check.register(Constant)
@_check.register(Input)
@_check.register(Rows)
def _(node, graph, config):
    tensor = graph.tensors[node.name]
    if isinstance(node, Rows) and node.beside > 1:
        if not config.copies:
            raise CompileError(f"copies must be true for node {node.name!r}, which puts rows side "
                               f"by side, not false", copies=True)
        channels = tensor.channels // node.beside
        if channels % config.rows:
            raise CompileError(f"rows must divide {channels}, the channels that node "
                               f"{node.name!r} puts side by side, not {config.rows}")
    if tensor.bits <= 8 and isinstance(node, Constant):
        raise _refused(node, "bits of a constant", "from 9 to 16", tensor.bits)


@_check.register
def _(node: Linear, graph, config):
    source = graph.tensors[node.input]
    attended = any(isinstance(reader, Scores | Context) for reader in graph.consumers[node.name])
    vector = any(isinstance(reader, Activation) for reader in graph.consumers[node.name])
    _check_operand(node, "input", source, config)
    if node.weight_bits > config.weight_bits:
        raise CompileError(f"weight_bits must be at least {node.weight_bits} as in node "
                           f"{node.name!r}, not {config.weight_bits}",
                           weight_bits=node.weight_bits)
    if attended and node.bits > config.weight_bits:
        raise CompileError(f"weight_bits must be at least {node.bits}, the bits of K and V in node "
                           f"{node.name!r}, not {config.weight_bits}", weight_bits=node.bits)
    if node.bits <= 8 and not vector and node.bits > config.act_bits:
        raise CompileError(f"act_bits must be at least {node.bits} as in node {node.name!r}, not "
                           f"{config.act_bits}", act_bits=node.bits)
    if config.pe_style == "dsp_packed":
        _check_packed(node, attended, config)
    if node.residual is not None:
        if graph.tensors[node.residual].bits <= 8:
            raise _refused(node, "residual", "of 9 to 16 bits", graph.tensors[node.residual].bits)
        _check_dyadic(node, node.res_mult, node.res_shift, RESIDUAL_BITS, config, "residual ")
        _check_branch(node, node.res_mult, node.res_shift, "residual")
    _check_dyadic(node, node.mult, node.shift, node.bits, config)
    worst = np.abs(np.asarray(node.weight, np.int64)).sum(axis=1) << source.bits - 1
    _check_bound(node, int((worst + np.abs(np.asarray(node.bias, np.int64))).max()), config)


@_check.register
def _(node: Scores, graph, config):
    if node.bias_index is not None:
        _check_dyadic(node, node.bias_mult, node.bias_shift, RESIDUAL_BITS, config, "bias ")
        _check_branch(node, node.bias_mult, node.bias_shift, "bias")
    query, key = (graph.tensors[name] for name in node.inputs)
    tensor = graph.tensors[node.name]
    longest = tensor.channels
    if not config.masks and any(count < keys for first, rows, keys in tensor.spans
                                for count in tensor.key_counts[first:first + rows]):
        raise CompileError(f"masks must be true for node {node.name!r}, whose rows attend to "
                           f"different numbers of keys, not false", masks=True)
    _check_row(node, "keys", longest, config)
    _check_operand(node, "query", query, config)
    if node.bits != 8:
        raise _refused(node, "bits", "8", node.bits)
    _check_dyadic(node, node.mult, node.shift, node.bits, config)
    _check_bound(node, node.head_dim << query.bits + key.bits - 2, config)


@_check.register
def _(node: Softmax, graph, config):
    _check_option(node, "attention", node.variant, config)
    if node.variant == "published":
        _check_option(node, "attention_bits", node.bits, config)
    _check_unit(node, config)


@_check.register
def _(node: Context, graph, config):
    softmax = graph.by_name[node.attention]
    attention, values = (graph.tensors[name] for name in node.inputs)
    if node.bits > config.act_bits:
        raise CompileError(f"act_bits must be at least {node.bits} as in node {node.name!r}, not "
                           f"{config.act_bits}", act_bits=node.bits)
    if (node.factor_bits is None) != (softmax.variant == "published"):
        raise _refused(node, "factor_bits", "given with attention of exponentials only",
                       node.factor_bits)
    if node.factor_bits is None:
        _check_dyadic(node, node.mult, node.shift, node.bits, config)
    else:
        if node.factor_bits != config.factor_bits:
            # Row factors are clamped to the width that the hardware has.
            field = "mult_bits" if config.long_factors else "code_mult_bits"
            raise CompileError(f"{field} must be {node.factor_bits} as in node {node.name!r}, "
                               f"not {getattr(config, field)}", **{field: node.factor_bits})
        limit = numerator_bits(attention.bits, node.factor_bits)
        if not 0 <= int(node.mult) < 1 << limit:
            raise _refused(node, "numerator", f"from 0 to {(1 << limit) - 1}", int(node.mult))
    # The most negative code would be beyond what 24 bits hold of normalised attention.
    largest = (1 << values.bits - 1) - getattr(graph.by_name[node.value], "symmetric", False)
    _check_bound(node, _row_sum(softmax, attention) * largest, config)


@_check.register
def _(node: Activation, graph, config):
    _check_option(node, "gelu", node.variant, config)
    if node.bits > config.act_bits:
        raise CompileError(f"act_bits must be at least {node.bits} as in node {node.name!r}, not "
                           f"{config.act_bits}", act_bits=node.bits)
    if node.variant == "published":
        _check_row(node, "channels", graph.tensors[node.name].channels, config)
        _check_dyadic(node, node.mult, node.shift, node.bits, config)
        _check_unit(node, config)


@_check.register
def _(node: Norm, graph, config):
    source = graph.tensors[node.input]
    if node.groups > 1:
        raise _unsupported(node, "norm of each head (query and key norms)")
    if node.bits > config.norm_bits:
        raise CompileError(f"norm_bits must be 16 for node {node.name!r}, whose result has "
                           f"{node.bits} bits, not {config.norm_bits}", norm_bits=16)
    if source.bits <= 8:
        raise _refused(node, "input", "of 9 to 16 bits", source.bits)
    _check_row(node, "channels", source.channels, config)
    # Of compared ones with what the configuration needs for them.
    _check_option(node, "norm", node.variant, config, **({} if node.variant != "compared" else {
        "act_bits": min(config.act_bits, COMPARED_BITS),
        "max_row": min(config.max_row, COMPARED_ROW)}))
    if CODE_BITS >= node.bits > config.act_bits:
        raise CompileError(f"act_bits must be at least {node.bits} as in node {node.name!r}, not "
                           f"{config.act_bits}", act_bits=node.bits)
    if node.mult is not None:
        _check_dyadic(node, node.mult, node.shift, CODE_BITS, config)


@_check.register
def _(node: Mean, graph, config):
    if config.pooling != "mean":
        raise CompileError(f"pooling must be 'mean' for node {node.name!r}, not "
                           f"{config.pooling!r}", pooling="mean")
    _check_row(node, "channels", graph.tensors[node.name].channels, config)
    limit = (1 << config.mean_mult_bits) - 1
    if not 1 <= int(node.mult) <= limit:
        raise _refused(node, "mult", f"from 1 to {limit}", int(node.mult))


def _check_option(node, name, wanted, config, **needs):
    if wanted != getattr(config, name):
        raise CompileError(f"{name} must be {wanted!r} as in node {node.name!r}, "
                           f"not {getattr(config, name)!r}", **{name: wanted}, **needs)


def _check_operand(node, what, tensor, config):
    if tensor.bits > config.act_bits:
        if tensor.bits > 8:
            raise _refused(node, what, "of at most 8 bits", tensor.bits)
        raise CompileError(f"act_bits must be at least {tensor.bits}, the bits of the {what} of "
                           f"node {node.name!r}, not {config.act_bits}", act_bits=tensor.bits)


def _check_row(node, what, value, config):
    if value > config.max_row:
        raise CompileError(f"max_row must be at least {value}, the {what} of node {node.name!r}, "
                           f"not {config.max_row}", max_row=value)


def _check_unit(node, config):
    limit = (1 << config.x0_bits) - 1
    if not 1 <= node.unit <= limit:
        raise _refused(node, "unit", f"from 1 to {limit} (x0_bits)", node.unit)


def _row_sum(softmax, attention):
    """Return a bound of the sum of a row of the attention.

    Shiftmax's outputs add up to its full scale, unless the sum of the exponentials, each at most
    unit * 2**n, is clamped to 31 bits: then they are these, shifted.
    """
    if softmax.variant in DEFERRED:
        return attention.channels * PEAK
    if softmax.variant == "normalised":
        return row_bound(attention.channels)
    full_scale = (1 << softmax.bits - 1) - 1
    exponentials = attention.channels * int(softmax.unit) << SOFTMAX_SHIFT
    return min(attention.channels * full_scale,
               max(full_scale, exponentials >> 32 - softmax.bits))


def _check_packed(node, attended, config):
    """Two stationary operands share a DSP's port, which has no room for the most negative code."""
    limit = (1 << config.weight_bits - 1) - 1
    if np.min(node.weight) < -limit:
        raise CompileError(f"node {node.name!r}: weight must be at least {-limit} with pe_style "
                           f"'dsp_packed', not {np.min(node.weight)}")
    if attended and node.bits == config.weight_bits and not node.symmetric:
        raise CompileError(f"node {node.name!r} must be symmetric with pe_style 'dsp_packed', as K "
                           f"and V are stationary")


def _check_dyadic(node, mult, shift, bits, config, what=""):
    largest = int(np.abs(np.asarray(mult, np.int64)).max())
    field = "mult_bits"
    if bits <= CODE_BITS and config.code_mult_bits < config.mult_bits:
        field = "code_mult_bits"
    limit = getattr(config, field)
    if largest >= 1 << limit:
        raise _refused(node, f"{what}multipliers", f"below 2**{limit} ({field})", largest)


def _check_branch(node, mult, shift, what):
    """Refuse a residual that could bring back into 16 bits a sum that the hardware saturates."""
    mult, shift = abs(int(mult)), int(shift)
    largest, limit = (mult << 15) + (1 << shift >> 1) >> shift, (1 << BRANCH_BITS - 1) - (1 << 15)
    if largest >= limit:
        raise _refused(node, f"{what} rescaled from 16 bits", f"less than {limit}", largest)


def _check_bound(node, bound, config):
    if bound >= 1 << config.acc_bits - 1:
        raise CompileError(f"acc_bits must be at least {bound.bit_length() + 1}, the worst case "
                           f"of node {node.name!r}, not {config.acc_bits}",
                           acc_bits=bound.bit_length() + 1)
