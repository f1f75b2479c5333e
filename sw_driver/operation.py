"""One instruction before addresses and tokens are known."""

from dataclasses import dataclass, field

import numpy as np

from systola.hw.isa import FORMATS, Opcode, encode
from systola.sw_driver.layout import ParamBlock, Tensor

__all__ = ["Operation"]

_FEEDERS = Opcode.LOAD_WEIGHTS, Opcode.FETCH


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
    data : ndarray
        Stream beats that follow it, (beats, bus bytes) uint8.
    table_read, table_write : bool
        Whether it uses or replaces the GELU table.
    """

    opcode: Opcode
    name: str
    reads: dict = field(default_factory=dict)
    writes: dict = field(default_factory=dict)
    fields: dict = field(default_factory=dict)
    params: ParamBlock | None = None
    loads: ParamBlock | None = None
    data: np.ndarray | None = None
    table_read: bool = False
    table_write: bool = False
    wait: int = 0
    signal: int = 0

    @property
    def engine(self):
        """The engine that runs it, None for BEGIN and END."""
        return FORMATS[self.opcode].engine

    @property
    def feeds(self):
        """Whether it fills the weight FIFO for the MATMUL before it."""
        return self.opcode in _FEEDERS

    @property
    def beats(self):
        """Stream beats that follow."""
        return 0 if self.data is None else len(self.data)

    def touched(self, kind):
        """Return the tensors or the parameter blocks it uses."""
        if kind is Tensor:
            return [view.tensor for view in (*self.reads.values(), *self.writes.values())]
        return [block for block in (self.params, self.loads) if block is not None]

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
        if "beats" in names:
            values["beats"] = self.beats
        return values | self.fields

    def encoded(self):
        """Return the 64 bytes of the instruction."""
        return encode(self.opcode, wait=self.wait, signal=self.signal, **self.resolved())


def _addresses(prefix, view, names):
    values = {f"{prefix}base": view.base, f"{prefix}stride": view.tensor.words}
    if f"{prefix}plane" in names:
        values[f"{prefix}plane"] = view.tensor.plane if view.tensor.planes > 1 else 0
    return values
