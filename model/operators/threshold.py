"""Bit-exact model of ``hw/parts/threshold_quantizer.py``: requantization without a product.

A result of few bits is how many thresholds the accumulator is above; these are made offline from
bias, multiplier and shift, and the results are those of ``requantize``, bit for bit.
"""

import numpy as np

from systola.hw.contract.numbers import MAX_SHIFT

__all__ = ["channel_thresholds", "threshold_quantize"]

MAX_BITS = 8


def channel_thresholds(bias, mult, shift, bits, in_bits, *, symmetric=False):
    """Return what ``requantize(z + bias, mult, shift, bits)`` compares z with, by channel.

    For a positive multiplier the result is at least k if ``2 * (z + bias) * mult`` is above
    ``(2 * k - 1) * 2**shift``, or equal to it and k even, the side to which ties go. For a negative
    one the same holds of -(z + bias). A multiplier of 0 gives 0, which is at least every k <= 0.

    Parameters
    ----------
    bias, mult, shift : int or int arrays
        As for ``requantize``, one for each channel.
    bits : int
        Output bits, 2 to 8.
    in_bits : int
        Bits of the signed z: thresholds that no z could pass end at its range.
    symmetric : bool
        Whether the least result is ``-(2**(bits-1) - 1)``.

    Returns
    -------
    thresholds : int64 array (..., 2**bits - 1)
        Not decreasing, from ``-2**(in_bits-1) - 1`` (below every z) to ``2**(in_bits-1) - 1``.
    falling : bool array (...)
        Whether results fall where z rises.

    Raises
    ------
    ValueError
        If `bits`, `in_bits` or a shift is out of its range.
    """
    _check("bits", bits, 2, MAX_BITS)
    _check("in_bits", in_bits, 2, 48)
    arrays = np.broadcast_arrays(*(np.asarray(a, np.int64) for a in (bias, mult, shift)))
    bias, mult, shift = (a.astype(object)[..., None] for a in arrays)  # Python's integers: exact
    for value in arrays[2].ravel():
        _check("shift", int(value), 0, MAX_SHIFT)
    levels = np.arange(1 - (1 << bits - 1), 1 << bits - 1).astype(object)
    lowest, highest = -(1 << in_bits - 1), (1 << in_bits - 1) - 1
    size, falling = 2 * abs(mult), mult < 0
    edge = (2 * levels - 1) << shift
    # The largest integer that does not reach the level: floor, and one less for ties that do.
    divisor = np.where(size == 0, 1, size)
    below = edge // divisor - ((edge % divisor == 0) & (levels % 2 == 0))
    if symmetric:
        below = np.where(levels == levels[0], lowest - abs(bias) - 1, below)
    # -(z + bias) > below is z < -below - bias, which is not z > -below - bias - 1.
    thresholds = np.where(falling, -below - bias - 1, below - bias)
    always = np.where(levels <= 0, lowest - 1, highest)
    thresholds = np.clip(np.where(size == 0, always, thresholds), lowest - 1, highest)
    thresholds = np.where(falling, thresholds[..., ::-1], thresholds)
    return thresholds.astype(np.int64), falling[..., 0].astype(bool)


def threshold_quantize(z, thresholds, falling):
    """Return the codes of `z`: the least one, and one more for each threshold that z is above.

    Parameters
    ----------
    z : int array (..., C)
        Accumulators without bias.
    thresholds, falling : arrays (C, 2**bits - 1), (C,)
        From `channel_thresholds`; results that fall come from the greatest one down.

    Returns
    -------
    int64 array (..., C)
    """
    z, thresholds = np.asarray(z, np.int64), np.asarray(thresholds, np.int64)
    count = (z[..., None] > thresholds).sum(axis=-1)
    code = count - (thresholds.shape[-1] + 1 >> 1)
    return np.where(falling, ~code, code)


def _check(name, value, low, high):
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low} to {high}, not {value!r}")
