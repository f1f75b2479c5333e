"""Where weights come from: the times at which each can be pushed towards the array."""

from collections import deque

from systola.hw.contract.isa import Flag
from systola.hw.contract.numbers import CODEBOOK_ENTRIES

__all__ = ["Decoded", "Fetched", "Streamed"]


class Streamed:
    """Weights from the stream: times at which each beat reaches the LOAD engine."""

    kind, regular = ("streamed",), True

    def __init__(self, stream, start, costs):
        self.stream, self.costs, self.start = stream, costs, start
        self.passed, self.last = stream.now - 1, start

    @property
    def earliest(self):
        """No later time is before this one."""
        return min(self.passed, self.last)

    def next(self):
        """Return when the next beat can be pushed."""
        held = self.stream.held
        passed = self.passed + 1
        if len(held) == held.maxlen and held[0] >= passed:
            passed = held[0] + 1
        self.passed = passed = self.stream.beat(passed)
        return max(self.start + 1, passed + self.costs.data_latency)

    def taken(self, time):
        """Note when it was."""
        self.last = time
        self.stream.held.append(time)

    def state(self, base, low):
        """Return what later times depend on, relative to `base`."""
        return (max(self.start, low) - base, self.passed - base, max(self.last, low) - base,
                tuple([(time if time > low else low) - base for time in self.stream.held]))

    def restore(self, state, base):
        """Go to such a state."""
        start, passed, last, held = state
        self.start, self.passed, self.last = start + base, passed + base, last + base
        self.stream.held.clear()
        self.stream.held.extend([time + base for time in held])


class Decoded(Streamed):
    """Weights from codes in the stream: two words from every beat, after the codebook."""

    kind = ("decoded",)

    def __init__(self, stream, start, costs, config):
        super().__init__(stream, start, costs)
        self.half = 0
        for left in range(CODEBOOK_ENTRIES, 0, -config.rows):  # an entry a cycle
            stored = super().next() + min(left, config.rows) - 1
            super().taken(max(stored, self.last + min(left, config.rows)))
            self.start = self.last

    def next(self):
        """Return when the next word can be pushed."""
        return self.last + 1 if self.half else super().next()

    def taken(self, time):
        """Note when it was; a beat is used up with its second word."""
        self.half ^= 1
        if self.half:
            self.last = time
        else:
            super().taken(time)

    def state(self, base, low):
        """Return what later times depend on, relative to `base`."""
        return self.half, super().state(base, low)

    def restore(self, state, base):
        """Go to such a state."""
        self.half, rest = state
        super().restore(rest, base)


class Fetched:
    """Weights from the scratchpad: reads a word a cycle, blocks for a transposed fetch."""

    regular = False

    def __init__(self, fields, start, stretch, config, costs):
        self.start, self.last, self.left = start, start, 0
        self.costs, self.cols = costs, config.cols
        self.time = self.read = start + costs.read_latency
        self.began = self.read - self.cols
        self.stretch, self.behind = stretch, 0.0
        self.emitted = deque([0, 0], maxlen=2)  # of the two blocks before: the last column
        transposed = fields["flags"] & Flag.TRANSPOSE
        self.blocks = _blocks(fields, config) if transposed else None
        self.real = None if transposed else _real(fields, config)
        self.kind = ("fetched", fields["rows"], fields["words"], fields["lanes_last"],
                     bool(transposed), stretch)

    @property
    def earliest(self):
        """No later time is before this one."""
        return self.last

    def next(self):
        """Return when the next word can be pushed."""
        if self.blocks is None:
            self.behind += self.stretch * next(self.real)
            return self.time + self._late()
        if self.left == 0:
            fresh, reads, self.left = next(self.blocks)
            # Two blocks are held: reading one needs the one before the last to be emitted.
            self.began = max(self.read + fresh * self.costs.settle, self.emitted[0] + 1,
                             self.began + self.cols)
            self.behind += self.stretch * reads
            self.read = self.began + reads + self._late()
            self.time = max(self.time, self.read - 1 + self.costs.transpose)
        return self.time

    def _late(self):
        """Return the whole cycles that reads have lost since it was asked last."""
        whole = int(self.behind)
        self.behind -= whole
        return whole

    def taken(self, time):
        """Note when it was."""
        self.last, self.time, self.left = time, time + 1, self.left - 1
        if self.left == 0:
            self.emitted.append(time)

    def state(self, base, low):
        """Return nothing: all of it is new with every operation."""
        return ()

    def restore(self, state, base):
        """Go to such a state."""


def _real(fields, config):
    """Yield for every word of a plain FETCH whether it is read: those beyond the region are not."""
    for first in range(0, fields["rows"], config.cols):
        for _ in range(fields["words"]):
            for row in range(first, first + config.cols):
                yield row < fields["rows"]


def _blocks(fields, config):
    """Yield (new columns, rows read, columns emitted) of the blocks of a transposed FETCH."""
    columns = (fields["words"] - 1) * config.rows + fields["lanes_last"]
    for first in range(0, columns, config.cols):
        count = min(config.cols, columns - first)
        here = min(count, config.rows - first % config.rows)
        padding = config.cols - count
        parts = [here + padding] if here == count else [here, count - here + padding]
        for row in range(0, fields["rows"], config.rows):
            for index, part in enumerate(parts):
                fresh = first > 0 and row == 0 and index == 0
                yield fresh, min(config.rows, fields["rows"] - row), part
