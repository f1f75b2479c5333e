"""When the words of MATMULs enter the array, and when their results are out.

A MATMUL and the operation that feeds it are worked out together, word by word of the weights, as
the weight FIFO couples them. All of it depends on differences of times only: what has been worked
out once is looked up when the same work comes in the same state again, inside a MATMUL and later.
"""

import math
from collections import deque
from dataclasses import dataclass

from systola.hw.contract.latency import SUM_GAP, matmul_latency, slice_columns
from systola.sw_driver.compiler.drains import Drain

__all__ = ["ArrayTimes", "Job", "StreamTimes", "Supply"]

_LONG_AGO = -(1 << 40)
_SLICE = 2  # words of weights between the LOAD engine and the FIFO
_CREDITS = 8  # words on their way from the scratchpad
_PATIENCE = 40  # states of a MATMUL that are kept to find one again


@dataclass(frozen=True)
class Supply:
    """A memory that gives the stream a beat every `pace` cycles, and reads `ahead` beats ahead.

    Attributes
    ----------
    pace : float
        More than 1.
    ahead : int
        Beats that wait in its buffer while nobody takes them.
    """

    pace: float
    ahead: int


class StreamTimes:
    """The stream: `now` it can give its next beat; `held` when the newest beats left its FIFO.

    Without a `Supply` it gives a beat in every cycle.
    """

    def __init__(self, config, costs, supply=None):
        self.now, self.held = costs.start, deque(maxlen=config.stream_fifo)
        self.supply, self._read = supply, float(costs.start)
        self._given = deque(maxlen=supply.ahead if supply else 1)

    def beat(self, time):
        """Return when a beat that is wanted at `time` is given."""
        if self.supply is None:
            return time
        self._read += self.supply.pace
        if len(self._given) == self._given.maxlen:  # it had no room to be read into
            self._read = max(self._read, self._given[0])
        time = max(time, math.ceil(self._read))
        self._given.append(time)
        return time

    def header(self, beats):
        """Take so many beats behind each other."""
        if self.supply is None:
            self.now += beats
            return
        for _ in range(beats):
            self.now = self.beat(self.now) + 1


@dataclass(frozen=True)
class Job:
    """A MATMUL without its addresses.

    Attributes
    ----------
    rows, act_words, digits : int
        As in the instruction.
    first, columns : int
        Columns of the results in their words.
    drain : Drain
        How results leave.
    """

    rows: int
    act_words: int
    digits: int
    first: int
    columns: int
    drain: Drain


@dataclass(frozen=True)
class _Buffer:
    """An accumulator buffer that is being drained: `rows` from `begin` to `last`."""

    begin: int
    rows: int
    last: int

    def row(self, index):
        """Return when row `index` is read."""
        return self.begin + index * (self.last + 1 - self.begin) // self.rows

    def enter(self, begin, rows, follow, free):
        """Return when the first word of a pass enters, and when the pass is over.

        The first pass of a tile may follow the drain, row behind row; others find it finished.
        """
        free += self.last
        first = max(begin, min(free, self.begin) if follow else free)
        last = rows - 1
        if follow and last < self.rows:
            limit = min(free, self.row(last))
        else:
            limit = free + (last - self.rows if follow else 0)
        return first, max(first + last, limit) + 1


_EMPTY = _Buffer(_LONG_AGO, 1, _LONG_AGO)


class ArrayTimes:
    """State of the array between MATMULs, and their times.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    costs : Costs
        Pipeline figures of the hardware.
    stream : StreamTimes
        Where streamed weights come from.
    known : dict, optional
        What was worked out before, for the same accelerator: looked up, and added to. The result is
        the same without.

    Attributes
    ----------
    entered : int
        The last activation has entered the array.
    """

    def __init__(self, config, costs, stream, *, known=None):
        self.config, self.costs, self.stream, self.known = config, costs, stream, known
        self.steady = known is not None
        self.latency, self.group = matmul_latency(config), slice_columns(config)
        ahead = _SLICE + config.weight_fifo
        # A FIFO of two words has one place behind its output: it takes a word every other cycle.
        self.push_gap = 2 if config.weight_fifo == 2 else 1
        self.loaded = deque(maxlen=ahead + config.cols)  # of the newest weights
        # For each column of a tile, how many loads ago there must have been one. While the columns
        # of a slice are collected, all but its last have room.
        self.room = [ahead + config.cols - column % self.group
                     if (column - ahead) % self.group == self.group - 1 else 0
                     for column in range(config.cols)]
        self.passes = deque(maxlen=_CREDITS)  # the newest ones: begin, words
        self.buffers = (_EMPTY,) * config.acc_buffers  # the next tile's first
        self.entered = 0
        self.begun = self.swapped = self.drained = self.settled = self.port = _LONG_AGO
        # No sum of a time and what stands in `Costs` or belongs to the array is further away.
        self.horizon = 4 * (config.rows + config.cols) + 256

    def multiply(self, job, start, source):
        """Place a MATMUL that starts at `start`.

        Returns when the last weight is pushed, the first result leaves, the MATMUL is done, and
        when a word entered that made room for the request of its last one.
        """
        base = min(start, source.start, self.stream.now)
        if not self.steady:
            return self._multiply(job, start, source)
        key = job, source.kind, start - base, source.start - base, self._state(base, source)
        found = self.known.get(key)
        if found is None:
            times = self._multiply(job, start, source)
            self.known[key] = tuple(time - base for time in times), self._state(base, source)
            return times
        times, state = found
        self._restore(state, base, source)
        return tuple(time + base for time in times)

    def _state(self, base, source):
        """Return what later times depend on, relative to `base`; what is too old is as old."""
        low = min(base, source.earliest) - self.horizon
        scalars = (self.entered, self.begun, self.swapped, self.drained, self.settled,
                   self.port)
        return (tuple([(time if time > low else low) - base for time in scalars]),
                tuple([(time if time > low else low) - base for time in self.loaded]),
                tuple([((begin if begin > low else low) - base, rows)
                       for begin, rows in self.passes]),
                tuple([(buffer.begin - base, buffer.rows, buffer.last - base)
                       if buffer.last > low else None for buffer in self.buffers]),
                source.state(base, low))

    def _restore(self, state, base, source):
        scalars, loaded, passes, buffers, rest = state
        self.entered, self.begun, self.swapped, self.drained, self.settled, self.port = (
            time + base for time in scalars)
        self.loaded.clear()
        self.loaded.extend([time + base for time in loaded])
        self.passes.clear()
        self.passes.extend([(begin + base, rows) for begin, rows in passes])
        self.buffers = tuple(
            _EMPTY if buffer is None else _Buffer(buffer[0] + base, buffer[1], buffer[2] + base)
            for buffer in buffers)
        source.restore(rest, base)

    def _multiply(self, job, start, source):
        """Run the tiles of a MATMUL one after the other."""
        costs, cols, drain = self.costs, job.drain.tile, job.drain
        entry = max(self.entered + 1 + costs.matmul_gap, start + costs.first_word)
        self.entered = entry - 1
        ready_from = self.settled + (costs.residual_gap if drain.residual else costs.wide_gap)
        first, seen, pushed, drained = job.first, {}, 0, None
        while first < job.columns:
            whole = (job.columns - first) // cols
            if self.steady and source.regular and whole > 1:
                first += cols * self._skip(seen, first, whole - 1, source,
                                           drain.phase(first, self.config))
            pushed = self._reduce(job, source)
            full = self.entered + self.latency
            begin = max(full, self.drained + costs.tile_gap + (drain.slots == 1), ready_from)
            tile = job.rows, first, job.columns, self.config
            last = begin + drain.cycles(*tile) - 1
            if drain.residual:  # some of it is read before its tile
                self.port = max(self.port, begin - _CREDITS) + drain.accessing(*tile)
                last = max(last, self.port - 1)
            self.drained = last
            drained = begin if drained is None else drained
            self.buffers = *self.buffers[1:], _Buffer(begin, job.rows, last)
            first += cols
        done = drain.done(last, job, first - cols, self.config, costs)
        self.settled = done if drain.twice else _LONG_AGO
        return pushed, drained, done, self._asked()

    def _skip(self, seen, place, most, source, phase=0):
        """Go on to where the same state would be found last; returns the steps, at most `most`.

        `seen` are the states so far by where they were, `phase` what else makes steps differ.
        """
        if len(seen) > _PATIENCE:
            return 0
        base = self.entered
        key = phase, self._state(base, source)
        if key not in seen:
            seen[key] = place, base, len(seen)
            return 0
        _, before, index = seen[key]
        period = len(seen) - index
        times = most // period
        if times:
            self._restore(key[1], base + times * (base - before), source)
            seen.clear()
        return times * period

    def _reduce(self, job, source):
        """Run the passes of a tile of columns; returns when its last weight is pushed."""
        buffer, follow, seen, word, pushed = self.buffers[0], True, {}, 0, 0
        free, entry = self.costs.buffer_free, self.entered + 1
        while word < job.act_words:
            if self.steady and source.regular and not follow and job.act_words - word > 8:
                self.entered = entry - 1
                word += self._skip(seen, word, job.act_words - word - 1, source)
                buffer, entry = self.buffers[0], self.entered + 1
            pushed, ready = self._tile(source)
            for digit in range(job.digits):
                begin = max(entry, self.begun + SUM_GAP, ready if digit == 0 else 0)
                self.begun, entry = buffer.enter(begin, job.rows, follow, free)
                if digit == 0:
                    self.swapped = self.begun
                follow = False
                self.passes.append((self.begun, job.rows))
            word += 1
        self.entered = entry - 1
        return pushed

    def _tile(self, source):
        """Push one tile of weights; returns the last push and when the tile may be swapped in."""
        config, group, loads, room = self.config, self.group, self.loaded, self.room
        fifo, fifo_free = self.costs.fifo + 1, self.costs.fifo_free
        hold, loaded = self.swapped + config.rows - 1, 0
        pushed = source.last
        for column in range(config.cols):
            pushed = max(source.next(), pushed + self.push_gap)
            if 0 < room[column] <= len(loads):
                pushed = max(pushed, loads[-room[column]] + fifo_free)
            source.taken(pushed)
            if group == 1 or column % group == group - 1:
                loaded = max(pushed + fifo, hold + column // group, loaded + 1)
                for _ in range(group):
                    loads.append(loaded)
        # With its first column loaded and the rest at hand, the swap may follow the wave.
        return pushed, max(pushed + fifo,
                           self.swapped + max(config.rows, config.cols // group))

    def _asked(self):
        """Return when the word entered that made room for the newest one's request."""
        left = _CREDITS
        for begin, rows in reversed(self.passes):
            if left < rows:
                return begin + rows - 1 - left
            left -= rows
        return _LONG_AGO
