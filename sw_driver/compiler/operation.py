"""One instruction before addresses and tokens are known."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from systola.hw.contract.isa import FEEDERS, FORMATS, Opcode, encode
from systola.sw_driver.compiler.layout import FactorPart, ParamBlock, Tensor

__all__ = ["Beats", "Operation", "addresses_of"]


class Beats:
    """`count` stream beats (count, bus bytes) uint8, made by `function` when they are needed."""

    def __init__(self, count, function):
        self.count, self._function = count, function

    @cached_property
    def array(self):
        """The beats."""
        array = self._function()
        assert len(array) == self.count
        return array


@dataclass(eq=False)
class Operation:
    """An instruction with symbolic operands.

    Parameters
    ----------
    opcode : Opcode
        Operation; its engine follows from the instruction set.
    name : str
        What it computes, for reports.
    reads, writes : dict
        Scratchpad views by the prefix of their fields (``act_``, ``src_``, ...).
    fields : dict
        Values of the other fields.
    params, loads : ParamBlock or None
        Parameter words it reads, and those it loads.
    takes : FactorPart or None
        Row factors it reads.
    gives : FactorPart or None
        Row factors it writes.
    stream : Beats or None
        Stream beats that follow it.
    tables_read : sequence of int
        Which tables it uses.
    table_write : int or None
        Which one it replaces (LOAD_TABLE).
    after : list of Operation
        Earlier operations that shall be complete before it starts, beyond those it depends on.
    """

    opcode: Opcode
    name: str
    reads: dict = field(default_factory=dict)
    writes: dict = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    params: ParamBlock | None = None
    loads: ParamBlock | None = None
    takes: FactorPart | None = None
    gives: FactorPart | None = None
    stream: Beats | None = None
    tables_read: tuple[int, ...] = ()
    table_write: int | None = None
    after: list = field(default_factory=list)
    wait: int = 0
    signal: int = 0

    @property
    def engine(self):
        """The engine that runs it, None for BEGIN and END."""
        return FORMATS[self.opcode].engine

    @property
    def feeds(self):
        """Whether it fills the weight FIFO for the MATMUL before it."""
        return self.opcode in FEEDERS

    @property
    def beats(self):
        """Stream beats that follow."""
        return 0 if self.stream is None else self.stream.count

    @property
    def data(self):
        """Those beats, (beats, bus bytes) uint8, or None."""
        return None if self.stream is None else self.stream.array

    def touched(self, kind):
        """Return the tensors or the blocks of class `kind` that it uses."""
        if kind is Tensor:
            return [view.tensor for view in (*self.reads.values(), *self.writes.values())]
        if kind is ParamBlock:
            pair = self.params, self.loads
        else:
            pair = [part and part.block for part in (self.takes, self.gives)]
        return [block for block in pair if block is not None]

    def resolved(self):
        """Return the values of all fields; addresses must be allocated."""
        values = {}
        names = {field.name for field in FORMATS[self.opcode].fields}
        for prefix, view in (*self.reads.items(), *self.writes.items()):
            values |= _addresses(prefix, view, names)
        if self.params is not None:
            values["param_base"] = self.params.base
        if self.loads is not None:
            values |= {"base": self.loads.base, "count": self.loads.count}
        for factors in self.takes, self.gives:
            if factors is not None:
                values["factor_base"] = factors.base
        if "beats" in names:
            values["beats"] = self.beats
        return values | self.fields

    def encoded(self):
        """Return the 64 bytes of the instruction."""
        return encode(self.opcode, wait=self.wait, signal=self.signal, **self.resolved())


def addresses_of(items):
    """Return the addresses of all views or blocks of `items`, flat."""
    return np.concatenate([np.empty(0, np.int64), *(item.addresses() for item in items)])


def _addresses(prefix, view, names):
    values = {f"{prefix}base": view.base, f"{prefix}stride": view.stride}
    if f"{prefix}plane" in names:
        values[f"{prefix}plane"] = view.tensor.plane if view.planes > 1 else 0
    return values
