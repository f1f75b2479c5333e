"""Float Vision Transformer to integer model: scales, codes and dyadic multipliers, all offline."""

from math import sqrt

import numpy as np

from systola.files.tensors import ModelError
from systola.hw.contract.config import AcceleratorConfig
from systola.model.networks.integer_vit import (
    MAX_X0,
    NUMERATOR_BITS,
    RESIDUAL_BITS,
    VECTOR_BITS,
    Block,
    Dyadic,
    IntegerVit,
    Linear,
    Norm,
)
from systola.model.operators.requant import MAX_SHIFT, dyadic
from systola.model.quantization.calibrate import calibrate
from systola.model.quantization.scales import (
    X0_FACTOR,
    activation_scales,
    qkv_bits,
    weight_scales,
)
from systola.model.quantization.uniform import bias_codes, exp_constant
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["CODE_BITS", "quantize"]

CODE_BITS = 8
"""Most bits of a result whose multiplier has ``code_mult_bits``."""

_PEAK_BITS = 7  # the sum of a row's exponentials is at least their largest, 2**7
_SIGMOID_BITS = 8
_INT32 = (-2**31, 2**31 - 1)


def quantize(float_vit, calibration_images, *, weight_bits=8, act_bits=8, attention="exact",
             attention_bits=16, mult_bits=24, code_mult_bits=24, gelu="exact",
             norm_start="published", progress=None):
    """Return the integer model of a float model; docs/ARITHMETIC.md has the operators.

    Weights have a scale per output channel, activations one per tensor, from running ranges over
    the calibration images; those of Shiftmax and ShiftGELU inputs are widened until their ShiftExp
    constant x0 is exact (on the digits that takes a third off the error). Both branches of a
    residual are rescaled straight to the scale of the sum. The outputs of qkv are streamed (Q) and
    stationary (K, V) operands of the array, so they have the smaller of `weight_bits` and
    `act_bits`, and saturate symmetrically.

    Parameters
    ----------
    float_vit : FloatVit
        The float model.
    calibration_images : ndarray
        Normalised patches of training images, (B, T-1, patch_dim).
    weight_bits, act_bits, attention, attention_bits, mult_bits, code_mult_bits, gelu, norm_start
        As in `systola.hw.contract.config.AcceleratorConfig`, which also gives their ranges. No
        multiplier has more than `mult_bits`, whatever `code_mult_bits` is.
    progress : callable, optional
        Called as ``progress(images done, images in total)`` during calibration.

    Returns
    -------
    IntegerVit

    Raises
    ------
    ValueError
        If a setting is out of range (`ConfigError`), or if the model cannot be expressed in it
        (`ModelError`).
    """
    settings = {"weight_bits": weight_bits, "act_bits": act_bits, "attention": attention,
                "attention_bits": attention_bits, "mult_bits": mult_bits,
                "code_mult_bits": code_mult_bits, "gelu": gelu, "norm_start": norm_start}
    AcceleratorConfig(**settings)  # checks every setting
    work = _Quantizer(float_vit, settings, calibrate(float_vit, calibration_images,
                                                     progress=progress))
    return work.model()


class _Quantizer:
    """One quantization: the float parameters, the settings and the scale of every tensor."""

    def __init__(self, vit, settings, ranges):
        self.vit, self.settings, self.p = vit, settings, vit.parameters
        self.act_bits, self.weight_bits = settings["act_bits"], settings["weight_bits"]
        self.mult_bits = settings["mult_bits"]
        self.code_mult_bits = min(settings["code_mult_bits"], self.mult_bits)
        self.qkv_bits = qkv_bits(settings)
        self.scales = activation_scales(vit, ranges, settings)

    def model(self):
        """Return the whole integer model."""
        vit, s = self.vit, self.scales
        blocks, stream = [], "embed"
        for index in range(vit.blocks):
            blocks.append(self.block(f"blocks.{index}", stream))
            stream = f"blocks.{index}.out"
        norm, dead = self.norm("norm", "norm")
        cls_row = to_codes(self.p["cls_token"] + self.p["pos_embed"][0], s["embed"], RESIDUAL_BITS)
        return IntegerVit(
            heads=vit.heads, **self.settings,
            patch=self.linear("patch_embed.proj", "input", "embed", RESIDUAL_BITS),
            position=to_codes(self.p["pos_embed"][1:], s["position"],
                              RESIDUAL_BITS).astype(np.int16),
            position_residual=self.rescale("position", "embed"),
            cls_row=cls_row.astype(np.int16), blocks=tuple(blocks), norm=norm,
            head=self.linear("head", "norm", "logits", RESIDUAL_BITS, dead),
            scales={name: float(scale) for name, scale in s.items()},
            meta={"patch_size": vit.patch_size, "mean": list(vit.mean), "std": list(vit.std)})

    def block(self, name, stream):
        """Return encoder block `name`, whose input tensor is `stream`."""
        s = self.scales
        score = s[f"{name}.qkv"]**2 * np.float32((self.vit.channels // self.vit.heads) ** -0.5)
        gelu = s[f"{name}.fc1"] * np.float32(2.0 ** (1 - _SIGMOID_BITS))
        norm1, dead1 = self.norm(f"{name}.norm1", f"{name}.norm1")
        norm2, dead2 = self.norm(f"{name}.norm2", f"{name}.norm2")
        return Block(
            norm1=norm1,
            qkv=self.linear(f"{name}.attn.qkv", f"{name}.norm1", f"{name}.qkv", self.qkv_bits,
                            dead1, symmetric=True),
            scores=self.dyadic(_ratio(score, s[f"{name}.scores"]), self.code_mult_bits),
            softmax_x0=self.x0(f"{name}.scores"),
            context=self.context(name),
            proj=self.linear(f"{name}.attn.proj", f"{name}.context", f"{name}.attn_out",
                             RESIDUAL_BITS),
            attn_residual=self.rescale(stream, f"{name}.attn_out"),
            norm2=norm2,
            fc1=self.linear(f"{name}.mlp.fc1", f"{name}.norm2", f"{name}.fc1", VECTOR_BITS,
                            dead2),
            gelu_x0=self.x0(f"{name}.fc1"),
            gelu=self.dyadic(_ratio(gelu, s[f"{name}.gelu"]), self.code_mult_bits),
            fc2=self.linear(f"{name}.mlp.fc2", f"{name}.gelu", f"{name}.out", RESIDUAL_BITS),
            mlp_residual=self.rescale(f"{name}.attn_out", f"{name}.out"))

    def context(self, name):
        """Return the rescaling of A.V of block `name`, or the numerator of its row factors.

        A deferred row still has to be divided by the sum of its exponentials; their scale cancels.
        """
        s = self.scales
        if self.settings["attention"] == "deferred":
            return self.dyadic(_ratio(s[f"{name}.qkv"], s[f"{name}.context"]),
                               min(NUMERATOR_BITS, self.mult_bits + _PEAK_BITS))
        return self.dyadic(_ratio(s[f"{name}.attention"] * s[f"{name}.qkv"],
                                  s[f"{name}.context"]), self.code_mult_bits)

    def linear(self, name, source, target, out_bits, constant=None, *, symmetric=False):
        """Return a linear layer from scale `source` to scale `target`.

        `constant` are input codes that the layer norm before does not deliver (its channels with a
        gamma of zero); their products go into the bias, exactly.
        """
        weight, bias = self.p[f"{name}.weight"], self.p[f"{name}.bias"]
        scale = weight_scales(weight, self.weight_bits)
        top = 2 ** (self.weight_bits - 1) - 1
        codes = np.clip(to_codes(weight, scale[:, None], self.weight_bits), -top, top)
        bias = bias_codes(bias, scale, self.scales[source])
        if constant is not None:
            bias = np.clip(bias + codes @ constant, *_INT32)
        return Linear(weight=codes.astype(np.int8), bias=bias,
                      requant=self.dyadic(_ratio(scale * self.scales[source],
                                                 self.scales[target]), self.width(out_bits)),
                      out_bits=out_bits, symmetric=symmetric)

    def norm(self, name, target):
        """Return a layer norm, and the constant output codes of its channels with gamma zero.

        Their path through the root is cut (multiplier 0): the operator's ``o`` would not cancel.
        """
        gamma = self.p[f"{name}.weight"].astype(np.float64)
        beta = self.p[f"{name}.bias"].astype(np.float64)
        root, dead = sqrt(len(gamma)), gamma == 0
        ratio = np.divide(beta, gamma, out=np.zeros_like(beta), where=~dead)
        bias = np.clip(np.floor(ratio * 2.0**30 / root), *_INT32).astype(np.int64)
        scale = (gamma * root / 2.0**30).astype(np.float32)
        codes = to_codes(self.p[f"{name}.bias"], self.scales[target], self.act_bits)
        return (Norm(bias=bias, requant=self.dyadic(_ratio(scale, self.scales[target]),
                                                    self.code_mult_bits)),
                np.where(dead, codes, 0))

    def rescale(self, source, target):
        """Return the dyadic ratio of the scales of two wide tensors."""
        return self.dyadic(_ratio(self.scales[source], self.scales[target]), self.mult_bits)

    def width(self, out_bits):
        """Return the bits of the multipliers of a result of `out_bits`."""
        return self.code_mult_bits if out_bits <= CODE_BITS else self.mult_bits

    @staticmethod
    def dyadic(ratio, bits):
        """Return `ratio`, a number or an array, with `bits` bits of multiplier.

        A ratio too small for the largest shift (a layer norm channel with a tiny gamma) keeps that
        shift and gets a shorter multiplier.
        """
        ratio = np.asarray(ratio, dtype=np.float64)
        small = np.abs(ratio) < 2.0 ** (bits - 1 - MAX_SHIFT)
        mult, shift = dyadic(np.where(small, 0, ratio), bits=bits)
        return Dyadic(mult=np.where(small, np.rint(np.ldexp(ratio, MAX_SHIFT)), mult).astype(
            np.int64), shift=np.where(small, MAX_SHIFT, shift).astype(np.int64))

    def x0(self, name):
        """Return the ShiftExp constant of tensor `name`: the integer image of -1."""
        value = exp_constant(self.scales[name], X0_FACTOR[name.rsplit(".", 1)[-1]])
        if not -MAX_X0 <= value <= -1:
            raise ModelError(f"x0 of {name} must be from {-MAX_X0} to -1, not {value}")
        return value


def _ratio(source, target):
    """Return the float64 ratio of two float32 scales."""
    return np.asarray(source, dtype=np.float64) / float(target)
