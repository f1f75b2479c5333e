"""What a configuration needs to run a network: each answer compiles, and no smaller one does."""

import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.model.data.synthetic import random_named, random_vit
from systola.sw_driver.compiler.compiler import CompileError, compile_network
from systola.sw_driver.compiler.requirements import largest_batch, requirements

SIZES = {"channels": 32, "heads": 2, "blocks": 3, "hidden": 100, "classes": 5, "tokens": 17,
         "patch_dim": 12}


def network(config, **sizes):
    return random_vit(np.random.default_rng(3), **{**SIZES, **sizes}, **config.model_settings)


def test_nothing_is_needed_where_it_fits():
    config = PRESETS["digits"]
    assert requirements(network(config), config) == ({}, None, True)


@pytest.mark.parametrize("field", ["max_row", "bank_depth", "param_depth", "acc_bits"])
def test_what_is_needed_compiles(field):
    least = {"max_row": 16, "bank_depth": 64, "param_depth": 2, "acc_bits": 16}
    config = dataclasses.replace(PRESETS["small"], **{field: least[field]})
    graph = network(config)
    needs, refusal, able = requirements(graph, config)
    assert able
    assert field in needs
    assert refusal
    with pytest.raises(CompileError):
        compile_network(graph, config)
    larger = dataclasses.replace(config, **needs)
    compile_network(graph, larger)
    halved = needs[field] // 2 if field.endswith("depth") else needs[field] - 1
    with pytest.raises(CompileError):
        compile_network(graph, dataclasses.replace(larger, **{field: halved}))


@pytest.mark.slow
def test_a_network_beyond_every_memory():
    config = dataclasses.replace(PRESETS["tiny"], max_row=4096)
    graph = network(config, tokens=65, channels=2048, blocks=1)
    needs, refusal, able = requirements(graph, config)
    assert not able
    assert "scratchpad must have at least" in refusal
    assert "bank_depth" not in needs


@pytest.mark.slow
def test_the_largest_batch_compiles_and_its_double_does_not():
    config = PRESETS["small"]
    graph = network(config)
    most = largest_batch(graph, config, 32)
    assert 1 < most < 32
    compile_network(graph, config, images=most)
    with pytest.raises(CompileError):
        compile_network(graph, config, images=2 * most)
    assert largest_batch(graph, dataclasses.replace(config, max_row=16), 64) == 0


@pytest.mark.parametrize("name", ["deit_small", "vit_base"])
def test_the_preset_for_larger_networks_holds_them(name):
    config = PRESETS["array_16x16_large"]
    graph = random_named(name, blocks=1, seed=0, **config.model_settings)
    assert requirements(graph, config)[1:] == (None, True)
