"""Generated folders are complete, consistent and never half-written."""

import hashlib
import json
import re
import shutil
import subprocess

import pytest

from systola.hw import generate as module
from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.isa import FORMATS, Error, Opcode
from systola.hw.contract.player_registers import PLAYER_REGISTERS
from systola.hw.contract.regmap import REGISTERS
from systola.hw.contract.stream_registers import STREAM_REGISTERS
from systola.hw.generate import TOPS, c_header, core_file, file_names, generate
from systola.sim.verilog.runner import lint_verilog

CONFIG = PRESETS["tiny"]
PORTS = {
    "clk": 1, "rst": 1, "irq": 1, "s_axil_awaddr": 8, "s_axil_awvalid": 1, "s_axil_awready": 1,
    "s_axil_wdata": 32, "s_axil_wstrb": 4, "s_axil_wvalid": 1, "s_axil_wready": 1,
    "s_axil_bresp": 2, "s_axil_bvalid": 1, "s_axil_bready": 1, "s_axil_araddr": 8,
    "s_axil_arvalid": 1, "s_axil_arready": 1, "s_axil_rdata": 32, "s_axil_rresp": 2,
    "s_axil_rvalid": 1, "s_axil_rready": 1, "s_axis_tdata": 32, "s_axis_tvalid": 1,
    "s_axis_tready": 1, "m_axis_tdata": 32, "m_axis_tvalid": 1, "m_axis_tready": 1,
    "m_axis_tlast": 1,
}

MAPPED = {**{name: width for name, width in PORTS.items() if "axis" not in name},
          "s_axil_awaddr": 12, "s_axil_araddr": 12}


@pytest.fixture
def quick(monkeypatch):
    """Skip the conversion, which has its own test."""
    monkeypatch.setitem(module.TOPS, "streams", (lambda config: None, REGISTERS))
    monkeypatch.setattr(module, "MappedAccelerator", lambda config: None)
    monkeypatch.setattr(module, "to_verilog", lambda component, name: f"module {name}; endmodule")


def ports_of(path):
    """Return the ports of the top module in the Verilog file `path`, and their widths."""
    top = re.search(r"^module systola\(.*?^endmodule", path.read_text(),
                    re.DOTALL | re.MULTILINE)[0]
    return {name: int(high or 0) + 1 for high, name in re.findall(
        r"^  (?:input|output) (?:\[(\d+):0\] )?(\w+);$", top, re.MULTILINE)}


@pytest.mark.slow
def test_verilog_has_the_ports_and_the_manifest_describes_the_files(tmp_path):
    manifest = generate(CONFIG, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == sorted(file_names())
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert AcceleratorConfig.from_dict(manifest["config"]) == CONFIG
    assert int(manifest["config_hash"], 16) == CONFIG.hash
    for name, entry in manifest["files"].items():
        contents = (out / name).read_bytes()
        assert len(contents) == entry["bytes"]
        assert hashlib.sha256(contents).hexdigest() == entry["sha256"]
    assert ports_of(out / "systola.v").items() >= PORTS.items()
    assert manifest["streams"] == "AXI4-Stream"


@pytest.mark.slow
def test_mapped_verilog_has_no_streams_and_is_clean(tmp_path):
    config = AcceleratorConfig(rows=2, cols=1, lanes=1, banks=1, max_row=16, norm_roots=1,
                               gelu="table")
    manifest = generate(config, tmp_path, top="mapped")
    ports = ports_of(tmp_path / "systola.v")
    assert ports.items() >= MAPPED.items()
    assert not any("axis" in name for name in ports)
    assert manifest["streams"] == "registers"
    assert manifest["registers"]["RECEIVE_DATA"] == STREAM_REGISTERS["RECEIVE_DATA"].offset
    assert "SYSTOLA_REG_SEND_FREE 0x114u" in (tmp_path / "systola_regs.h").read_text()
    lint_verilog(tmp_path / "systola.v", top="systola")


@pytest.mark.slow
def test_verilog_with_a_player_reads_over_axi4_and_is_clean(tmp_path):
    config = AcceleratorConfig(rows=2, cols=1, lanes=1, banks=1, max_row=16, norm_roots=1,
                               gelu="table")
    manifest = generate(config, tmp_path, top="player")
    ports = ports_of(tmp_path / "systola.v")
    assert not any(name.startswith("s_axis") for name in ports)
    assert {"m_axi_araddr", "m_axi_rdata", "m_axi_rlast", "m_axis_tdata"} <= set(ports)
    assert not any(name.startswith(("m_axi_aw", "m_axi_w", "m_axi_b")) for name in ports)
    assert manifest["registers"]["PLAY_CRC"] == PLAYER_REGISTERS["PLAY_CRC"].offset
    lint_verilog(tmp_path / "systola.v", top="systola")


def test_failure_leaves_nothing_new(tmp_path, monkeypatch):
    def broken(component, name):
        raise RuntimeError("no tool")

    monkeypatch.setitem(module.TOPS, "streams", (lambda config: None, REGISTERS))
    monkeypatch.setattr(module, "to_verilog", broken)
    with pytest.raises(RuntimeError, match="no tool"):
        generate(CONFIG, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_second_run_replaces_the_first_and_keeps_other_files(tmp_path):
    generate(CONFIG, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    manifest = generate(PRESETS["small"], tmp_path)
    assert json.loads((tmp_path / "manifest.json").read_text()) == manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*file_names(), "notes.txt"])


@pytest.mark.usefixtures("quick")
def test_interrupted_replacement_leaves_no_manifest(tmp_path, monkeypatch):
    generate(CONFIG, tmp_path / "out")
    monkeypatch.setattr(module.shutil, "move", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        generate(PRESETS["small"], tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_output_must_not_be_a_file(tmp_path):
    path = tmp_path / "out"
    path.write_text("")
    with pytest.raises(ValueError, match=r"^output '.*out' must be a folder, not a file$"):
        generate(CONFIG, path)


def test_fusesoc_file_names_what_is_there(tmp_path):
    """Its text; fusesoc itself, if it is installed, lists the core and checks every key."""
    core = core_file(CONFIG)
    assert core.startswith("CAPI=2:\nname: systola:generated:systola:")
    for line in (r"    files: \[systola.v\]", "    toplevel: systola", "    flow: lint",
                 "      tool: verilator", f"description: .* {CONFIG.hash:016x}",
                 r"      verilator_options: \[(-Wno-[A-Z]+, )+-Wno-UNSIGNED\]"):
        assert re.search(f"^{line}$", core, re.MULTILINE), line
    command = shutil.which("fusesoc")
    if command is None:
        pytest.skip("only the text was checked: fusesoc is not installed")
    (tmp_path / "systola.core").write_text(core)
    shown = subprocess.run([command, "--cores-root", ".", "core-info", "systola"],
                           cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^lint\b", shown, re.MULTILINE)


@pytest.mark.parametrize("top", TOPS)
def test_header_defines_everything_and_is_valid_c(tmp_path, top):
    header = c_header(CONFIG, top=top)
    names = re.findall(r"^#define (\w+) \S+$", header, re.MULTILINE)
    assert len(names) == len(set(names))
    expected = {f"SYSTOLA_REG_{name}" for name in REGISTERS}
    for form, registers in ("mapped", STREAM_REGISTERS), ("player", PLAYER_REGISTERS):
        more = {f"SYSTOLA_REG_{name}" for name in registers}
        assert more & set(names) == (more if form == top else set())
    expected |= {f"SYSTOLA_OP_{opcode.name}" for opcode in Opcode}
    expected |= {f"SYSTOLA_ERROR_{error.name}" for error in Error}
    expected |= {f"SYSTOLA_{opcode.name}_{field.name.upper()}_BYTE"
                 for opcode, form in FORMATS.items() for field in form.fields}
    assert expected <= set(names)
    compiler = shutil.which("cc") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source = tmp_path / "use.c"
    source.write_text(header + "unsigned long long hash = SYSTOLA_CONFIG_HASH;\n"
                      "unsigned mask = SYSTOLA_STATUS_DONE_MASK;\n")
    subprocess.run([compiler, "-Wall", "-Werror", "-fsyntax-only", source], check=True)
