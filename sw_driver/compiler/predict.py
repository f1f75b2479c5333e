"""Predict the cycles of a program without running it.

Every operation is placed on the time axis in stream order from what it waits for: the stream (one
beat a cycle, a full queue or FIFO stops it), its engine, and its tokens. A MATMUL and the operation
that feeds it are worked out together, word by word of the weights, as the weight FIFO couples them.
All figures that depend on the hardware's pipelines are in `Costs`; bank conflicts are not modelled.
"""

from collections import deque
from dataclasses import dataclass

from systola.hw.contract.isa import INSTRUCTION_BYTES, Engine, Flag, Opcode
from systola.hw.contract.latency import matmul_latency, slice_columns
from systola.sw_driver.compiler.costs import (
    COSTS,
    check_cycles,
    drain_cycles,
    requant_times,
    vector_cycles,
)

__all__ = ["Prediction", "predict_cycles"]

_LONG_AGO = 1 << 30
_CREDITS = 8  # activations on their way to the array
_SLICE = 2  # words of weights between the LOAD engine and the FIFO


@dataclass(frozen=True)
class Prediction:
    """How long a program takes.

    Attributes
    ----------
    cycles : int
        From start to done.
    window : int
        From the start of the first weights' load to the last output; 0 without weights.
    busy : dict of Engine to int
        Cycles with an instruction inside.
    stream_beats : int
        Beats of the program.
    utilisation : float
        Share of the array's multiply-accumulates in all cycles that the model needs.
    bandwidth : list of dict
        Layers with streamed weights: ``name``, ``cycles`` in which the array works on it,
        ``weight_bytes`` streamed (for every chunk of rows again), ``bytes_per_cycle``.
    """

    cycles: int
    window: int
    busy: dict
    stream_beats: int
    utilisation: float
    bandwidth: list

    def to_dict(self):
        """Return the figures as plain data for the program image."""
        return {"cycles": self.cycles, "window": self.window, "stream_beats": self.stream_beats,
                "utilisation": round(self.utilisation, 6), "bandwidth": self.bandwidth,
                **{f"{engine.name.lower()}_busy": cycles for engine, cycles in self.busy.items()}}


def predict_cycles(ops, config, macs, *, costs=COSTS):
    """Return the `Prediction` for operations with their tokens, in stream order.

    Parameters
    ----------
    ops : list of Operation
        The program without BEGIN and END.
    config : AcceleratorConfig
        The accelerator.
    macs : int
        The model's multiply-accumulates, for the utilisation.
    costs : Costs
        Pipeline figures of the hardware.
    """
    line = _Timeline(config, costs)
    matmul = None
    for op in ops:
        if op.opcode is Opcode.MATMUL:
            matmul = line.begin(op)
        elif op.feeds:
            line.feed(op, matmul)
        elif op.engine is Engine.VECTOR:
            line.vector(op)
        else:
            line.load(op)
    cycles = line.end()
    window = 0 if line.first_weights is None else line.last_output - line.first_weights + 1
    return Prediction(cycles=cycles, window=window, busy=dict(line.busy), stream_beats=line.beats,
                      utilisation=macs / (config.rows * config.cols * cycles),
                      bandwidth=line.bandwidth())


@dataclass
class _Begun:
    """A MATMUL that waits for its weights."""

    op: object
    start: int


class _Timeline:
    """Times of everything placed so far; `now` is when the stream can give its next beat."""

    def __init__(self, config, costs):
        self.config, self.costs = config, costs
        self.latency, self.group = matmul_latency(config), slice_columns(config)
        self.header = -(-INSTRUCTION_BYTES // config.bus_bytes)
        self.now, self.beats = costs.start, 0
        self.free = dict.fromkeys(Engine, 0)         # the engine can take its next instruction
        self.finished = dict.fromkeys(Engine, 0)     # all its instructions so far are complete
        self.busy = dict.fromkeys(Engine, 0)
        self.queued = {engine: deque(maxlen=config.queue_depth) for engine in Engine}
        self.tokens = {(giver, taker): deque() for giver in Engine for taker in Engine}
        self.loaded = deque(  # of the newest weights
            maxlen=_SLICE + config.weight_fifo + config.cols + self.group - 1)
        self.held = deque(maxlen=config.stream_fifo)  # when the newest beats left the FIFO
        self.entered = 0          # the last activation has entered the array
        self.swapped = -_LONG_AGO
        self.begun = -_LONG_AGO   # the newest pass
        self.passes = deque(maxlen=_CREDITS)  # the newest ones: begin, words
        self.halves = deque([_Half(-1, 0, 0, costs)] * 2, maxlen=2)
        self.drained = self.settled = -_LONG_AGO
        self.taken = deque([0, 0], maxlen=2)  # when the next but one MATMUL may be taken
        self.spans = {}           # first and last cycle of every operation
        self.first_weights = None  # when their load started
        self.last_output = 0
        self.layers = {}          # with streamed weights, by name: cycles, beats
        self._take_header()       # BEGIN

    def _take_header(self):
        self.now += self.header + self.costs.decode
        self.beats += self.header

    def _dispatch(self, op):
        """Return when `op` is at the head of its engine and may start."""
        queue = self.queued[op.engine]
        self._take_header()
        issue = self.now + check_cycles(op.opcode, op.resolved(), self.config) + self.costs.check
        if len(queue) == queue.maxlen:
            issue = max(issue, queue[0] + self.costs.queue_free)
        self.now = issue + 1
        start = max(issue + self.costs.queue, self.free[op.engine])
        for other in Engine:
            if other is not op.engine and op.wait >> other & 1:
                start = max(start, self.tokens[other, op.engine].popleft() + self.costs.token)
        if op.engine is Engine.MATRIX and op.wait >> op.engine & 1:
            start = max(start, self.finished[op.engine] + self.costs.fence)
        queue.append(start)
        return start

    def _complete(self, op, start, done):
        self.spans[op] = start, done
        if op.opcode is Opcode.LOAD_WEIGHTS and self.first_weights is None:
            self.first_weights = start
        if op.opcode is Opcode.STORE:
            self.last_output = done
        self.busy[op.engine] += done - max(start, self.finished[op.engine]) + 1
        self.finished[op.engine] = max(done, self.finished[op.engine])
        for other in Engine:
            if op.signal >> other & 1:
                self.tokens[op.engine, other].append(done)

    def load(self, op):
        """Place a LOAD operation other than those that feed weights."""
        costs, start = self.costs, self._dispatch(op)
        if op.opcode is Opcode.STORE:
            done = (start + costs.read_latency + op.fields["rows"] * op.fields["words"] - 1
                    + costs.read_done)
        else:
            last = self._stream(op, start)
            done = last + costs.load_done
        self.free[Engine.LOAD] = done + 1
        self._complete(op, start, done)

    def _stream(self, op, start):
        """Take the beats of `op`; returns when the last one has been used."""
        table = op.opcode is Opcode.LOAD_TABLE
        free = start + (self.costs.write if op.opcode is Opcode.LOAD else 1)
        for _ in range(op.beats):
            if len(self.held) == self.held.maxlen:
                self.now = max(self.now, self.held[0] + 1)
            leaves = max(free, self.now + self.costs.data_latency)
            self.held.append(leaves)
            self.now += 1
            free = leaves + (self.config.rows if table else 1)
        self.beats += op.beats
        return leaves + (255 % self.config.rows if table else 0)

    def vector(self, op):
        """Place a VECTOR operation."""
        start = self._dispatch(op)
        done = start + vector_cycles(op.opcode, op.fields, self.config, self.costs)
        self.free[Engine.VECTOR] = done
        self._complete(op, start, done)

    def begin(self, op):
        """Start a MATMUL; it is placed when what feeds it is known."""
        return _Begun(op, self._dispatch(op))

    def feed(self, op, matmul):
        """Place a feeding operation and the MATMUL it feeds."""
        start = self._dispatch(op)
        if op.opcode is Opcode.LOAD_WEIGHTS:
            source = _Streamed(self, op, start)
        else:
            source = _Fetched(op, start, self.config, self.costs)
        before = self.entered
        last = self._multiply(matmul, source)
        if op.opcode is Opcode.LOAD_WEIGHTS:
            self.now, self.beats = source.passed + 1, self.beats + op.beats
            cycles, beats = self.layers.get(op.name, (0, 0))
            self.layers[op.name] = (cycles + self.entered - max(before, matmul.start),
                                    beats + op.beats)
        streamed = op.opcode is Opcode.LOAD_WEIGHTS
        done = last + (self.costs.load_done if streamed else self.costs.read_done)
        self.free[Engine.LOAD] = done + 1
        self._complete(op, start, done)

    def _multiply(self, matmul, source):
        """Run the tiles of a MATMUL; returns when the last weight left the LOAD engine."""
        config, costs, fields = self.config, self.costs, matmul.op.fields
        start = fields["out_group"] * config.lanes
        columns = (fields["words"] - 1) * config.rows + fields["lanes_last"]
        rows, residual = fields["rows"], bool(fields["flags"] & Flag.RESIDUAL)
        wide = fields["out_bits"] > 8
        twice = 1 + (wide or residual)
        entry = max(self.entered + 1 + costs.matmul_gap, matmul.start + costs.first_word)
        drain_from = self.settled + (costs.residual_gap if residual else costs.wide_gap)
        slots, latency = requant_times(fields, config)
        gap = costs.tile_gap + (slots == 1)
        pushed = words = 0
        for first in range(start, columns, config.cols):
            half, follow = self.halves[0], True
            for _ in range(fields["act_words"]):
                pushed, ready = self._tile(source, pushed)
                for digit in range(fields["digits"]):
                    begin = max(entry, self.begun + 2, ready if digit == 0 else 0)
                    self.begun, entry = half.enter(begin, rows, follow)
                    if digit == 0:
                        self.swapped = self.begun
                    follow = False
                    words += rows
                    self.passes.append((self.begun, rows))
            full = entry - 1 + self.latency
            begin = max(full, self.drained + gap, drain_from)
            half = _Half(begin, rows, drain_cycles(first, columns, fields, config), costs)
            half.groups = rows * -(-min(config.cols, columns - first) // config.lanes)
            half.packed = half.groups * slots == rows * half.row
            self.drained = half.last
            self.halves.append(half)
        self.entered = entry - 1
        # Of two groups of two slots, the second one begins a cycle after the first.
        early = (half.groups % 2 == 0 and half.packed) if slots == 2 else 0
        done = self.drained - (slots - 1) - early + latency + costs.write_latency + wide
        self.settled = done if twice == 2 else -_LONG_AGO
        self.taken.append(done + costs.wide_next if twice == 2 else 0)
        self.free[Engine.MATRIX] = max(
            min(self.entered - costs.run_ahead, max(matmul.start + words, self._asked()) + 2),
            self.taken[0])
        self._complete(matmul.op, matmul.start, done)
        return pushed

    def _asked(self):
        """Return when the word entered that made room for the newest one's request."""
        left = _CREDITS
        for begin, rows in reversed(self.passes):
            if left < rows:
                return begin + rows - 1 - left
            left -= rows
        return -_LONG_AGO

    def _tile(self, source, pushed):
        """Push one tile of weights; returns the last push and when the tile may be swapped in."""
        config, costs = self.config, self.costs
        hold = self.swapped + config.rows - 1
        loaded = 0
        for column in range(config.cols):
            pushed = max(source.next(), pushed + 1)
            if len(self.loaded) == self.loaded.maxlen:
                pushed = max(pushed, self.loaded[0] + costs.fifo_free)
            source.taken(pushed)
            if column % self.group == self.group - 1:
                loaded = max(pushed + costs.fifo + 1, hold + column // self.group, loaded + 1)
                self.loaded.extend([loaded] * self.group)
        # With its first column loaded and the rest at hand, the swap may follow the wave.
        ready = max(pushed + costs.fifo + 1, self.swapped + max(config.rows, config.cols // self.group))
        return pushed, ready

    def bandwidth(self):
        """Return the bytes of weights per cycle of every layer that streams them."""
        return [{"name": name, "cycles": cycles, "weight_bytes": beats * self.config.rows,
                 "bytes_per_cycle": round(beats * self.config.rows / cycles, 3)}
                for name, (cycles, beats) in self.layers.items()]

    def end(self):
        """Return when the program is done."""
        self._take_header()
        return max(self.now, *self.finished.values()) + self.costs.finish


@dataclass
class _Half:
    """An accumulator half that is being drained: a row every `row` cycles from `begin` on."""

    begin: int
    rows: int
    row: int
    costs: object

    @property
    def last(self):
        """The last group leaves."""
        return self.begin + self.rows * self.row - 1

    def enter(self, begin, rows, follow):
        """Return when the first word of a pass enters, and when the pass is over.

        The first pass of a tile may follow the drain, row behind row; others find it finished.
        """
        free = self.last + self.costs.half_free
        first = max(begin, min(free, self.begin) if follow else free)
        last = rows - 1
        if follow and last < self.rows:
            limit = min(free, self.begin + last * self.row)
        else:
            limit = free + (last - self.rows if follow else 0)
        return first, max(first + last, limit) + 1


class _Streamed:
    """Weights from the stream: times at which each beat reaches the LOAD engine."""

    def __init__(self, line, op, start):
        self.passed, self.costs = line.now - 1, line.costs
        self.start, self.fifo = start + 1, line.held

    def next(self):
        """Return when the next beat can be pushed."""
        self.passed += 1
        if len(self.fifo) == self.fifo.maxlen:
            self.passed = max(self.passed, self.fifo[0] + 1)
        return max(self.start, self.passed + self.costs.data_latency)

    def taken(self, time):
        """Note when it was."""
        self.fifo.append(time)


class _Fetched:
    """Weights from the scratchpad: reads a word a cycle, blocks for a transposed fetch."""

    def __init__(self, op, start, config, costs):
        self.time = self.read = start + costs.read_latency
        self.costs, self.cols, self.left = costs, config.cols, 0
        self.began = self.read - self.cols
        self.emitted = deque([0, 0], maxlen=2)  # of the two blocks before: the last column
        transposed = op.fields["flags"] & Flag.TRANSPOSE
        self.blocks = _blocks(op.fields, config) if transposed else None

    def next(self):
        """Return when the next word can be pushed."""
        if self.blocks is not None and self.left == 0:
            fresh, reads, self.left = next(self.blocks)
            # Two blocks are held: reading one needs the one before the last to be emitted.
            self.began = max(self.read + fresh * self.costs.settle, self.emitted[0] + 1,
                             self.began + self.cols)
            self.read = self.began + reads
            self.time = max(self.time, self.read - 1 + self.costs.transpose)
        return self.time

    def taken(self, time):
        """Note when it was."""
        self.time, self.left = time + 1, self.left - 1
        if self.left == 0:
            self.emitted.append(time)


def _blocks(fields, config):
    """Yield (new columns, rows read, columns emitted) of the blocks that a transposed FETCH consists of."""
    columns = (fields["words"] - 1) * config.rows + fields["lanes_last"]
    for first in range(0, columns, config.cols):
        count = min(config.cols, columns - first)
        here = min(count, config.rows - first % config.rows)
        padding = config.cols - count
        parts = [here + padding] if here == count else [here, count - here + padding]
        for row in range(0, fields["rows"], config.rows):
            for part in parts:
                yield first > 0 and row == 0 and part == parts[0], min(config.rows, fields["rows"] - row), part
