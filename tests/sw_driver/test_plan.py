import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.isa import Opcode
from systola.model.data.synthetic import random_named, random_stream, random_vit
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Scores
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler.compiler import CompileError, compile_network, compile_operations
from systola.sw_driver.compiler.layout import _deeper
from systola.sw_driver.compiler.plan import GROUPS, Plan, growing, plans
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


def check_units(units, spans, most):
    """Units cover all rows in order; what attends to what is told for every row."""
    check_chunks([(unit.low, unit.rows) for unit in units], sum(rows for _, rows, _ in spans),
                 most)
    covered = []
    for unit in units:
        assert unit.low + unit.rows == sum(unit.parts[-1][:2])
        assert {keys for _, _, (_, keys) in unit.parts} == {unit.keys}
        for low, rows, (first, keys) in unit.parts:
            (whole,) = [of for start, of, count in spans if (start, count) == (first, keys)]
            assert first <= low < low + rows <= first + whole
            covered += range(low, low + rows)
        if len(unit.parts) > 1:
            assert all(part[:1] == part[2][:1] for part in unit.parts)
    assert covered == list(range(len(covered)))


@pytest.mark.parametrize("images", [1, 3, 7])
@pytest.mark.parametrize(("tokens", "token_depth"), [(2, 2), (7, 4), (33, 16), (33, 64), (50, 8)])
def test_plans_cover_all_tokens_with_chunks_that_the_accumulators_hold(tokens, token_depth, images):
    model = random_vit(np.random.default_rng(0), **{**SMALL, "tokens": tokens, "blocks": 1})
    model = model.repeated(images)
    config = dataclasses.replace(CONFIG, token_depth=token_depth)
    scores, = model.of(Scores)
    spans = model.tensors[scores.name].spans
    rows = images * tokens
    seen, *grouped = plans(model, config)
    assert not any(plan.groups(spans) for plan in seen)
    for plan in seen:
        check_units(plan.units(spans), spans, token_depth)
        check_chunks(plan.chunks(rows), rows, token_depth)
    cuts = {(repr(plan.units(spans)), tuple(plan.chunks(rows))) for plan in seen}
    assert len(cuts) == len(seen)
    assert all(unit.rows == 1 for unit in seen[-1].units(spans))
    assert all(count == 1 for _, count in seen[-1].chunks(rows))
    for plan in (plan for several in grouped for plan in several):
        groups = plan.groups(spans)
        check_units(groups, spans, token_depth)
        assert len(groups) >= GROUPS
        assert [(group.low, group.rows) for group in groups] == plan.chunks(rows)
        assert all(part[:2] == part[2] for group in groups for part in group.parts)
    first = growing(model, scores, config)
    check_chunks(first, rows, token_depth)
    if token_depth >= 2 * config.rows:
        assert all(count >= config.rows for _, count in first)


def test_groups_are_for_many_equal_sequences():
    config = small()[1]
    model = random_vit(np.random.default_rng(0), **{**SMALL, "blocks": 1})
    for images, depth, there in ((1, 64, False), (GROUPS - 1, 64, False), (GROUPS, 64, True),
                                 (GROUPS, 32, False)):
        config = dataclasses.replace(config, token_depth=depth)
        assert (len(plans(model.repeated(images), config)) == 2) == there
    unequal = dataclasses.replace(model, nodes=tuple(
        dataclasses.replace(node, sequences=((0, 5), *((5 + 4 * k, 4) for k in range(7))))
        if isinstance(node, Scores) else node for node in model.nodes))
    assert len(plans(unequal.repeated(4), config)) == 1


@pytest.mark.parametrize(("rows", "groups"), [(16, [[34, 17], [17]]), (20, [[34, 17]]),
                                              (12, [[17]])])
def test_groups_are_also_tried_as_short_as_tiles_are_loaded(rows, groups):
    model = random_vit(np.random.default_rng(0), **{**SMALL, "blocks": 1, "tokens": 17})
    config = dataclasses.replace(CONFIG, rows=rows, cols=4, token_depth=64)
    _, *found = plans(model.repeated(8), config)
    assert [[plan.group for plan in several] for several in found] == groups


@pytest.mark.parametrize("seed", range(8))
def test_units_of_unequal_sequences(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, int(rng.integers(1, 7)))
    if seed % 2:
        lengths = np.repeat(lengths, rng.integers(1, 4, len(lengths)))
    edges = np.cumsum([0, *lengths])
    spans = tuple((int(low), int(rows), int(rows) if seed < 4 else int(rng.integers(1, rows + 1)))
                  for low, rows in zip(edges, lengths, strict=False))
    for unit in range(1, 30):
        check_units(Plan(unit=unit, chunk=4).units(spans), spans, unit)


def test_less_memory_makes_smaller_chunks_until_nothing_fits():
    model, config = small(bank_depth=64)
    peaks, rows = [], []
    for banks in range(16, 0, -1):
        smaller = dataclasses.replace(config, banks=banks)
        try:
            build, ops, *_ = compile_operations(model, smaller)
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
                       r"model \(embed 264, blocks\.0\.norm1 132, blocks\.0\.qkv\.q 132, [^()]*\), "
                       r"not 256 \(banks \* bank_depth; with banks = 1, bank_depth = 1024 or "
                       r"more\)$"):
        compile_network(model, config)


def test_results_are_written_over_what_they_are_made_from():
    ops = compile_operations(*small())[1]
    for op in ops:
        where = {**op.reads, **op.writes}
        if op.opcode is Opcode.MATMUL and "res_" in where:
            assert where["res_"].base == where["out_"].base
        if op.opcode in (Opcode.SHIFTMAX, Opcode.SHIFTGELU):
            assert where["src_"].base == where["dst_"].base
        if ".context." in op.name and op.opcode is Opcode.MATMUL:
            assert where["out_"].tensor.name.endswith(".q")


DEIT = {(preset, attention): goal for preset, attention, goal in (
    ("arty_s7_50", "published", 0.89), ("arty_s7_50", "normalised", 0.89),
    ("arty_s7_50", "deferred", 0.965), ("array_16x16", "published", 0.90),
    ("array_16x16", "normalised", 0.90), ("array_16x16", "deferred", 0.975))}


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["published", "normalised", "deferred"])
@pytest.mark.parametrize("preset", ["arty_s7_50", "array_16x16"])
def test_deit_tiny(preset, attention):
    """Two blocks of its width: exact under random schedules, and fast by the prediction."""
    config = dataclasses.replace(PRESETS[preset], attention=attention)
    model = random_named("deit_tiny", blocks=2, attention=attention, gelu="table",
                         code_mult_bits=config.code_mult_bits)
    x = random_stream(np.random.default_rng(1), model)["embed"][0]
    blocks = encoder_blocks(model, 2)
    expected = forward(blocks, {"embed": x})
    program = compile_network(blocks, config, trace=True)
    for seed in range(2):
        outputs = decode_outputs(program, Machine(config, seed).run(program.fill({"embed": x})))
        assert list(outputs) == list(expected)
        assert all(np.array_equal(outputs[name], value) for name, value in expected.items())
    program = compile_network(encoder_blocks(model, 1), config)
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
                r"\d+, ){3}and 2 others \d+\), not 8192 \(banks \* bank_depth; with banks = 8, "
                r"bank_depth = 2048 or more\)$")
    with pytest.raises(CompileError, match=expected):
        compile_network(model, PRESETS["digits"])


@pytest.mark.parametrize(("banks", "words", "expected"), [
    (4, 14210, "; with banks = 4, bank_depth = 4096 or more"),
    (4, 65536, "; with banks = 4, bank_depth = 16384 or more"),
    (5, 65536, "; at most 65536 can be had"), (1, 65537, "; at most 65536 can be had"),
    (1, 17, "; with banks = 1, bank_depth = 32 or more")])
def test_way_out_of_a_small_scratchpad(banks, words, expected):
    assert _deeper(AcceleratorConfig(banks=banks), words) == expected
