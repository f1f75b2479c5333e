"""MEAN in programs of its own on the Verilog: results, and every cycle as predicted."""

import numpy as np
import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.isa import Engine, Opcode
from systola.model.operators.row_mean import row_mean
from systola.sim.machine.machine import Machine
from systola.sim.runs.simulate import build_accelerator
from systola.sim.runs.timeline import read_timeline
from systola.sim.verilog.runner import Session
from systola.sw_driver.compiler.compiler import describe_slots, encode_stream
from systola.sw_driver.compiler.costs import COSTS, vector_cycles
from systola.sw_driver.compiler.layout import allocate_scratchpad
from systola.sw_driver.compiler.lowering import Loaded, Lowering, Place
from systola.sw_driver.compiler.schedule import assign_tokens
from systola.sw_driver.program.image import (
    Program,
    decode_outputs,
)

BASE = {"rows": 8, "cols": 4, "lanes": 4, "banks": 2, "bank_depth": 1024, "param_depth": 16,
        "token_depth": 8, "max_row": 64, "weight_fifo": 8, "stream_fifo": 8, "pooling": "mean"}
CONFIGS = {
    "pairs": AcceleratorConfig(vector_lanes=2, **BASE),
    "one lane": AcceleratorConfig(code_mult_bits=12, gelu="table", **BASE),
    "deferred": AcceleratorConfig(vector_lanes=4, code_mult_bits=16, attention="deferred",
                                  gelu="table", **BASE),
}
CASES = [  # rows, channels, planes of the input, bits of the result
    (1, 1, 1, 8), (1, 40, 1, 8), (5, 33, 1, 16), (7, 8, 2, 8), (3, 64, 2, 16), (6, 9, 2, 5),
    (20, 3, 1, 9), (2, 16, 2, 16)]


def mean_program(config):
    """Return the operations, the values of their input, and the results of the model."""
    rng, build, expected = np.random.default_rng(1), Lowering(config, param_words=1), {}
    for k, (rows, channels, planes, bits) in enumerate(CASES):
        x = rng.integers(-1 << 8 * planes - 1, 1 << 8 * planes - 1, (rows, channels))
        source = build.tensor(f"x{k}", rows, channels, planes=planes)
        row = np.zeros((rows, planes, source.words * config.rows), np.uint8)
        for plane in range(planes):
            row[:, plane, :channels] = x >> 8 * plane & 255
        load = build.load(source.view(), row.reshape(-1, config.rows))
        if k == 0:
            build.inputs.append(Loaded(name="x0", op=load, row=0, rows=rows, channels=channels,
                                       planes=planes))
            codes = x
        mult = int(rng.integers(1, 1 << config.mean_mult_bits))
        shift = mult.bit_length() + rows.bit_length() + 8 * planes - bits
        out = build.tensor(f"y{k}", 1, channels, planes=1 + (bits > 8))
        build.mean(f"y{k}", source.view(), out.view(), channels, mult=mult, shift=shift, bits=bits)
        build.declare(f"y{k}", (1, channels))
        build.store(f"y{k}", out.view(), Place(columns=channels, row=0))
        expected[f"y{k}"] = row_mean(x, mult, shift, bits)[None]
    allocate_scratchpad(build.ops, config)
    assign_tokens(build.ops, config)
    return build, codes, expected


def image(build, config):
    """Return the `Program` of what was built."""
    stream, offsets = encode_stream(build.ops, config)
    return Program(config=config, stream=stream, **describe_slots(build, build.ops, offsets),
                   instructions=len(build.ops) + 2, macs=0, work=0,
                   names=tuple(op.name for op in build.ops))


@pytest.mark.parametrize("name", CONFIGS)
def test_results_in_the_instruction_model(name):
    """Under random schedules: the tokens follow from what the operations read and write."""
    config = CONFIGS[name]
    build, codes, expected = mean_program(config)
    program = image(build, config)
    for seed in None, *range(10):
        got = decode_outputs(program, Machine(config, seed).run(program.fill({"x0": codes})))
        assert {key: value.tolist() for key, value in got.items()} == {
            key: value.tolist() for key, value in expected.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one lane", "deferred"])
def test_results_and_cycles_of_the_verilog(name, tmp_path):
    config = CONFIGS[name]
    build, codes, expected = mean_program(config)
    program, path = image(build, config), tmp_path / "program.bin"
    program.write(path)
    params = {"program": str(path), "patience": 100_000, "streams": "file", "seed": None,
              "stall": 0}
    built = build_accelerator(config, optimize="-O0")
    with Session(built, "systola.sim.benches.accelerator") as session:
        _, got = session.run(params, {"x0": codes})
    timeline = read_timeline(got.pop("trace"), program)
    assert {key: value.tolist() for key, value in got.items()} == {
        key: value.tolist() for key, value in expected.items()}
    took = [event.end - 1 - event.start for event in timeline.of(Engine.VECTOR)]
    means = [op for op in build.ops if op.opcode is Opcode.MEAN]
    assert took == [vector_cycles(op.opcode, op.fields, config, COSTS) for op in means]
