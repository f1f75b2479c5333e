"""Faults of a serial line, and how often they happen."""

from collections import Counter

__all__ = ["BROKEN", "FAULTS", "Faults"]

FAULTS = {
    "flip": "one bit of a byte is inverted",
    "drop": "a byte is lost",
    "duplicate": "a byte comes twice",
    "insert": "a byte comes that nobody sent",
    "reorder": "a byte comes before the one sent before it",
    "framing": "a byte comes without its stop bit",
    "silence": "up to 40 bytes in a row are lost",
}
"""What can happen to a byte."""

BROKEN = 0x100
"""Added to a byte without a stop bit."""


class Faults:
    """Damages bytes on their way.

    Parameters
    ----------
    rng : random.Random
        Chooses what happens, and when.
    rate : float
        Chance that something happens to a byte.
    kinds : sequence of str
        Which of `FAULTS` may happen.

    Attributes
    ----------
    counts : Counter
        Faults by kind.
    """

    def __init__(self, rng, rate=0.0, kinds=tuple(FAULTS)):
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be from 0 to below 1, not {rate!r}")
        if unknown := set(kinds) - set(FAULTS):
            raise ValueError(f"kinds must be among {', '.join(FAULTS)}, not {sorted(unknown)}")
        self.rng, self.rate, self.kinds = rng, rate, tuple(kinds)
        self.counts = Counter()
        self._silent = 0

    def apply(self, data):
        """Return what arrives of bytes `data`: a list of bytes, `BROKEN` added to broken ones."""
        out = []
        for byte in data:
            if self._silent:
                self._silent -= 1
                continue
            out.append(byte)
            if self.rate and self.rng.random() < self.rate:
                self._damage(out)
        return out

    def _damage(self, out):
        """Do something to the last byte of `out`."""
        rng, kind = self.rng, self.rng.choice(self.kinds)
        self.counts[kind] += 1
        if kind == "flip":
            out[-1] ^= 1 << rng.randrange(8)
        elif kind == "drop":
            out.pop()
        elif kind == "duplicate":
            out.append(out[-1])
        elif kind == "insert":
            out.append(rng.randrange(256))
        elif kind == "reorder":
            out[-2:] = out[:-3:-1]
        elif kind == "framing":
            out[-1] |= BROKEN
        else:
            out.pop()
            self._silent = rng.randrange(40)
