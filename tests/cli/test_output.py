"""What the command does where its surroundings fail: output, memory, modules."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from systola.cli import main as command
from systola.cli.main import main
from systola.sim.runs.serve import serve_board
from systola.sim.verilog.runner import cached_verilog, parent_lives
from systola.sim.verilog.toolcheck import MissingToolError
from systola.sw_driver.driver.mapped import Mapping

GOLDEN = Path(__file__).parents[1] / "golden"
SYSTOLA = [sys.executable, "-c", "import sys; from systola.cli.main import main; sys.exit(main())"]
CLOSED = "systola: standard output is closed: send it to /dev/null if it is not wanted\n"


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a golden vector, for a command that prints a table."""
    shutil.copy(min(GOLDEN.glob("*.npz"), key=lambda path: path.stat().st_size), tmp_path)
    return tmp_path


def shell(redirection, *args, **env):
    """Run systola with a shell's `redirection`; returns (exit code, stdout, stderr)."""
    done = subprocess.run(["sh", "-c", f'"$@" {redirection}', "sh", *SYSTOLA, *map(str, args)],
                          capture_output=True, text=True, check=False, env={**os.environ, **env})
    return done.returncode, done.stdout, done.stderr


def unread(*args, **env):
    """Run systola with a standard output that nobody reads; returns (exit code, stderr)."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([*SYSTOLA, *map(str, args)], stdout=writer, stderr=subprocess.PIPE,
                              text=True, check=False, env={**os.environ, **env})
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["evaluate", "--help"], []])
def test_output_that_nobody_reads_ends_quietly(args):
    """As `| head` leaves it: with the exit code of SIGPIPE, as other programs."""
    assert unread(*args) == (141, "")


@pytest.mark.parametrize("args", [[], ["--json"]])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_table_that_nobody_reads_ends_quietly(folder, args, encoding):
    code, err = unread("conform", folder, *args, PYTHONIOENCODING=encoding)
    assert (code, err.replace("comparing ...\n", "")) == (141, "")


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["evaluate", "--model", "digits"], []])
def test_closed_output_is_told_before_any_work(args):
    assert shell(">&-", *args) == (2, "", CLOSED)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("args", [["--help"], ["conform", "."]])
def test_full_output_is_told(folder, args, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, err = shell(">/dev/full", *args)
    assert code == 2
    assert err.replace("comparing ...\n", "") == ("systola: standard output cannot be written: "
                                                  "No space left on device\n")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", ">&- 2>&-"])
def test_an_error_that_cannot_be_told_does_not_go_elsewhere(redirection):
    assert shell(redirection, "fly") == (2, "", "")


def test_output_comes_without_standard_error(folder):
    code, out, _ = shell("2>&-", "conform", folder)
    assert code == 0
    assert "all equal" in out


@pytest.mark.parametrize(("error", "fragments"), [
    (MemoryError("Unable to allocate 3.64 TiB"), ["out of memory (Unable to allocate 3.64 TiB)",
                                                  "fewer images"]),
    (MemoryError(), ["out of memory:"]),
    (ModuleNotFoundError("No module named 'termios'", name="termios"), ["'termios'", "POSIX"]),
    (ModuleNotFoundError("No module named 'rich'", name="rich"), ["rich", "pip install"]),
    (ImportError("x.so: cannot map\nit"), ["x.so: cannot map it", "pip install systola"]),
])
def test_failures_of_the_machine_are_one_line(capfd, monkeypatch, error, fragments):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(command, "cli", type("Cli", (), {"main": fail}))
    monkeypatch.delenv("SYSTOLA_DEBUG", raising=False)
    assert main([]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    for fragment in fragments:
        assert fragment in err
    monkeypatch.setenv("SYSTOLA_DEBUG", "1")
    with pytest.raises(type(error)):
        main([])


def test_everything_but_simulation_runs_without_posix_modules():
    blocked = ("import sys\nfor name in 'fcntl', 'grp', 'pty', 'pwd', 'resource', 'termios', 'tty':"
               "\n    sys.modules[name] = None\n")
    modules = sorted({f"systola.cli.{path.stem}" for path in
                      Path(command.__file__).parent.glob("[a-z]*.py")}
                     | {"systola.sim.runs.simulate", "systola.sim.runs.serve",
                        "systola.sw_driver.driver.mapped"})
    code = f"{blocked}import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_simulation_says_which_module_is_missing(capfd, monkeypatch, tmp_path):
    monkeypatch.setenv("SYSTOLA_CACHE", str(tmp_path))
    for name in "fcntl", "tty":
        monkeypatch.setitem(sys.modules, name, None)
    expected = (r"^simulation needs a POSIX system \(Linux, or WSL on Windows\): this Python "
                r"has no module '{}'$")
    with pytest.raises(MissingToolError, match=expected.format("fcntl")):
        cached_verilog(None, name="x", key=[])
    with (pytest.raises(MissingToolError, match=expected.format("tty")),
          contextlib.ExitStack() as stack):
        stack.enter_context(serve_board(None, tmp_path / "link"))
    assert main(["simulate", "--random"]) == 2
    assert "module 'fcntl'" in capfd.readouterr().err


def test_registers_in_memory_need_their_system(monkeypatch):
    monkeypatch.delattr(os, "O_SYNC")
    with pytest.raises(OSError, match="registers in memory need Linux; --port works here"):
        Mapping("/dev/uio0")


def test_a_simulation_knows_whether_its_parent_lives(monkeypatch):
    monkeypatch.setenv("SYSTOLA_PARENT", str(os.getpid()))
    assert parent_lives()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    monkeypatch.setenv("SYSTOLA_PARENT", str(child.pid))
    assert not parent_lives()
