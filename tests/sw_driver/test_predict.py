"""The prediction: its parts, what it skips, and single MATMULs against the Verilog."""

import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.hw.contract.isa import Engine, Opcode
from systola.model.data.synthetic import random_codes, random_vit
from systola.sim.runs.random_cases import random_case
from systola.sim.runs.simulate import simulate
from systola.sw_driver.compiler.compiler import compile_operations
from systola.sw_driver.compiler.contention import QUIET, Background, Use, backgrounds, port_use
from systola.sw_driver.compiler.predict import predict_cycles

CONFIG = PRESETS["tiny"]


def operations(seed, images):
    graph, config, _ = random_case(seed)
    build, ops, _ = compile_operations(graph.repeated(images), config)
    return ops, config, build.macs


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_what_is_looked_up_is_what_would_be_worked_out(seed, images):
    ops, config, macs = operations(seed, images)
    assert predict_cycles(ops, config, macs) == predict_cycles(ops, config, macs, steady=False)


@pytest.mark.parametrize("weight_fifo", [2, 64])
def test_long_layers_are_what_would_be_worked_out(weight_fifo):
    """Layers of many tiles, with passes from much shorter to longer than weights take."""
    for tokens, channels, hidden in (3, 96, 100), (12, 64, 33), (16, 24, 260):
        config = dataclasses.replace(CONFIG, bank_depth=4096, weight_fifo=weight_fifo,
                                     max_row=512, param_depth=512)
        graph = random_vit(np.random.default_rng(tokens), channels=channels, heads=2, blocks=1,
                           hidden=hidden, classes=5, tokens=tokens, patch_dim=9,
                           **config.model_settings)
        build, ops, line = compile_operations(graph, config)
        assert line == predict_cycles(ops, config, build.macs, steady=False)


def test_rates_are_those_of_the_time_that_is_shared():
    matrix = Use(Engine.MATRIX, params=30, writes={0: 20, 1: 10}, start=100, end=200)
    vector = Use(Engine.VECTOR, params=8, reads={0: 8}, writes={0: 4}, start=150, end=250)
    later = Use(Engine.VECTOR, reads={1: 8}, start=300, end=310)
    beside_matrix, beside_vector, beside_later = backgrounds([matrix, vector, later], CONFIG)
    assert beside_later == QUIET
    # Half of its time runs beside MATRIX, which makes 0.3 accesses a cycle then.
    assert beside_vector.params == beside_vector.writes == pytest.approx(0.15, abs=1 / 64)
    assert beside_vector.params_square == pytest.approx(0.045, abs=1 / 64)
    assert beside_vector.conflicts == pytest.approx(0.1, abs=1 / 64)  # those in its bank
    assert beside_vector.reads == beside_vector.first == 0
    assert (beside_vector.own, beside_vector.crowd) == (1, pytest.approx(0.1, abs=1 / 64))
    # Nothing goes before MATRIX; VECTOR's reads are in a bank of two thirds of its writes.
    assert beside_matrix.writes == beside_matrix.first == 0
    assert beside_matrix.params == pytest.approx(0.04, abs=1 / 64)
    assert beside_matrix.reads == pytest.approx(0.04 * 2 / 3, abs=1 / 64)


def test_a_row_takes_longer_the_more_the_others_do():
    row = {"alone": 12, "writing": 10, "words": [4, 4, 1], "planes": 1, "reads": 3, "params": 4}
    assert QUIET.row(**row) == 12
    for name, square in ("params", "params_square"), ("writes", "writes_square"):
        times = [Background(**{name: rate, square: rate ** 2}).row(**row)
                 for rate in (0, 0.25, 0.5, 0.75, 1.0)]
        assert times == sorted(times)
        assert times[0] == 12 < times[-1]
    # Six accesses to a bank that others use half of the time take twelve cycles, and seven more.
    for accesses, cycles in (3, 12), (4, 14):
        assert Background(own=1.0, crowd=0.5).row(**row | {"reads": accesses}) == cycles
    # As many writes in bursts that leave nothing for others, half of the time.
    assert Background(writes=0.5, writes_square=0.5).row(**row) > Background(
        writes=0.5, writes_square=0.25).row(**row)


def test_accesses_of_a_program_are_counted():
    ops, config, _ = operations(5, 1)
    uses = [(op, use) for op in ops if (use := port_use(op, op.resolved(), config)) is not None]
    assert {op.opcode for op, _ in uses} >= {Opcode.LOAD, Opcode.FETCH, Opcode.STORE,
                                              Opcode.MATMUL, Opcode.SHIFTMAX, Opcode.LAYERNORM}
    for op, use in uses:
        words = op.fields["rows"] * op.fields["words"]
        if op.opcode is Opcode.LAYERNORM:
            assert sum(use.reads.values()) == 2 * sum(use.writes.values()) == 2 * words
        elif op.opcode is Opcode.STORE:
            assert (sum(use.reads.values()), use.writes) == (words, {})
        elif op.opcode is Opcode.MATMUL:  # a word may be written for two tiles
            assert sum(use.writes.values()) >= words * (1 + (op.fields["out_bits"] > 8))


# The larger presets take minutes to compile; a small array has their packed slices as well.
ONE_MATMUL = {
    "tiny": PRESETS["tiny"],
    "packed": dataclasses.replace(PRESETS["tiny"], rows=6, cols=6, lanes=3, pe_style="dsp_packed",
                                  acc_bits=24)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_MATMUL)
def test_one_matmul_takes_the_cycles_that_were_predicted(name):
    config = ONE_MATMUL[name]
    rng = np.random.default_rng(1)
    model = random_vit(rng, channels=48, heads=2, blocks=1, hidden=config.rows - 1, classes=3,
                       tokens=9, patch_dim=5, **config.model_settings)
    layer = model.between(["blocks.0.norm2"], ["blocks.0.fc1"])
    _, ops, _ = compile_operations(layer, config)
    assert [op.opcode for op in ops].count(Opcode.MATMUL) == 1
    result = simulate(layer, config, random_codes(rng, layer, 1), trace=False, optimize="-O0")
    assert result.mismatches == 0
    assert result.cycles == result.cycles_predicted
