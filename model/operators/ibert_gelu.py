"""Bit-exact model of I-BERT's GELU, a polynomial of second degree, for ablations."""

from math import floor

import numpy as np

from systola.model.operators.operations import RESCALING, Count, Operations

__all__ = ["OPERATIONS", "check_gelu_constants", "gelu_constants", "gelu_scale", "ibert_gelu"]

_ROOT, _A, _B = 1.4142, -0.2888, -1.769
"""sqrt 2, and ``erf(x) ~ sign(x) (a (min(|x|, -b) + b)**2 + 1)``."""

_DROPPED = 6
"""Bits that the error function loses before it is multiplied by x."""

_LIMITS = 1 << 21, 1 << 42, 1 << 36
"""What b, c and one stay below in magnitude: results of 8-bit codes then have 46 bits."""

OPERATIONS = Operations(
    element=Count(add=6, multiply=2, shift=1) + RESCALING,
    row=Count(),
    why="magnitude, clamp, addition, square, addition, sign, shift, addition, product with x; "
        "rescaling to codes")
"""Of one row: for each element, and once."""


def gelu_constants(scale):
    """Return the constants ``(b, c, one)`` of codes of that scale, three ints; offline, float64.

    With ``S' = scale / 1.4142``: ``b = floor(-1.769 / S')``, ``c = floor(1 / -0.2888 / S'**2)``
    and ``one = floor(1 / (S'**2 * -0.2888 * 64))``, all negative.

    Raises
    ------
    ValueError
        If `scale` is not finite and above 0, or below about 1.2e-6.
    """
    scale = float(scale)
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be finite and above 0, not {scale!r}")
    s = scale / _ROOT
    constants = (floor(_B / s), floor(1 / _A / (s * s)), floor(1 / (s * s * _A * 2**_DROPPED)))
    check_gelu_constants(constants)
    return constants


def check_gelu_constants(constants):
    """Raise ``ValueError`` unless `constants` are b, c and one: below 0, of 21, 42 and 36 bits."""
    try:
        fits = all(int(value) == value and -most < value < 0
                   for value, most in zip(constants, _LIMITS, strict=True))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"constants must be b, c and one, below 0 and of at most 21, 42 and 36 "
                         f"bits, not {constants!r}: the scale of the codes is from about 1.2e-6 "
                         f"on")


def gelu_scale(scale):
    """Return the scale of the results of `ibert_gelu`, which is negative."""
    s = float(scale) / _ROOT
    return float(scale) * (s * s * _A * 2**_DROPPED) / 2


def ibert_gelu(x, constants):
    """Return ``x * (erf(x / sqrt 2) + 1)`` of the codes, int64 of the shape of `x`.

    ``t = min(|x|, -b) + b; u = sign(x) * (t * t + c); y = x * ((u >> 6) + one)``. Beyond
    ``-1.769 sqrt 2 = -2.5`` in real units it is x times what the floors leave of 0. Results of
    codes of 8 bits are within 46 bits, those of 16 within 54.

    Parameters
    ----------
    x : int array
        Codes of at most 16 bits.
    constants : tuple of int
        Of `gelu_constants`.

    Raises
    ------
    ValueError
        If a constant or a code is out of range.
    """
    check_gelu_constants(constants)
    x, (b, c, one) = np.asarray(x, np.int64), (int(value) for value in constants)
    if x.size and not -(1 << 15) <= x.min() <= x.max() < 1 << 15:
        raise ValueError(f"x must be of at most 16 bits, not {x.min()} to {x.max()}")
    t = np.minimum(np.abs(x), -b) + b
    u = np.sign(x) * (t * t + c)  # 43 bits
    return x * ((u >> _DROPPED) + one)
