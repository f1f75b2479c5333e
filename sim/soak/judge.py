"""One simulated accelerator that takes hostile programs, and what judges it."""

import copy
from collections import Counter
from dataclasses import dataclass

import numpy as np

from systola.hw.contract.isa import Engine, Error
from systola.sim.machine.machine import DeadlockError, Machine, MachineError, ProgramFault
from systola.sim.soak.order import is_determined, leftovers, scan, vague_words
from systola.sim.soak.program_player import HEADER, OUTCOMES, RECORD, build_soak, result_bytes
from systola.sim.soak.streams import check_program
from systola.sim.verilog.runner import Session

__all__ = ["EXAMPLES", "Case", "Soak"]

_BUDGET = 12_000
"""Cycles after which a program that still works is reset."""

_SCHEDULES = (None, *range(12))
"""Seeds of the model's schedules; what the hardware does must be what one of them does."""

EXAMPLES = 10
"""Most failures that are described."""


@dataclass
class Case:
    """A stream, what kind it is, and its stalls in 1/256 of the cycles."""

    name: str
    kind: str
    stream: bytes
    stalls: tuple = (0, 0)


class Soak:
    """One simulated accelerator and what is counted about it; a context manager.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.

    Attributes
    ----------
    counts, kinds, ended : Counter
        See `systola.sim.soak.program_runs.soak_programs`.
    examples : list of str
        What failed first.
    silence : int
        Most cycles without an event in a program that ended by itself.
    """

    def __init__(self, config):
        self.config = config
        self.counts, self.kinds, self.ended = Counter(), Counter(), Counter()
        self.examples, self.silence = [], 0
        self._session = Session(build_soak(config), "systola.sim.benches.soak")
        rng = np.random.default_rng(config.hash)
        self._check = check_program(rng, config)
        while not is_determined(scan(self._check, config).steps):
            self._check = check_program(rng, config)
        machine = Machine(config)
        self._known = [self._bytes(frame) for frame in machine.run(self._check)][-1]
        self._state = machine.memories

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._session.close()

    def simulate(self, cases):
        """Run `cases`, each with the checking program behind it; returns what came of them all."""
        parts = [self._record(self._check, (0, 0))]
        for case in cases:
            parts += [self._record(case.stream, case.stalls), self._record(self._check, (0, 0))]
        _, arrays = self._session.run({}, {"programs": np.frombuffer(b"".join(parts), np.uint8)})
        return arrays

    def _record(self, stream, stalls):
        beats = len(stream) // self.config.bus_bytes
        header = {"beats": beats, "seed": beats * 2654435761 % 2**32 | 1, "stall_in": stalls[0],
                  "stall_out": stalls[1], "budget": _BUDGET, "spare": 0}
        return np.array([header[name] for name in HEADER], ">u4").tobytes() + stream

    def judge(self, cases, arrays):
        """Count what came of `cases`, given what `simulate` returned."""
        records = [dict(zip(RECORD, row, strict=True))
                   for row in arrays["records"].reshape(-1, len(RECORD)).tolist()]
        if len(records) != 2 * len(cases) + 1:
            raise RuntimeError(f"{2 * len(cases) + 1} records expected, not {len(records)}")
        size = result_bytes(self.config)
        beats, at, results = arrays["beats"].reshape(-1, size), 0, []
        for record in records:
            results.append(beats[at:at + record["results"]])
            at += record["results"]
        self._check_after(Case("start", "", b""), records[0], results[0])
        for case, *parts in zip(cases, records[1::2], results[1::2], records[2::2], results[2::2],
                                strict=True):
            self._judge(case, *parts)

    def _bytes(self, frame):
        """Return the beats of a frame as they come from the hardware, and the flag of the last."""
        out = np.zeros((len(frame), result_bytes(self.config)), np.uint8)
        out[:, :frame.shape[1]] = frame
        out[-1, -4] = 1
        return out

    def _judge(self, case, record, results, check, dump):
        outcome = OUTCOMES[record["outcome"]]
        self.counts["programs"] += 1
        self.counts["cycles"] += record["cycles"] + check["cycles"]
        self.counts["stalled"] += case.stalls != (0, 0)
        self.kinds[case.kind] += 1
        cause = Error(record["cause"]) if record["cause"] in list(Error) else record["cause"]
        name = getattr(cause, "name", f"unknown cause {cause}") if outcome == "error" else outcome
        self.ended[name] += 1
        found = scan(case.stream, self.config)
        if outcome == "done" or cause is Error.LEFTOVER:
            self.silence = max(self.silence, record["silence"])
        if record["beyond"]:
            self._fail("out_of_bounds", case, f"{record['beyond']} accesses beyond a memory, first "
                       f"port {record['first_beyond'] >> 16}, address "
                       f"{record['first_beyond'] & 0xFFFF}")
        if record["broken"]:
            self._fail("wrong_results", case, "result stream or error register did not hold")
        if outcome == "hang" or (outcome == "working" and _most_cycles(found.steps) < _BUDGET):
            self._fail("hangs", case, f"{outcome} after {record['cycles']} cycles")
        else:
            wrong = self._wrong_end(case, found, outcome, cause, record)
            if wrong:
                self._fail("wrong_results", case, wrong)
        self._check_after(case, check, dump)
        if check["outcome"] == 0:
            self._judge_memory(case, found, outcome, record, results, dump)

    def _fail(self, what, case, text):
        self.counts[what] += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(f"{what}: {case.name} ({case.kind}): {text}")

    def _check_after(self, case, record, results):
        """Judge the checking program: done, and its second result bit by bit."""
        if record["beyond"] or record["broken"] or record["outcome"]:
            return self._fail("wrong_results", case, f"the next program: {record}")
        if not np.array_equal(results[-len(self._known):], self._known):
            self._fail("wrong_results", case, "the next program computes something else")

    def _wrong_end(self, case, found, outcome, cause, record):
        """Return what is wrong with how a program ended, or None."""
        index, told = record["index"], f"{outcome} {cause!r} at {record['index']}"
        expected = f"not {found.cause.name} at {found.index}"
        if outcome == "done":
            good = found.complete and index == found.index + 1 and not leftovers(
                found.steps, self.config)
            return None if good else f"{told}, {expected}"
        if outcome == "working":
            return None
        if outcome == "truncated":
            good = not found.complete and found.cause is Error.NONE and record["status"] == 1
            return None if good else f"{told}, {expected}"
        if record["status"] != 4 or index > found.index:
            return f"{told}, status {record['status']}, {expected}"
        if record["word"] != found.words[index]:
            return f"{told} with word {record['word']:#x}, not {found.words[index]:#x}"
        if cause is Error.DEADLOCK:
            return None if self._may(case, found, DeadlockError) else f"{told}, not in the model"
        if cause is Error.LEFTOVER:
            good = found.complete and index == found.index and leftovers(found.steps, self.config)
            return None if good else f"{told}, {expected}"
        return None if (cause, index) == (found.cause, found.index) else f"{told}, {expected}"

    def _may(self, case, found, error):
        """Return whether the model raises `error` under some schedule."""
        end = found.beats * self.config.bus_bytes if found.complete else len(case.stream)
        for seed in _SCHEDULES:
            machine = Machine(self.config, seed)
            machine.memories = copy.deepcopy(self._state)
            try:
                machine.run(case.stream[:end])
            except error:
                return True
            except (DeadlockError, MachineError, ProgramFault):
                pass
        return False

    def _judge_memory(self, case, found, outcome, record, results, dump):
        """Compare results and scratchpad with the model's, or what was not to change."""
        config = self.config
        words = dump[:config.scratchpad_words, :config.rows]
        expected = outcome == "done" and is_determined(found.steps) and self._model(case, found)
        if expected:
            self.counts["compared"] += 1
            frames, after = expected
            if not np.array_equal(results, np.concatenate([results[:0], *frames])):
                self._fail("wrong_results", case, "results differ from the model's")
            elif _changed(words, after) & ~vague_words(found.steps):
                self._fail("wrong_results", case, "the scratchpad differs from the model's")
            return
        # An instruction that the dispatcher could not hand on may be in its queue all the same.
        accepted = found.steps[:record["index"] + 1] if outcome == "error" else found.steps
        allowed = 0
        for step in accepted:
            allowed |= step.writes
        outside = _changed(words, self._state.words) & ~allowed
        if outside:
            self._fail("out_of_bounds", case, f"{outside.bit_count()} words changed outside the "
                       f"regions, first {(outside & -outside).bit_length() - 1}")

    def _model(self, case, found):
        """Return the model's results and its scratchpad afterwards, or None if it cannot end."""
        machine = Machine(self.config)
        machine.memories = copy.deepcopy(self._state)
        try:
            frames = machine.run(case.stream[:found.beats * self.config.bus_bytes])
        except DeadlockError:
            return None  # hardware has some more room for weights and for instructions
        return [self._bytes(frame) for frame in frames], machine.memories.words


def _changed(words, before):
    """Return the words that differ, as bits."""
    return sum(1 << k for k in np.flatnonzero((words != before).any(axis=1)).tolist())


def _most_cycles(steps):
    """Return more cycles than a program can take, stalls included."""
    total = 0
    for step in steps:
        fields = step.fields
        words = fields.get("words", 0) * fields.get("act_words", 1) * fields.get("digits", 1)
        total += 500 + 8 * fields.get("rows", 0) * words + 4 * fields.get("beats", 0)
        if step.engine is Engine.VECTOR:
            total += 500 * fields["rows"]
    return total
