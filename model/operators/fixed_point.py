"""Models of ``hw/matrix/baselines.py``: operands in fixed point, and log2 codes as one number."""

import numpy as np

from systola.model.operators.log2 import ZERO

__all__ = ["decode_shift", "fixed_point", "mantissa", "shift_codes"]

FIXED_BITS = 16


def mantissa(scale):
    """Return the 16-bit mantissa of positive scales, int64: 2**15 to 2**16 - 2."""
    fraction, _ = np.frexp(np.asarray(scale, np.float64))
    return np.minimum(np.rint(fraction * (1 << FIXED_BITS)), (1 << FIXED_BITS) - 2).astype(np.int64)


def fixed_point(codes, scale, bits):
    """Return `codes` of `bits` bits times `scale` in 16-bit fixed point, int64.

    ``(codes * scale + 2**(bits-1)) >> bits``; codes from -2**(bits-1) to 2**(bits-1) and scales up
    to 2**16 - 2 stay within 16 signed bits.
    """
    return (np.asarray(codes, np.int64) * scale + (1 << bits - 1)) >> bits


def shift_codes(leading, half):
    """Return the 4-bit codes of what `log2.encode` returns for scheme Half_16."""
    leading, half = np.asarray(leading, np.int64), np.asarray(half, np.int64)
    return np.where(leading == ZERO, 0, np.where(leading == 0, 1, 2 * leading + half))


def decode_shift(codes):
    """Return the integers that 4-bit codes stand for, as `systola.model.operators.log2.decode`."""
    codes = np.asarray(codes, np.int64)
    return np.where(codes < 2, codes, (2 + (codes & 1)) << np.maximum(codes // 2 - 1, 0))
