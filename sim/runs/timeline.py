"""What the engines did in a simulation: operations, and why the array stood still.

Made from the records of the trace port (``hw/contract/regmap.py`` TRACE), which exist only where
something changes, and from the program, whose instructions every engine takes in order.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from systola.hw.contract.isa import (
    FEEDERS,
    FORMATS,
    INSTRUCTION_BYTES,
    Engine,
    Flag,
    Opcode,
    decode,
)
from systola.hw.contract.regmap import TRACE

__all__ = ["CAUSES", "Event", "Gap", "Timeline", "instructions", "read_timeline"]

CAUSES = {
    "weights": "the weights of the next tile",
    "data": "activations from the scratchpad",
    "drain": "accumulators that were still drained",
    "residual": "accumulators, drained with a residual",
    "softmax": "VECTOR, which ran Shiftmax",
    "layernorm": "VECTOR, which ran I-LayerNorm",
    "gelu": "VECTOR, which ran ShiftGELU",
    "mean": "VECTOR, which ran the mean over rows",
    "load": "a token of LOAD",
    "stream": "an instruction from the stream",
    "start": "the first words of an operation, on their way",
    "end": "nothing: drain of the last tile, and what came after it",
}
"""What the array can have waited for."""

_VECTOR_CAUSES = {Opcode.SHIFTMAX: "softmax", Opcode.LAYERNORM: "layernorm",
                  Opcode.SHIFTGELU: "gelu", Opcode.MEAN: "mean"}
_START = 8
"""Cycles from an operation's start in which its first words may be on their way."""


@dataclass(frozen=True)
class Event:
    """An instruction inside its engine from cycle `start` up to, without, `end`."""

    engine: Engine
    opcode: Opcode
    name: str
    fields: dict
    start: int
    end: int


@dataclass(frozen=True)
class Gap:
    """Cycles `start` up to `end` in which no word entered the array, and what it waited for."""

    start: int
    end: int
    cause: str


@dataclass
class Timeline:
    """A run.

    Attributes
    ----------
    cycles : int
        From start to done.
    events : list of Event
        In the order in which the instructions started, engine by engine.
    gaps : list of Gap
        Where the array did not take a word, in the window.
    window : (int, int)
        From the start of the first instruction that loads weights up to the end of the last one
        of MATRIX or VECTOR.
    """

    cycles: int
    events: list = field(default_factory=list)
    gaps: list = field(default_factory=list)
    window: tuple = (0, 0)

    def of(self, engine):
        """Return the events of `engine`."""
        return [event for event in self.events if event.engine is engine]

    def idle(self):
        """Return the cycles of the window that the array lost, by cause."""
        lost = dict.fromkeys(CAUSES, 0)
        for gap in self.gaps:
            lost[gap.cause] += gap.end - gap.start
        return lost

    def steady_softmax_wait(self):
        """Return the cycles lost to Shiftmax while there was other work of the same kind.

        The first and the last Shiftmax of a block fill and empty a pipeline and do not count.
        """
        runs = {}
        for event in self.of(Engine.VECTOR):
            if event.opcode is Opcode.SHIFTMAX:
                runs.setdefault(_block(event.name), []).append(event)
        steady = [(events[0].end, events[-1].start) for events in runs.values()]
        return sum(max(min(gap.end, high) - max(gap.start, low), 0)
                   for gap in self.gaps if gap.cause == "softmax" for low, high in steady)


def _block(name):
    """Return ``blocks.3`` of ``blocks.3.attention.0``."""
    return ".".join(name.split(".")[:2])


def instructions(program):
    """Return (opcode, name, fields) of every instruction of a program, from BEGIN to END."""
    beat = program.config.bus_bytes
    size = -(-INSTRUCTION_BYTES // beat) * beat
    names = iter(program.names)
    position, found = 0, []
    while position < len(program.stream):
        opcode, _, _, fields = decode(program.stream[position:position + INSTRUCTION_BYTES])
        name = opcode.name if FORMATS[opcode].engine is None else next(names)
        found.append((opcode, name, fields))
        position += size + fields.get("beats", 0) * beat
    return found


def read_timeline(records, program):
    """Return the `Timeline` of a run of `program`.

    Parameters
    ----------
    records : uint32 array (N, 2)
        Cycle, and the value of the trace port from that cycle on.
    program : Program
        What ran.
    """
    states = _States(records)
    timeline = Timeline(cycles=states.end)
    for engine in Engine:
        mine = [entry for entry in instructions(program) if FORMATS[entry[0]].engine is engine]
        starts, ends = states.pulses("started", engine), states.pulses("done", engine)
        timeline.events += [
            Event(engine, opcode, name, fields, start, end + 1)
            for (opcode, name, fields), start, end in zip(mine, starts, ends, strict=True)]
    feeds = [event.start for event in timeline.of(Engine.LOAD) if event.opcode in FEEDERS]
    ends = [event.end for event in timeline.events if event.engine is not Engine.LOAD]
    if feeds and ends:
        timeline.window = feeds[0], max(ends)
        timeline.gaps = _Causes(timeline).gaps(states)
    return timeline


class _States:
    """The records as intervals of constant state."""

    def __init__(self, records):
        self.times = [int(time) for time in records[:, 0]]
        self.values = [int(value) for value in records[:, 1]]
        self.end = self.times[-1] if self.times else 0
        self.lsb, position = {}, 0
        for name, bits, _ in TRACE:
            self.lsb[name], position = position, position + bits

    def bit(self, value, name, index=0):
        """Return bit `index` of field `name`."""
        return value >> self.lsb[name] + index & 1

    def intervals(self):
        """Yield (start, end, value)."""
        yield from zip(self.times, self.times[1:], self.values, strict=False)

    def pulses(self, name, index):
        """Return every cycle in which a bit is high."""
        return [time for start, end, value in self.intervals() if self.bit(value, name, index)
                for time in range(start, end)]


class _Causes:
    """Finds why the array stood still."""

    def __init__(self, timeline):
        self.window = timeline.window
        matrix, self.vector = timeline.of(Engine.MATRIX), timeline.of(Engine.VECTOR)
        self.starts = [event.start for event in matrix]
        self.ends = [event.end for event in matrix]  # in order, as operations drain in order
        self.residual = [bool(event.fields["flags"] & Flag.RESIDUAL) for event in matrix]
        self.vector_ends = [event.end for event in self.vector]

    def gaps(self, states):
        """Return the gaps in the window, those of one cause joined."""
        first, last = self.window
        entered = [end for _, end, value in states.intervals() if states.bit(value, "entered")]
        finish = entered[-1] if entered else first
        found = []
        for start, end, value in states.intervals():
            low, high = max(start, first), min(end, last)
            if low >= high or states.bit(value, "entered"):
                continue
            cause = "end" if low >= finish else self._cause(states, value, low)
            if found and found[-1].cause == cause and found[-1].end == low:
                low = found.pop().start
            found.append(Gap(low, high, cause))
        return found

    def _cause(self, states, value, time):
        if states.bit(value, "wait_weights"):
            return "weights"
        if states.bit(value, "wait_data"):
            return "data"
        if states.bit(value, "waits_matrix", Engine.VECTOR):
            return self._vector(time)
        if states.bit(value, "waits_matrix", Engine.LOAD):
            return "load"
        if states.bit(value, "starved"):
            return "stream"
        stuck = states.bit(value, "wait_drain") or states.bit(value, "waits_matrix", Engine.MATRIX)
        begun = bisect_right(self.starts, time) - 1
        if not stuck and (begun < 0 or time < self.starts[begun] + _START):
            return "start"
        drained = bisect_right(self.ends, time)  # the oldest instruction inside
        return "residual" if drained < len(self.ends) and self.residual[drained] else "drain"

    def _vector(self, time):
        """Return what VECTOR was at, or about to begin."""
        index = min(bisect_left(self.vector_ends, time + 1), len(self.vector) - 1)
        return _VECTOR_CAUSES[self.vector[index].opcode]
