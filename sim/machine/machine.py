"""Instruction-level model of the accelerator: a program stream in, result frames out.

The three engines run as in hardware: in order from their own queues, held back by counting tokens
alone. Which engine moves next is otherwise free, and a seed chooses an adversarial order: engines
that starve or race ahead, operands read as early or as late as hardware may, small queues. A
program with all its dependencies gives the same result under every seed; one with a missing token
does not. Arithmetic is that of the unit models, one instruction at a time.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from systola.hw.contract.isa import (
    FORMATS,
    INSTRUCTION_BYTES,
    WEIGHT_STREAMS,
    Engine,
    Error,
    Flag,
    Opcode,
)
from systola.sim.machine.memories import Memories
from systola.sim.machine.refusals import check_word, weight_words

__all__ = ["DeadlockError", "Machine", "MachineError", "ProgramFault"]


_CHANGE = 0.02
"""Chance per step that other engines become the fast ones."""


class MachineError(RuntimeError):
    """The dispatcher refused an instruction.

    Attributes
    ----------
    cause : Error
        Value of the error register.
    index : int
        Index of the instruction, BEGIN being 0.
    """

    def __init__(self, cause, index):
        super().__init__(f"instruction {index} refused: {cause.name}")
        self.cause, self.index = cause, index


class DeadlockError(RuntimeError):
    """No engine can move: a token never comes, weights are missing, or the stream ended early.

    Hardware reports `Error.DEADLOCK`, unless it waits for the rest of the stream.
    """


class ProgramFault(RuntimeError):
    """The program ended with tokens or weights left over, or with data after END.

    Hardware reports `Error.LEFTOVER` for tokens and weights; it does not take what follows END.
    """


@dataclass(eq=False)
class _Instruction:
    """A decoded instruction on its way through an engine."""

    index: int
    opcode: Opcode
    wait: int
    signal: int
    fields: dict
    data: np.ndarray | None = None
    operand: np.ndarray | None = None
    late: tuple | None = None
    weights: list = field(default_factory=list)
    taken: int = 0
    early: bool = True


class Machine:
    """An accelerator of configuration `config`.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    seed : int, optional
        Seed of the order in which engines move, of the noise in the memories at the start, and of
        the sizes of the FIFOs. None is a plain order with zeroed memories.

    Attributes
    ----------
    memories : Memories
        Scratchpad, parameters, tables and row factors; they keep their contents from run to run.
    instructions : int
        Instructions issued by the last `run`.
    """

    def __init__(self, config, seed=None):
        self.config = config
        self._rng = None if seed is None else np.random.default_rng(seed)
        self.memories = Memories(config, self._rng)
        self.instructions = 0

    def run(self, stream):
        """Execute a complete program; returns the frames of its STOREs, each (beats, R) uint8.

        Raises
        ------
        MachineError
            For what the hardware's dispatcher refuses.
        DeadlockError
            If nothing can move any more.
        ProgramFault
            If tokens, weights or data are left over.
        """
        self._start(stream)
        actions = (self._load, self._vector, self._drain, self._matrix, self._dispatch)
        while not self._ended:
            if not any(actions[k]() for k in self._order(len(actions))):
                raise DeadlockError(f"no engine can move; {self._heads()}")
        self._check_left()
        return self._frames

    def _order(self, count):
        """Return in which order `count` actions are tried: the first possible one happens."""
        rng = self._rng
        if rng is None:
            return range(count)
        if self._pace is None or rng.random() < _CHANGE:
            self._pace = 10 ** rng.uniform(0, 4, count)
        # A race of exponential clocks: an action comes first in proportion to its pace.
        return np.argsort(rng.exponential(size=count) / self._pace)

    def _start(self, stream):
        beat = self.config.bus_bytes
        self._beats = np.frombuffer(stream, np.uint8)[:len(stream) // beat * beat]
        self._beats = self._beats.reshape(-1, beat)
        self._at = self.instructions = 0
        self._ended, self._pace = False, None
        self._queues = {engine: deque() for engine in Engine}
        self._current = dict.fromkeys(Engine)
        self._draining, self._fifo, self._frames = deque(), [], []
        self._tokens = np.zeros((len(Engine), len(Engine)), np.int64)  # [from, to]
        # The smallest and a large FIFO for weights and for data bracket what hardware has.
        small = self._rng is not None and self._rng.integers(2, size=2)
        self._fifo_words = self.config.weight_fifo * (self._rng is None or not small[0])
        self._one_by_one = self._rng is not None and bool(small[1])
        self._unread = None  # the last instruction whose data is still in the stream
        self._overlap = 1 if self._rng is None else int(self._rng.integers(3))

    def _heads(self):
        heads = [f"{engine.name} at {(self._current[engine] or queue[0]).index}"
                 for engine, queue in self._queues.items() if self._current[engine] or queue]
        return ", ".join([*heads, f"stream beat {self._at} of {len(self._beats)}"])

    def _check_left(self):
        if self._tokens.any():
            raise ProgramFault(f"tokens left over (from, to): {self._tokens.tolist()}")
        if self._fifo:
            raise ProgramFault(f"{len(self._fifo)} weight words left over")
        if self._at != len(self._beats):
            raise ProgramFault(f"{len(self._beats) - self._at} beats after END")

    def _dispatch(self):
        """Decode, check and queue the next instruction with its data."""
        size = -(-INSTRUCTION_BYTES // self.config.bus_bytes)
        behind_data = self._one_by_one and self._unread is not None
        if behind_data or self._at + size > len(self._beats):
            return False
        index = self.instructions
        cause, decoded = check_word(self._beats[self._at:self._at + size].tobytes(), index,
                                    self.config)
        if cause is not Error.NONE:
            raise MachineError(cause, index)
        opcode, wait, signal, fields = decoded
        beats = fields.get("beats", 0)
        if not self._issue(_Instruction(index, opcode, wait, signal, fields), self._at + size,
                           beats):
            return False
        self._at += size + beats
        self.instructions += 1
        return True

    def _issue(self, instruction, start, beats):
        """Hand an instruction to its engine; False when that must wait."""
        engine = FORMATS[instruction.opcode].engine
        if instruction.opcode is Opcode.END:
            self._ended = not (any(self._queues.values()) or any(self._current.values())
                               or self._draining)
            return self._ended
        if engine is None:
            return True
        if (len(self._queues[engine]) >= self.config.queue_depth
                or start + beats > len(self._beats)):
            return False
        if "beats" in instruction.fields:
            instruction.data = self._beats[start:start + beats]
            self._unread = instruction
        if self._rng is not None:
            instruction.early = bool(self._rng.integers(2))
        self._queues[engine].append(instruction)
        return True

    def _begin(self, engine, ready=True):
        """Start the engine's next instruction if its tokens are there; returns it or None."""
        queue = self._queues[engine]
        if self._current[engine] is not None or not queue or not ready:
            return None
        others = [other for other in Engine if other != engine and queue[0].wait >> other & 1]
        if any(self._tokens[other, engine] == 0 for other in others):
            return None
        if queue[0].wait >> engine & 1 and engine is Engine.MATRIX and self._draining:
            return None
        for other in others:
            self._tokens[other, engine] -= 1
        self._current[engine] = queue.popleft()
        return self._current[engine]

    def _complete(self, engine, instruction):
        for other in Engine:
            if other is not engine and instruction.signal >> other & 1:
                self._tokens[engine, other] += 1

    def _load(self):
        """Move the LOAD engine by one step."""
        started = self._begin(Engine.LOAD)
        if started is not None:
            if started.opcode is Opcode.FETCH and started.early:
                started.operand = self.memories.fetch(started.fields)
            return True
        current = self._current[Engine.LOAD]
        if current is None or not self._transfer(current):
            return False
        if current.opcode not in (Opcode.FETCH, *WEIGHT_STREAMS) or (
                current.taken == len(current.operand)):
            self._current[Engine.LOAD] = None
            self._complete(Engine.LOAD, current)
            if self._unread is current:
                self._unread = None
        return True

    def _transfer(self, current):
        """Do the work of a LOAD instruction; weights go as far as the FIFO has room."""
        memories, fields = self.memories, current.fields
        if current.opcode in (Opcode.FETCH, *WEIGHT_STREAMS):
            return self._feed(current)
        if current.opcode is Opcode.LOAD:
            memories.load(fields, current.data)
        elif current.opcode is Opcode.LOAD_PARAMS:
            memories.load_params(fields, current.data)
        elif current.opcode is Opcode.LOAD_TABLE:
            memories.load_table(fields, current.data)
        elif current.opcode is Opcode.COPY:
            memories.copy(fields)
        else:
            self._frames.append(memories.store(fields))
        return True

    def _feed(self, current):
        room = self._fifo_words - len(self._fifo)
        matmul = self._current[Engine.MATRIX]
        if matmul is not None:
            room += weight_words(matmul.fields, self.config) - len(matmul.weights)
        if current.opcode in WEIGHT_STREAMS:
            current.operand = (
                self.memories.codes(current.data) if current.opcode is Opcode.LOAD_CODES
                else current.data[:, :self.config.rows])
        elif not current.early and room > 0:  # what was fetched before stays as it was
            fresh = self.memories.fetch(current.fields)
            if current.operand is not None:
                fresh[:current.taken] = current.operand[:current.taken]
            current.operand = fresh
        if room <= 0:
            return False
        part = current.operand[current.taken:current.taken + room]
        self._fifo += [(current.opcode is Opcode.LOAD_NARROW, word) for word in part]
        current.taken += len(part)
        return True

    def _vector(self):
        """Move the VECTOR engine by one step."""
        started = self._begin(Engine.VECTOR)
        if started is not None:
            if started.early:
                started.operand = self.memories.vector_source(started.opcode, started.fields)
            return True
        current = self._current[Engine.VECTOR]
        if current is None:
            return False
        rows = current.operand
        if rows is None:
            rows = self.memories.vector_source(current.opcode, current.fields)
        self.memories.finish_vector(current.opcode, current.fields, rows)
        self._current[Engine.VECTOR] = None
        self._complete(Engine.VECTOR, current)
        return True

    def _matrix(self):
        """Start a MATMUL, or move its weights and multiply once they are complete."""
        started = self._begin(Engine.MATRIX, len(self._draining) <= self._overlap)
        if started is not None:
            if started.early:
                started.operand = self.memories.activations(started.fields)
                started.late = self.memories.drain_operands(started.fields)
            return True
        current = self._current[Engine.MATRIX]
        if current is None:
            return False
        missing = weight_words(current.fields, self.config) - len(current.weights)
        narrow = bool(current.fields["flags"] & Flag.NARROW)
        # Weights of the other kind wait at the array for a MATMUL of theirs.
        others = (index for index, word in enumerate(self._fifo[:missing]) if word[0] != narrow)
        missing = next(others, missing)
        part, self._fifo = self._fifo[:missing], self._fifo[missing:]
        current.weights += [word for _, word in part]
        if len(current.weights) < weight_words(current.fields, self.config):
            return bool(part)
        planes = current.operand
        if planes is None:
            planes = self.memories.activations(current.fields)
        current.operand = self.memories.accumulate(current.fields, planes,
                                                   np.array(current.weights))
        self._current[Engine.MATRIX] = None
        self._draining.append(current)
        return True

    def _drain(self):
        """Requantize and write the oldest finished MATMUL."""
        if not self._draining:
            return False
        oldest = self._draining.popleft()
        late = oldest.late or self.memories.drain_operands(oldest.fields)
        self.memories.finish_matmul(oldest.fields, oldest.operand, late)
        self._complete(Engine.MATRIX, oldest)
        return True
