"""Whether a model fits an accelerator: every limit of the hardware, with the numbers."""

import numpy as np

from systola.sw_driver.layout import CompileError

__all__ = ["check_model"]

SCORE_BITS = 8
"""Bits of the attention scores, the input of Shiftmax, in every model."""


def check_model(model, config):
    """Raise `CompileError` naming the first value of `model` that `config` cannot run."""
    _check_options(model, config)
    _check_shapes(model, config)
    for name, layer, bits in _layers(model):
        _check_linear(name, layer, bits, model, config)
    rescales = [("position_residual", model.position_residual)]
    norms = [("norm", model.norm)]
    for i, block in enumerate(model.blocks):
        prefix = f"blocks.{i}."
        rescales += [(prefix + name, getattr(block, name)) for name in
                     ("scores", "context", "gelu", "attn_residual", "mlp_residual")]
        norms += [(prefix + name, getattr(block, name)) for name in ("norm1", "norm2")]
        for name in "softmax_x0", "gelu_x0":
            value, limit = int(getattr(block, name)), (1 << config.x0_bits) - 1
            if not -limit <= value <= -1:
                raise CompileError(f"{prefix}{name} must be from {-limit} to -1 (x0_bits), "
                                   f"not {value}")
    for name, rescale in rescales:
        _check_requant(name, rescale, (), config)
    for name, norm in norms:
        _check_requant(name, norm.requant, (model.channels,), config)
        _check_bias(name, norm.bias, model.channels)


def _check_options(model, config):
    for name in "attention_bits", "gelu", "norm_start":
        wanted, there = getattr(model, name), getattr(config, name)
        if wanted != there:
            raise CompileError(f"{name} must be {wanted!r} as in the model, not {there!r}")
    for name in "weight_bits", "act_bits", "mult_bits":
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
        rows += [("tokens", tokens), ("hidden channels", model.hidden)]
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
        full_scale = (1 << model.attention_bits - 1) - 1
        _check_bound(f"blocks.{i}.context", tokens * full_scale << code, config)
    _check_shape("patch", model.patch, (channels, model.patch.weight.shape[-1]))
    _check_shape("head", model.head, (model.classes, channels))


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
    _check_bias(name, layer.bias, len(layer.weight))
    _check_requant(name, layer.requant, (len(layer.weight),), config)
    worst = np.abs(np.asarray(layer.weight, np.int64)).sum(axis=1) << model.act_bits - 1
    _check_bound(name, int((worst + np.abs(np.asarray(layer.bias, np.int64))).max()), config)


def _check_shape(name, layer, shape):
    if np.shape(layer.weight) != tuple(shape):
        raise CompileError(f"{name} weight must have shape {tuple(shape)}, "
                           f"not {np.shape(layer.weight)}")


def _check_requant(name, requant, shape, config):
    mult, shift = np.asarray(requant.mult), np.asarray(requant.shift)
    if mult.shape != shape or shift.shape != shape:
        raise CompileError(f"{name} multipliers and shifts must have shape {shape}, "
                           f"not {mult.shape} and {shift.shape}")
    largest = max(abs(int(mult.min())), abs(int(mult.max())))
    if largest >= 1 << config.mult_bits:
        raise CompileError(f"{name} multipliers must be below 2**{config.mult_bits} (mult_bits), "
                           f"not {largest}")
    if shift.min() < 0 or shift.max() > 63:
        bad = int(shift.min()) if shift.min() < 0 else int(shift.max())
        raise CompileError(f"{name} shifts must be from 0 to 63, not {bad}")


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
