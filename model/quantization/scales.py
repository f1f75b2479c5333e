"""Scales of all tensors of a quantized Vision Transformer, from ranges and weights."""

import numpy as np

from systola.model.networks.integer_vit import MAX_X0, RESIDUAL_BITS, VECTOR_BITS
from systola.model.quantization.uniform import scale_for

__all__ = ["X0_FACTOR", "activation_scales", "exact_exponential", "qkv_bits", "weight_scales"]

X0_FACTOR = {"scores": 1.0, "fc1": 1.702}
"""Tensors that go through ShiftExp, and the factor of their scale in x0."""

_FIXED_BITS = {"embed": RESIDUAL_BITS, "attn_out": RESIDUAL_BITS, "out": RESIDUAL_BITS,
               "logits": RESIDUAL_BITS, "scores": VECTOR_BITS, "fc1": VECTOR_BITS}


def qkv_bits(settings):
    """Return the bits of Q, K and V: Q is a streamed operand of the array, K and V stationary."""
    return min(settings["act_bits"], settings["weight_bits"])


def weight_scales(weight, bits):
    """Return the scales of the output channels of a linear layer, float32 (N,)."""
    return scale_for(weight.min(axis=1), weight.max(axis=1), bits)


def activation_scales(vit, ranges, settings):
    """Return the float32 scale of every stored tensor, of ``input`` and of ``position``.

    Parameters
    ----------
    vit : FloatVit
        The float model.
    ranges : dict
        ``{tensor name: (low, high)}`` as `systola.model.quantization.calibrate.calibrate` returns.
    settings : dict
        ``weight_bits``, ``act_bits``, ``attention``, ``attention_bits`` and ``mult_bits``.
    """
    scales = {name: _scale(name, bounds, settings) for name, bounds in ranges.items()}
    position = vit.parameters["pos_embed"][1:]
    scales["position"] = scale_for(position.min(), position.max(), RESIDUAL_BITS)
    for layer, source, residual, target in _sums(vit.blocks):
        weight = weight_scales(vit.parameters[f"{layer}.weight"], settings["weight_bits"])
        # Operands of few bits and a short multiplier can ask for a ratio of 2**mult_bits or more,
        # which no right shift expresses; a sum needs no steps that much finer than its terms.
        coarsest = max(weight.max() * scales[source], scales[residual])
        scales[target] = max(scales[target],
                             coarsest / np.float32(2.0 ** (settings["mult_bits"] - 1)))
    return scales


def _scale(name, bounds, settings):
    """Return the scale of one activation tensor."""
    kind = name.rsplit(".", 1)[-1]
    if kind == "attention":  # deferred: before the division by the row's sum
        return np.float32(2.0 ** (-7 if settings["attention"] == "deferred" else
                                  1 - settings["attention_bits"]))
    bits = qkv_bits(settings) if kind == "qkv" else _FIXED_BITS.get(kind, settings["act_bits"])
    scale = scale_for(*bounds, bits)
    return exact_exponential(scale, X0_FACTOR[kind]) if kind in X0_FACTOR else scale


def _sums(blocks):
    """Yield (layer, its input, the residual, the result) of all 16-bit results, in order."""
    yield "patch_embed.proj", "input", "position", "embed"
    stream = "embed"
    for name in (f"blocks.{index}" for index in range(blocks)):
        yield f"{name}.attn.proj", f"{name}.context", stream, f"{name}.attn_out"
        yield f"{name}.mlp.fc2", f"{name}.gelu", f"{name}.attn_out", f"{name}.out"
        stream = f"{name}.out"
    yield "head", "norm", "logits", "logits"


def exact_exponential(scale, factor):
    """Widen `scale` so that ``1 / (factor * scale)`` is an integer of at most `MAX_X0`.

    ShiftExp computes exp(code / -x0). With x0 = floor(-1 / scale) = -12 for 1 / scale = 11.1 all
    its exponents would be 8 % too small; the next exact scale costs no more range than that.
    """
    count = min(int(1 / (factor * float(scale))), MAX_X0)
    if count < 1:
        return scale
    # One float above: below the exact quotient, the floor would give the next constant.
    return max(scale, np.nextafter(np.float32(1 / (factor * count)), np.float32(np.inf)))
