"""Bit-exact model of ``hw/vector/comparing_softmax.py``: codes of a softmax without a division.

A code counts the multiples of a row's sum that an exponential reaches (Lin and Shah, 2025). It is
the share of the row, divided by a step and rounded, but no quotient is ever formed.
"""

import numpy as np

from systola.hw.contract.numbers import NORMALISED_PEAK, SHARE_FRACTION

__all__ = ["softmax_codes", "softmax_step"]


def softmax_step(largest, bits):
    """Return the step, 1 to 255, with which a share of `largest` gets the code ``2**bits - 1``.

    Greater shares saturate: 1.0 for none.
    """
    step = round(largest * (1 << SHARE_FRACTION) / ((1 << bits) - 1))
    return min(max(step, 1), (1 << SHARE_FRACTION) - 1)


def softmax_codes(scores, table, step, bits):
    """Return for each element how many thresholds of its row its exponential reaches.

    ``code = #{k from 1 to 2**bits - 1 : e * 2**(f + 1) >= (2 * k - 1) * step * D}`` with ``e =
    table[max - score]``, ``D = sum e`` and f = `SHARE_FRACTION`. That is ``min(floor(e * 2**f / (D
    * step) + 1/2), 2**bits - 1)``: the share ``e / D`` in units of ``step / 2**f``, rounded, ties
    upwards, saturated.

    Parameters
    ----------
    scores : int array (..., N)
        Codes, -128 to 127; N up to 2**16.
    table : int array (256,)
        From ``exp_table(x0, 16)``; entries above 32768 count as 32768. At least one entry of a row
        must not be 0, as that of the maximum is not.
    step : int
        From 1 to 255, `softmax_step`.
    bits : int
        Bits of a code, 2 to 8.

    Returns
    -------
    int64 array (..., N), 0 to ``2**bits - 1``; the scale is ``step / 2**f``

    Raises
    ------
    ValueError
        If `step` or `bits` is out of its range.
    """
    most = (1 << SHARE_FRACTION) - 1
    for name, value, low, high in ("step", step, 1, most), ("bits", bits, 2, 8):
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {value!r}")
    scores = np.asarray(scores, np.int64)
    below = scores.max(axis=-1, keepdims=True) - scores
    e = np.minimum(np.asarray(table, np.int64), NORMALISED_PEAK)[below]
    unit = step * e.sum(axis=-1, keepdims=True)
    return sum((e << SHARE_FRACTION + 1 >= (2 * k - 1) * unit).astype(np.int64)
               for k in range(1, 1 << bits))
