"""Scales that follow the ranges of their tensors while weights change."""

from math import log

__all__ = ["RangeObserver"]

_MOMENTUM = 0.95
"""Weight of the old range, that of the publications."""

_START = 16
"""Batches whose mean is what a tensor's range is compared with."""


class RangeObserver:
    """Running largest magnitude of a tensor, beside what it was at the start of training.

    What quantization cut off a range stays cut off: the scale moves as the range does, and not at
    all during the first batches.

    Attributes
    ----------
    state : list of float
        Batches seen, the mean of the first ones, the running magnitude: for a checkpoint.
    """

    def __init__(self):
        self.state = [0, 0.0, 0.0]

    def update(self, reach):
        """Take in the largest magnitude of a batch, and return the logarithm of the change."""
        seen, start, running = self.state
        if seen < _START:
            start = (start * seen + reach) / (seen + 1)
            running = start
        else:
            running = _MOMENTUM * running + (1 - _MOMENTUM) * reach
        self.state = [seen + 1, start, running]
        return log(running / start) if start > 0 and running > 0 else 0.0
