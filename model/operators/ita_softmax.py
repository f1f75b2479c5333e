"""Bit-exact model of ITA's streaming softmax, for ablations: no unit of ours computes it.

Powers of two stand for exponentials, so that the base of the exponential is 2 and the scale of the
scores has to be a power of two of ln 2; keys come in blocks, whose maximum may still grow.
"""

import numpy as np

from systola.model.operators.operations import Count, Operations

__all__ = ["BLOCK", "OPERATIONS", "SUM_BITS", "ita_softmax", "octave_shift"]

BLOCK = 16
"""Keys that come at once."""

SUM_BITS = 19
"""Bits at which the sum saturates: from 2048 equal keys on. From 256 on all results are 0."""

_ONE, _NUMERATOR = 256, 65280

OPERATIONS = Operations(
    element=Count(add=6, shift=4),
    row=Count(divide=1),
    why="maximum; its subtraction and the shift with rounding to whole octaves, for the sum and "
        "again for the result; a shift and an addition for the sum, a shift of the factor; what a "
        "block with a new maximum costs beside is left out")
"""Of one row: for each element, and once."""


def octave_shift(below, softmax_shift):
    """Return by how many bits codes that much below a maximum are shifted: octaves, rounded.

    ``below >> s`` and, for s of 1 or more, the bit below that added to it.
    """
    below = np.asarray(below, np.int64)
    half = (below >> max(softmax_shift - 1, 0)) & 1 if softmax_shift else 0
    return (below >> softmax_shift) + half


def ita_softmax(x, softmax_shift=0, block=BLOCK):
    """Return the softmax to base 2 over the last axis, unsigned 8-bit codes, int64 (..., N).

    For each block of keys: a new maximum shifts the sum D down by `octave_shift` of the step, then
    ``D += sum (256 >> shift)``, at most ``2**19 - 1``. At the end ``A = (65280 // D) >> shift``,
    0 to 255, of scale 1/255.

    Parameters
    ----------
    x : int array (..., N)
        Codes of the scores, at the scale ``ln 2 / 2**softmax_shift``.
    softmax_shift : int
        Bits of a code below the octave, 0 to 7.
    block : int
        Keys that come at once.

    Raises
    ------
    ValueError
        If `softmax_shift` or `block` is out of range.
    """
    if not 0 <= softmax_shift <= 7:
        raise ValueError(f"softmax_shift must be from 0 to 7, not {softmax_shift!r}")
    if not block >= 1:
        raise ValueError(f"block must be at least 1, not {block!r}")
    x = np.asarray(x, np.int64)
    top = x[..., :block].max(axis=-1)
    total = np.zeros_like(top)
    for start in range(0, x.shape[-1], block):
        part = x[..., start:start + block]
        new = np.maximum(top, part.max(axis=-1))
        total = _shifted(total, octave_shift(new - top, softmax_shift))
        terms = _shifted(_ONE, octave_shift(new[..., None] - part, softmax_shift))
        total, top = np.minimum(total + terms.sum(axis=-1), (1 << SUM_BITS) - 1), new
    # The block of the maximum gave 256, and nothing that comes behind it shifts that away.
    factor = _NUMERATOR // total
    return _shifted(factor[..., None], octave_shift(top[..., None] - x, softmax_shift))


def _shifted(value, shift):
    """Return ``value >> shift`` of values below 2**31, by whatever shift."""
    return np.asarray(value, np.int64) >> np.minimum(shift, 31)
