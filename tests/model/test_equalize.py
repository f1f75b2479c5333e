import dataclasses
import re

import numpy as np
import pytest

from systola.model.data.synthetic import random_float_vit
from systola.model.graph.float_forward import float_forward
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Activation, GraphError, Linear, Norm, Rows
from systola.model.quantization.calibrate import calibrate
from systola.model.quantization.equalize import (
    ChannelSamples,
    equalize,
    fold_norms,
    sampled_tensors,
)
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes

SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 12}


def equalized(seed=0, bits=4, tables=True, meta=None, **sizes):
    """Return a float network, its inputs, and both after `equalize`."""
    rng = np.random.default_rng(seed)
    graph = random_float_vit(rng, **{**SIZES, **sizes})
    graph = dataclasses.replace(graph, meta=meta or {})
    rows = graph.by_name["patches"].rows
    inputs = {"patches": rng.standard_normal((32, rows, 12), dtype=np.float32)}
    samples = ChannelSamples(sampled_tensors(graph), 1)
    calibrate(graph, inputs, watch=samples)
    codes = dict.fromkeys(graph.tensors, bits)
    weights = {node.name: bits for node in graph.of(Linear)}
    return graph, inputs, *equalize(graph, inputs, samples, codes, weights, tables=tables)


@pytest.mark.parametrize("sizes", [
    {}, {"pooling": "mean", "prefixes": 0}, {"distilled": True, "prefixes": 2}, {"prefixes": 5},
    {"blocks": 0}, {"tables": False}, {"bits": 8}])
@pytest.mark.parametrize("seed", range(3))
def test_the_network_computes_the_same(seed, sizes):
    graph, inputs, made, moved = equalized(seed, **sizes)
    before, after = float_forward(graph, inputs), float_forward(made, moved)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=2e-4 * np.abs(value).max())
    if sizes.get("blocks") != 0:
        assert any((a.weight != b.weight).any()
                   for a, b in zip(graph.of(Linear), made.of(Linear), strict=True))


@pytest.mark.parametrize("sizes", [
    {}, {"pooling": "mean", "prefixes": 0}, {"distilled": True, "prefixes": 2}])
@pytest.mark.parametrize("seed", range(3))
def test_folded_norms_compute_the_same(seed, sizes):
    graph = random_float_vit(np.random.default_rng(seed), **{**SIZES, **sizes})
    made = fold_norms(graph)
    rows = graph.by_name["patches"].rows
    inputs = {"patches": np.random.default_rng(9).standard_normal((3, rows, 12), np.float32)}
    before, after = float_forward(graph, inputs), float_forward(made, inputs)
    for name, value in before.items():
        if not isinstance(graph.by_name[name], Norm):
            np.testing.assert_allclose(after[name], value, atol=2e-4 * np.abs(value).max())
    for norm in made.of(Norm):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_norms_that_others_read_are_refused_by_name():
    """By a linear layer as its residual, and by rows of several tensors; rows of one may."""
    graph = random_float_vit(np.random.default_rng(1), **SIZES)
    norm, out = graph.by_name["blocks.0.norm2"], graph.by_name["blocks.0.out"]
    both = Rows(name="both", sources=("blocks.1.norm2", "blocks.1.out"),
                index=np.array([[0, 0], [1, 0]]))
    one = Rows(name="one", sources=("blocks.1.norm2",), index=np.array([[0, 0]]))
    for changed, more, blocker in (
            (dataclasses.replace(out, residual=norm.name), (), "'blocks.0.out' (linear)"),
            (out, (both,), "'both' (rows)"), (out, (one,), "who takes results of the network")):
        other = dataclasses.replace(graph, nodes=(*(changed if node is out else node
                                                    for node in graph.nodes), *more),
                                    outputs=("logits", *(node.name for node in more)))
        with pytest.raises(GraphError, match=rf"^node 'blocks\..\.norm2': with norm 'compared', .* "
                                             rf"must be linear nodes, not {re.escape(blocker)}$"):
            fold_norms(other)


def test_images_use_the_whole_range_of_their_codes():
    meta = {"mean": [0.2, 0.3, 0.4], "std": [0.1, 0.2, 0.3], "patch_size": 2}
    graph, _, made, _ = equalized(meta=meta)
    pixels = np.random.default_rng(1).random((3, 9, 3, 4)).astype(np.float32)
    shape = np.reshape(meta["mean"], (3, 1)), np.reshape(meta["std"], (3, 1))
    before = float_forward(graph, {"patches": ((pixels - shape[0]) / shape[1]).reshape(3, 9, 12)})
    after = float_forward(made, {"patches": ((pixels - 0.5) / 0.5).reshape(3, 9, 12)})
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, atol=2e-4 * np.abs(value).max())
    assert made.meta["mean"] == meta["mean"]
    assert made.meta["code_mean"] == made.meta["code_std"] == [0.5] * 3


def test_channels_get_alike_and_constants_go():
    graph, _, made, moved = equalized(bits=4)
    values = {}
    float_forward(made, moved, lambda name, x: values.update({name: x}))
    for node in graph.of(Activation):
        low, high = values[node.name].min(), values[node.name].max()
        assert abs(low + high) < 0.4 * (high - low)
    keys = slice(24, 48)
    key = values["blocks.0.qkv"][..., keys].reshape(-1, 24)
    np.testing.assert_allclose(key.max(axis=0), -key.min(axis=0), atol=1e-3)
    reach = np.abs(values["blocks.0.qkv"]).reshape(-1, 72).max(axis=0)
    assert reach.max() == pytest.approx(1, abs=1e-3)
    query = reach[:24]
    np.testing.assert_allclose(query, reach[keys], rtol=1e-2)


def test_an_outlier_channel_costs_the_others_nothing():
    """A gamma of 200 in front of weights that are as much smaller: the same network."""
    rng = np.random.default_rng(5)
    graph = random_float_vit(rng, **SIZES)
    inputs = {"patches": rng.standard_normal((64, 9, 12), dtype=np.float32)}
    for norm, reader in ("blocks.0.norm1", "blocks.0.qkv"), ("blocks.1.norm2", "blocks.1.fc1"):
        graph.by_name[norm].weight[3] = 200
        graph.by_name[reader].weight[:, 3] /= 200
    real = float_forward(graph, inputs)["logits"]
    errors = {}
    for method in "mse", "equalize", "gptq":
        network = quantize(graph, inputs, method=method, gelu="table")
        codes = to_codes(inputs["patches"], network.scales["patches"], 8)
        got = forward(network, {"patches": codes}, keep=["logits"])["logits"]
        got = got * network.scales["logits"]
        errors[method] = np.sqrt(np.square(got - real).mean() / np.square(real).mean())
    assert errors["equalize"] < 0.5 * errors["mse"]
    assert errors["gptq"] < 0.04
