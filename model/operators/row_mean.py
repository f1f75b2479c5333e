"""Bit-exact model of ``hw/vector/row_mean.py``: the mean over rows, requantized."""

import numpy as np

from systola.model.operators.requant import requantize

__all__ = ["row_mean"]


def row_mean(x, mult, shift, bits):
    """Return ``sat(rne(sum over rows * mult, shift), bits)`` of (..., rows, C): (..., C) int64."""
    return requantize(np.asarray(x, np.int64).sum(axis=-2), mult, shift, bits)
