"""Integers to real numbers and back: equal for all operators, bits, codebooks and allocations."""

import dataclasses

import numpy as np
import pytest

from systola.files.tensors import ModelError
from systola.hw.contract.numbers import LEVELS
from systola.model.allocation.node_precisions import Precision, take_turns
from systola.model.data.synthetic import random_codes, random_float_vit
from systola.model.graph.integer_forward import forward
from systola.model.graph.masks import masked
from systola.model.graph.nodes import Linear, Softmax
from systola.model.quantization.quantize import quantize
from systola.model.training.real_network import RealNetwork

SIZES = {"channels": 24, "heads": 3, "blocks": 1, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 7}

VARIANTS = [
    *({"attention": name} for name in ("published", "normalised", "deferred", *LEVELS)),
    {"attention": "published", "attention_bits": 8},
    *({"operators": {"attention": name}} for name in (
        "ibert", "log_int", "ita", "shiftmax_half_16", "shiftmax_sqrt2_17")),
    {"gelu": "published"}, {"operators": {"gelu": "ibert"}},
    *({"norm": name} for name in ("published", "leading_one")),
    *({"operators": {"norm": name}} for name in ("ibert", "l1")),
    *({"norm": "compared", "weight_bits": bits, "act_bits": bits} for bits in (2, 4)),
    *({"weight_bits": bits, "act_bits": bits} for bits in range(2, 9)),
    *({"codebook": name} for name in ("nupes", "squares", "kmeans", "powers")),
    *({"masked": True, "attention": name} for name in ("published", "normalised")),
    {"mult_bits": 8}, {"mult_bits": 31, "code_mult_bits": 31},
    {"allocated": (Precision(8, 8), Precision(4, 4), Precision(2, 3))},
]
"""Settings of quantization that between them have every operator, bit width and kind of weight."""


def with_mask(graph):
    """Return a network whose first row attends to half of the rows, and every other to one more."""
    rows = graph.tensors[graph.of(Softmax)[0].name].rows
    return masked(graph, np.minimum(np.arange(rows) + rows // 2, rows))


def made(seed=0, **settings):
    """Return a random float network, patches for it, and its integer network."""
    rng = np.random.default_rng(seed)
    floats = random_float_vit(rng, **SIZES)
    patches = {"patches": rng.standard_normal((32, 9, 7), dtype=np.float32)}
    if settings.pop("masked", False):
        floats = with_mask(floats)
    if "allocated" in settings:
        settings["choices"] = take_turns(floats, settings.pop("allocated"))
    return floats, patches, quantize(floats, patches, **{"method": "minmax", **settings})


def differences(one, other):
    """Return what two networks differ in, as (node, attribute)."""
    found = [] if one.scales == other.scales else ["scales"]
    for first, second in zip(one.nodes, other.nodes, strict=True):
        for field in dataclasses.fields(first):
            values = getattr(first, field.name), getattr(second, field.name)
            if not (np.array_equal(*values) if isinstance(values[0], np.ndarray)
                    else values[0] == values[1]):
                found.append((first.name, field.name))
    return found


def ident(settings):
    return "-".join(str(value) for value in settings.values())


@pytest.mark.parametrize("settings", VARIANTS, ids=ident)
def test_unchanged_numbers_give_the_same_integers(settings):
    for seed, method in enumerate(("minmax", "gptq")):
        _, _, network = made(seed, **{**settings, "method": method})
        real = RealNetwork(network)
        assert differences(real.integer(real.parameters, {}, {}), network) == []


def test_real_numbers_are_those_of_the_float_network():
    """Weights within half a step, biases and norms nearly: what was quantized is what is read."""
    floats, _, network = made()
    real = RealNetwork(network)
    for node in floats.of(Linear):
        step = real.steps[node.name][:, None]
        assert (np.abs(real.parameters[node.name, "weight"] - node.weight) <= 0.501 * step).all()
    alive = floats.by_name["norm"].weight != 0
    np.testing.assert_allclose(real.parameters["norm", "weight"], floats.by_name["norm"].weight,
                               rtol=1e-5)
    np.testing.assert_allclose(real.parameters["norm", "bias"][alive],
                               floats.by_name["norm"].bias[alive], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"attention": "published", "gelu": "published"},
                                      {"norm": "leading_one", "attention": "deferred"}],
                         ids=ident)
def test_moved_scales_change_codes_but_hardly_the_result(settings):
    """With scales a quarter larger all stand for the same numbers: no multiplier forgets."""
    _, _, network = made(**settings)
    real = RealNetwork(network)
    rng = np.random.default_rng(1)
    moved = {name: float(rng.uniform(0.2, 0.3)) for name in set(real.leaders.values())}
    steps = {name: rng.uniform(0.2, 0.3, len(step)) for name, step in real.steps.items()}
    changed = real.integer(real.parameters, moved, steps)
    assert changed.scales != network.scales
    codes = random_codes(rng, network, 8)
    got, old = (forward(graph, codes) for graph in (changed, network))
    for name in got:
        if isinstance(network.by_name[name], Softmax) or network.tensors[name].bits < 16:
            continue
        value, before = (result[name] * graph.scales[name]
                         for result, graph in ((got, changed), (old, network)))
        error = np.sqrt(np.mean((value - before) ** 2) / np.mean(before ** 2))
        assert error < 0.12, name


def test_units_of_exponentials_and_images_keep_their_scales():
    _, _, network = made(gelu="published", attention="published")
    leaders = RealNetwork(network).leaders
    assert not {"patches", "blocks.0.scores", "blocks.0.attention", "blocks.0.fc1"} & set(leaders)
    assert {"blocks.0.qkv", "blocks.0.gelu", "norm", "logits"} <= set(leaders)


def test_what_cannot_be_trained_is_refused():
    floats, _, network = made()
    with pytest.raises(ModelError, match="network must be an integer one of one image"):
        RealNetwork(floats)
    scales = {name: value for name, value in network.scales.items() if name != "norm"}
    with pytest.raises(ModelError, match=r"scale of every tensor .* that of 'norm'"):
        RealNetwork(dataclasses.replace(network, scales=scales))
    real = RealNetwork(network)
    wrong = {**real.parameters, ("norm", "weight"): np.full(24, np.nan)}
    with pytest.raises(ModelError, match="node 'norm': parameters must be finite"):
        real.integer(wrong, {}, {})
