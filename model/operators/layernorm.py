"""Bit-exact model of ``hw/vector/layernorm.py``: I-LayerNorm of I-ViT."""

from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import MAX31
from systola.model.operators.requant import requantize

__all__ = ["ITERATIONS", "LayerNormTrace", "layernorm", "layernorm_requant", "layernorm_trace"]

ITERATIONS = 10
"""Steps of the root iteration, always all of them."""


@dataclass(frozen=True)
class LayerNormTrace:
    """Intermediates of `layernorm`: iterates (..., 10), the row values (...), out (..., C)."""

    mean: np.ndarray
    variance: np.ndarray
    iterates: np.ndarray
    root: np.ndarray
    factor: np.ndarray
    out: np.ndarray


def layernorm_trace(x, start="published"):
    """Return `layernorm` of `x` with every intermediate, as a `LayerNormTrace`."""
    x = np.asarray(x, np.int64)
    channels, total = x.shape[-1], x.sum(axis=-1)
    mean = total // channels
    twice = 2 * (total - mean * channels)
    mean = mean + ((twice > channels) | ((twice == channels) & (mean & 1 == 1)))
    y = x - mean[..., None]
    variance = (y * y).sum(axis=-1)
    iterates = _root_iterates(variance, start)
    root = iterates[..., -1]
    factor = MAX31 // root
    return LayerNormTrace(mean, variance, iterates, root, factor, y * factor[..., None] >> 1)


def layernorm(x, start="published"):
    """Return ``o ~ 2**30 * (x - mean) / sqrt(sum (x - mean)**2)`` over the last axis.

    ``mean`` is rounded half to even; the root is `ITERATIONS` steps of ``k = (k + V // k) >> 1``,
    never below 1; ``o = ((x - mean) * (MAX31 // k)) >> 1``.

    Parameters
    ----------
    x : int array (..., C)
        Codes of up to 16 bits.
    start : str
        First k: ``published`` (2**16, too few steps below a root of about 200) or ``leading_one``
        (2**ceil(bit_length(V) / 2), converges for every V).

    Returns
    -------
    int64 array (..., C), within 32 bits; the per-channel bias is not added yet

    Raises
    ------
    ValueError
        If `start` is neither.
    """
    return layernorm_trace(x, start).out


def layernorm_requant(x, bias, mult, shift, bits=8, start="published"):
    """Return ``sat(rne((layernorm(x) + bias) * mult, shift), bits)``, parameters per channel."""
    return requantize(layernorm(x, start) + np.asarray(bias, np.int64), mult, shift, bits)


def _root_iterates(variance, start):
    """Return k after each step, (..., ITERATIONS)."""
    if start == "published":
        k = np.full_like(variance, 1 << 16)
    elif start == "leading_one":
        length = np.searchsorted(np.int64(1) << np.arange(62), variance, side="right")
        k = np.int64(1) << (length + 1) // 2
    else:
        raise ValueError(f"start must be 'published' or 'leading_one', not {start!r}")
    steps = []
    for _ in range(ITERATIONS):
        k = np.maximum((k + variance // k) >> 1, 1)  # 0 only for V = 0 from the leading one
        steps.append(k)
    return np.stack(steps, axis=-1)
