"""Whether a mapped netlist is one that nextpnr-xilinx places, routes and configures rightly."""

from collections import Counter

from systola.boards.flows.flow import ToolError
from systola.boards.synthesis.crowding import SLICE_FLIP_FLOPS
from systola.boards.synthesis.primitives import CASCADES
from systola.hw.contract.dsp_packing import DSP48E1, FABRIC_PINS

__all__ = ["check_fit", "check_netlist"]

_NAMES = {"lut": "LUTs", "ff": "flip-flops", "dsp": "DSP48E1", "bram36": "RAMB36E1"}

_UNPLACED = {"RAM256X1S", "RAM256X1D", "RAM512X1S"}
_RAM_WIDTHS = "READ_WIDTH_A", "READ_WIDTH_B", "WRITE_WIDTH_A", "WRITE_WIDTH_B"
_RAM_VALUES = "INIT_A", "INIT_B", "SRVAL_A", "SRVAL_B"


def check_netlist(netlist, top, written=None):
    """Return how often each primitive occurs in a flat netlist, as Yosys' ``write_json`` wrote it.

    Raises `ToolError` if it has what nextpnr-xilinx cannot route on this part or configures
    wrongly, or if the DSP slices are not those of `written`, the netlist before synthesis.
    """
    cells = netlist["modules"][top]["cells"]
    for name, cell in cells.items():
        kind, pins = cell["type"], cell["connections"]
        if kind.startswith("$"):
            raise ToolError(f"the netlist must have primitives only, but has a {kind} ({name})")
        if kind in {"LDCE", "LDPE"}:
            raise ToolError(f"the netlist must not have latches, but has {name}")
        if kind in _UNPLACED:
            raise ToolError(f"the netlist must not have a {kind}, which nextpnr-xilinx does not "
                            f"place, but has {name}; a memory of another depth is something else")
        if kind == "SRLC32E" and any(isinstance(bit, int) for bit in pins.get("Q31", ())):
            raise ToolError(f"shift registers must have at most 32 bits, but {name} is cascaded")
        for pin, places in FABRIC_PINS.items() if kind == "DSP48E1" else ():
            bits = dict(enumerate(pins.get(pin, ())))
            if any(not isinstance(bits.get(place), int) for place in places):
                raise ToolError(f"{pin} of a DSP48E1 must not be a constant or open, which "
                                f"nextpnr-xilinx does not tie, but that of {name} is")
        for parameter in _RAM_WIDTHS if kind == "RAMB36E1" else ():
            if (width := int(cell["parameters"].get(parameter, "0"), 2)) in (1, 9):
                raise ToolError(
                    f"{parameter} of a RAMB36E1 must not be {width}, of which nextpnr-xilinx loses "
                    f"a bit, but that of {name} is; a memory of another depth or width has another")
        for parameter in _RAM_VALUES if kind in ("RAMB18E1", "RAMB36E1") else ():
            if "1" in cell["parameters"].get(parameter, ""):
                raise ToolError(f"{parameter} of a {kind} must be 0, as nextpnr-xilinx makes it, "
                                f"but that of {name} is not")
    _check_cascades(cells)
    if written is not None:
        _check_written(cells, written["modules"].get(top, {"cells": {}})["cells"])
    return Counter(cell["type"] for cell in cells.values())


def _check_written(cells, written):
    """Raise `ToolError` unless DSP slices have the parameters and constants they were written with.

    Synthesis takes registers into slices where it can, and those of an instance are taken.
    """
    slices = {name: cell for name, cell in cells.items() if cell["type"] == "DSP48E1"}
    if odd := set(slices) ^ set(written):
        raise ToolError(f"the netlist must have the DSP48E1 of the design, but {min(odd)} is only "
                        f"{'there' if min(odd) in slices else 'in the design'}")
    for name, cell in slices.items():
        before = written[name]
        for parameter in sorted(set(before["parameters"]) | set(cell["parameters"])):
            old, new = (side["parameters"].get(parameter) for side in (before, cell))
            if old != new:
                raise ToolError(f"{parameter} of the DSP48E1 {name} must be {old}, as it was "
                                f"written, but synthesis made it {new}")
        for pin, bits in before["connections"].items():
            now = cell["connections"].get(pin, ())
            for place, bit in enumerate(bits):
                if bit in ("0", "1") and now[place:place + 1] != [bit]:
                    raise ToolError(f"{pin}[{place}] of the DSP48E1 {name} must be {bit}, as it "
                                    f"was written, but synthesis made it another")


def check_fit(total, crowded, limits):
    """Raise `ToolError` if a netlist is too large for a part.

    Placement of what does not fit may never end. `total` and `limits` are sizes by the names in the
    table of sizes, `crowded` is what `crowding` found.
    """
    for name, limit in limits.items():
        if total[name] > limit:
            raise ToolError(f"the design needs {total[name]:,} {_NAMES[name]}, but the part has "
                            f"{limit:,}")
    slices = limits["ff"] // SLICE_FLIP_FLOPS
    if crowded["flip_flop_slices"] > slices:
        raise ToolError(f"the flip-flops of {crowded['control_sets']} control sets need "
                        f"{crowded['flip_flop_slices']} slices, but the part has {slices}")
    if (needed := crowded["dsp_regions"]) > (regions := limits["dsp"] // DSP48E1.chain):
        raise ToolError(f"the chains of DSP slices need {needed} halves of clock regions, which "
                        f"have {DSP48E1.chain} slices each in pairs, but the part has {regions}")


def _check_cascades(cells):
    """Raise `ToolError` unless sums pass from DSP slice to DSP slice as the part's wires do."""
    slices = {name: cell["connections"] for name, cell in cells.items()
              if cell["type"] == "DSP48E1"}
    drivers = {bit: name for name, pins in slices.items() for bit in pins.get("PCOUT", ())
               if isinstance(bit, int)}
    readers, above = {}, {}
    for name, cell in cells.items():
        for pin, bits in cell["connections"].items():
            for bit in bits if pin != "PCOUT" else ():
                if bit in drivers:
                    readers.setdefault(drivers[bit], set()).add((name, pin))
    for source, found in readers.items():
        (name, pin), *others = sorted(found)
        if others or pin != "PCIN" or slices[name][pin] != slices[source]["PCOUT"]:
            raise ToolError(f"PCOUT of a DSP48E1 must go to one PCIN, bit by bit, but that of "
                            f"{source} goes to {', '.join(map(' '.join, sorted(found)))}")
        above[name] = source
    for name, pins in slices.items():
        for pin in CASCADES:
            if any(bit != "x" for bit in pins.get(pin, ())) and (
                    pin != "PCIN" or name not in above):
                raise ToolError(f"{pin} of a DSP48E1 must be open, but {name} has something there")
    for name in slices:
        length, first = 1, name
        while first in above:
            length, first = length + 1, above[first]
            if length > DSP48E1.chain:
                raise ToolError(f"chains of DSP slices must be of at most {DSP48E1.chain}, which "
                                f"is what half a clock region has, but {name} ends a longer one")
