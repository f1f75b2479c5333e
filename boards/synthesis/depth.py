"""Logic depth of a netlist mapped to Xilinx primitives: the longest paths between registers."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from systola.boards.synthesis.primitives import arcs

__all__ = ["Depth", "DepthPath", "Graph", "logic_depth", "top_module"]

_LEVEL = 1 << 16
"""A path's cost is ``levels * _LEVEL + carries``: LUT levels decide, carry chains break ties."""

_SCOPE = re.compile(r"\$flatten((?:\\[^.\s]+\.)+)")


@dataclass(frozen=True)
class DepthPath:
    """One path: LUT levels, carry chains, and the register pins where it starts and ends.

    The kinds are ``ff``, ``shift``, ``lutram``, ``bram``, ``bram_reg`` (with output register),
    ``dsp`` or ``port``; ``through`` are the nets between that have a name in the source.
    """

    levels: int
    carry: int
    start: str
    end: str
    start_kind: str
    end_kind: str
    through: tuple = ()


@dataclass
class Depth:
    """Result of `logic_depth`.

    ``levels`` and ``carry`` belong to the deepest path between registers; ``worst`` has the deepest
    path of each pair of registers, deepest first; ``histogram`` counts register inputs by levels;
    ``by_start`` has the most levels from each kind of register; ``longest`` is the path with most
    levels and chains together; ``from_ports``, ``to_ports`` and ``across`` are the most levels
    from ports of the design to registers, from registers to ports, and from ports to ports.
    """

    levels: int
    carry: int
    worst: list = field(default_factory=list)
    histogram: dict = field(default_factory=dict)
    by_start: dict = field(default_factory=dict)
    longest: DepthPath | None = None
    from_ports: int = 0
    to_ports: int = 0
    across: int = 0

    def to_dict(self):
        """Return plain dictionaries, lists and numbers."""
        return asdict(self)


def logic_depth(netlist, *, top=None, worst=10):
    """Return the `Depth` of a flat netlist.

    A level is a LUT or inverter, or the asynchronous read of a LUT memory, from its address or from
    what it holds. A wide multiplexer (MUXF7, MUXF8) belongs to its LUTs and costs nothing; a chain
    of CARRY cells is one carry however long, counted where it is entered, and the LUTs in front of
    it are levels. Outputs of flip-flops, shift registers, block RAM and DSP slices are starts; a
    DSP output without register is one level behind the inputs that reach it. Every register input
    is an end, clock enable and reset too. Paths that nothing can sensitize count.

    Parameters
    ----------
    netlist : dict, str or Path
        What Yosys' ``write_json`` wrote after ``synth_xilinx`` and ``flatten``, or the file.
    top : str, optional
        The module; by default the one with the attribute ``top``, or the only one.
    worst : int
        Most paths to list.

    Raises
    ------
    ValueError
        If there is no such module, a cell is not a known primitive, or the logic has a loop.
    """
    if not isinstance(netlist, dict):
        netlist = json.loads(Path(netlist).read_text())
    graph = Graph(top_module(netlist, top))
    arrival = graph.arrivals()
    ends = graph.ordered_ends(arrival)
    paths = graph.paths(arrival, ends, max(worst, 1))
    deepest = paths[0] if paths else DepthPath(0, 0, "", "", "", "")
    joint = graph.arrivals(carry=_LEVEL)
    longest = graph.paths(joint, graph.ordered_ends(joint)[:1], 1, carry=_LEVEL)
    outside = graph.arrivals({"port"})
    kinds = sorted({kind for kind, _ in graph.starts.values()} - {"port"})
    return Depth(
        deepest.levels, deepest.carry, paths[:worst],
        dict(sorted(Counter(cost // _LEVEL for cost, _ in ends).items())),
        {kind: _most(graph.arrivals({kind}), graph.end_bits) for kind in kinds},
        longest[0] if longest else None,
        _most(outside, graph.end_bits), _most(arrival, graph.outputs),
        _most(outside, graph.outputs))


def top_module(netlist, top):
    """Return the module called `top`, or the one that is marked or alone."""
    modules = netlist["modules"]
    if top is None:
        marked = [name for name, module in modules.items()
                  if int(module.get("attributes", {}).get("top", "0"), 2)] or list(modules)
        top = marked[0] if len(marked) == 1 else None
    if top not in modules:
        raise ValueError(f"top must be one of {', '.join(modules)}, not {top!r}")
    return modules[top]


def _most(arrival, bits):
    """Return the most levels at `bits`."""
    return max((arrival[bit] // _LEVEL for bit in bits if bit in arrival), default=0)


class Graph:
    """Bits of a netlist, what drives them, and where they end.

    ``starts`` maps a bit to the kind of its register and ``(register, pin)``; ``fan_in`` maps a bit
    that logic drives to its ``(source, levels, carries)``; ``ends`` has ``(kind, register, pin)``
    of each register input, ``end_bits`` its bit, ``end_cells`` its cell.
    """

    def __init__(self, module):
        self.starts, self.fan_in = {}, {}
        self.ends, self.end_bits, self.end_cells, self.outputs = [], [], [], []
        self.names = _names(module)
        for port, pins in module["ports"].items():
            if pins["direction"] == "input":
                self.starts |= dict.fromkeys(pins["bits"], ("port", (port, "port")))
            else:
                self.outputs += pins["bits"]
        chained = {bit for cell in module["cells"].values() if cell["type"].startswith("CARRY")
                   for bit in cell["connections"]["CO"]}
        for name, cell in module["cells"].items():
            self._add(name, cell, chained)
        self.order = self._sort()

    def _add(self, name, cell, chained):
        kind, starts, logic, ends = arcs(name, cell, chained)
        register = self._register(name, [bit for _, bit in starts]) if starts else ""
        self.starts |= {bit: (kind, (register, pin)) for pin, bit in starts}
        for bit, inputs in logic:
            self.fan_in.setdefault(bit, []).extend(
                item for item in inputs if not isinstance(item[0], str))
        for pin, bit in ends:
            if not isinstance(bit, str):
                self.end_bits.append(bit)
                self.ends.append((kind, register, pin))
                self.end_cells.append(name)

    def _register(self, cell, bits):
        """Return the hierarchical name of a register: its output's, in the module it is in."""
        scope = "".join(_SCOPE.findall(cell)).replace("\\", "")
        names = [name for bit in bits for name in self.names.get(bit, ())]
        names = [name for name in names if name.startswith(scope)] or names or [cell]
        return min(names, key=_plainness)

    def _sort(self):
        """Return the bits that logic drives, sources before what they drive."""
        order, state = [], {}
        for root in self.fan_in:
            stack = [(root, False)]
            while stack:
                bit, done = stack.pop()
                if done:
                    state[bit] = "done"
                    order.append(bit)
                elif bit in self.fan_in and state.get(bit) != "done":
                    if bit in state:
                        name = min(self.names.get(bit, ["a cell"]), key=_plainness)
                        raise ValueError(f"netlist must have no loop, not one through {name}")
                    state[bit] = "open"
                    stack.append((bit, True))
                    stack += [(source, False) for source, _, _ in self.fan_in[bit]
                              if state.get(source) != "done"]
        return order

    def _own(self, bit, kinds):
        """Return the cost at a start of one of `kinds` (None: all but ports), or -1."""
        kind = self.starts[bit][0] if bit in self.starts else None
        if kind is None or (kind == "port" if kinds is None else kind not in kinds):
            return -1
        return _LEVEL if kind == "lutram" else 0

    def arrivals(self, kinds=None, carry=0):
        """Return the largest cost from a start to each bit; `carry` is added to that of a chain."""
        arrival = {bit: cost for bit in self.starts if (cost := self._own(bit, kinds)) >= 0}
        for bit in self.order:
            best = max((arrival[source] + levels * _LEVEL + chains * (1 + carry)
                        for source, levels, chains in self.fan_in[bit] if source in arrival),
                       default=-1)
            if best > arrival.get(bit, -1):
                arrival[bit] = best
        return arrival

    def ordered_ends(self, arrival):
        """Return ``(cost, number)`` of all register inputs that a start reaches, deepest first."""
        return sorted(((arrival[bit], end) for end, bit in enumerate(self.end_bits)
                       if bit in arrival), key=lambda item: -item[0])

    def paths(self, arrival, ends, count, carry=0):
        """Return the deepest `DepthPath` of each pair of registers in `ends`, at most `count`."""
        found = {}
        for cost, end in ends:
            if len(found) >= count:
                break
            path = self._path(arrival, cost, end, carry)
            found.setdefault((path.start, path.end), path)
        return list(found.values())

    def _path(self, arrival, cost, end, carry):
        """Follow the largest arrivals back from a register input."""
        bit, through = self.end_bits[end], []
        while arrival[bit] != self._own(bit, None):
            through += [min(self.names[bit], key=_plainness)] if bit in self.names else []
            bit = next(source for source, levels, chains in self.fan_in[bit]
                       if source in arrival and arrival[source] + levels * _LEVEL
                       + chains * (1 + carry) == arrival[bit])
        chains = cost % _LEVEL
        levels = cost // _LEVEL - (chains if carry else 0)
        start_kind, (start, start_pin) = self.starts[bit]
        kind, register, pin = self.ends[end]
        return DepthPath(levels, chains, f"{start} {start_pin}", f"{register} {pin}", start_kind,
                         kind, tuple(dict.fromkeys(reversed(through))))


def _names(module):
    """Return the source names of each bit, without index."""
    names = defaultdict(list)
    for name, net in module["netnames"].items():
        if not int(net["hide_name"]):
            for bit in net["bits"]:
                names[bit].append(name)
    return names


def _plainness(name):
    """Sort names: from the source before generated ones, outer before inner ones."""
    return "$" in name, name.count("."), len(name), name
