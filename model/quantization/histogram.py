"""Histogram of a tensor over batches, and the scale that it asks for."""

import numpy as np

__all__ = ["Histogram"]

_BINS = 4096
_MOST = 1 << 18  # values of a batch that are counted; evenly spaced ones of more
_STEPS = 120
_LEAST = 0.1     # of the largest magnitude: no range is cut further
_PERCENTILE = 0.9999


class Histogram:
    """Counts of a tensor's values in equal bins, over a range that doubles as they grow.

    The largest magnitude is exact; of large batches evenly spaced values are counted.
    """

    def __init__(self):
        self.peak, self._reach = 0.0, 0.0
        self._counts = np.zeros(_BINS)

    def update(self, x):
        """Take in one batch of any shape."""
        x = np.asarray(x).ravel()
        if not x.size:
            return
        self.peak = max(self.peak, float(np.abs(x).max()))
        if not self.peak:
            self._counts[_BINS // 2] += len(x)
            return
        if not self._reach:
            zeros, self._reach = self._counts.sum(), 2.0 ** np.ceil(np.log2(self.peak))
            self._counts[:] = 0
            self._counts[_BINS // 2] = zeros
        while self.peak > self._reach:  # two bins become one, in the middle of the new range
            half = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts[:] = 0
            self._counts[_BINS // 4:_BINS // 4 + _BINS // 2] = half
            self._reach *= 2
        x = x[::-(-len(x) // _MOST)]
        place = ((x.astype(np.float64) / self._reach + 1) * (_BINS / 2)).astype(np.int64)
        self._counts += np.bincount(np.clip(place, 0, _BINS - 1), minlength=_BINS)

    @property
    def centres(self):
        """The middle of every bin."""
        return ((np.arange(_BINS) + 0.5) / (_BINS / 2) - 1) * self._reach

    def percentile(self):
        """Return the magnitude that 99.99 % of the values do not exceed."""
        order = np.argsort(np.abs(self.centres))
        share = np.cumsum(self._counts[order]) / max(self._counts.sum(), 1)
        bound = np.abs(self.centres[order][np.searchsorted(share, _PERCENTILE)])
        return min(bound + self._reach / _BINS, self.peak)

    def least_error(self, bits, *, symmetric=False):
        """Return the magnitude of the largest code with the least squared error at `bits` bits.

        Of `symmetric` codes the lowest one is its negative.
        """
        if not self.peak:
            return 0.0
        used = np.flatnonzero(self._counts)
        values, counts = self.centres[used], self._counts[used]
        half = 1 << bits - 1
        tops = self.peak * np.linspace(_LEAST, 1, _STEPS)
        steps = (tops / (half - 1))[:, None]
        codes = np.clip(np.rint(values / steps), symmetric - half, half - 1)
        error = (np.square(codes * steps - values) * counts).sum(axis=1)
        return float(tops[error.argmin()])
