"""Layers of few bits in the array's second precision."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from systola.hw.contract.config import AcceleratorConfig, ConfigError
from systola.hw.contract.isa import Flag, Opcode
from systola.hw.contract.numbers import NARROW_SUM_BITS
from systola.model.allocation.node_precisions import Precision
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Linear
from systola.sim.machine.machine import DeadlockError, Machine
from systola.sim.machine.memories import Memories
from systola.sw_driver.compiler.compiler import compile_network, compile_operations
from systola.sw_driver.compiler.narrow_nodes import is_narrow, narrow_nodes
from systola.sw_driver.compiler.payloads import tile_words
from systola.sw_driver.program.image import decode_outputs

CONFIG = AcceleratorConfig(rows=8, cols=4, lanes=2, pe_style="dsp_packed", narrow_bits=4,
                           token_depth=16, bank_depth=1024, max_row=64, attention="deferred")
SIZES = {"channels": 12, "heads": 2, "blocks": 1, "hidden": 40, "classes": 5, "tokens": 9,
         "patch_dim": 6}
WIDE, NARROW = Precision(8, 8), Precision(4, 4)


def network(*turns, seed=0):
    return random_vit(np.random.default_rng(seed), linear_bits=turns, **SIZES,
                      **CONFIG.model_settings)


@pytest.mark.parametrize(("turns", "expected"), [
    ([WIDE], slice(0)), ([NARROW], slice(None)), ([NARROW, WIDE], slice(0, None, 2)),
    ([Precision(4, 8)], slice(0)), ([Precision(8, 4)], slice(0)), ([Precision(3, 2)], slice(None))])
def test_both_operands_must_be_small(turns, expected):
    graph = network(*turns)
    assert narrow_nodes(graph, CONFIG) == {node.name for node in graph.of(Linear)[expected]}
    assert not narrow_nodes(graph, dataclasses.replace(CONFIG, narrow_bits=0))


def test_sums_that_do_not_fit_half_an_entry_are_wide():
    graph = SimpleNamespace(tensors={"x": SimpleNamespace(bits=4)})
    longest = ((1 << NARROW_SUM_BITS - 1) - 1) // (7 * 8)
    for channels, fits in (longest, True), (longest + 1, False):
        node = SimpleNamespace(input="x", weight_bits=4, weight=np.full((1, channels), -7))
        assert is_narrow(node, graph, CONFIG) == fits


def test_weights_take_half_the_beats_and_products_half_the_time():
    beats, passes = [], []
    for turn, feeder in (WIDE, Opcode.LOAD_WEIGHTS), (NARROW, Opcode.LOAD_NARROW):
        build, ops, _ = compile_operations(network(turn), CONFIG)
        feeds = [op for op in ops if op.feeds and op.opcode is not Opcode.FETCH]
        assert {op.opcode for op in feeds} == {feeder}
        beats.append(sum(op.beats for op in feeds))
        passes.append(build.passes)
        flags = [bool(op.fields["flags"] & Flag.NARROW) for op in ops
                 if op.opcode is Opcode.MATMUL and op.takes is None
                 and not op.fields["flags"] & Flag.BROADCAST]
        assert set(flags) == {turn is NARROW}
        attention = build.macs - sum(node.weight.size for node in network(turn).of(Linear)) * 9
        assert attention < build.work <= build.macs
        assert (build.work == build.macs) == (turn is WIDE)
    # Tiles are never more than twice as many as whole ones would be.
    assert 0.5 * beats[0] <= beats[1] < 0.75 * beats[0]
    assert passes[1] < 0.8 * passes[0]


def test_a_lane_holds_two_columns():
    weight = np.stack([np.arange(-6, 7), np.arange(7, -6, -1)], axis=1)
    words = tile_words(weight, CONFIG, narrow=True)
    assert words.shape == (2 * 4, CONFIG.rows)
    lanes = words[:, :2]
    low = (lanes + 8) % 16 - 8
    found = np.stack([low, lanes - low >> 4], axis=1).reshape(16, 2)
    np.testing.assert_array_equal(found[:13], weight)
    assert not found[13:].any()


@pytest.mark.parametrize("turns", [[NARROW], [NARROW, WIDE], [WIDE, NARROW], [Precision(2, 4)]])
@pytest.mark.parametrize("seed", range(2))
def test_machine_agrees_with_the_network(turns, seed):
    graph = network(*turns, seed=seed)
    codes = random_codes(np.random.default_rng(seed), graph)
    program = compile_network(graph, CONFIG)
    frames = Machine(CONFIG, seed=seed).run(program.fill(
        {name: values[0] for name, values in codes.items()}))
    found, expected = decode_outputs(program, frames), forward(graph, codes)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name][0])
    # Which layers are narrow is said.
    forms = {row["name"]: row["form"] for row in program.predicted["bandwidth"]}
    narrow = narrow_nodes(graph, CONFIG)
    assert {node.name: "narrow" if node.name in narrow else forms[node.name]
            for node in graph.of(Linear)} == forms
    assert {form for name, form in forms.items() if name not in narrow} <= {"wide", "codes"}


def test_narrow_planes_weigh_one():
    memories, rng = Memories(CONFIG), np.random.default_rng(0)
    fields = {"flags": int(Flag.NARROW), "act_words": 1, "words": 1, "lanes_last": 8,
              "out_group": 0}
    planes = rng.integers(-8, 8, (2, 3, 8))
    weight = rng.integers(-7, 8, (8, 8))
    words = tile_words(weight, CONFIG, narrow=True).astype(np.uint8)
    np.testing.assert_array_equal(memories.accumulate(fields, planes, words),
                                  (planes[0] + planes[1]) @ weight.T)


def test_weights_of_the_other_precision_are_not_taken():
    """In hardware, the array waits for its weights."""
    program = compile_network(network(NARROW), CONFIG)
    stream = bytearray(program.stream)
    start = 0
    while stream[start] != Opcode.LOAD_NARROW:
        form = int.from_bytes(stream[start + 2:start + 6], "little")  # the beats, if it has any
        has = stream[start] in (Opcode.LOAD, Opcode.LOAD_PARAMS, Opcode.LOAD_TABLE)
        start += 64 + (form * CONFIG.bus_bytes if has else 0)
    stream[start] = Opcode.LOAD_WEIGHTS
    with pytest.raises(DeadlockError, match=r"^no engine can move; .*MATRIX at "):
        Machine(CONFIG).run(bytes(stream))


@pytest.mark.parametrize(("change", "message"), [
    ({"narrow_bits": 1}, r"^narrow_bits must be 0 or from 2 to 4 with narrow_bits 1, not 1$"),
    ({"narrow_bits": 5}, r"^narrow_bits must be an integer from 0 to 4, not 5$"),
    ({"pe_style": "dsp"}, r"^pe_style must be 'dsp_packed' with narrow_bits 4, not 'dsp'$"),
    ({"attention": "published"},
     (r"^attention must be one of normalised, deferred, single_16, half_16, sqrt2_16 with "
      r"narrow_bits 4, not 'published'$")),
    ({"acc_bits": 17}, r"^acc_bits must be at least 18 with narrow_bits 4, not 17$"),
    ({"cols": 6}, r"^cols must be at most half of rows \(8\) with narrow_bits 4, not 6$"),
    ({"weight_bits": 6}, r"^narrow_bits must not be 4: 4-bit operands cannot share slices with 6"),
    ({"weight_bits": 7, "narrow_bits": 2}, r"must have an even number of bits")])
def test_configurations_that_cannot_have_it(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)
