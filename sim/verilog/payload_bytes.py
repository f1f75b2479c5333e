"""Stream payloads as bytes: fields side by side from bit 0 up, as `amaranth.lib.data` lays them."""

import numpy as np

__all__ = ["pack", "unpack"]


def pack(fields):
    """Return payloads as uint8 ``(n, bytes)``, little-endian.

    Parameters
    ----------
    fields : sequence of (array, int)
        In layout order, each with its width in bits: values ``(n,)`` or ``(n, lanes)``, signed or
        not; bits beyond the width are dropped.
    """
    bits = []
    for values, width in fields:
        values = np.asarray(values, dtype=np.int64)
        values = values.reshape(len(values), -1)
        raw = np.ascontiguousarray(values, dtype="<i8").view(np.uint8)
        raw = np.unpackbits(raw.reshape(*values.shape, 8), axis=2, bitorder="little")
        if width > 64:
            raise ValueError(f"width must be at most 64, not {width!r}")
        bits.append(raw[:, :, :width].reshape(len(values), -1))
    return np.packbits(np.concatenate(bits, axis=1), axis=1, bitorder="little")


def unpack(payloads, fields):
    """Return the fields of packed payloads as int64 arrays ``(n, lanes)``.

    Parameters
    ----------
    payloads : array (n, bytes)
        As `pack` returns them.
    fields : sequence of (int, int, bool)
        Lanes, width in bits (at most 63, or 64 signed) and signedness, in layout order.
    """
    bits, start, out = np.unpackbits(payloads, axis=1, bitorder="little"), 0, []
    for lanes, width, is_signed in fields:
        field = bits[:, start:start + lanes * width].reshape(-1, lanes, width).astype(np.int64)
        weights = np.left_shift(np.int64(1), np.arange(width, dtype=np.int64))
        if is_signed:
            weights[-1] = -weights[-1] if width < 64 else weights[-1]
        out.append(field @ weights)
        start += lanes * width
    return out
