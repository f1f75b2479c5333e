"""Constants of the number formats that models, compiler and hardware share."""

__all__ = ["BRANCH_BITS", "CODEBOOK_ENTRIES", "CODE_BITS", "COMPARED_BITS", "COMPARED_ROW",
           "FACTOR_BITS", "GELU_SHIFT", "INT_BITS", "LEVELS", "LEVEL_BITS", "MAX31", "MAX_SHIFT",
           "NARROW_SUM_BITS", "NORMALISED_PEAK", "NORM_FRACTION", "NORM_NUMERATOR",
           "NORM_ROOT_BITS", "PEAK", "RECORD_BYTES", "RESIDUAL_BITS", "SHARE_FRACTION",
           "SHIFT_BITS", "SOFTMAX_SHIFT", "SQUARE_FRACTION", "TABLE_BYTES", "epsilon_bits"]

CODE_BITS = 8
"""Bits of a code, and of a lane; a result of more has two planes and long multipliers."""

CODEBOOK_ENTRIES = 16
"""Weights that a codebook has; a code is a nibble."""

NARROW_SUM_BITS = 18
"""Bits of a sum of narrow products: two fill a word of block RAM, which has 36 bits."""

RESIDUAL_BITS = 16
"""Bits of a residual, and most multiplier bits that a requantizer takes in one cycle."""

BRANCH_BITS = 20
"""Bits to which a requantizer keeps each branch of a sum; beyond, the branch's sign decides."""

INT_BITS = 31
"""Magnitude bits of the integers of the publications: most of a multiplier or a numerator."""

MAX31 = (1 << INT_BITS) - 1
"""Where ShiftExp's values and their sums saturate, and what is divided by those."""

SHIFT_BITS = 6
"""Bits of a right shift."""

MAX_SHIFT = (1 << SHIFT_BITS) - 1
"""Largest right shift."""

SOFTMAX_SHIFT = 15
"""``n`` of ShiftExp inside Shiftmax (I-ViT)."""

GELU_SHIFT = 23
"""``n`` of ShiftExp inside ShiftGELU (I-ViT)."""

PEAK = 128
"""Code of the largest exponential of every row of deferred attention, and so least sum of one."""

LEVEL_BITS = 4
"""Bits of a code of a level: two fill a byte of the scratchpad."""

LEVELS = {
    "single_16": (0, *(1 << octave for octave in range(8))),
    "half_16": (0, 1, *(part << octave for octave in range(6) for part in (2, 3)), PEAK),
    "sqrt2_16": (0, *sorted({round(PEAK / 2 ** (half / 2)) for half in range(15)})),
}
"""Exponentials that log2 attention has, by its scheme: a code is the number of one, in order.

Powers of two from `PEAK` down; these and what lies half way between two (BitLog2); these and what
lies half an octave between two, rounded (RepQ-ViT). Below 1 a byte holds none but 0.
"""

NORMALISED_PEAK = 1 << 15
"""Largest exponential of every row of normalised attention; its codes add up to one or two."""

FACTOR_BITS = 17
"""Most bits of a row factor of normalised attention: a numerator of 31 bits by a sum from 2**14."""

RECORD_BYTES = 9
"""Bytes of a parameter record: bias (4), multiplier (4) and shift."""

TABLE_BYTES = 1 << CODE_BITS
"""Bytes of a table: an entry for every code."""

NORM_FRACTION = 8
"""Fractional bits of the mean that a normalised layer norm takes off; its sum of squares has two
for each of them."""

NORM_ROOT_BITS = 18
"""Bits of the root of a normalised layer norm, of which the highest two are not both zero."""

NORM_NUMERATOR = (1 << 33) - 1
"""What is divided by that root: the quotient has 16 or 17 bits."""

SHARE_FRACTION = 8
"""Fractional bits of the step between codes of shares that comparisons find: 1 is a whole row."""

SQUARE_FRACTION = 32
"""Fractional bits of the share of its row's sum of squares that the square of a compared layer
norm's first edge is, and all its bits."""

COMPARED_BITS = 4
"""Most bits of the codes of a compared norm: an edge for every one of them is looked for."""

COMPARED_ROW = 1 << 10
"""Longest row of a compared norm: squares and their sums fit 63 bits of the model."""


def epsilon_bits(channels):
    """Return the bits of the epsilon of a normalised layer norm over `channels`.

    In units of ``2**(-2 * NORM_FRACTION)``, it may be as large as any sum of squares of that many
    codes of 16 bits, each less their mean.
    """
    return (channels - 1).bit_length() + 30 + 2 * NORM_FRACTION
