"""What a probe of the self-test is: a program, its right results, and what differences mean."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from systola.hw.contract.isa import Opcode
from systola.sim.machine.machine import Machine
from systola.sw_driver.selftest.instruction_list import InstructionList

__all__ = ["Finding", "Probe", "Results", "TooSmallError"]


class TooSmallError(ValueError):
    """The accelerator's memories do not hold what a probe needs; the message says which."""


@dataclass(frozen=True)
class Finding:
    """What is wrong, in one line.

    ``where`` has it as data: ``unit``, and what of it. ``certain`` findings explain every
    difference of their probe, others only say where differences are.
    """

    text: str
    where: dict = field(default_factory=dict)
    certain: bool = False


@dataclass(frozen=True)
class Results:
    """Rows that a MATMUL or an operation of VECTOR writes, one behind the other from `base` on.

    A row is `planes` planes of `words` words; `width` lanes of them count.
    """

    base: int
    rows: int
    planes: int
    words: int
    width: int

    @property
    def size(self):
        """Words of the region."""
        return self.rows * self.planes * self.words

    def fields(self, prefix):
        """Return the fields of an instruction that writes or reads it."""
        return {f"{prefix}base": self.base, f"{prefix}stride": self.planes * self.words,
                f"{prefix}plane": self.words}

    def numbers(self, words, lanes):
        """Return the numbers (rows, width) of the stored `words` (size, R): int64, with sign."""
        raw = words.reshape(self.rows, self.planes, self.words * lanes)[:, :, :self.width]
        low = raw[:, 0].astype(np.int64)
        if self.planes == 1:
            return low.astype(np.int8).astype(np.int64)
        return low + (raw[:, 1].astype(np.int8).astype(np.int64) << 8)


class Probe(ABC):
    """One program of the self-test.

    Attributes
    ----------
    part : str
        The part that it is for, as reports name it.
    needs : tuple of str
        Parts without which its differences say nothing.
    program : Program
        What it runs; its outputs are result frames.
    expected : list of array
        The right result frames, each (words, R) uint8.
    detail : type or None
        A probe that takes longer and finds the place, run if this one differs.

    Raises
    ------
    TooSmallError
        If the accelerator cannot hold it.
    """

    part, needs, detail = "", (), None

    def __init__(self, config):
        self.config = config
        self.list = InstructionList(config)
        self.build()
        self.program = self.list.program()
        self.expected = Machine(config).run(self.program.stream)

    @classmethod
    def fits(cls, config):
        """Return whether accelerators of `config` have what it is for."""
        return True

    @abstractmethod
    def build(self):
        """Append the instructions to ``self.list``."""

    @abstractmethod
    def diagnose(self, found):
        """Return the `Finding` list of result frames `found` that are not all as expected."""

    def numbers(self, frames):
        """Return what of result frames counts: lanes beyond the last channel hold anything."""
        return frames

    def same(self, found):
        """Return whether result frames are as expected, where they count."""
        return all((got == right).all() for got, right in zip(
            self.numbers(found), self.numbers(self.expected), strict=True))

    def frames(self, found, first, count):
        """Return expected and found words (n, R) of `count` frames from `first` on."""
        return tuple(np.concatenate(frames[first:first + count])
                     for frames in (self.expected, found))

    def matmul(self, results, feeder, beats=None, *, out_bits=16, **fields):
        """Append a MATMUL to `results` and what feeds it (an operation, its data or fields)."""
        config, more = self.config, fields.pop("feed", {})
        self.list.add(Opcode.MATMUL, **({
            "rows": results.rows, "act_words": 1, "digits": 1, "words": results.words,
            "lanes_last": results.width - (results.words - 1) * config.rows,
            "out_bits": out_bits, "act_stride": 1, **results.fields("out_")} | fields))
        self.list.feed(feeder, beats, **more)

    def results(self, base, rows, width, *, planes=2):
        """Return the `Results` of rows of `width` numbers from word `base` on."""
        made = Results(base, max(rows, 1), planes, -(-width // self.config.rows), width)
        if width < 1 or base + made.size > self.config.scratchpad_words:
            raise TooSmallError(f"scratchpad must have {base + made.size} words for the test of "
                                f"the {self.part}, not {self.config.scratchpad_words}")
        return made
