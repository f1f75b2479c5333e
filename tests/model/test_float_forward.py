import math
import re

import numpy as np
import pytest

from systola.model.data.synthetic import random_float_vit, random_vit
from systola.model.graph.float_forward import float_forward, gelu, softmax

FORMS = {
    "class token": {}, "distilled": {"prefixes": 2, "distilled": True},
    "registers": {"prefixes": 3}, "mean": {"prefixes": 0, "pooling": "mean"},
    "mean beside tokens": {"prefixes": 2, "pooling": "mean"},
}


def make(seed=0, **sizes):
    sizes = {"channels": 12, "heads": 3, "blocks": 2, "hidden": 10, "classes": 5, "tokens": 6,
             "patch_dim": 4, **sizes}
    rng = np.random.default_rng(seed)
    graph = random_float_vit(rng, **sizes)
    (patches,) = graph.inputs
    return graph, rng.standard_normal((3, patches.rows, patches.channels))


def reference(graph, patches, heads, pooling="token", distilled=False):
    """Return the logits of one image, token by token in float64."""
    def array(name, attribute):
        return getattr(graph.by_name[name], attribute).astype(np.float64)

    def linear(x, name):
        return array(name, "weight") @ x + array(name, "bias")

    def norm(x, name):
        return ((x - x.mean()) / math.sqrt(x.var() + 1e-6) * array(name, "weight")
                + array(name, "bias"))

    prefix = list(array("prefix", "values")) if "prefix" in graph.by_name else []
    tokens = prefix + [linear(x, "patch_embed") + e for x, e in zip(
        patches, array("position", "values"), strict=True)]
    channels = len(tokens[0])
    dim = channels // heads
    for i in range(sum(node.kind == "scores" for node in graph.nodes)):
        qkv = [linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.qkv") for x in tokens]
        for t, own in enumerate(qkv):
            context = []
            for h in range(heads):
                q = own[h * dim:][:dim]
                keys = [row[channels + h * dim:][:dim] for row in qkv]
                values = [row[2 * channels + h * dim:][:dim] for row in qkv]
                e = [math.exp(q @ k / math.sqrt(dim)) for k in keys]
                context += list(sum(a / sum(e) * v for a, v in zip(e, values, strict=True)))
            tokens[t] = tokens[t] + linear(np.array(context), f"blocks.{i}.attn_out")
        for t, x in enumerate(tokens):
            hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.fc1")
            hidden = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in hidden])
            tokens[t] = x + linear(hidden, f"blocks.{i}.out")
    if pooling == "mean":
        pooled = sum(tokens[len(prefix):]) / (len(tokens) - len(prefix))
    else:
        pooled = tokens[0]
    logits = linear(norm(pooled, "norm"), "logits")
    # Of two heads, each has half of the weights: their mean is the sum.
    return logits + linear(norm(tokens[1], "norm"), "logits_dist") if distilled else logits


@pytest.mark.parametrize("sizes", [{}, {"heads": 1, "tokens": 2}, {"channels": 20, "heads": 5,
                                                                  "hidden": 33, "blocks": 1}])
def test_matches_a_token_by_token_reference(sizes):
    graph, patches = make(**sizes)
    expected = np.array([reference(graph, image, sizes.get("heads", 3)) for image in patches])
    got = float_forward(graph, {"patches": patches})
    assert list(got) == ["logits"]
    assert got["logits"].dtype == np.float32
    np.testing.assert_allclose(got["logits"][:, 0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_matches_the_reference(form):
    graph, patches = make(**FORMS[form])
    options = {name: FORMS[form][name] for name in ("pooling", "distilled") if name in FORMS[form]}
    expected = np.array([reference(graph, image, 3, **options) for image in patches])
    got = float_forward(graph, {"patches": patches})["logits"][:, 0]
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_images_in_one_network_are_images_apart(form):
    graph, patches = make(**FORMS[form])
    apart = float_forward(graph, {"patches": patches})["logits"]
    together = float_forward(graph.repeated(3), {"patches": patches.reshape(1, -1, 4)})["logits"]
    np.testing.assert_allclose(together[0], apart[:, 0], atol=1e-5, rtol=1e-5)


def test_gelu_is_exact_to_float32():
    x = np.linspace(-20, 20, 40001)
    expected = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    np.testing.assert_allclose(gelu(x), expected, atol=1e-6)


def test_softmax_survives_large_inputs():
    x = np.array([[1000.0, 1000.0, -1000.0], [0, math.log(3), -1e4]])
    np.testing.assert_allclose(softmax(x), [[0.5, 0.5, 0], [0.25, 0.75, 0]], atol=1e-12)


def test_hook_sees_every_stored_tensor_once():
    graph, patches = make()
    seen = {}
    float_forward(graph, {"patches": patches},
                  lambda name, x: seen.setdefault(name, []).append(x.shape))
    parts = ["norm1", "qkv", "scores", "attention", "context", "attn_out", "norm2", "fc1", "gelu",
             "out"]
    assert list(seen) == ["patches", "patch_embed", "embed",
                          *(f"blocks.{i}.{part}" for i in range(2) for part in parts),
                          "pooled", "norm", "logits"]
    assert all(shapes == [(3, *graph.tensors[name].shape)] for name, shapes in seen.items())
    assert seen["blocks.0.attention"] == [(3, 3, 6, 6)]
    assert seen["norm"] == [(3, 1, 12)]


def test_hook_may_keep_what_it_sees():
    """Nothing that was made is written again: calibration reads it, tests compare it."""
    graph, patches = make()
    kept, copies = {}, {}

    def hook(name, x):
        kept[name], copies[name] = x, x.copy()

    float_forward(graph, {"patches": patches}, hook)
    assert all(np.array_equal(kept[name], copies[name]) for name in kept)


def test_wrong_patches_are_refused():
    graph, patches = make()
    with pytest.raises(ValueError, match=r"^input 'patches' must be of shape \(B, 5, 4\), "
                                         r"not \(3, 5, 3\)$"):
        float_forward(graph, {"patches": patches[..., :3]})
    with pytest.raises(ValueError, match=r"^input 'patches' must be of shape .*, not \(5, 4\)$"):
        float_forward(graph, {"patches": patches[0]})
    for inputs, shown in ({}, "none"), ({"input": patches}, "input"), (
            {"patches": patches, "x": patches}, "patches, x"):
        with pytest.raises(ValueError, match=f"^inputs must be patches, not {re.escape(shown)}$"):
            float_forward(graph, inputs)


def test_integer_networks_are_refused():
    graph = random_vit(np.random.default_rng(0), channels=4, heads=2, blocks=0, hidden=1, classes=2,
                       tokens=2, patch_dim=1)
    with pytest.raises(ValueError, match=r"^the network must be a float one$"):
        float_forward(graph, {"patches": np.zeros((1, 1, 1))})
