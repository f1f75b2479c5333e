"""Bit-exact model of I-BERT's layer norm: an exact root instead of a fixed count of steps."""

from dataclasses import dataclass
from math import isqrt

import numpy as np

from systola.model.operators.layernorm import centred
from systola.model.operators.operations import RESCALING, Count, Operations

__all__ = ["OPERATIONS", "IbertLayerNormTrace", "ibert_layernorm", "ibert_layernorm_trace"]

_NUMERATOR = 1 << 31

OPERATIONS = Operations(
    element=Count(add=4, multiply=2, shift=1) + RESCALING,
    row=Count(add=6, shift=4, divide=6),
    why="sum, centring, square, sum of squares, product with the factor, shift, bias; rescaling "
        "to codes; once the mean (a division and its rounding), the root, which the publication "
        "takes from a library, as the four steps of Newton of its repository, and a division for "
        "the factor")
"""Of one row: for each element, and once."""


@dataclass(frozen=True)
class IbertLayerNormTrace:
    """Intermediates of `ibert_layernorm`: the row values (...), out (..., C)."""

    mean: np.ndarray
    variance: np.ndarray
    root: np.ndarray
    factor: np.ndarray
    out: np.ndarray


def ibert_layernorm_trace(x, shift=0):
    """Return `ibert_layernorm` of `x` with every intermediate."""
    if not 0 <= shift <= 16:
        raise ValueError(f"shift must be from 0 to 16, not {shift!r}")
    mean, y = centred(x)
    variance = np.square(y >> shift).sum(axis=-1)
    root = _floor_root(variance) << shift
    factor = np.where(root == 0, 0, _NUMERATOR // np.maximum(root, 1))
    return IbertLayerNormTrace(mean, variance, root, factor, y * factor[..., None] >> 1)


def ibert_layernorm(x, shift=0):
    """Return ``o ~ 2**30 * (x - mean) / sqrt(sum (x - mean)**2)`` over the last axis.

    ``k = floor(sqrt(sum ((x - mean) >> shift)**2)) << shift; F = 2**31 // k;``
    ``o = ((x - mean) * F) >> 1``. A row of equal numbers, for which the publication divides by 0,
    gives 0.

    Parameters
    ----------
    x : int array (..., C)
        Codes of up to 16 bits.
    shift : int
        Bits that the numbers lose before they are squared, so that the sum fits 32 bits; 0 keeps
        all, and the sum then has ``32 + log2 C`` bits.

    Returns
    -------
    int64 array (..., C), within 32 bits for a shift of 0
    """
    return ibert_layernorm_trace(x, shift).out


def _floor_root(v):
    """Return the integer part of the root of int64 numbers."""
    v = np.asarray(v, np.int64)
    roots = np.array([isqrt(value) for value in v.ravel().tolist()], np.int64)
    return roots.reshape(v.shape)
