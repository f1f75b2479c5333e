"""Bit-exact model of ``hw/vector/comparing_norm.py``: layer norm and quantizer by squares.

``(y / sigma) * gain + bias >= t`` holds where ``y * gain >= (t - bias) * sigma`` does, and of two
numbers with a sign the squares with that sign are in the same order (Lin and Shah, 2025). So codes
of few bits need neither the root of the variance nor a division by it.
"""

import numpy as np

from systola.hw.contract.numbers import NORM_FRACTION, SQUARE_FRACTION

__all__ = ["channel_norm_codes", "fine_moments", "norm_codes", "norm_share"]


def fine_moments(x, epsilon=0):
    """Return ``y`` and ``V`` of rows (..., C): as the normalised layer norm has them.

    ``y = 2**f * x - floor(2**f * sum x / C + 1/2)`` with f = `NORM_FRACTION`, ``V = sum y**2 +
    epsilon``; int64.
    """
    x = np.asarray(x, np.int64)
    channels = x.shape[-1]
    mean = (2 * (x.sum(axis=-1) << NORM_FRACTION) + channels) // (2 * channels)
    y = (x << NORM_FRACTION) - mean[..., None]
    return y, (y * y).sum(axis=-1) + epsilon


def norm_share(step, channels):
    """Return the share of `norm_codes` for codes that are `step` standard deviations apart.

    ``(step / 2)**2 / C``, the square of the first edge beside that of all C numbers, in units of
    ``2**-SQUARE_FRACTION``, rounded, at most ``2**SQUARE_FRACTION - 1``. An int.
    """
    share = round(float(step) * float(step) / (4 * channels) * (1 << SQUARE_FRACTION))
    return min(share, (1 << SQUARE_FRACTION) - 1)


def norm_codes(x, share, bits, epsilon=0):
    """Return codes of rows, one gain for all channels and no bias: what the hardware computes.

    ``sign(y) * #{k = 1 .. 2**(bits-1) - 1 : y**2 > (2*k - 1)**2 * G}`` with y and V of
    `fine_moments`, ``G = floor(share * V / 2**q)``, q = `SQUARE_FRACTION`. With the share of
    `norm_share` that is ``y / sigma`` in units of the step, rounded, ties towards zero, saturated
    symmetrically. Gains and biases of channels belong into the weights and biases of the layer
    behind, which is exact. Equal numbers give 0.

    Parameters
    ----------
    x : int array (..., C)
        Codes of 16 bits, up to 2**10 of them.
    share : int
        From 0 to ``2**q - 1``.
    bits : int
        Output bits, 2 to 8.
    epsilon : int
        ``E * 2**(2*f)``, below ``2**epsilon_bits(C)``.

    Returns
    -------
    int64 array (..., C)
    """
    y, v = fine_moments(x, epsilon)
    low = (v & (1 << SQUARE_FRACTION) - 1).astype(np.uint64) * np.uint64(share)
    # floor(share * V / 2**q), in two parts that fit 64 bits.
    edge = ((v >> SQUARE_FRACTION) * int(share) + (low >> np.uint64(SQUARE_FRACTION)).astype(
        np.int64))[..., None]
    squares = y * y
    # y**2 exceeds odd**2 * G where its quotient, rounded up, exceeds G: nothing beyond 63 bits.
    sizes = sum((-(-squares // (2 * k - 1) ** 2) > edge).astype(np.int64)
                for k in range(1, 1 << bits - 1))
    return np.sign(y) * sizes


def channel_norm_codes(x, gain, bias, bits, fraction, epsilon=0):
    """Return codes with a gain and a bias for each channel: the largest k that is reached.

    k is reached if ``(y / sigma) * gain + bias >= k - 1/2`` with ``sigma = sqrt(V / C)``, gain and
    bias in units of ``2**-fraction``; from ``-2**(bits-1)`` to ``2**(bits-1) - 1``. Compared are
    ``y * gain`` and ``u * sigma``, u being ``(k - 1/2) * 2**fraction - bias``: as squares with
    their signs, ``(y * gain)**2 * C`` and ``u**2 * V``. Python's integers, so nothing overflows.
    Where V is 0, so is y, and the code that of the bias.

    Parameters
    ----------
    x : int array (..., C)
        Codes of 16 bits.
    gain, bias : int arrays (C,)
        In units of ``2**-fraction``; gains of either sign.
    bits, fraction : int
        Output bits; fractional bits, at least 1.
    epsilon : int
        As for `norm_codes`.

    Returns
    -------
    int64 array (..., C)
    """
    y, v = (a.astype(object) for a in fine_moments(x, epsilon))
    scaled = y * np.asarray(gain).astype(object)
    left = scaled * abs(scaled) * y.shape[-1]
    v = np.maximum(v, 1)[..., None]
    codes = np.full(y.shape, -(1 << bits - 1), np.int64)
    for k in range(1 - (1 << bits - 1), 1 << bits - 1):
        edge = (2 * k - 1 << fraction - 1) - np.asarray(bias).astype(object)
        codes += (left >= edge * abs(edge) * v).astype(np.int64)
    return codes
