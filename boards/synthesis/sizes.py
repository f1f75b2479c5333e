"""Xilinx primitives counted by module."""

import re
from dataclasses import dataclass, fields

__all__ = ["UNITS", "ModuleSize", "Size", "module_sizes", "unit_of", "unit_sizes"]

_LUT_RAM = {"RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM32M": 4, "RAM64M": 4, "RAM32M16": 8,
            "RAM64M8": 8, "RAM16X1D": 2, "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2,
            "RAM256X1S": 4, "RAM256X1D": 8, "RAM512X1S": 8}
_LUT = re.compile(r"LUT[1-6]|INV|SRL16E|SRLC16E|SRLC32E")
_FF = re.compile(r"FD[RSCP]E(_1)?")
_CARRY = re.compile(r"CARRY[48]")
_DSP = re.compile(r"DSP48E[12]")
_BRAM = {"RAMB18E1": 0.5, "RAMB18E2": 0.5, "RAMB36E1": 1, "RAMB36E2": 1}

UNITS = {
    "core.matrix.array": "matrix.array", "core.matrix.drain.requant": "matrix.requantizer",
    "core.matrix.drain": "matrix.drain", "core.matrix.sums": "matrix.sums",
    "core.matrix.feeder": "matrix.feeder", "core.matrix.loader": "matrix.loader",
    "core.matrix": "matrix.control", "core.vector.softmax": "vector.softmax",
    "core.vector.gelu": "vector.gelu", "core.vector.norm": "vector.norm",
    "core.vector.scaler.requantizer": "vector.requantizer", "core.vector.scaler": "vector.scaler",
    "core.vector.reader": "vector.reader", "core.vector.writer": "vector.writer",
    "core.vector": "vector.control", "core.load": "load", "core.scratchpad": "scratchpad",
    "core.params": "parameters", "core.factors": "factors", "core.dispatcher": "dispatcher",
    "core.load_queue": "queues", "core.matrix_queue": "queues", "core.vector_queue": "queues",
    "core.weights": "queues", "core.stream_data": "queues", "core": "core", "": "registers"}
"""Units of the report by the longest path of an instance that a cell lies in.

A unit that synthesis flattens into the one around it counts there: ``core`` has queues, tokens,
counters and small units, ``registers`` the bus.
"""


@dataclass
class Size:
    """Primitives: ``lut`` with LUT memory and shift registers, ``bram36`` with halves for 18 kbit.

    A LUT counts for one even where two small functions could share it, as place and route may do.
    """

    lut: int = 0
    ff: int = 0
    carry: int = 0
    dsp: int = 0
    bram36: float = 0

    def add(self, other, times=1):
        """Add `other` `times` times."""
        for item in fields(Size):
            setattr(self, item.name, getattr(self, item.name) + times * getattr(other, item.name))


@dataclass
class ModuleSize:
    """One kind of module: how often it occurs, and its size with and without its submodules."""

    instances: int
    total: Size
    own: Size


def module_sizes(stat, top):
    """Return `ModuleSize` by module, in the order of the hierarchy from `top` down.

    `stat` is ``modules`` of Yosys' ``stat -json``.
    """
    cells = {name.removeprefix("\\"): module["num_cells_by_type"] for name, module in stat.items()}
    children = {name: {kind.removeprefix("\\"): count for kind, count in types.items()
                       if kind.removeprefix("\\") in cells} for name, types in cells.items()}
    modules = {}

    def visit(name, times):
        if name not in modules:
            modules[name] = ModuleSize(0, Size(), _own(cells[name]))
        modules[name].instances += times
        total = Size()
        total.add(modules[name].own)
        for child, count in children[name].items():
            total.add(visit(child, times * count), count)
        modules[name].total = total
        return total

    visit(top, 1)
    return modules


def _own(types):
    """Return the `Size` of the primitives among `types`."""
    size = Size()
    for kind, count in types.items():
        size.lut += count * (_LUT_RAM.get(kind, 0) or bool(_LUT.fullmatch(kind)))
        size.ff += count * bool(_FF.fullmatch(kind))
        size.carry += count * bool(_CARRY.fullmatch(kind))
        size.dsp += count * bool(_DSP.fullmatch(kind))
        size.bram36 += count * _BRAM.get(kind, 0)
    return size


def unit_of(path):
    """Return the unit of `UNITS` that an instance belongs to, by its path below the top."""
    while path not in UNITS:
        path = path.rpartition(".")[0]
    return UNITS[path]


def unit_sizes(modules, top):
    """Return ``[(unit, sizes)]`` of a synthesis' modules: each primitive once, in its unit.

    `modules` is as in ``Synthesis.to_dict``, `top` the name of the top module.
    """
    found = {}
    for path, module in modules.items():
        unit = unit_of(path.removeprefix(top).removeprefix("."))
        total = found.setdefault(unit, dict.fromkeys(module["own"], 0))
        for part, count in module["own"].items():
            total[part] += module["instances"] * count
    return [(name, found[name]) for name in dict.fromkeys(UNITS.values()) if name in found]
