"""Bit-exact model of log2 attention: deferred attention whose exponentials are levels of a code.

Models ``hw/vector/expmax.py`` with codes in its table, ``hw/parts/levels.py`` and the nibbles of
``hw/vector/row_writer.py`` and ``hw/matrix/feeder.py``. BitLog2 and RepQ-ViT code the shares of a
row; here it is the exponentials before they are divided, so that a row's sum is that of what is
multiplied: shares of a row add up to 1 whatever the codes lose, and no divisor is searched.
"""

import numpy as np

from systola.hw.contract.numbers import LEVEL_BITS, LEVELS, PEAK, TABLE_BYTES
from systola.model.operators.operations import Count, Operations

__all__ = ["OPERATIONS", "decoded", "leveled_table", "nearest_codes", "packed", "unpacked"]

OPERATIONS = Operations(
    element=Count(add=3, look_up=2),
    row=Count(divide=1),
    why="maximum, its subtraction, table of codes, exponential of a code, sum; once the division "
        "for A.V, whose product is that of the rescaling")
"""Of one row: for each element, and once."""


def nearest_codes(x0, scheme):
    """Return the codes of the levels nearest to ``128 * exp(-d / a)``, ``a = -x0``, uint8 (256,).

    Between two levels, of which one is l and the other h, an exponential is off by at most
    ``(h - l) / 2``. float64 decides rightly: none comes as close to half way, for any a up to 4095,
    as a thousand times its error.

    Parameters
    ----------
    x0 : int
        Code of -1 at the scale of the scores, negative.
    scheme : str
        One of `systola.hw.contract.numbers.LEVELS`.
    """
    if not -(1 << 24) <= x0 <= -1:
        raise ValueError(f"x0 must be from {-(1 << 24)} to -1, not {x0!r}")
    levels = np.array(LEVELS[scheme])
    middles = (levels[1:] + levels[:-1]) / 2
    exact = PEAK * np.exp(np.arange(TABLE_BYTES) / int(x0))
    return np.searchsorted(middles, exact).astype(np.uint8)


def decoded(codes, levels):
    """Return ``levels[code]``, int64 of the shape of `codes`; beyond them the last one counts."""
    return np.array(levels, np.int64)[np.minimum(codes, len(levels) - 1)]


def leveled_table(x0, scheme):
    """Return the exponentials of `nearest_codes`, uint8 (256,), for `deferred_softmax`."""
    return decoded(nearest_codes(x0, scheme), LEVELS[scheme]).astype(np.uint8)


def packed(codes, lanes):
    """Return the bytes of rows of codes (..., N), two words of `lanes` in one, uint8 (..., M).

    Of word k the low nibbles are those of word 2k of the codes, the high ones of word 2k + 1; what
    a row has not is 0.
    """
    codes = np.asarray(codes)
    pairs = -(-codes.shape[-1] // (2 * lanes))
    padded = np.zeros((*codes.shape[:-1], pairs * 2 * lanes), np.uint8)
    padded[..., :codes.shape[-1]] = codes
    words = padded.reshape(*codes.shape[:-1], pairs, 2, lanes)
    return (words[..., 0, :] | words[..., 1, :] << LEVEL_BITS).reshape(*codes.shape[:-1], -1)


def unpacked(bytes_, lanes):
    """Return the codes (..., 2 M) of rows of bytes (..., M), M a multiple of `lanes`: `packed`."""
    words = np.asarray(bytes_, np.uint8).reshape(*np.shape(bytes_)[:-1], -1, 1, lanes)
    low = (1 << LEVEL_BITS) - 1
    codes = np.concatenate([words & low, words >> LEVEL_BITS], axis=-2)
    return codes.reshape(*np.shape(bytes_)[:-1], -1)
