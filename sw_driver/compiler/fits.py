"""Whether a model fits an accelerator: every limit of the hardware, with the numbers."""

import numpy as np

from systola.hw.contract.config import BRANCH_BITS, SOFTMAX_SHIFT
from systola.sw_driver.compiler.layout import CompileError

__all__ = ["check_model"]

SCORE_BITS = 8
"""Bits of the attention scores, the input of Shiftmax, in every model."""

_CODE_BITS = 8
"""Results of at most so many bits have multipliers of ``code_mult_bits``."""

_PEAK = 128
"""Largest exponential of deferred attention, and least sum of a row of them."""


def check_model(model, config):
    """Raise `CompileError` naming the first value of `model` that `config` cannot run."""
    _check_options(model, config)
    _check_shapes(model, config)
    for name, layer, bits in _layers(model):
        _check_linear(name, layer, bits, model, config)
    rescales = [("position_residual", model.position_residual, 16)]
    norms = [("norm", model.norm)]
    for i, block in enumerate(model.blocks):
        prefix = f"blocks.{i}."
        rescales += [(prefix + name, getattr(block, name), bits) for name, bits in
                     (("scores", 8), ("gelu", 8), ("attn_residual", 16), ("mlp_residual", 16))]
        if model.attention == "deferred":
            _check_numerator(prefix + "context", block.context, config)
        else:
            rescales.append((prefix + "context", block.context, 8))
        norms += [(prefix + name, getattr(block, name)) for name in ("norm1", "norm2")]
        for name in "softmax_x0", "gelu_x0":
            value, limit = int(getattr(block, name)), (1 << config.x0_bits) - 1
            if not -limit <= value <= -1:
                raise CompileError(f"{prefix}{name} must be from {-limit} to -1 (x0_bits), "
                                   f"not {value}")
    for name, rescale, bits in rescales:
        _check_requant(name, rescale, (), bits, config)
        if name.endswith("residual"):
            _check_branch(name, rescale)
    for name, norm in norms:
        _check_requant(name, norm.requant, (model.channels,), model.act_bits, config)
        _check_bias(name, norm.bias, model.channels)


def _check_options(model, config):
    for name in "attention", "attention_bits", "gelu", "norm_start":
        wanted, there = getattr(model, name), getattr(config, name)
        deferred = name == "attention_bits" and model.attention == "deferred"  # not used then
        if wanted != there and not deferred:
            raise CompileError(f"{name} must be {wanted!r} as in the model, not {there!r}")
    if model.attention == "deferred" and model.mult_bits != config.mult_bits:
        # Row factors are clamped to the width that the hardware has.
        raise CompileError(f"mult_bits must be {model.mult_bits} as in the model, "
                           f"not {config.mult_bits}")
    for name in "weight_bits", "act_bits", "mult_bits", "code_mult_bits":
        wanted, there = getattr(model, name), getattr(config, name)
        if wanted > there:
            raise CompileError(f"{name} must be at least {wanted} as in the model, not {there}")
    bits = max((block.qkv.out_bits for block in model.blocks), default=0)
    if bits > config.weight_bits:
        raise CompileError(f"weight_bits must be at least {bits}, the bits of K and V, "
                           f"not {config.weight_bits}")


def _check_shapes(model, config):
    tokens, channels = model.tokens, model.channels
    if model.heads < 1 or channels % model.heads:
        raise CompileError(f"heads must divide the {channels} channels, not {model.heads}")
    if tokens < 2:
        raise CompileError(f"tokens must be at least 2, not {tokens}")
    rows = [("channels", channels)]
    if model.blocks:
        rows.append(("tokens", tokens))
        if config.gelu == "exact":  # a table needs no whole rows
            rows.append(("hidden channels", model.hidden))
    for name, value in rows:
        if value > config.max_row:
            raise CompileError(f"max_row must be at least {value}, the {name}, "
                               f"not {config.max_row}")
    for name, values in ("position", model.position), ("cls_row", model.cls_row):
        _check_range(name, values, 16)
    if np.shape(model.position) != (tokens - 1, channels):
        raise CompileError(f"position must have shape {(tokens - 1, channels)}, "
                           f"not {np.shape(model.position)}")
    for i, block in enumerate(model.blocks):
        shapes = (("qkv", 3 * channels, channels), ("proj", channels, channels),
                  ("fc1", model.hidden, channels), ("fc2", channels, model.hidden))
        for name, *shape in shapes:
            _check_shape(f"blocks.{i}.{name}", getattr(block, name), shape)
        code = block.qkv.out_bits - 1
        _check_bound(f"blocks.{i}.scores", model.head_dim << 2 * code, config)
        _check_bound(f"blocks.{i}.context", _row_sum(model, block) << code, config)
    _check_shape("patch", model.patch, (channels, model.patch.weight.shape[-1]))
    _check_shape("head", model.head, (model.classes, channels))


def _row_sum(model, block):
    """Return a bound of the sum of a row of the attention.

    Shiftmax's outputs add up to its full scale, unless the sum of the exponentials, each at most
    -x0 * 2**n, is clamped to 31 bits: then they are these, shifted.
    """
    if model.attention == "deferred":
        return model.tokens * _PEAK
    full_scale = (1 << model.attention_bits - 1) - 1
    exponentials = model.tokens * -int(block.softmax_x0) << SOFTMAX_SHIFT
    return min(model.tokens * full_scale,
               max(full_scale, exponentials >> 32 - model.attention_bits))


def _layers(model):
    """Yield name, layer and expected output bits (low, high) of every linear layer."""
    codes = (2, min(model.act_bits, 8))
    yield "patch", model.patch, (9, 16)
    for i, block in enumerate(model.blocks):
        yield f"blocks.{i}.qkv", block.qkv, codes
        yield f"blocks.{i}.proj", block.proj, (9, 16)
        yield f"blocks.{i}.fc1", block.fc1, (2, 8)
        yield f"blocks.{i}.fc2", block.fc2, (9, 16)
    yield "head", model.head, (9, 16)


def _check_linear(name, layer, bits, model, config):
    low, high = bits
    if not low <= layer.out_bits <= high:
        raise CompileError(f"{name} out_bits must be from {low} to {high}, not {layer.out_bits}")
    _check_range(f"{name} weight", layer.weight, model.weight_bits)
    if config.pe_style == "dsp_packed":
        _check_packed(name, layer, config)
    _check_bias(name, layer.bias, len(layer.weight))
    _check_requant(name, layer.requant, (len(layer.weight),), layer.out_bits, config)
    worst = np.abs(np.asarray(layer.weight, np.int64)).sum(axis=1) << model.act_bits - 1
    _check_bound(name, int((worst + np.abs(np.asarray(layer.bias, np.int64))).max()), config)


def _check_shape(name, layer, shape):
    if np.shape(layer.weight) != tuple(shape):
        raise CompileError(f"{name} weight must have shape {tuple(shape)}, "
                           f"not {np.shape(layer.weight)}")


def _check_packed(name, layer, config):
    """Two stationary operands share a DSP's port, which has no room for the most negative code."""
    limit = (1 << config.weight_bits - 1) - 1
    if np.min(layer.weight) < -limit:
        raise CompileError(f"{name} weight must be at least {-limit} with pe_style 'dsp_packed', "
                           f"not {np.min(layer.weight)}")
    if name.endswith(".qkv") and layer.out_bits == config.weight_bits and not layer.symmetric:
        raise CompileError(f"{name} must be symmetric with pe_style 'dsp_packed', as K and V are "
                           f"stationary")


def _check_numerator(name, dyadic, config):
    limit = min(31, config.mult_bits + 7)
    if not 0 <= int(dyadic.mult) < 1 << limit:
        raise CompileError(f"{name} numerator must be from 0 to {(1 << limit) - 1}, "
                           f"not {int(dyadic.mult)}")
    if not 0 <= int(dyadic.shift) <= 63:
        raise CompileError(f"{name} shift must be from 0 to 63, not {int(dyadic.shift)}")


def _check_requant(name, requant, shape, bits, config):
    mult, shift = np.asarray(requant.mult), np.asarray(requant.shift)
    if mult.shape != shape or shift.shape != shape:
        raise CompileError(f"{name} multipliers and shifts must have shape {shape}, "
                           f"not {mult.shape} and {shift.shape}")
    largest = max(abs(int(mult.min())), abs(int(mult.max())))
    field = "mult_bits"
    if bits <= _CODE_BITS and config.code_mult_bits < config.mult_bits:
        field = "code_mult_bits"
    limit = getattr(config, field)
    if largest >= 1 << limit:
        raise CompileError(f"{name} multipliers must be below 2**{limit} ({field}), "
                           f"not {largest}")
    if shift.min() < 0 or shift.max() > 63:
        bad = int(shift.min()) if shift.min() < 0 else int(shift.max())
        raise CompileError(f"{name} shifts must be from 0 to 63, not {bad}")


def _check_branch(name, rescale):
    """Refuse a residual that could bring back into 16 bits a sum that the hardware saturates."""
    mult, shift = abs(int(rescale.mult)), int(rescale.shift)
    largest, limit = (mult << 15) + (1 << shift >> 1) >> shift, (1 << BRANCH_BITS - 1) - (1 << 15)
    if largest >= limit:
        raise CompileError(f"{name} must rescale 16 bits to less than {limit}, "
                           f"not to {largest}")


def _check_bias(name, bias, count):
    if np.shape(bias) != (count,):
        raise CompileError(f"{name} bias must have shape {(count,)}, not {np.shape(bias)}")
    _check_range(f"{name} bias", bias, 32)


def _check_range(name, values, bits):
    values, limit = np.asarray(values), 1 << bits - 1
    if values.size and not -limit <= values.min() <= values.max() < limit:
        bad = int(values.min()) if values.min() < -limit else int(values.max())
        raise CompileError(f"{name} must be from {-limit} to {limit - 1}, not {bad}")


def _check_bound(name, bound, config):
    if bound >= 1 << config.acc_bits - 1:
        raise CompileError(f"acc_bits must be at least {bound.bit_length() + 1}, the worst case "
                           f"of {name}, not {config.acc_bits}")
