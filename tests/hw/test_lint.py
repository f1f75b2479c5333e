"""Verilator accepts the generated Verilog, and would complain about latches and loops."""

import shutil
import subprocess

import pytest

from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.generate import TOP
from systola.hw.verilog import IDIOMS
from systola.sim.runs.simulate import accelerator_verilog
from systola.sim.verilog.runner import SimulationError, cached_verilog, lint_verilog

CONFIGS = {
    "tiny": PRESETS["tiny"],
    "lut_table": AcceleratorConfig(rows=6, cols=3, lanes=3, pe_style="lut", act_bits=5,
                                   attention="published", attention_bits=8, norm="leading_one",
                                   weight_bits=3, token_depth=8, bank_depth=256, param_depth=64,
                                   max_row=64, pooling="mean"),
    "compared": AcceleratorConfig(rows=6, cols=3, lanes=3, act_bits=4, norm="compared",
                                  token_depth=8, bank_depth=256, param_depth=64, max_row=64),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_generated_verilog_is_clean(name):
    lint_verilog(_verilog(CONFIGS[name]), top=TOP)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_no_wire_has_no_bits(name):
    """Verilog has none: ``[-1:0]`` is two bits to every tool but Yosys."""
    assert "[-1:0]" not in _verilog(CONFIGS[name]).read_text()


@pytest.mark.parametrize("name", CONFIGS)
def test_another_verilator_accepts_it_too(name):
    """That of the system, 5.006 on Debian 12: it knows fewer warnings and sees more loops."""
    command = shutil.which("verilator")
    if command is None:
        pytest.skip("there is no verilator on PATH")
    done = subprocess.run([command, "--lint-only", "--top-module", TOP,
                           *(f"-Wno-{idiom}" for idiom in IDIOMS), _verilog(CONFIGS[name])],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def _verilog(config):
    return cached_verilog(lambda: Accelerator(config), name=TOP, key=config.to_dict())


@pytest.mark.slow
def test_simulated_verilog_is_clean():
    """The same with trace ports, as another test compiles it."""
    lint_verilog(accelerator_verilog(PRESETS["small"]), top=TOP)


@pytest.mark.parametrize(("body", "complaint"), [
    ("always @* if (a) y = b;", "LATCH"),
    ("always @* y = y ^ a;", "UNOPTFLAT"),
    ("always @* y = missing;", "missing"),
])
def test_latch_loop_and_error_are_noticed(tmp_path, body, complaint):
    path = tmp_path / "bad.v"
    path.write_text(f"module bad(input a, input b, output reg y);\n{body}\nendmodule\n")
    with pytest.raises(SimulationError, match=complaint):
        lint_verilog(path, top="bad")
