"""Symmetric uniform quantization and its calibration: offline, so float32 on purpose.

Every operation is float32 in the publication's order, which makes codes and scales equal to it bit
for bit. Nothing here is on the data path of a model or of the hardware.
"""

import numpy as np

__all__ = ["MIN_SCALE", "Calibration", "bias_codes", "exp_constant", "quantize", "scale_for"]

MIN_SCALE = np.float32(2.0 ** -23)
"""Smallest scale, the float32 epsilon."""


def scale_for(low, high, bits):
    """Return the float32 scale ``max(max(-low, high) / (2**(bits-1) - 1), 2**-23)``.

    `low` and `high` are the observed range, scalars or arrays of equal shape.
    """
    if not 2 <= bits <= 32:
        raise ValueError(f"bits must be from 2 to 32, not {bits!r}")
    top = np.float32(2 ** (bits - 1) - 1)
    reach = np.maximum(-np.asarray(low, np.float32), np.asarray(high, np.float32))
    return np.maximum(reach / top, MIN_SCALE)


def quantize(x, scale, bits):
    """Return ``clamp(round_half_even(fl32(fl32(1 / scale) * x)))``, int64 of the shape of `x`.

    The multiplication by the rounded reciprocal, not a division, is the published operation.
    `scale` broadcasts: shape (N, 1) for one scale per output channel of a weight.
    """
    if not 2 <= bits <= 32:
        raise ValueError(f"bits must be from 2 to 32, not {bits!r}")
    scale = np.asarray(scale, np.float32)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError("scale must be finite and above 0")
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("x must be finite")
    limit = 1 << bits - 1
    codes = np.rint(np.float32(1) / scale * x)
    return np.clip(codes.astype(np.float64), -limit, limit - 1).astype(np.int64)


def bias_codes(bias, weight_scale, x_scale):
    """Return the 32-bit bias at the accumulator's scale ``weight_scale * x_scale``, int64 (N,)."""
    acc_scale = np.asarray(weight_scale, np.float32) * np.asarray(x_scale, np.float32)
    return quantize(bias, acc_scale, 32)


def exp_constant(scale, factor=1.0, dtype=np.float64):
    """Return the ShiftExp constant ``x0 = floor(-1 / (factor * scale))``, an int of at most -1.

    `factor` is 1 for Shiftmax and 1.702 for ShiftGELU. In float32, as published, the division is a
    multiplication by the reciprocal, and the result may differ by one.
    """
    scale = np.asarray(scale).astype(dtype).item()
    if not (scale > 0 and np.isfinite(scale)):
        raise ValueError(f"scale must be finite and above 0, not {scale!r}")
    product = dtype(scale) if factor == 1 else dtype(scale) * dtype(factor)
    return min(int(np.floor(-(dtype(1) / product))), -1)


class Calibration:
    """Running range of one activation tensor (QuantAct).

    The first batch's minimum and maximum are copied; later ones enter as
    ``0.95 * old + 0.05 * new`` in float32. (The publication blends per channel and reduces after
    every batch, which is the same.)

    Parameters
    ----------
    momentum : float
        Weight of the old range, from 0 to 1.
    """

    def __init__(self, momentum=0.95):
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be from 0 to 1, not {momentum!r}")
        self.momentum = momentum
        self._range = None

    def update(self, x):
        """Take in one batch of any shape."""
        x = np.asarray(x, np.float32)
        new = x.min(), x.max()
        if self._range is not None:
            keep, step = np.float32(self.momentum), np.float32(1 - self.momentum)
            new = tuple(a * keep + b * step for a, b in zip(self._range, new, strict=True))
        self._range = new

    @property
    def range(self):
        """The running minimum and maximum, float32; ``ValueError`` before the first batch."""
        if self._range is None:
            raise ValueError("a calibration must see a batch before its range is read")
        return self._range

    def scale(self, bits):
        """Return the float32 scale for `bits`-bit codes."""
        return scale_for(*self.range, bits)
