"""The slowest paths of a routed design, those through DSP slices and block RAM included.

nextpnr-xilinx writes the delay of every net and of LUTs, carry chains and multiplexers, but gives
DSP slices and block RAM no timing and every flip-flop the same: what is missing is from
``boards/synthesis/delays.toml``. For inputs of LUTs that it has permuted, which it does after its
own analysis, it writes what it had estimated before routing. So all nets count by as much more as
the slowest path of its analysis is slower than the same kind of path is with what it writes.
"""

import re
from dataclasses import asdict, dataclass, replace

from systola.boards.synthesis.estimate import bram_setup, delays, dsp_setup
from systola.boards.synthesis.primitives import LUT

__all__ = ["RoutedPath", "routed_paths"]

_RAM = re.compile(r"RAMB(18|36)E1")
_OUTPUTS = {"ff": re.compile(r"Q"), "bram": re.compile(r"DO\w+"), "dsp": re.compile(r"P\d*"),
            "lutram": re.compile(r"O[56]")}
_ORIGIN = "X_ORIG_PORT_"
_ENABLES = {"D": "", "CE": "CE", "SR": "R"}


@dataclass(frozen=True)
class RoutedPath:
    """The slowest path from one kind of register to another: its ns, and of it those of nets.

    Kinds are ``ff``, ``dsp``, ``bram``, ``bram_reg`` and ``lutram``; `start` and `end` are the
    cells' names with their pins.
    """

    start_kind: str
    end_kind: str
    ns: float
    net_ns: float
    mhz: float
    start: str
    end: str

    def to_dict(self):
        """Return a plain dictionary."""
        return asdict(self)


def routed_paths(module, placed, sdf, fmax=None):
    """Return the `RoutedPath` of every pair of kinds of registers, the slowest first.

    Parameters
    ----------
    module : dict
        The flat module of the netlist that was placed, as Yosys' ``write_json`` writes it.
    placed : dict
        The module that place and route wrote.
    sdf : Sdf
        The delays after routing.
    fmax : float, optional
        MHz of the slowest path between flip-flops by the router's own analysis.

    Raises
    ------
    ValueError
        If there is a loop without a register.
    """
    figures, cells = delays(), module["cells"]
    sdf = _without_shared_pins(placed["cells"], sdf)
    kinds = {cell: _kind(cell, kind, cells) for cell, kind in sdf.kinds.items()}
    order, found = _order(sdf), {}
    ends = [(sink, setup) for sink in sdf.nets
            if (setup := _setup(*sink, kinds.get(sink[0]), cells, figures)) is not None]
    for kind in sorted(set(kinds.values()) - {None}):
        arrival = _arrivals(sdf, order, kinds, kind, figures["clock_to_output"][kind]["ns"])
        for sink, setup in ends:
            source, net = sdf.nets[sink]
            if source not in arrival:
                continue
            ns, nets, start = arrival[source]
            pair, ns = (kind, kinds[sink[0]]), ns + net + setup
            if pair not in found or ns > found[pair][0]:
                found[pair] = ns, nets + net, " ".join(start), " ".join(sink)
    more = _more(found.get(("ff", "ff")), fmax)
    paths = []
    for pair, (ns, nets, start, end) in found.items():
        ns += (more - 1) * nets
        paths.append(RoutedPath(*pair, round(ns, 3), round(more * nets, 3), round(1e3 / ns, 2),
                                start, end))
    return sorted(paths, key=lambda path: -path.ns)


def _more(between_flip_flops, fmax):
    """Return by what factor the nets of the slowest path are slower than what was written."""
    if between_flip_flops is None or not fmax or not between_flip_flops[1]:
        return 1.0
    ns, nets, *_ = between_flip_flops
    return max(1.0, (1e3 / fmax - (ns - nets)) / nets)


def _without_shared_pins(placed, sdf):
    """Return the delays without those to inputs that the table of a LUT does not depend on.

    Two LUTs at one place share their pins, so that each has the nets of both; the attributes say
    which pins are those of the netlist's cell.
    """
    own = {}
    for name, cell in placed.items():
        pins = {key.removeprefix(_ORIGIN) for key, pin in cell["attributes"].items()
                if key.startswith(f"{_ORIGIN}A") and pin}
        if pins and LUT.fullmatch(cell["attributes"].get("X_ORIG_TYPE", "")):
            own[name] = pins
    return replace(sdf, nets={sink: found for sink, found in sdf.nets.items()
                              if sink[1] in own.get(sink[0], (sink[1],))})


def _kind(cell, kind, cells):
    """Return what kind of register a placed cell is, None if it is none."""
    if kind == "SLICE_FFX":
        return "ff"
    own = cells.get(cell) or cells.get(cell.rpartition("/")[0], {"type": ""})
    if own["type"].startswith("RAM") and not _RAM.fullmatch(own["type"]):
        return "lutram" if kind == "SLICE_LUTX" else None
    if _RAM.fullmatch(own["type"]):
        registered = any(int(own["parameters"].get(f"DO{port}_REG", "0"), 2) for port in "AB")
        return "bram_reg" if registered else "bram"
    return "dsp" if own["type"] == "DSP48E1" else None


def _setup(cell, pin, kind, cells, figures):
    """Return the setup time of a pin in ns; None if it is a clock, or no register's."""
    if kind == "ff":
        return figures["setup"]["ff"][_ENABLES[pin]]["ns"] if pin in _ENABLES else None
    if kind == "lutram":  # what a read goes through is a path, what a write takes ends one
        return None if pin in ("CLK", "WCLK") or re.fullmatch(r"A\d", pin) else (
            figures["setup"]["lutram"][""]["ns"])
    if kind is None or "CLK" in pin:
        return None
    if kind == "dsp":
        return dsp_setup(cells[cell]["parameters"], re.sub(r"\d+$", "", pin))
    return bram_setup(pin)


def _order(sdf):
    """Return all outputs of cells, each behind those that reach it."""
    order, state = [], {}
    for first in sdf.paths:
        stack = [first]
        while stack:
            pin = stack[-1]
            if state.get(pin) is None:
                state[pin] = "open"
                for before, _ in sdf.paths.get(pin, ()):
                    source = sdf.nets.get(before, (None,))[0]
                    if state.get(source) == "open":
                        raise ValueError(f"there is a loop through {' '.join(source)}")
                    if source is not None and source not in state:
                        stack.append(source)
            else:
                stack.pop()
                if state[pin] == "open":
                    state[pin] = "done"
                    order.append(pin)
    return order


def _arrivals(sdf, order, kinds, kind, clock_to_output):
    """Return ``(ns, ns of nets, start)`` of the slowest path to each output from registers."""
    outputs = _OUTPUTS[kind.removesuffix("_reg")]
    arrival = {pin: (clock_to_output, 0.0, pin) for pin, _ in sdf.nets.values()
               if kinds.get(pin[0]) == kind and outputs.fullmatch(pin[1])}
    for pin in order:
        best = arrival.get(pin)
        if kinds.get(pin[0]) == "ff":
            continue  # through the clock
        for before, inside in sdf.paths.get(pin, ()):
            source, net = sdf.nets.get(before, (None, 0))
            if source in arrival:
                ns, nets, start = arrival[source]
                if best is None or ns + net + inside > best[0]:
                    best = ns + net + inside, nets + net, start
        if best is not None:
            arrival[pin] = best
    return arrival
