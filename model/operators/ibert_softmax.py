"""Bit-exact model of I-BERT's softmax, for ablations: no unit of the hardware computes it."""

import numpy as np

from systola.hw.contract.numbers import MAX_SHIFT, RESIDUAL_BITS
from systola.model.operators.ibert_exp import ibert_polynomial
from systola.model.operators.operations import Count, Operations
from systola.model.operators.requant import dyadic, round_shift, saturate

__all__ = ["OPERATIONS", "ibert_softmax"]

_FULL = (1 << RESIDUAL_BITS - 1) - 1

OPERATIONS = Operations(
    element=Count(add=12, multiply=5, shift=3),
    row=Count(divide=1),
    why="maximum, its subtraction, clamp, octave (a division by a constant), remainder (product, "
        "addition), polynomial (two additions, a product), clamp at 0; rescaling to 16 bits with "
        "the octave in its shift, sum, product with the factor, shift, clamp")
"""Of one row: for each element, and once."""


def ibert_softmax(x, constants, bits=16):
    """Return the softmax over the last axis, int64 (..., N), scale ``2**-(bits-1)``.

    ``e16 = sat(rne(exp * 32767 / (c * 2**30), 16)); F = 2**32 // sum e16;``
    ``out = min((e16 * F) >> (33 - bits), 2**(bits-1) - 1)``, the exponential as in
    `systola.model.operators.ibert_exp.ibert_exp`. The publication rescales e to 16 bits in
    float32 and lets a row of one key reach ``2**(bits-1)``; this rescales exactly and saturates.

    Parameters
    ----------
    x : int array (..., N)
        Codes of the scores.
    constants : tuple of int
        Of `systola.model.operators.ibert_exp.exp_constants`.
    bits : int
        Bits of the result, 2 to 16.

    Raises
    ------
    ValueError
        If `bits` or a constant is out of range, or a row has 2**32 keys or more.
    """
    if not 2 <= bits <= RESIDUAL_BITS:
        raise ValueError(f"bits must be from 2 to {RESIDUAL_BITS}, not {bits!r}")
    x = np.asarray(x, np.int64)
    z, q = ibert_polynomial(x - x.max(axis=-1, keepdims=True), constants)
    mult, shift = dyadic(_FULL / int(constants[2]))
    # z has 31 bits at most and the multiplier 31: 62, so that a shift of 63 stands for all longer.
    codes = saturate(round_shift(z * mult, np.minimum(shift + q, MAX_SHIFT)), RESIDUAL_BITS)
    factor = (1 << 32) // codes.sum(axis=-1, keepdims=True)  # a row's maximum is 32767
    return np.minimum(codes * factor >> 33 - bits, (1 << bits - 1) - 1)
