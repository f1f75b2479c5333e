"""Bit-exact model of ``hw/vector/layernorm.py``: integer normalization of rows."""

from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import (
    MAX31,
    NORM_FRACTION,
    NORM_NUMERATOR,
    NORM_ROOT_BITS,
)
from systola.model.operators.operations import RESCALING, Count, Operations
from systola.model.operators.requant import requantize

__all__ = ["ITERATIONS", "OPERATIONS", "LayerNormTrace", "NormalisedTrace", "centred", "layernorm",
           "layernorm_requant", "layernorm_trace", "normalised_root", "normalised_trace"]

ITERATIONS = 10
"""Steps of the root iteration of I-ViT, always all of them."""

OPERATIONS = {
    "published": Operations(
        element=Count(add=4, multiply=2, shift=1) + RESCALING,
        row=Count(add=22, shift=10, divide=12),
        why="sum, centring, square, sum of squares, product with the factor, shift, bias; "
            "rescaling to codes; once the mean (a division and its rounding), ten steps of the "
            "root (division, addition, shift, clamp) and a division for the factor"),
    "normalised": Operations(
        element=Count(add=4, multiply=2, shift=3) + RESCALING,
        row=Count(add=21, multiply=18, shift=3, divide=2),
        why="sum, fraction, centring, square, sum of squares, shift to the row's size, product "
            "with the factor, shift, bias; rescaling to codes; once the mean (a division and its "
            "rounding), epsilon, the row's size, 18 bits of the root (a square and a comparison "
            "each) and a division for the factor"),
}
"""By variant, of one row: for each element, and once."""


@dataclass(frozen=True)
class LayerNormTrace:
    """Intermediates of `layernorm`: iterates (..., 10), the row values (...), out (..., C)."""

    mean: np.ndarray
    variance: np.ndarray
    iterates: np.ndarray
    root: np.ndarray
    factor: np.ndarray
    out: np.ndarray


@dataclass(frozen=True)
class NormalisedTrace:
    """Intermediates of the normalised `layernorm`: the row values (...), out (..., C)."""

    mean: np.ndarray
    variance: np.ndarray
    shift: np.ndarray
    factor: np.ndarray
    out: np.ndarray


def layernorm_trace(x, variant="published"):
    """Return the published `layernorm` of `x` with every intermediate, as a `LayerNormTrace`."""
    mean, y = centred(x)
    variance = (y * y).sum(axis=-1)
    iterates = _root_iterates(variance, variant)
    root = iterates[..., -1]
    factor = MAX31 // root
    return LayerNormTrace(mean, variance, iterates, root, factor, y * factor[..., None] >> 1)


def centred(x):
    """Return the means of rows (..., C), rounded half to even, and ``x - mean``, both int64."""
    x = np.asarray(x, np.int64)
    channels, total = x.shape[-1], x.sum(axis=-1)
    mean = total // channels
    twice = 2 * (total - mean * channels)
    mean = mean + ((twice > channels) | ((twice == channels) & (mean & 1 == 1)))
    return mean, x - mean[..., None]


def normalised_trace(x, epsilon=0):
    """Return the normalised `layernorm` of `x` with intermediates, as a `NormalisedTrace`.

    ``mean`` has `NORM_FRACTION` fractional bits, ``variance``, with epsilon, twice as many.
    """
    x = np.asarray(x, np.int64)
    channels = x.shape[-1]
    mean = (2 * (x.sum(axis=-1) << NORM_FRACTION) + channels) // (2 * channels)
    y = (x << NORM_FRACTION) - mean[..., None]
    variance = (y * y).sum(axis=-1) + epsilon
    shift, factor = normalised_root(variance)
    scaled = _shifted(y, 2 * shift[..., None] + 2)
    return NormalisedTrace(mean, variance, shift, factor, scaled * factor[..., None] >> 5)


def normalised_root(v):
    """Return shift and factor of numbers: ``factor * 4**shift / 2**33`` is about ``1 / sqrt(v)``.

    Numbers are from 0 to 2**63 - 1. `shift` is such that ``2**32 <= v * 16**shift < 2**36``; k, the
    integer part of the root of that, has `NORM_ROOT_BITS` bits, and ``factor = NORM_NUMERATOR //
    k`` is from 2**15 to 2**17 - 1. Its relative error is from ``-2**-15`` to ``2**-16``. For 0,
    both are 0.
    """
    v = np.asarray(v, np.int64)
    shift = 9 - np.searchsorted(np.int64(1) << np.arange(0, 63, 4), v, side="right")
    normal = _shifted(v, 4 * shift)
    root = np.zeros_like(v)
    for bit in reversed(range(NORM_ROOT_BITS)):
        trial = root | 1 << bit
        root = np.where(trial * trial <= normal, trial, root)
    zero = v == 0
    return np.where(zero, 0, shift), np.where(zero, 0, NORM_NUMERATOR // np.maximum(root, 1))


def _shifted(x, left):
    """Return ``x * 2**left``, rounded down."""
    return x << np.maximum(left, 0) >> np.maximum(-left, 0)


def layernorm(x, variant="published", epsilon=0):
    """Return ``o ~ 2**30 * (x - mean) / sqrt(sum (x - mean)**2 + E)`` over the last axis.

    Published: ``mean`` is rounded half to even; the root is `ITERATIONS` steps of
    ``k = (k + V // k) >> 1``, never below 1; ``o = ((x - mean) * (MAX31 // k)) >> 1``.

    Normalised: ``y = 2**f * x - m`` with the mean rounded to f = `NORM_FRACTION` fractional bits,
    half up; ``V = sum y**2 + epsilon``; shift and factor of V by `normalised_root`;
    ``o = (floor(y * 4**(shift + 1)) * factor) >> 5``.

    Parameters
    ----------
    x : int array (..., C)
        Codes of up to 16 bits.
    variant : str
        First k: ``published`` (2**16, too few steps below a root of about 200) or ``leading_one``
        (2**ceil(bit_length(V) / 2), converges for every V); or ``normalised``.
    epsilon : int
        ``E * 2**(2*f)``, of the normalised variant: below ``2**epsilon_bits(C)``.

    Returns
    -------
    int64 array (..., C), within 32 bits; the per-channel bias is not added yet

    Raises
    ------
    ValueError
        If `variant` is none of these.
    """
    if variant == "normalised":
        return normalised_trace(x, epsilon).out
    return layernorm_trace(x, variant).out


def layernorm_requant(x, bias, mult, shift, bits=8, variant="published", epsilon=0):
    """Return ``sat(rne((o + bias) * mult, shift), bits)`` of `layernorm`'s o, by channel."""
    return requantize(layernorm(x, variant, epsilon) + np.asarray(bias, np.int64), mult, shift,
                      bits)


def _root_iterates(variance, variant):
    """Return k after each step, (..., ITERATIONS)."""
    if variant == "published":
        k = np.full_like(variance, 1 << 16)
    elif variant == "leading_one":
        length = np.searchsorted(np.int64(1) << np.arange(62), variance, side="right")
        k = np.int64(1) << (length + 1) // 2
    else:
        raise ValueError(f"variant must be 'published', 'leading_one' or 'normalised', not "
                         f"{variant!r}")
    steps = []
    for _ in range(ITERATIONS):
        k = np.maximum((k + variance // k) >> 1, 1)  # 0 only for V = 0 from the leading one
        steps.append(k)
    return np.stack(steps, axis=-1)
