"""Weights of few values, streamed as codes of a codebook."""

import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import AcceleratorConfig, ConfigError
from systola.hw.contract.isa import Opcode
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Linear
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler.compiler import compile_network, compile_operations
from systola.sw_driver.compiler.payloads import code_beats, codebook, tile_words
from systola.sw_driver.program.image import decode_outputs

CONFIG = AcceleratorConfig(rows=8, cols=4, lanes=2, weight_codes=True, token_depth=16,
                           bank_depth=1024, max_row=64)
SIZES = {"channels": 12, "heads": 2, "blocks": 1, "hidden": 40, "classes": 5, "tokens": 9,
         "patch_dim": 6}


def network(values, seed=0):
    """Return a random network whose weights are moved to the nearest of `values`."""
    graph = random_vit(np.random.default_rng(seed), **SIZES, **CONFIG.model_settings)
    nodes = []
    for node in graph.nodes:
        if isinstance(node, Linear) and values is not None:
            nearest = np.abs(node.weight[..., None] - values).argmin(axis=-1)
            node = dataclasses.replace(node, weight=np.asarray(values)[nearest].astype(np.int8))
        nodes.append(node)
    return dataclasses.replace(graph, nodes=tuple(nodes))


SQUARES = [sign * k * k * 2 for sign, ks in ((-1, range(7, 0, -1)), (1, range(8))) for k in ks]
POWERS = [*(-1 << k for k in range(6, -1, -1)), 0, *(1 << k for k in range(7))]


@pytest.mark.parametrize("values", [SQUARES, POWERS, [-100, -3, 1, 90], list(range(-7, 8))])
def test_codes_come_back_as_the_weights(values):
    rng = np.random.default_rng(0)
    weight = rng.choice(values, (13, 21))
    book = codebook(weight)
    assert set(book) == {0, *values}
    words = tile_words(weight, CONFIG)
    beats = code_beats(words, book, CONFIG)
    assert len(beats) == CONFIG.codebook_beats + len(words) // 2
    table = beats[:CONFIG.codebook_beats, :8].reshape(-1)[:16].view(np.int8)
    packed = beats[CONFIG.codebook_beats:, :8]
    found = np.stack([table[packed & 15], table[packed >> 4]], axis=1).reshape(-1, 8)
    np.testing.assert_array_equal(found, words)


def test_a_codebook_has_sixteen_entries_with_zero():
    assert codebook(np.arange(1, 17)) is None
    assert len(codebook(np.arange(1, 16))) == len(codebook(np.arange(-8, 8))) == 16


@pytest.mark.parametrize("values", [SQUARES, POWERS])
@pytest.mark.parametrize("seed", range(2))
def test_machine_agrees_with_the_network(values, seed):
    graph = network(values, seed)
    codes = random_codes(np.random.default_rng(seed), graph)
    program = compile_network(graph, CONFIG)
    frames = Machine(CONFIG, seed=seed).run(program.fill(
        {name: rows[0] for name, rows in codes.items()}))
    found, expected = decode_outputs(program, frames), forward(graph, codes)
    for name in graph.outputs:
        np.testing.assert_array_equal(found[name], expected[name][0])


@pytest.mark.parametrize(("values", "has", "feeder"), [
    (SQUARES, True, Opcode.LOAD_CODES), (SQUARES, False, Opcode.LOAD_WEIGHTS),
    (None, True, Opcode.LOAD_WEIGHTS)])
def test_codes_are_streamed_where_there_are_few_values(values, has, feeder):
    config = dataclasses.replace(CONFIG, weight_codes=has)
    _, ops, prediction = compile_operations(network(values), config)
    feeds = [op for op in ops if op.feeds and op.opcode is not Opcode.FETCH]
    assert {op.opcode for op in feeds} == {feeder}
    *_, plain = compile_operations(network(values), dataclasses.replace(config, weight_codes=False))
    book = config.codebook_beats * config.rows if feeder is Opcode.LOAD_CODES else 0
    for row, other in zip(prediction.bandwidth, plain.bandwidth, strict=True):
        books = sum(op.name == row["name"] for op in feeds) * book
        assert row["name"] == other["name"]
        assert (row["form"], other["form"]) == ("codes" if book else "wide", "wide")
        assert (row["weight_bytes"] - books) * (2 if book else 1) == other["weight_bytes"]


@pytest.mark.parametrize(("change", "message"), [
    ({"weight_codes": 1}, r"^weight_codes must be true or false, not 1$"),
    ({"cols": 3, "lanes": 1}, r"^cols must be even with weight_codes, not 3$")])
def test_configurations_that_cannot_have_them(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)
