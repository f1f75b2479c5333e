"""The accelerator on Verilator, through the driver and its AXI ports, against the models."""

import dataclasses
import shutil

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.model.data.images import encode, load_data
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.evaluation.accuracy import open_network
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Rows
from systola.sim.runs.random_cases import random_case, random_graph
from systola.sim.runs.simulate import simulate

pytestmark = pytest.mark.slow

ODD = AcceleratorConfig(rows=7, cols=5, lanes=1, token_depth=4, banks=2, bank_depth=512,
                        weight_fifo=7, stream_fifo=5, queue_depth=3, param_depth=128, max_row=64)
"""R and C share no factor with any size of the network in the tests, nor with each other. Eight
tests share one build, with optimization: unlike the random ones it is run for longer than it
takes to compile.
"""

SEEDS = 7, 11, 12, 13, 20, 25, 31, 41, 42
"""Of the random cases; `test_random_cases_differ` tells what they cover together."""


def stored(graph):
    """Return the names of what a traced program stores: what has memory of its own."""
    sources = {name for node in graph.of(Rows) for name in node.sources
               if len(node.index) == sum(graph.tensors[name].rows for name in node.sources)}
    return [node.name for node in graph.nodes if node.inputs and node.name not in sources
            and (not isinstance(node, Rows) or sources & {*node.sources})]


def check(result, model, codes):
    """Every tensor was stored, compared and equal, and once more as seen from here."""
    assert result.differing == {}
    assert result.mismatches == 0
    names = stored(model)
    # The traced run stores every tensor, the other one the logits.
    assert result.tensors_compared == result.images * (len(names) + 1)
    expected = forward(model, codes)
    for image, tensors in enumerate(result.tensors):
        assert list(tensors) == names
        for name, got in tensors.items():
            assert np.array_equal(got, expected[name][image]), name
    assert np.array_equal(result.logits, expected["logits"][:, 0])


# Few cycles of a large accelerator, and many of a smaller one.
@pytest.mark.parametrize(("preset", "optimize"), [("digits", "-O0"), ("small", "-Os")])
def test_digits_model(preset, optimize):
    config = PRESETS[preset]
    model = open_network("digits", **config.model_settings)
    images, labels = load_data("digits", "test")
    codes = encode(model, images[:1])  # one after the other: all tests below
    result = simulate(model, config, codes, optimize=optimize)
    check(result, model, codes)
    assert result.logits.argmax() == labels[0]
    assert abs(result.cycles_predicted - result.cycles) <= 0.02 * result.cycles
    assert 0.2 < result.utilisation < 1


def odd_case():
    rng = np.random.default_rng(7)
    model = random_vit(rng, channels=22, heads=2, blocks=2, hidden=31, classes=9, tokens=13,
                       patch_dim=10, **ODD.model_settings)
    return model, random_codes(rng, model, 2)


@pytest.mark.parametrize("options", [{}, {"seed": 1}, {"seed": 2, "stall": 0.8},
                                     {"streams": "python"}, {"streams": "cocotbext"},
                                     {"streams": "cocotbext", "seed": 3}])
def test_sizes_that_divide_nothing(options):
    model, codes = odd_case()
    for size in (*model.tensors["blocks.0.gelu"].shape, model.tensors["embed"].channels,
                 model.by_name["blocks.0.scores"].head_dim, model.tensors["logits"].channels):
        assert size % ODD.rows
        assert size % ODD.cols
        assert size % ODD.token_depth
    check(simulate(model, ODD, codes, **options), model, codes)


RICH = dataclasses.replace(ODD, rows=6, cols=3, pooling="mean", gelu="table", weight_bits=6,
                           act_bits=6, bank_depth=1024)
"""For many small networks, one build: any pooling, layers of fewer bits."""


@pytest.mark.parametrize("part", range(5))
def test_random_graphs(part):
    """No, one or many constant rows, two heads, means, few bits: ten networks each."""
    for seed in range(10 * part, 10 * part + 10):
        graph, codes = random_graph(seed, RICH)
        result = simulate(graph, RICH, codes, untraced=False)
        assert (seed, result.differing) == (seed, {})
        assert result.tensors_compared > 10


@pytest.mark.parametrize("images", [2, 5])
def test_images_of_a_batch(images):
    """Two and one that is repeated; and groups of sequences behind each other."""
    rng = np.random.default_rng(8)
    model = random_vit(rng, channels=10, heads=2, blocks=2, hidden=13, classes=4, tokens=4,
                       patch_dim=3, **ODD.model_settings)
    codes = random_codes(rng, model, images + 1)
    result = simulate(model, ODD, codes, batch=images)
    check(result, model, codes)
    assert result.batch == images


def test_blocks_alone():
    model, codes = odd_case()
    part = encoder_blocks(model, 2)
    result = simulate(part, ODD, forward(model, codes, keep=["embed"]))
    assert result.mismatches == 0
    names = [node.name for node in part.nodes if node.name.startswith("blocks.")]
    assert [list(tensors) for tensors in result.tensors] == [names] * 2
    assert result.tensors_compared == 2 * (len(names) + 1)
    assert result.logits is None
    assert result.overhead > 0
    assert 0 < result.utilisation < 1


def test_a_mismatch_is_counted(monkeypatch):
    """The models compute another network than the one the accelerator runs."""
    model, codes = odd_case()
    other = dataclasses.replace(model, nodes=tuple(
        dataclasses.replace(node, bias=node.bias + 10**6) if node.name == "logits" else node
        for node in model.nodes))
    monkeypatch.setattr("systola.sim.runs.simulate.forward",
                        lambda model, codes: forward(other, codes))
    result = simulate(model, ODD, {name: values[:1] for name, values in codes.items()},
                      trace=False)
    assert result.mismatches == sum(result.differing.values()) > 0
    assert list(result.differing) == ["image 0 logits"]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_configuration(seed):
    model, config, codes = random_case(seed)
    check(simulate(model, config, codes, optimize="-O0"), model, codes)


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="no iverilog: apt install iverilog")
@pytest.mark.parametrize("seed", [8, 22])
def test_random_configuration_on_icarus(seed):
    """Unlike Verilator it knows unknown values, so that nothing may depend on what no reset set.

    The seeds have few cycles, of which it simulates some hundred a second, and rows of a word or
    more: lanes behind a shorter one are multiplied by 0, which leaves what is unknown unknown.
    """
    model, config, codes = random_case(seed)
    result = simulate(model, config, codes, trace=seed == 8, simulator="icarus")
    assert result.mismatches == 0
    assert np.array_equal(result.logits, forward(model, codes)["logits"][:, 0])


def test_random_cases_differ():
    configs = [random_case(seed)[1] for seed in SEEDS]
    assert len({config.hash for config in configs}) == len(SEEDS)
    for name, values in (
            ("lanes", {1, 2, 3}), ("vector_lanes", {1, 2, 3}), ("norm_lanes", {1, 2}),
            ("token_depth", {4, 8, 16}), ("banks", {1, 2, 3, 4}), ("norm_roots", {1, 2, 4}),
            ("pe_style", {"dsp", "lut", "dsp_packed"}),
            ("masks", {False, True}), ("attention_bits", {8, 16}), ("gelu", {"published", "table"}),
            ("norm", {"published", "leading_one", "normalised", "compared"})):
        assert {getattr(config, name) for config in configs} == values, name
    attentions = {config.attention for config in configs}
    assert attentions > {"published", "normalised", "deferred"}
    assert len(attentions) > 4
    slots = {tuple(config.requant_cycles(long=long, residual=False) for long in (True, False))
             for config in configs}
    assert slots >= {(1, 1), (2, 1), (2, 2)}
    for name in "rows", "cols", "weight_bits", "act_bits":
        assert len({getattr(config, name) for config in configs}) >= 5, name
