"""Bit-exact model of ``hw/parts/requant.py``: dyadic requantization, half to even, saturating."""

import numpy as np

from systola.hw.contract.numbers import BRANCH_BITS, INT_BITS, MAX_SHIFT

__all__ = ["dyadic", "requantize", "residual_add", "round_shift", "saturate"]

_WIDE = 1 << 62
_LIMB = 16


def saturate(v, bits):
    """Clamp to the signed range of `bits`; int64 of the same shape."""
    if not 1 <= bits <= MAX_SHIFT:
        raise ValueError(f"bits must be from 1 to {MAX_SHIFT}, not {bits!r}")
    return np.clip(np.asarray(v, np.int64), -(1 << bits - 1), (1 << bits - 1) - 1)


def round_shift(v, c):
    """Return ``v / 2**c`` rounded to nearest, ties to even; exact for every int64 and c 0..63."""
    v, c = np.asarray(v, np.int64), np.asarray(c, np.int64)
    quotient = v >> c
    half = np.int64(1) << np.maximum(c - 1, 0)  # 1 when c is 0, which no remainder of 0 exceeds
    remainder = v & ~(np.int64(-1) << c)
    return quotient + (remainder > half - (quotient & 1))


def dyadic(ratio, bits=INT_BITS):
    """Return ``(mult, shift)`` with ``mult / 2**shift`` nearest to `ratio`.

    ``mult`` has the ratio's sign and a magnitude in ``2**(bits-1) .. 2**bits - 1``, rounded half
    away from zero; a ratio of 0 gives ``(0, 0)``.

    Parameters
    ----------
    ratio : float or array
        Float64 ratios of scales, in over out.
    bits : int
        Magnitude bits of the multiplier, 2 to 31. 31 reproduces the publications.

    Returns
    -------
    mult, shift : int64 arrays of the shape of `ratio`

    Raises
    ------
    ValueError
        If a ratio is not finite, or so large or small that its shift leaves 0..63.
    """
    if not 2 <= bits <= INT_BITS:
        raise ValueError(f"bits must be from 2 to {INT_BITS}, not {bits!r}")
    ratio = np.asarray(ratio, np.float64)
    if not np.isfinite(ratio).all():
        raise ValueError(f"ratio must be finite, not {_first(ratio, ~np.isfinite(ratio))!r}")
    mantissa, exponent = np.frexp(np.abs(ratio))
    digits = np.ldexp(mantissa, 53).astype(np.int64)  # the float's 53 bits, exactly
    mult = (digits + (np.int64(1) << 52 - bits)) >> 53 - bits
    shift = bits - exponent.astype(np.int64)
    overflow = mult >> bits  # rounding reached 2**bits: the same value is 2**(bits-1), shift - 1
    mult, shift = mult >> overflow, shift - overflow
    shift = np.where(mult == 0, 0, shift)
    bad = (shift < 0) | (shift > MAX_SHIFT)
    if bad.any():
        raise ValueError(f"ratio must be 0 or need a shift from 0 to {MAX_SHIFT} at {bits} bits, "
                         f"not {_first(ratio, bad)!r}")
    return np.where(ratio < 0, -mult, mult), shift


def requantize(z, mult, shift, bits, *, residual=None, res_mult=None, res_shift=None,
               symmetric=False):
    """Return ``sat(rne(z * mult, shift) [+ rne(residual * res_mult, res_shift)], bits)``.

    Exact in int64 for ``|z| < 2**46`` and ``|mult| <= 2**31``: products beyond 62 bits are split
    into 16-bit limbs with a sticky bit. Every argument broadcasts; parameters per channel lie along
    the last axis. A branch beyond +-2**62 is clamped there, far outside every output range.

    With a residual, a branch whose floor leaves `BRANCH_BITS` bits saturates the sum to its own
    side, the main one first: the hardware does not keep more. No exact sum of at most 16 bits
    differs unless both branches leave them and nearly cancel; none does while the rescaled residual
    stays below ``2**(BRANCH_BITS - 1) - 2**15``.

    Parameters
    ----------
    z, residual : int arrays
        Accumulators including their bias, and the identity branch.
    mult, shift, res_mult, res_shift : int or int arrays
        Rescaling by ``mult / 2**shift``; shifts from 0 to 63.
    bits : int
        Output bits.
    symmetric : bool
        Saturate below at ``-(2**(bits-1) - 1)``.

    Raises
    ------
    ValueError
        If a value or a shift leaves the ranges above.
    """
    y = _scale(z, mult, shift)
    if residual is not None:
        second = _scale(residual, res_mult, res_shift)
        y, second = np.broadcast_arrays(y, second)
        total = y + second
        for branch, factors in ((second, (residual, res_mult, res_shift)), (y, (z, mult, shift))):
            total = np.where(_leaves(*factors, BRANCH_BITS), np.sign(branch) * _WIDE, total)
        y = total
    y = saturate(y, bits)
    return np.maximum(y, 1 - (1 << bits - 1)) if symmetric else y


def residual_add(z1, mult1, shift1, z2, mult2, shift2, bits=16):
    """Return ``sat(rne(z1*mult1, shift1) + rne(z2*mult2, shift2), bits)``: two roundings."""
    return requantize(z1, mult1, shift1, bits, residual=z2, res_mult=mult2, res_shift=shift2)


def _scale(z, mult, shift):
    """Return ``rne(z * mult, shift)``, clamped to +-2**62."""
    z, mult, shift = (np.asarray(a, np.int64) for a in (z, mult, shift))
    if shift.size and not 0 <= shift.min() <= shift.max() <= MAX_SHIFT:
        raise ValueError(f"shift must be from 0 to {MAX_SHIFT}, "
                         f"not {_first(shift, (shift < 0) | (shift > MAX_SHIFT))!r}")
    z_max, mult_max = _magnitude(z), _magnitude(mult)
    if z_max >= 1 << 46 or mult_max > 1 << INT_BITS:
        raise ValueError(f"z * mult must be of at most 46 by 32 bits, not {z_max} * {mult_max}")
    if z_max * mult_max < _WIDE:
        return round_shift(z * mult, shift)
    low = (z & (1 << _LIMB) - 1) * mult
    high = (z >> _LIMB) * mult + (low >> _LIMB)  # the product is high * 2**16 + low
    low &= (1 << _LIMB) - 1
    # Shift of 16 or more: two bits of `low`, the first and "any other", decide every tie.
    sticky = (low >> _LIMB - 1) << 1 | ((low & (1 << _LIMB - 1) - 1) != 0)
    far = round_shift(np.clip(high, -_WIDE >> 2, (_WIDE >> 2) - 1) << 2 | sticky,
                      np.maximum(shift - _LIMB + 2, 0))
    # Less than 16: the result still contains all of `high`.
    up = np.maximum(_LIMB - shift, 1)
    limit = np.int64(1) << 63 - up
    near = (np.clip(high, -limit, limit - 2) << up) + round_shift(low, np.minimum(shift, _LIMB))
    return np.where(shift >= _LIMB, far, np.clip(near, -_WIDE, _WIDE))


def _leaves(z, mult, shift, bits):
    """Return whether ``floor(z * mult / 2**shift)`` needs more than `bits`, up to 46, signed."""
    z, mult, shift = (np.asarray(a, np.int64) for a in (z, mult, shift))
    low = (z & (1 << _LIMB) - 1) * mult
    high = (z >> _LIMB) * mult + (low >> _LIMB)
    limit = np.int64(1) << 46
    near = (np.clip(high, -limit, limit) << np.maximum(_LIMB - shift, 0)) + (
        (low & (1 << _LIMB) - 1) >> np.minimum(shift, _LIMB))
    floor = np.where(shift >= _LIMB, high >> np.maximum(shift - _LIMB, 0), near)
    return (floor < -(1 << bits - 1)) | (floor >= 1 << bits - 1)


def _magnitude(a):
    """Return the largest absolute value as a Python int, which cannot overflow."""
    return max(-int(a.min()), int(a.max())) if a.size else 0


def _first(a, where):
    return a[where].ravel()[0].item() if a.ndim else a.item()
