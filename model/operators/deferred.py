"""Bit-exact model of deferred attention: exponentials from a table, normalised after A.V.

Models ``hw/vector/expmax.py`` (codes, sums, row factors) and a MATMUL with row factors. The largest
exponential of a row is 128, so the codes fill 8 bits whatever the row's length; one division a row
gives the factor that the requantizer multiplies the row's outputs by.
"""

import numpy as np

from systola.hw.contract.numbers import (
    CODE_BITS,
    FACTOR_BITS,
    INT_BITS,
    NORMALISED_PEAK,
    PEAK,
    TABLE_BYTES,
)
from systola.model.operators.matmul import matmul
from systola.model.operators.operations import Count, Operations
from systola.model.operators.requant import requantize

__all__ = ["OPERATIONS", "deferred_context", "deferred_softmax", "exp_table", "numerator_bits",
           "row_factors"]

OPERATIONS = Operations(
    element=Count(add=3, look_up=1),
    row=Count(divide=1),
    why="maximum, its subtraction, table, sum; once the division for A.V, whose product is that of "
        "the rescaling")
"""Of one row: for each element, and once."""

_LEAST_SUM = {CODE_BITS: PEAK, 2 * CODE_BITS: 1 << INT_BITS - FACTOR_BITS}
"""By bits of the codes: what every row of them adds up to at least."""


def exp_table(x0, bits=CODE_BITS):
    """Return ``T[d] = rne(peak * exp(-d / a))`` with ``a = -x0``, (256,).

    The peak is 128 (`PEAK`) and the entries are uint8, or for 16 bits 32768 and uint16.

    float64 gives the correctly rounded entries: for every a up to 4095 the real value is further
    from a tie than 1e-7, thousands of times the error of the evaluation.

    Parameters
    ----------
    x0 : int
        Code of -1 at the scale of the scores, negative.
    bits : int
        Bits of an entry: 8, or 16 for normalised attention.
    """
    if not -(1 << 24) <= x0 <= -1:
        raise ValueError(f"x0 must be from {-(1 << 24)} to -1, not {x0!r}")
    peak, dtype = {CODE_BITS: (PEAK, np.uint8), 2 * CODE_BITS: (NORMALISED_PEAK, np.uint16)}[bits]
    return np.rint(peak * np.exp(np.arange(TABLE_BYTES) / int(x0))).astype(dtype)


def numerator_bits(bits, factor_bits):
    """Return the most bits of a numerator with which a row factor has `factor_bits`.

    Parameters
    ----------
    bits : int
        Bits of the codes, 8 or 16: they say what every row adds up to at least.
    factor_bits : int
        Bits of a row factor.
    """
    return min(INT_BITS, factor_bits + _LEAST_SUM[bits].bit_length() - 1)


def deferred_softmax(scores, table):
    """Return the exponentials of 8-bit scores relative to the maximum of their row, and the sums.

    Parameters
    ----------
    scores : int array (..., N)
        Codes, -128 to 127.
    table : int array (256,)
        From `exp_table`.

    Returns
    -------
    codes : int64 array (..., N)
        ``e = table[max - score]``, 0 to 128.
    sums : int64 array (...)
        ``sum e``, at least 128.
    """
    scores = np.asarray(scores, np.int64)
    below = scores.max(axis=-1, keepdims=True) - scores
    codes = np.asarray(table, np.int64)[below]
    return codes, codes.sum(axis=-1)


def row_factors(sums, numerator, mult_bits):
    """Return ``F = min(numerator // sums, 2**mult_bits - 1)``, int64 of the shape of `sums`.

    A sum of 0, which no table with 128 at its head gives, counts as the largest factor.
    """
    sums = np.asarray(sums, np.int64)
    top = (1 << mult_bits) - 1
    return np.where(sums > 0, np.minimum(numerator // np.maximum(sums, 1), top), top)


def deferred_context(codes, factors, v, shift, bits):
    """Return ``sat(rne((codes @ v) * F, shift), bits)``, the attention outputs, int64 (..., M, N).

    Parameters
    ----------
    codes : int array (..., M, K)
        Exponentials.
    factors : int array (..., M)
        Row factors F.
    v : int array (..., K, N)
        Values.
    shift, bits : int
        Right shift and output bits.
    """
    z = matmul(codes, np.swapaxes(np.asarray(v), -1, -2))
    return requantize(z, np.asarray(factors)[..., None], shift, bits)
