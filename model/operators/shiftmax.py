"""Bit-exact model of ``hw/vector/shiftmax.py``: ShiftExp and Shiftmax of I-ViT."""

from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import MAX31
from systola.model.operators.operations import Count, Operations

__all__ = ["OPERATIONS", "ShiftmaxTrace", "shift_exp", "shiftmax", "shiftmax_trace"]

OPERATIONS = Operations(
    element=Count(add=10, multiply=3, shift=6),
    row=Count(add=1, divide=1),
    why="maximum, its subtraction; ShiftExp: two shifts and additions, clamp, octave (a division "
        "by a constant), remainder (product, addition), mantissa, shift by what is left of the "
        "octaves and by one; sum, product with the factor, shift, clamp; once the clamp of the sum "
        "and the division")
"""Of one row: for each element, and once."""


@dataclass(frozen=True)
class ShiftmaxTrace:
    """Intermediates of `shiftmax`: exponentials (..., N), clamped sum and factor (...), output."""

    exp: np.ndarray
    total: np.ndarray
    factor: np.ndarray
    out: np.ndarray


def shift_exp(x, x0, n):
    """Return the integer exponential ``~ -x0 * 2**n * exp(x / -x0)``.

    Exact for ``x <= 0``, between ``-x0`` and ``-x0 * 2**n``. For ``x > 0`` (ShiftGELU's row
    maximum may be negative) it saturates at MAX31, like the denominator that alone uses it.

    Parameters
    ----------
    x : int array
        Codes, the row maximum already subtracted.
    x0 : int
        Code of -1, -2**24 to -1.
    n : int
        Octaves kept below 1, from 1 to 31.

    Raises
    ------
    ValueError
        If `x0` or `n` is out of range.
    """
    if not -(1 << 24) <= x0 <= -1:
        raise ValueError(f"x0 must be from {-(1 << 24)} to -1, not {x0!r}")
    if not 1 <= n <= 31:
        raise ValueError(f"n must be from 1 to 31, not {n!r}")
    x, a = np.asarray(x, np.int64), -int(x0)
    p = np.maximum(x + (x >> 1) - (x >> 4), -n * a)
    q = -p // a
    r = p + a * q
    # r + 2a >= 2, so a shift of 31 already reaches 2**31 and stands for every longer one.
    e = (r + 2 * a) << np.minimum(n - q, 31) >> 1
    return np.where(x > 0, np.minimum(e, MAX31), e)


def shiftmax_trace(x, x0, n=15, bits=16):
    """Return `shiftmax` of `x` with every intermediate, as a `ShiftmaxTrace`."""
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be from 2 to 16, not {bits!r}")
    x = np.asarray(x, np.int64)
    exp = shift_exp(x - x.max(axis=-1, keepdims=True), x0, n)
    total = np.minimum(exp.sum(axis=-1), MAX31)
    factor = MAX31 // total
    # Only a clamped sum can exceed full scale; the publication forgets to saturate then.
    out = np.minimum(exp * factor[..., None] >> 32 - bits, (1 << bits - 1) - 1)
    return ShiftmaxTrace(exp, total, factor, out)


def shiftmax(x, x0, n=15, bits=16):
    """Return the integer softmax over the last axis.

    ``e = ShiftExp(x - max); F = MAX31 // min(sum e, MAX31); out = (e * F) >> (32 - bits)``,
    saturated to ``2**(bits-1) - 1``.

    Parameters
    ----------
    x : int array (..., N)
        Codes of the scores.
    x0 : int
        Code of -1, negative.
    n : int
        Shift budget of `shift_exp`.
    bits : int
        Output bits, 2 to 16; one code of the output is ``2**-(bits-1)``.

    Returns
    -------
    int64 array (..., N), each from 0 to ``2**(bits-1) - 1``
    """
    return shiftmax_trace(x, x0, n, bits).out
