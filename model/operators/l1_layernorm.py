"""Bit-exact model of the L1 layer norm: magnitudes instead of squares, and no root."""

import numpy as np

from systola.model.operators.layernorm import centred
from systola.model.operators.operations import RESCALING, Count, Operations

__all__ = ["OPERATIONS", "l1_layernorm", "l1_root"]

_NUMERATOR_BITS = 46
"""With a sum of up to 31 bits the factor keeps 15: the norm is what an ablation should show."""

OPERATIONS = Operations(
    element=Count(add=5, multiply=1, shift=1) + RESCALING,
    row=Count(add=2, divide=2),
    why="sum, centring, magnitude, sum of magnitudes, product with the factor, shift, bias; "
        "rescaling to codes; once the mean (a division and its rounding) and a division for the "
        "factor")
"""Of one row: for each element, and once."""


def l1_root(channels):
    """Return by what the sum of magnitudes exceeds the root of the sum of squares, a float.

    ``sqrt(2 * channels / pi)``: that of Gaussian numbers. Offline, it goes into the multipliers;
    rows of another shape come out too large or too small by what they differ from a Gaussian one.
    """
    return float(np.sqrt(2 * channels / np.pi))


def l1_layernorm(x):
    """Return ``o ~ 2**30 * (x - mean) / sum |x - mean|`` over the last axis.

    The mean is rounded half to even; ``o = ((x - mean) * ((2**46 - 1) // D)) >> 16`` with D the
    sum of magnitudes, and 0 for a row of equal numbers.

    Parameters
    ----------
    x : int array (..., C)
        Codes of up to 16 bits; C up to 2**14.

    Returns
    -------
    int64 array (..., C), within 31 bits
    """
    _, y = centred(x)
    total = np.abs(y).sum(axis=-1, keepdims=True)
    factor = np.where(total == 0, 0, ((1 << _NUMERATOR_BITS) - 1) // np.maximum(total, 1))
    return y * factor >> _NUMERATOR_BITS - 30  # |y| <= D, so the product is within 47 bits
