import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.isa import Opcode
from systola.model.data.synthetic import random_named, random_stream, random_vit
from systola.model.networks.integer_forward import forward_blocks
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler.compiler import CompileError, compile_model, compile_operations
from systola.sw_driver.compiler.layout import _deeper
from systola.sw_driver.compiler.plan import plans
from systola.sw_driver.program.image import decode_outputs

SMALL = {"channels": 16, "heads": 2, "blocks": 2, "hidden": 24, "classes": 3, "tokens": 33,
         "patch_dim": 4}
CONFIG = AcceleratorConfig(rows=4, cols=4, lanes=2, token_depth=16, banks=1, bank_depth=2048,
                           weight_fifo=8, stream_fifo=8, param_depth=64, max_row=64)


def small(**fields):
    return random_vit(np.random.default_rng(0), **SMALL), dataclasses.replace(CONFIG, **fields)


def check_chunks(chunks, tokens, most):
    edge = 0
    for low, rows in chunks:
        assert low == edge
        assert 0 < rows <= most
        edge += rows
    assert edge == tokens


@pytest.mark.parametrize(("tokens", "token_depth"), [(2, 2), (7, 4), (33, 16), (33, 64), (50, 8)])
def test_plans_cover_all_tokens_with_chunks_that_the_accumulators_hold(tokens, token_depth):
    model = random_vit(np.random.default_rng(0), **{**SMALL, "tokens": tokens, "blocks": 1})
    config = dataclasses.replace(CONFIG, token_depth=token_depth)
    seen = list(plans(model, config))
    for plan in seen:
        for chunks in plan.first, plan.units, plan.mlp:
            check_chunks(chunks, tokens, token_depth)
    assert len({(plan.units, plan.mlp) for plan in seen}) == len(seen)
    assert all(rows == 1 for _, rows in seen[-1].units + seen[-1].mlp)
    if token_depth >= 2 * config.rows:
        assert all(rows >= config.rows for plan in seen for _, rows in plan.first)


def test_less_memory_makes_smaller_chunks_until_nothing_fits():
    model, config = small(bank_depth=64)
    peaks, rows = [], []
    for banks in range(16, 0, -1):
        smaller = dataclasses.replace(config, banks=banks)
        try:
            build, ops = compile_operations(model, smaller)
        except CompileError as error:
            refusal = str(error)
            break
        peaks.append(build.peak)
        rows.append(max(op.fields["rows"] for op in ops if op.opcode is Opcode.SHIFTMAX))
        assert build.peak <= build.used <= smaller.scratchpad_words
    else:
        pytest.fail("everything fits")
    assert refusal.startswith("scratchpad ")
    assert len(set(peaks)) > 2
    assert rows[-1] < rows[0]


def test_refusal_tells_what_needs_the_words():
    model, config = small(bank_depth=256)
    with pytest.raises(CompileError, match=r"^scratchpad must have at least \d+ words for this "
                       r"model \(.*embed 264.*blocks\.0\.q 132.*\), not 256 \(banks \* "):
        compile_model(model, config)


def test_results_are_written_over_what_they_are_made_from():
    _, ops = compile_operations(*small())
    for op in ops:
        where = {**op.reads, **op.writes}
        if op.opcode is Opcode.MATMUL and "res_" in where:
            assert where["res_"].base == where["out_"].base
        if op.opcode in (Opcode.SHIFTMAX, Opcode.SHIFTGELU):
            assert where["src_"].base == where["dst_"].base
        if ".context." in op.name and op.opcode is Opcode.MATMUL:
            assert where["out_"].tensor.name.endswith(".q")


DEIT = {(preset, attention): goal for preset, attention, goal in (
    ("arty_s7_50", "exact", 0.89), ("arty_s7_50", "deferred", 0.965),
    ("array_16x16", "exact", 0.90), ("array_16x16", "deferred", 0.975))}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["exact", "deferred"])
@pytest.mark.parametrize("preset", ["arty_s7_50", "array_16x16"])
def test_deit_tiny(preset, attention):
    """Two blocks of its width: exact under random schedules, and fast by the prediction."""
    config = dataclasses.replace(PRESETS[preset], attention=attention)
    model = random_named("deit_tiny", blocks=2, attention=attention, gelu="table",
                         code_mult_bits=config.code_mult_bits)
    x = random_stream(np.random.default_rng(1), model)[0]
    expected = forward_blocks(model, x)
    program = compile_model(model, config, blocks_only=True, trace=True)
    for seed in range(2):
        outputs = decode_outputs(program, Machine(config, seed).run(program.fill({"embed": x})))
        assert list(outputs) == list(expected)
        assert all(np.array_equal(outputs[name], value) for name, value in expected.items())
    one = dataclasses.replace(model, blocks=model.blocks[:1])
    program = compile_model(one, config, blocks_only=True)
    window, passes = program.predicted["window"], program.predicted["passes"]
    assert program.macs / (config.rows * config.cols * window) > DEIT[preset, attention]
    assert 0 < window / passes - 1 < 0.015
    for layer in program.predicted["bandwidth"]:
        assert layer["weight_bytes"] > 0
        assert layer["bytes_per_cycle"] < config.bus_bytes


def test_refusal_of_a_large_network_is_short():
    """It was 6 kilobytes: every chunk of every tensor with its words."""
    model = random_named("deit_tiny", blocks=1, **PRESETS["digits"].model_settings)
    expected = (r"^scratchpad must have at least 14210 words for this model \(embed 4728, (\S+ "
                r"\d+, ){3}and 2 others \d+\), not 2048 \(banks \* bank_depth; with banks = 4, "
                r"bank_depth = 4096 or more\)$")
    with pytest.raises(CompileError, match=expected):
        compile_model(model, PRESETS["digits"])


@pytest.mark.parametrize(("banks", "words", "expected"), [
    (4, 14210, "; with banks = 4, bank_depth = 4096 or more"),
    (4, 65536, "; with banks = 4, bank_depth = 16384 or more"),
    (5, 65536, "; at most 65536 can be had"), (1, 65537, "; at most 65536 can be had"),
    (1, 17, "; with banks = 1, bank_depth = 32 or more")])
def test_way_out_of_a_small_scratchpad(banks, words, expected):
    assert _deeper(AcceleratorConfig(banks=banks), words) == expected
