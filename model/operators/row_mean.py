"""Bit-exact model of ``hw/vector/row_mean.py``: the mean over rows."""

import numpy as np

from systola.model.operators.requant import requantize

__all__ = ["row_mean"]


def row_mean(x, mult, shift, bits):
    """Return ``sat(rne(sum over t of x[..., t, c] * mult, shift), bits)``, exactly: (..., C).

    With ``mult / 2**shift`` the ratio of scales divided by the rows this is the mean. `x` (...,
    rows, C) are numbers of at most 16 bits, of which fewer than 2**16 rows.
    """
    return requantize(np.sum(np.asarray(x, np.int64), axis=-2), mult, shift, bits)
