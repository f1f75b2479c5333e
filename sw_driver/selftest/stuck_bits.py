"""Bits that read as they should not: which, as what, and how many of them."""

from dataclasses import dataclass

import numpy as np

__all__ = ["KINDS", "StuckBit", "apply_stuck", "stuck_bits"]

KINDS = "stuck at 0", "stuck at 1", "inverted"


@dataclass(frozen=True)
class StuckBit:
    """Bit `bit` of lane `lane` is wrong in some of the entries that were looked at.

    ``kind`` is one of `KINDS`. ``entries`` are the entries (numbers of rows) where it is, and
    ``whole`` tells whether it is in every entry that could show it.
    """

    lane: int
    bit: int
    kind: str
    entries: tuple
    whole: bool


def apply_stuck(values, bit, kind, bits):
    """Return integers with bit `bit` of their `bits` as a fault of `kind` leaves it."""
    values = np.asarray(values, np.int64)
    mask = np.int64(1) << bit
    changed = {KINDS[0]: values & ~mask, KINDS[1]: values | mask, KINDS[2]: values ^ mask}[kind]
    half = np.int64(1) << bits - 1
    return ((changed + half) & (2 * half - 1)) - half


def stuck_bits(expected, found, entries=None, bits=8):
    """Return the `StuckBit` of every lane and bit that differs.

    Parameters
    ----------
    expected, found : int array (n, lanes)
        What was to be read, and what was; an entry may come several times.
    entries : int array (n,), optional
        Which entry each row is; its own number by default.
    bits : int
        Bits of a lane.
    """
    entries = np.arange(len(expected)) if entries is None else np.asarray(entries)
    differ, result = np.asarray(expected) ^ np.asarray(found), []
    for lane in np.flatnonzero(differ.any(axis=0)):
        for bit in range(bits):
            wrong = (differ[:, lane] >> bit & 1).astype(bool)
            if not wrong.any():
                continue
            ones = (np.asarray(expected)[:, lane] >> bit & 1).astype(bool)
            kind = KINDS[2] if (wrong & ones).any() and (wrong & ~ones).any() else (
                KINDS[0] if (wrong & ones).any() else KINDS[1])
            shows = {KINDS[0]: ones, KINDS[1]: ~ones, KINDS[2]: np.ones_like(ones)}[kind]
            result.append(StuckBit(int(lane), bit, kind, tuple(np.unique(entries[wrong]).tolist()),
                                   bool((wrong == shows).all())))
    return result
