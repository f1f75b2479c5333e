"""Estimated delays of paths through DSP slices and block RAM, which nextpnr-xilinx leaves out."""

import tomllib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from systola.boards.synthesis.depth import Graph, top_module
from systola.boards.synthesis.primitives import CASCADES

__all__ = ["PathEstimate", "bram_setup", "delays", "dsp_setup", "estimate_paths"]

_HARD = {"dsp", "bram", "bram_reg"}
_REGISTERS = {"A": ("AREG", "MREG", "PREG"), "B": ("BREG", "MREG", "PREG"), "C": ("CREG", "PREG"),
              "PCIN": ("PREG",)}
"""Registers behind the data pins of a DSP slice, the first that is used ends the path."""


@dataclass(frozen=True)
class PathEstimate:
    """The slowest path from one kind of register to another, in ns.

    Kinds and ``levels`` and ``carry`` are as in `DepthPath`; ``nets`` counts the nets, each of
    which takes what the placer makes of it: ``ns`` with typical ones, ``ns_low`` and ``ns_high``
    with short and long ones. ``mhz`` belongs to ``ns``.
    """

    start_kind: str
    end_kind: str
    ns: float
    ns_low: float
    ns_high: float
    mhz: float
    levels: int
    carry: int
    nets: int
    start: str
    end: str

    def to_dict(self):
        """Return a plain dictionary."""
        return asdict(self)


@cache
def delays():
    """Return the content of ``delays.toml``."""
    return tomllib.loads((Path(__file__).parent / "delays.toml").read_text())


def estimate_paths(netlist, *, top=None):
    """Return the `PathEstimate` of every pair of registers of which one is a DSP slice or memory.

    Clock-to-output and setup times are those of ``delays.toml``; within a DSP slice or block RAM
    the data sheet's greatest frequency counts, given as a path from the kind to itself named
    ``inside``. The slowest comes first.

    Parameters
    ----------
    netlist : dict
        Flat, as Yosys' ``write_json`` writes it after ``synth_xilinx``.
    top : str, optional
        The module, as for `logic_depth`.

    Raises
    ------
    ValueError
        If there is no such module or a cell is no Xilinx primitive.
    """
    module = top_module(netlist, top)
    graph, figures = Graph(module), delays()
    ends = [_end(module, graph, index, figures) for index in range(len(graph.ends))]
    found = {}
    for kind in sorted({kind for kind, _ in graph.starts.values()} - {"port"}):
        arrival = _arrivals(graph, kind, figures)
        for (end_kind, setup), bit, name in zip(ends, graph.end_bits, graph.ends, strict=True):
            if bit not in arrival or not {kind, end_kind} & _HARD:
                continue
            ns, levels, carry, nets, start = arrival[bit]
            path = _path(kind, end_kind, ns + setup, levels, carry,
                         nets + (name[2] not in CASCADES), start, f"{name[1]} {name[2]}",
                         figures["net"])
            if (kind, end_kind) not in found or path.ns > found[kind, end_kind].ns:
                found[kind, end_kind] = path
    used = {name.removesuffix("_reg") for pair in found for name in pair}
    found |= {("inside", name): _path(name, name, figure["ns"], 0, 0, 0, "inside", "inside",
                                      figures["net"])
              for name, figure in figures["inside"].items() if name in used}
    return sorted(found.values(), key=lambda path: -path.ns)


def _path(start_kind, end_kind, ns, levels, carry, nets, start, end, net):
    """Return a path whose cells take `ns`."""
    typical, low, high = (round(ns + nets * net[name]["ns"], 2)
                          for name in ("typical", "low", "high"))
    return PathEstimate(start_kind, end_kind, typical, low, high, round(1e3 / typical, 1), levels,
                        carry, nets, start, end)


def _arrivals(graph, kind, figures):
    """Return ``(ns of cells, levels, carries, nets, start)`` of the slowest path to each bit."""
    lut, carry = figures["through"]["lut"]["ns"], figures["through"]["carry"]["ns"]
    net = figures["net"]["typical"]["ns"]
    first = figures["clock_to_output"][kind]["ns"]
    arrival = {bit: (first, 0, 0, 0, f"{name} {pin}")
               for bit, (own, (name, pin)) in graph.starts.items() if own == kind}
    for bit in graph.order:
        best = arrival.get(bit)
        for source, levels, chains in graph.fan_in[bit]:
            if source not in arrival:
                continue
            ns, before, carries, nets, start = arrival[source]
            # A wide multiplexer or the inside of a carry chain is entered without a net.
            moved = (ns + levels * lut + chains * carry, before + levels, carries + chains,
                     nets + bool(levels or chains), start)
            if best is None or moved[0] + moved[3] * net > best[0] + best[3] * net:
                best = moved
        if best is not None:
            arrival[bit] = best
    return arrival


def dsp_setup(parameters, pin):
    """Return the setup time of a pin of a DSP slice in ns; a bus goes by its name."""
    table = delays()["setup"]["dsp"]
    if pin in _REGISTERS:
        register = next(name for name in _REGISTERS[pin] if int(parameters.get(name, "1"), 2))
        return table[f"{pin} {register}"]["ns"]
    return _longest(table, pin)


def bram_setup(pin):
    """Return the setup time of a pin of a block RAM in ns."""
    return _longest(delays()["setup"]["bram"], pin)


def _longest(table, pin):
    """Return the figure of the longest beginning of the pin's name that a table has."""
    return table[max((name for name in table if pin.startswith(name)), key=len)]["ns"]


def _end(module, graph, index, figures):
    """Return kind and setup time of a register input."""
    kind, _, pin = graph.ends[index]
    if kind == "dsp":
        return kind, dsp_setup(module["cells"][graph.end_cells[index]]["parameters"], pin)
    return kind, _longest(figures["setup"][kind.removesuffix("_reg")], pin)
