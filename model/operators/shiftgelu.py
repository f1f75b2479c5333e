"""Bit-exact model of ``hw/vector/shiftgelu.py``: ShiftGELU of I-ViT."""

from dataclasses import dataclass

import numpy as np

from systola.hw.contract.numbers import MAX31
from systola.model.operators.operations import RESCALING, Count, Operations
from systola.model.operators.shiftmax import shift_exp

__all__ = ["OPERATIONS", "ShiftGeluTrace", "shiftgelu", "shiftgelu_trace"]

OPERATIONS = Operations(
    element=Count(add=11, multiply=4, shift=6, divide=1) + RESCALING,
    row=Count(add=7, multiply=2, shift=5),
    why="maximum, its subtraction; ShiftExp as of Shiftmax; sum of the two exponentials, clamp, "
        "division, product, shift, clamp, product with x; rescaling to codes; once the exponential "
        "of the maximum, saturated")
"""Of one row: for each element, and once."""


@dataclass(frozen=True)
class ShiftGeluTrace:
    """Intermediates of `shiftgelu`: ``expmax`` (...), up to MAX31; the others (..., N)."""

    exp: np.ndarray
    expmax: np.ndarray
    factor: np.ndarray
    sigmoid: np.ndarray
    out: np.ndarray


def shiftgelu_trace(x, x0, n=23, bits=8):
    """Return `shiftgelu` of `x` with every intermediate, as a `ShiftGeluTrace`."""
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be from 2 to 16, not {bits!r}")
    x = np.asarray(x, np.int64)
    peak = x.max(axis=-1, keepdims=True)
    exp = shift_exp(x - peak, x0, n)
    expmax = np.minimum(shift_exp(-peak, x0, n), MAX31)
    factor = MAX31 // np.minimum(exp + expmax, MAX31)
    # Only a clamped denominator can exceed full scale; the publication forgets to saturate then.
    sigmoid = np.minimum(exp * factor >> 32 - bits, (1 << bits - 1) - 1)
    return ShiftGeluTrace(exp, expmax[..., 0], factor, sigmoid, x * sigmoid)


def shiftgelu(x, x0, n=23, bits=8):
    """Return ``x * sigmoid(x)`` with the sigmoid by two ShiftExp, relative to the row maximum.

    ``e = ShiftExp(x - max); D = min(e + ShiftExp(-max), MAX31);``
    ``sigmoid = min((e * (MAX31 // D)) >> (32 - bits), 2**(bits-1) - 1)``.

    Parameters
    ----------
    x : int array (..., N)
        Codes; the last axis holds the hidden channels of one token.
    x0 : int
        Code of -1 at the scale ``1.702 * S``, negative.
    n : int
        Shift budget of `shift_exp`.
    bits : int
        Bits of the sigmoid; one code of the output is ``S * 2**-(bits-1)``.

    Returns
    -------
    int64 array (..., N), within 16 bits for 8-bit codes and sigmoid
    """
    return shiftgelu_trace(x, x0, n, bits).out
