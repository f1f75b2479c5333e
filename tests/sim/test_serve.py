"""The simulated board behind real UART bits: digits through a pseudo-terminal, and bad lines."""

import dataclasses
import json
import os

import pytest

from systola.cli.main import main
from systola.hw.contract.config import PRESETS
from systola.sim.runs.serve import serve_board
from systola.sim.soak.fault_runs import soak_faults

SMALL = dataclasses.replace(PRESETS["tiny"], rows=8, cols=2, bank_depth=1024, max_row=256,
                            param_depth=512, token_depth=32, gelu="table")
"""The smallest accelerator that the digits fit: the line is slow, whatever is behind it. Compiled
once for all tests here."""

MEMORY = 1 << 19
"""Bytes for resident programs, more than that of the digits."""


def run(capsys, *arguments, command="run"):
    code = main([command, *map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err.strip().splitlines()[-1:]


@pytest.mark.slow
def test_digits_over_simulated_uart_bits(tmp_path, capsys):
    link, file = tmp_path / "port", tmp_path / "config.json"
    file.write_text(json.dumps(SMALL.to_dict()))
    with serve_board(SMALL, link, memory="bram", memory_bytes=MEMORY) as alive:
        assert link.is_symlink()
        code, report, err = run(capsys, "--port", link, "--model", "digits", "--config", file)
        assert code == 0, err
        assert (report["mismatches"], report["images"]) == (0, 1)
        assert report["correct"] == 1
        assert report["predictions"] == report["labels"]
        assert report["cycles"] > 100_000
        # What follows: another host, other configurations, the same board.
        code, _, err = run(capsys, "--port", link, "--model", "digits")
        assert code == 2
        message = (f"config must be given: the hardware at the port has the hash "
                   f"{SMALL.hash:#018x}, which no preset has")
        assert err == [f"systola: {message}"]
        code, _, err = run(capsys, "--port", link, "--model", "digits", "--config", "tiny")
        assert code == 2
        assert err[0].startswith("systola: config 'tiny' has the hash ")
        assert alive()
    assert not os.path.lexists(link)


@pytest.mark.slow
def test_digits_from_the_memory_of_a_simulated_board(tmp_path, capsys):
    link, file = tmp_path / "port", tmp_path / "config.json"
    file.write_text(json.dumps(SMALL.to_dict()))
    board = "--port", link, "--config", file
    with serve_board(SMALL, link, memory="bram", memory_bytes=MEMORY):
        code, report, err = run(capsys, *board, command="flash")
        assert code == 0, err
        assert (report["memory_bytes"], report["programs"]) == (MEMORY, [])
        assert not report["found_directory"]
        code, report, err = run(capsys, *board, "--model", "digits", "--images", 2, "--resident")
        assert code == 0, err
        assert (report["mismatches"], report["images"], report["runs"]) == (0, 2, 2)
        assert report["resident"] == {"name": "digits", "written": True}
        for crossed in report["link_bytes"]:
            assert "program" not in crossed
            assert crossed.get("inputs", 0) < report["bytes"] / 50  # those of the next run
            assert crossed["control"] < 500
        assert sum(crossed.get("inputs", 0) for crossed in report["link_bytes"]) > 0
        # Another host, which finds what is there.
        code, report, err = run(capsys, *board, "--model", "digits", "--resident")
        assert code == 0, err
        assert report["resident"] == {"name": "digits", "written": False}
        assert report["mismatches"] == 0
        code, _, err = run(capsys, *board, "--model", "digits", "--name", "second",
                           command="flash")
        assert code == 2  # they do not both fit
        assert err[0].endswith("free in one piece; remove one of digits")
        code, report, err = run(capsys, *board, "--remove", "digits", command="flash")
        assert code == 0, err
        assert report["programs"] == []


@pytest.mark.slow
def test_soak_of_a_simulated_board():
    done = []
    result = soak_faults(120, 3, config=SMALL, memory_bytes=MEMORY,
                         progress=lambda *state: done.append(state))
    assert result["faults"] >= 120
    assert sum(result["by_kind"].values()) == result["faults"]
    assert result["wrong_results"] == result["hangs"] == 0
    assert result["ended_right"] + result["ended_in_error"] == result["runs"] > 0
    assert result["unnoticed"] == 0
    assert done[-1][0] == 120


def test_ports_that_are_none(tmp_path, capsys):
    code, _, err = run(capsys, "--port", tmp_path / "none", "--model", "digits")
    assert code == 2
    port = str(tmp_path / "none")
    assert err == [f"systola: port {port!r} cannot be opened: No such file or directory"]
    master, slave = os.openpty()
    code, _, err = run(capsys, "--port", os.ttyname(slave), "--model", "digits")
    assert code == 1
    assert err[0].startswith(f"systola: nothing answers at {os.ttyname(slave)} for 3 s: check ")
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "give either --port or --registers"),
    (["--port", "a", "--registers", "b"], "give either --port or --registers"),
    (["--registers", "/dev/mem@here"],
     "--registers must be a device, or DEVICE@ADDRESS, not '/dev/mem@here'"),
    (["--registers", "/dev/uio99"],
     "'/dev/uio99': there is no such device: is its driver loaded, the device tree right?"),
    (["--registers", "/dev/uio99@0x10"],
     "base must be a multiple of the page size 0x1000, not 0x10"),
])
def test_unusable_boards(arguments, message, capsys):
    assert run(capsys, "--model", "digits", *arguments) == (2, None, [f"systola: {message}"])


def test_links_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    for link, message in ((tmp_path / "file", "must not be an existing file"),
                          (tmp_path / "none/port", "must be in an existing folder")):
        with pytest.raises(ValueError, match=message), serve_board(SMALL, link):
            pass
    assert (tmp_path / "file").is_file()


@pytest.mark.parametrize(("arguments", "message"), [
    (["flash"], "--port is missing"),
    (["flash", "--port", "x", "--name", "n"], "--name is about a program to write: it needs"),
    (["flash", "--port", "x", "--model", "digits", "--remove", "a"], "either --model or --remove"),
    (["run", "--registers", "x", "--model", "digits", "--resident"], "--resident needs --port"),
    (["run", "--port", "x", "--model", "digits", "--name", "n"], "it needs --resident"),
    (["serve", "--memory-bytes", "4096"], "it needs --memory bram"),
    (["serve", "--memory", "x"], "memory must be one of bram, dram:ulx3s_85f, dram:arty_s7_50"),
    (["flash", "--port", "/nowhere"], "port '/nowhere' cannot be opened")])
def test_what_is_refused(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert message in err
