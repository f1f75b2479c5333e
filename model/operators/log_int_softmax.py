"""Bit-exact model of FQ-ViT's log-int-softmax, for ablations: no unit computes it.

Its results are powers of two from 1 to 2**-15, or 0, so that A.V takes shifts instead of products.
"""

import numpy as np

from systola.model.operators.ibert_exp import OCTAVES, ibert_exp
from systola.model.operators.operations import Count, Operations

__all__ = ["CODES", "OPERATIONS", "ZERO", "decode_log_int", "log_int_softmax"]

CODES = 16
"""Codes of 4 bits: L stands for ``2**-L``."""

ZERO = -1
"""Stands for a share of 0: its exponential is below ``2**-15.5`` of the row's sum."""

OPERATIONS = Operations(
    element=Count(add=13, multiply=3, shift=3, divide=1),
    row=Count(),
    why="maximum, its subtraction, clamp, octave (a division by a constant), remainder (product, "
        "addition), polynomial (two additions, a product), clamp at 0, shift by what is left of "
        "30 octaves, sum; a division of 45 bits and its rounding, leading one, rounding to it "
        "(two), comparison with zero")
"""Of one row: for each element, and once."""


def log_int_softmax(x, constants):
    """Return the codes L of the softmax over the last axis, int64 (..., N), `ZERO` for 0.

    ``R = round_half_even(sum e / e); L = floor(log2 R)``, one more if ``R - 2**L >= 2**(L-1)``;
    from 16 on it is `ZERO`, as is an exponential of 0.

    Parameters
    ----------
    x : int array (..., N)
        Codes of the scores.
    constants : tuple of int
        Of `systola.model.operators.ibert_exp.exp_constants`.
    """
    x = np.asarray(x, np.int64)
    e = ibert_exp(x - x.max(axis=-1, keepdims=True), constants)
    if x.shape[-1] * int(constants[2]) >= 1 << 62 - OCTAVES:
        e = e.astype(object)  # beyond 63 bits: Python's integers
    total = e.sum(axis=-1, keepdims=True)
    divisor = np.maximum(e, 1)
    ratio, rest = total // divisor, total % divisor
    ratio = ratio + ((2 * rest > divisor) | ((2 * rest == divisor) & (ratio % 2 == 1)))
    # Whatever is beyond the last code is zero, however far: so it fits 64 bits again.
    ratio = np.minimum(ratio, 1 << CODES + 1).astype(np.int64)
    leading = np.searchsorted(np.int64(1) << np.arange(CODES + 2), ratio, side="right") - 1
    leading += 2 * (ratio - (np.int64(1) << leading)) >= np.int64(1) << leading
    return np.where((leading >= CODES) | (e == 0), ZERO, leading)


def decode_log_int(codes):
    """Return ``2**(15 - L)`` of codes L, 0 for `ZERO`: shares of scale 2**-15, int64."""
    codes = np.asarray(codes, np.int64)
    return np.where(codes == ZERO, 0, np.int64(1) << CODES - 1 - np.maximum(codes, 0))
