"""Bit-exact model of normalised attention: 16-bit exponentials, shifted to the row's sum.

Models ``hw/vector/normalised_softmax.py``. As in deferred attention the array multiplies V by
exponentials, and each row is divided by their sum afterwards (``row_factors``, ``deferred_context``
in model/operators/deferred.py). A power of two for each row keeps that sum within an octave and a
rounding: an accumulator holds it however many keys there are, and a row factor always has the same
number of significant bits.
"""

import numpy as np

from systola.hw.contract.numbers import NORMALISED_PEAK
from systola.model.operators.operations import Count, Operations

__all__ = ["OPERATIONS", "normalised_softmax", "row_bound"]

OPERATIONS = Operations(
    element=Count(add=5, shift=1, look_up=1),
    row=Count(shift=1, divide=1),
    why="maximum, its subtraction, table, sum, rounding and shift, sum of the shifted; once the "
        "shift of the row (a leading one) and the division for A.V, whose product is that of the "
        "rescaling")
"""Of one row: for each element, and once."""


def normalised_softmax(scores, table):
    """Return the exponentials of 8-bit scores, shifted to their row's sum, and the sums of these.

    At most ``3/4 (N - 1) / 2**15`` of a row is at other keys than in the softmax of the same codes
    (N up to 2**14): a table entry and its shifted code are each rounded by 1/2 at most, and a row
    adds up to 2**15 or more. A.V is off by at most twice that share of the largest value.

    Parameters
    ----------
    scores : int array (..., N)
        Codes, -128 to 127.
    table : int array (256,)
        From ``exp_table(x0, 16)``; entries above 32768 count as 32768.

    Returns
    -------
    codes : int64 array (..., N)
        ``a = round(e / 2**s)``, ties upwards, 0 to 32768, with ``e = table[max - score]`` and s the
        least s >= 0 for which ``sum e <= 2**(16 + s)``.
    sums : int64 array (...)
        ``sum a``, at most `row_bound`.
    """
    scores = np.asarray(scores, np.int64)
    below = scores.max(axis=-1, keepdims=True) - scores
    e = np.minimum(np.asarray(table, np.int64), NORMALISED_PEAK)[below]
    total = e.sum(axis=-1, keepdims=True)
    shift = sum((total > 2 * NORMALISED_PEAK << s).astype(np.int64) for s in range(32))
    codes = e + (1 << shift >> 1) >> shift
    return codes, codes.sum(axis=-1)


def row_bound(keys):
    """Return what the codes of a row of that many keys add up to at most."""
    return min(keys * NORMALISED_PEAK, 2 * NORMALISED_PEAK + keys // 2)
