"""The integer model as data: what the quantizer makes and the compiler and models consume."""

from dataclasses import dataclass, field

import numpy as np

from systola.hw.contract.config import AcceleratorConfig

__all__ = ["MAX_X0", "NUMERATOR_BITS", "RESIDUAL_BITS", "VECTOR_BITS", "Block", "Dyadic",
           "IntegerVit", "Linear", "Norm"]

RESIDUAL_BITS = 16
"""Bits of the residual stream, of the position embedding and of the logits."""

VECTOR_BITS = 8
"""Bits of the codes that go into Shiftmax and ShiftGELU; the array never sees them."""

NUMERATOR_BITS = 31
"""Most bits of the numerator of deferred attention's row factors."""

MAX_X0 = 2 ** AcceleratorConfig().x0_bits - 1
"""Largest ``-x0`` an accelerator's ShiftExp takes; finer scales are widened to it."""


@dataclass(frozen=True, kw_only=True)
class Dyadic:
    """Rescaling by ``mult / 2**shift``; int64 arrays of equal shape, 0-d or per channel."""

    mult: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``out = sat(rne((x @ weight.T + bias) * mult, shift), out_bits)``.

    ``weight`` int8 (N, K) without the code -2**(weight_bits-1), ``bias`` int64 (N,) within 32 bits,
    ``requant`` per channel (N,). A `symmetric` one saturates below at -(2**(out_bits-1) - 1): its
    outputs are stationary operands later, and a packed DSP has no room for one code more.
    """

    weight: np.ndarray
    bias: np.ndarray
    requant: Dyadic
    out_bits: int
    symmetric: bool = False


@dataclass(frozen=True, kw_only=True)
class Norm:
    """I-LayerNorm: ``out = sat(rne((o + bias) * mult, shift), act_bits)`` per channel (C,)."""

    bias: np.ndarray
    requant: Dyadic


@dataclass(frozen=True, kw_only=True)
class Block:
    """One encoder block. ``qkv`` rows are [q, k, v], each heads x head_dim, as in PyTorch.

    ``scores``, ``context`` and ``gelu`` are 0-d; ``attn_residual`` and ``mlp_residual`` rescale the
    identity branch. ``softmax_x0`` and ``gelu_x0`` are negative (docs/ARITHMETIC.md). With deferred
    attention ``context.mult`` is the numerator of the row factors: row t is rescaled by
    ``(mult // sum of the row's exponentials) / 2**shift``.
    """

    norm1: Norm
    qkv: Linear
    scores: Dyadic
    softmax_x0: int
    context: Dyadic
    proj: Linear
    attn_residual: Dyadic
    norm2: Norm
    fc1: Linear
    gelu_x0: int
    gelu: Dyadic
    fc2: Linear
    mlp_residual: Dyadic


@dataclass(frozen=True, kw_only=True)
class IntegerVit:
    """A complete integer Vision Transformer.

    Token 0 of the embedding is the constant ``cls_row`` (class token plus its position, folded at
    the embedding's scale); token 1+p is patch p: ``patch`` with ``position`` (int16 (T-1, C)) as
    residual, rescaled by ``position_residual``. ``head`` gives 16-bit logits at one common scale.
    Multipliers of results of at most 8 bits (qkv, scores, context, layer norms, fc1, gelu) have at
    most ``code_mult_bits`` magnitude bits, the others, and all, at most ``mult_bits``; numerators
    of deferred attention are below 2**31 and 2**(mult_bits + 7). ``scales`` holds the real value of
    one code of each named tensor and is used by reports only.
    """

    heads: int
    act_bits: int
    weight_bits: int
    attention: str
    attention_bits: int
    mult_bits: int
    code_mult_bits: int
    gelu: str
    norm_start: str
    patch: Linear
    position: np.ndarray
    position_residual: Dyadic
    cls_row: np.ndarray
    blocks: tuple[Block, ...]
    norm: Norm
    head: Linear
    scales: dict = field(default_factory=dict)
    meta: dict = field(default_factory=dict)

    @property
    def tokens(self):
        """Tokens T, class token included."""
        return len(self.position) + 1

    @property
    def channels(self):
        """Embedding width C."""
        return len(self.cls_row)

    @property
    def head_dim(self):
        """Channels of one head."""
        return self.channels // self.heads

    @property
    def hidden(self):
        """Channels between fc1 and fc2."""
        return len(self.blocks[0].fc1.weight) if self.blocks else 0

    @property
    def classes(self):
        """Number of logits."""
        return len(self.head.weight)
