# amaranth: UnusedElaboratable=no
"""The example of docs/SOC.md: the accelerator in a system that has nothing but its buses."""

import re
from pathlib import Path

import numpy as np
import pytest

from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.player_registers import PLAYER_REGISTERS
from systola.hw.contract.regmap import REGISTERS
from systola.hw.contract.stream_registers import STREAM_REGISTERS
from systola.hw.generate import c_header
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.sim.benches.soc import copy_program, read_header
from systola.sim.runs.simulate import build_accelerator
from systola.sim.verilog.runner import Session
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.program.image import decode_outputs

CONFIG = AcceleratorConfig(rows=7, cols=5, lanes=1, token_depth=4, banks=2, bank_depth=512,
                           weight_fifo=7, stream_fifo=5, queue_depth=3, param_depth=128, max_row=64)
"""That of tests/hw/test_accelerator.py, which compiles the same simulation."""


def test_constants_are_read_from_the_header():
    c = read_header(c_header(CONFIG))
    assert (c["ROWS"], c["BUS_BYTES"], c["CONFIG_HASH"]) == (7, 8, CONFIG.hash)
    assert len(copy_program(c, [bytes(7)], 0)) == 4 * 64 + 8


@pytest.mark.slow
def test_system_with_buses_alone():
    rng = np.random.default_rng(5)
    model = random_vit(rng, channels=6, heads=2, blocks=1, hidden=5, classes=3, tokens=4,
                       patch_dim=3, **CONFIG.model_settings)
    codes = {name: values[0] for name, values in random_codes(rng, model, 1).items()}
    program = compile_network(model, CONFIG, trace=True)
    with Session(build_accelerator(CONFIG), "systola.sim.benches.soc") as session:
        results, arrays = session.run(
            {"header": c_header(CONFIG), "frames": len(program.frames), "runs": 2},
            {"program": np.frombuffer(program.fill(codes), np.uint8)})
    frames = np.split(arrays["frames"], np.cumsum(results["sizes"])[:-1])
    assert len(frames) == 2 * len(program.frames)
    expected = forward(model, codes)
    for image in frames[:len(program.frames)], frames[len(program.frames):]:
        outputs = decode_outputs(program, image)
        assert len(outputs) > 10
        for name, value in outputs.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert max(results["waited"]) < 50


def test_page_names_the_ports_there_are():
    page = (Path(__file__).parents[2] / "docs" / "SOC.md").read_text()
    named = set(re.findall(r"\b[sm]_axi(?:l|s)_[a-z]+", page))
    ports = set(Accelerator(CONFIG).signature.members)
    assert named == ports - {"irq"}
    assert "`irq`" in page
    fields = {name: {field.name for field in register.fields}
              for name, register in (
                  REGISTERS | STREAM_REGISTERS | PLAYER_REGISTERS).items()}
    for register, field in re.findall(r"`([A-Z_]+)\.(\w+)`", page):
        assert field in fields[register]
