"""Predict the cycles of a program without running it.

Every operation is placed on the time axis in stream order from what it waits for: the stream (one
beat a cycle, a full queue or FIFO stops it), its engine, and its tokens. A MATMUL and the operation
that feeds it are worked out together, word by word of the weights, as the weight FIFO couples them.
All figures that depend on the hardware's pipelines are in `Costs`; what engines take
from each other at shared ports is in `contention.py`.
"""

from collections import deque
from dataclasses import dataclass

from systola.hw.contract.isa import INSTRUCTION_BYTES, WEIGHT_STREAMS, Engine, Opcode
from systola.sw_driver.compiler.array_times import ArrayTimes, Job, StreamTimes
from systola.sw_driver.compiler.contention import QUIET, backgrounds, port_use
from systola.sw_driver.compiler.costs import COSTS, check_cycles, vector_cycles
from systola.sw_driver.compiler.drains import drain_of
from systola.sw_driver.compiler.weights import Decoded, Fetched, Streamed

__all__ = ["FORMS", "Prediction", "predict_cycles"]


FORMS = {Opcode.LOAD_WEIGHTS: "wide", Opcode.LOAD_NARROW: "narrow", Opcode.LOAD_CODES: "codes"}
"""What weights are streamed as: of the array's first precision or of its second, or as codes of a
codebook."""


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
        Share of the array's multiply-accumulates in all cycles that the model needs; of narrow ones
        it does two at a time.
    bandwidth : list of dict
        Layers with streamed weights: ``name``, ``cycles`` in which the array works on it,
        ``weight_bytes`` streamed (for every chunk of rows again), ``bytes_per_cycle``, and in which
        ``form``, one of `FORMS`.
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


def predict_cycles(ops, config, work, *, costs=COSTS, steady=True, supply=None):
    """Return the `Prediction` for operations with their tokens, in stream order.

    Parameters
    ----------
    ops : list of Operation
        The program without BEGIN and END.
    config : AcceleratorConfig
        The accelerator.
    work : int
        The model's multiply-accumulates, narrow ones half, for the utilisation.
    costs : Costs
        Pipeline figures of the hardware.
    steady : bool
        Look up times of work that comes again in the same state; the result is the same.
    supply : Supply, optional
        What the program comes from, if that is slower than a beat a cycle.
    """
    known = {} if steady and supply is None else None
    quiet = _run(ops, _Timeline(config, costs, _Beside(), known, supply))
    found = backgrounds([use for _, use in quiet.uses], config)
    beside = _Beside(dict(zip([op for op, _ in quiet.uses], found, strict=True)))
    line = _run(ops, _Timeline(config, costs, beside, known, supply))
    cycles = line.end()
    window = 0 if line.first_weights is None else line.last_output - line.first_weights + 1
    return Prediction(cycles=cycles, window=window, busy=dict(line.busy), stream_beats=line.beats,
                      utilisation=work / (config.rows * config.cols * cycles),
                      bandwidth=line.bandwidth())


def _run(ops, line):
    """Place all operations; returns the timeline."""
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
    return line


@dataclass
class _Begun:
    """A MATMUL that waits for its weights."""

    op: object
    start: int
    fields: dict


def _job(fields, use, background, config):
    """Return the `Job` of a MATMUL."""
    return Job(rows=fields["rows"], act_words=fields["act_words"], digits=fields["digits"],
               first=fields["out_group"] * config.lanes,
               columns=(fields["words"] - 1) * config.rows + fields["lanes_last"],
               drain=drain_of(fields, use, background, config))


class _Beside:
    """What other engines do beside each operation that uses the ports, in the order of the stream.

    Those of MATMULs are asked for behind those of what feeds them.
    """

    def __init__(self, found=None):
        self.found = found

    def next(self, op):
        """Return the `Background` of `op`."""
        return QUIET if self.found is None else self.found.get(op, QUIET)


class _Timeline:
    """Times of everything placed so far; `now` is when the stream can give its next beat."""

    def __init__(self, config, costs, beside, known, supply):
        self.config, self.costs, self.beside = config, costs, beside
        self.stream = StreamTimes(config, costs, supply)
        self.array = ArrayTimes(config, costs, self.stream, known=known)
        self.header = -(-INSTRUCTION_BYTES // config.bus_bytes)
        self.beats = 0
        self.free = dict.fromkeys(Engine, 0)         # the engine can take its next instruction
        self.finished = dict.fromkeys(Engine, 0)     # all its instructions so far are complete
        self.busy = dict.fromkeys(Engine, 0)
        self.queued = {engine: deque(maxlen=config.queue_depth) for engine in Engine}
        self.tokens = {(giver, taker): deque() for giver in Engine for taker in Engine}
        # When MATMULs to come may be taken: there are copies of them in front of the back end.
        self.taken = deque([0] * config.acc_buffers, maxlen=config.acc_buffers)
        self.uses = []            # of the shared ports, by operation
        self.first_weights = None  # when their load started
        self.last_output = 0
        self.layers = {}          # with streamed weights, by name: cycles, beats
        self._take_header()       # BEGIN

    def _take_header(self):
        self.stream.header(self.header)
        self.stream.now += self.costs.decode
        self.beats += self.header

    def _dispatch(self, op):
        """Return when `op` is at the head of its engine and may start."""
        queue = self.queued[op.engine]
        self._take_header()
        fields = op.resolved()
        issue = self.stream.now + check_cycles(op.opcode, fields, self.config) + self.costs.check
        if len(queue) == queue.maxlen:
            issue = max(issue, queue[0] + self.costs.queue_free)
        self.stream.now = issue + 1
        start = max(issue + self.costs.queue, self.free[op.engine])
        for other in Engine:
            if other is not op.engine and op.wait >> other & 1:
                start = max(start, self.tokens[other, op.engine].popleft() + self.costs.token)
        if op.engine is Engine.MATRIX and op.wait >> op.engine & 1:
            start = max(start, self.finished[op.engine] + self.costs.fence)
        queue.append(start)
        return start, fields

    def _complete(self, op, start, done):
        if op.opcode in WEIGHT_STREAMS and self.first_weights is None:
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
        costs, (start, fields) = self.costs, self._dispatch(op)
        if op.opcode in (Opcode.STORE, Opcode.COPY):
            words = op.fields["rows"] * op.fields["words"]
            words += int(words * self.beside.next(op).of_reads)
            done = start + costs.read_latency + words - 1 + costs.read_done
            done += costs.copy_done if op.opcode is Opcode.COPY else 0
        else:
            last = self._stream(op, start)
            done = last + costs.load_done + (op.opcode is Opcode.LOAD)
        self._use(op, fields, start, done)
        self.free[Engine.LOAD] = done + 1
        self._complete(op, start, done)

    def _use(self, op, fields, start, end, job=None):
        """Note what an operation does with the shared ports, for the next timeline."""
        if self.beside.found is None:
            use = port_use(op, fields, self.config)
            if use is not None:
                use.start, use.end = start, end
                use.bursts = job and job.drain.bursts(job, self.config)
                self.uses.append((op, use))

    def _stream(self, op, start):
        """Take the beats of `op`; returns when the last one has been used."""
        table = op.opcode is Opcode.LOAD_TABLE
        free = start + (self.costs.write if op.opcode is Opcode.LOAD else 1)
        for _ in range(op.beats):
            if len(self.stream.held) == self.stream.held.maxlen:
                self.stream.now = max(self.stream.now, self.stream.held[0] + 1)
            self.stream.now = self.stream.beat(self.stream.now)
            leaves = max(free, self.stream.now + self.costs.data_latency)
            self.stream.held.append(leaves)
            self.stream.now += 1
            free = leaves + (self.config.rows if table else 1)
        self.beats += op.beats
        return leaves + (255 % self.config.rows if table else 0)

    def vector(self, op):
        """Place a VECTOR operation."""
        start, fields = self._dispatch(op)
        done = start + vector_cycles(op.opcode, op.fields, self.config, self.costs,
                                     self.beside.next(op))
        self._use(op, fields, start, done)
        self.free[Engine.VECTOR] = done
        self._complete(op, start, done)

    def begin(self, op):
        """Start a MATMUL; it is placed when what feeds it is known."""
        return _Begun(op, *self._dispatch(op))

    def feed(self, op, matmul):
        """Place a feeding operation and the MATMUL it feeds."""
        start, fields = self._dispatch(op)
        streamed = op.opcode in WEIGHT_STREAMS
        if op.opcode is Opcode.LOAD_CODES:
            source = Decoded(self.stream, start, self.costs, self.config)
        elif streamed:
            source = Streamed(self.stream, start, self.costs)
        else:
            source = Fetched(fields, start, self.beside.next(op).of_reads, self.config, self.costs)
        before = self.array.entered
        job = _job(matmul.fields, port_use(matmul.op, matmul.fields, self.config),
                   self.beside.next(matmul.op), self.config)
        last, drained, done, asked = self.array.multiply(job, matmul.start, source)
        self._use(matmul.op, matmul.fields, drained, done, job)
        entered, twice = self.array.entered, job.drain.twice
        self.taken.append(done + self.costs.wide_next if twice else 0)
        words = job.rows * job.act_words * job.digits * -(
            -(job.columns - job.first) // job.drain.tile)
        self.free[Engine.MATRIX] = max(
            min(entered - self.costs.run_ahead, max(matmul.start + words, asked) + 2),
            self.taken[0])
        self._complete(matmul.op, matmul.start, done)
        if streamed:
            self.stream.now, self.beats = source.passed + 1, self.beats + op.beats
            cycles, beats, _ = self.layers.get(op.name, (0, 0, None))
            self.layers[op.name] = (cycles + entered - max(before, matmul.start),
                                    beats + op.beats, FORMS[op.opcode])
        done = last + (self.costs.load_done if streamed else self.costs.read_done)
        if not streamed:
            self._use(op, fields, start + self.costs.read_latency - 5, done)
        self.free[Engine.LOAD] = done + 1
        self._complete(op, start, done)

    def bandwidth(self):
        """Return the bytes of weights per cycle of every layer that streams them."""
        return [{"name": name, "cycles": cycles, "weight_bytes": beats * self.config.rows,
                 "bytes_per_cycle": round(beats * self.config.rows / cycles, 3), "form": form}
                for name, (cycles, beats, form) in self.layers.items()]

    def end(self):
        """Return when the program is done."""
        self._take_header()
        return max(self.stream.now, *self.finished.values()) + self.costs.finish
