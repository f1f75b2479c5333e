"""The accelerator with a player in a system that has memory behind AXI4."""

import numpy as np
import pytest

from systola.hw.contract.player_registers import played_crc
from systola.hw.generate import c_header
from systola.hw.played import PlayedAccelerator
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.sim.verilog.runner import Session, build_verilog, cached_verilog
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.program.image import decode_outputs
from tests.sim.test_soc import CONFIG


@pytest.mark.slow
def test_programs_are_played_from_the_system_s_memory():
    rng = np.random.default_rng(6)
    model = random_vit(rng, channels=6, heads=2, blocks=1, hidden=5, classes=3, tokens=4,
                       patch_dim=3, **CONFIG.model_settings)
    codes = random_codes(rng, model, 3)
    program = compile_network(model, CONFIG, trace=True)
    expected = forward(model, codes)
    path = cached_verilog(lambda: PlayedAccelerator(CONFIG), name="played",
                          key=[CONFIG.to_dict()])
    with Session(build_verilog(path, top="played"), "systola.sim.benches.played") as session:
        for image, address in enumerate((0, 0x1234 * 8, 0xFF8)):  # also across pages of a bus
            stream = program.fill({name: values[image] for name, values in codes.items()})
            results, arrays = session.run(
                {"header": c_header(CONFIG, top="player"), "address": address,
                 "frames": len(program.frames)}, {"program": np.frombuffer(stream, np.uint8)})
            assert (results["status"], results["play"]) == (0b010, 0)
            assert results["play_crc"] == played_crc(stream, CONFIG.bus_bytes)
            frames = np.split(arrays["frames"], np.cumsum(results["sizes"])[:-1])
            for name, value in decode_outputs(program, frames).items():
                np.testing.assert_array_equal(value, expected[name][image], err_msg=name)
