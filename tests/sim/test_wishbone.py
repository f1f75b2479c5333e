"""The LiteX system of examples/litex: programs from its memory, results into it."""

import re

import numpy as np
import pytest

from systola.hw.contract.player_registers import played_crc
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.sim.verilog.runner import Session, build_text
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.program.image import decode_outputs
from tests.sim.test_soc import CONFIG


@pytest.mark.slow
def test_a_network_runs_in_a_litex_system(tmp_path):
    pytest.importorskip("litex", reason="the system is made with LiteX: extra 'dram'")
    from systola.examples.litex.systola_soc import RAM, REGISTERS, build

    rng = np.random.default_rng(8)
    model = random_vit(rng, channels=6, heads=2, blocks=1, hidden=5, classes=3, tokens=4,
                       patch_dim=3, **CONFIG.model_settings)
    codes = random_codes(rng, model, 2)
    program = compile_network(model, CONFIG)
    expected = forward(model, codes, keep=["logits"])["logits"]
    dma = build(CONFIG, tmp_path)
    text = "".join((tmp_path / name).read_text() for name in ("systola.v", "systola_soc.v"))
    text = re.sub(r"\$readmemh\(.*\);", ";", text)  # memories begin with zeros anyway
    sizes = [beats * CONFIG.bus_bytes for beats in program.frames]
    with Session(build_text(text, top="systola_soc"), "systola.sim.benches.wishbone") as session:
        for image in range(2):
            stream = program.fill({name: values[image] for name, values in codes.items()})
            results, arrays = session.run(
                {"header": (tmp_path / "systola_regs.h").read_text(), "registers": REGISTERS,
                 "dma": dma, "program": RAM + 0x1000 * image, "results": RAM + 0x80000,
                 "frames": sizes}, {"program": np.frombuffer(stream, np.uint8)})
            assert (results["status"], results["play_status"]) == (0b010, 0)
            assert results["play_crc"] == played_crc(stream, CONFIG.bus_bytes)
            frames = np.split(arrays["frames"], np.cumsum(sizes)[:-1])
            np.testing.assert_array_equal(decode_outputs(program, frames)["logits"],
                                          expected[image])
