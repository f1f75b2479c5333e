import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PUBLISHED
from systola.model.data.synthetic import random_codes, random_float_vit, random_vit
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.graph import Graph
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import CODES, Input, Rows
from systola.model.operators.deferred import deferred_softmax, exp_table, row_factors
from systola.model.operators.layernorm import layernorm
from systola.model.operators.norm_codes import norm_codes
from systola.model.operators.normalised import normalised_softmax
from systola.model.operators.requant import requantize
from systola.model.operators.shiftgelu import shiftgelu
from systola.model.operators.shiftmax import shiftmax
from tests.settings import ACCURATE

SIZES = {"channels": 12, "heads": 3, "blocks": 2, "hidden": 21, "classes": 5, "tokens": 7,
         "patch_dim": 3}
VARIANTS = [{}, ACCURATE, {"attention_bits": 8}, {"gelu": "table"}, {"norm": "leading_one"},
            {"norm": "normalised"}, {"norm": "compared", "act_bits": 4},
            {"norm": "compared", "act_bits": 2, "attention": "normalised", "gelu": "table"},
            {"act_bits": 5, "weight_bits": 3, "mult_bits": 12}, {"heads": 1, "tokens": 2},
            {"attention": "deferred"}, {"attention": "deferred", "weight_bits": 4, "mult_bits": 9},
            {"attention": "normalised"}, {"attention": "normalised", "act_bits": 5, "mult_bits": 9},
            {"code_mult_bits": 16, "gelu": "table"}]
PARTS = ("norm1", "qkv", "scores", "attention", "context", "attn_out", "norm2", "fc1", "gelu",
         "out")


def make(variant, images=3, seed=0):
    rng = np.random.default_rng(seed)
    graph = random_vit(rng, **{**SIZES, **PUBLISHED, **variant})
    return graph, random_codes(rng, graph, images)


def scaled(z, node, bits, **extra):
    return requantize(z, node.mult, node.shift, bits, **extra)


def dense(layer, x, residual=None):
    acc = np.einsum("tk,nk->tn", x, layer.weight.astype(np.int64)) + layer.bias
    extra = {} if residual is None else {
        "residual": residual, "res_mult": layer.res_mult, "res_shift": layer.res_shift}
    y = scaled(acc, layer, layer.bits, **extra)
    return np.maximum(y, 1 - 2 ** (layer.bits - 1)) if layer.symmetric else y


def reference(graph, codes, variant):
    """Run one image, head by head, with plain int64 products, by the settings of the variant."""
    settings = {"act_bits": 8, "attention_bits": 16, "mult_bits": 24, **PUBLISHED, **SIZES,
                **variant}
    n, channels, act_bits = graph.by_name, settings["channels"], settings["act_bits"]
    head_dim = channels // settings["heads"]

    def normed(name, x):
        if settings["norm"] == "compared":
            return norm_codes(x, n[name].share, act_bits, n[name].epsilon)
        o = layernorm(x, settings["norm"], n[name].epsilon or 0)
        return scaled(o + n[name].bias, n[name], act_bits)

    tensors = {"patch_embed": dense(n["patch_embed"], codes,
                                    n["position"].values.astype(np.int64))}
    x = tensors["embed"] = np.concatenate([n["prefix"].values.astype(np.int64),
                                           tensors["patch_embed"]])
    for i in range(settings["blocks"]):
        node = {name: n[f"blocks.{i}.{name}"] for name in PARTS}
        part = {"norm1": normed(f"blocks.{i}.norm1", x)}
        part["qkv"] = dense(node["qkv"], part["norm1"])
        heads = []
        for h in range(settings["heads"]):
            q, k, v = (part["qkv"][:, g * channels + h * head_dim:][:, :head_dim]
                       for g in range(3))
            scores = scaled(q @ k.T, node["scores"], 8)
            unit = node["attention"].unit
            if settings["attention"] != "published":
                attention, sums, bits = (
                    *deferred_softmax(scores, exp_table(-unit)), settings["mult_bits"]
                ) if settings["attention"] == "deferred" else (
                    *normalised_softmax(scores, exp_table(-unit, 16)), min(
                        settings["mult_bits"], 17))
                factors = row_factors(sums, int(node["context"].mult), bits)
                context = requantize(attention @ v, factors[:, None], node["context"].shift,
                                     act_bits)
            else:
                attention = shiftmax(scores, -unit, 15, settings["attention_bits"])
                context = scaled(attention @ v, node["context"], act_bits)
            heads.append((scores, attention, context))
        part["scores"], part["attention"], context = map(np.stack, zip(*heads, strict=True))
        part["context"] = np.concatenate(context, axis=1)
        part["attn_out"] = dense(node["attn_out"], part["context"], x)
        part["norm2"] = normed(f"blocks.{i}.norm2", part["attn_out"])
        part["fc1"] = dense(node["fc1"], part["norm2"])
        if settings["gelu"] == "table":
            part["gelu"] = np.array([[node["gelu"].table[c + 128] for c in row]
                                     for row in part["fc1"]])
        else:
            part["gelu"] = scaled(shiftgelu(part["fc1"], -node["gelu"].unit), node["gelu"],
                                  act_bits)
        x = part["out"] = dense(node["out"], part["gelu"], part["attn_out"])
        tensors |= {f"blocks.{i}.{name}": value for name, value in part.items()}
    tensors["pooled"] = x[:1]
    tensors["norm"] = normed("norm", x[:1])
    tensors["logits"] = dense(n["logits"], tensors["norm"])
    return tensors


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_equals_a_plain_evaluation(variant):
    graph, codes = make(variant)
    got = forward(graph, codes)
    for i, image in enumerate(codes["patches"]):
        want = reference(graph, image, variant)
        assert list(want) == [node.name for node in graph.nodes if node.inputs] == list(got)
        for name, value in want.items():
            assert got[name][i].shape == value.shape, name
            assert (got[name][i] == value).all(), name
    assert len(np.unique(got["logits"])) > 3


def test_names_and_shapes():
    graph, codes = make({})
    tensors, single = forward(graph, codes), forward(graph, {"patches": codes["patches"][1]})
    heads, tokens, channels, hidden = 3, 7, 12, 21
    shapes = {"norm1": (tokens, channels), "qkv": (tokens, 3 * channels),
              "scores": (heads, tokens, tokens), "attention": (heads, tokens, tokens),
              "context": (tokens, channels), "attn_out": (tokens, channels),
              "norm2": (tokens, channels), "fc1": (tokens, hidden), "gelu": (tokens, hidden),
              "out": (tokens, channels)}
    shapes = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in shapes.items()}
    shapes |= {"patch_embed": (tokens - 1, channels), "embed": (tokens, channels),
               "pooled": (1, channels), "norm": (1, channels), "logits": (1, 5)}
    assert {name: value.shape for name, value in single.items()} == shapes
    assert {name: value.shape[1:] for name, value in tensors.items()} == shapes
    assert {name: graph.tensors[name].shape for name in shapes} == shapes
    for name, value in tensors.items():
        assert value.dtype == np.int64
        assert (value[1] == single[name]).all()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_tensor_keeps_its_width(variant):
    graph, codes = make(variant, images=8)
    act_bits = variant.get("act_bits", 8)
    patches = codes["patches"]
    patches[0], patches[1] = -2 ** (act_bits - 1), 2 ** (act_bits - 1) - 1
    bits = {"patch_embed": 16, "embed": 16, "attn_out": 16, "out": 16, "pooled": 16, "logits": 16,
            "scores": 8, "fc1": 8}
    deferred, peaks = variant.get("attention") == "deferred", "attention" in variant
    bits |= {"attention": 8 if deferred else variant.get("attention_bits", 16),
             "qkv": min(act_bits, variant.get("weight_bits", 8))}
    for name, value in forward(graph, codes).items():
        part = name.rsplit(".")[-1]
        width = bits.get(part, act_bits)
        assert graph.tensors[name].bits == width
        if part == "attention":
            assert value.min() >= 0
            assert value.max() <= 2 ** (width - 1) - (not peaks)
        elif part == "qkv":
            assert np.abs(value).max() < 2 ** (width - 1)
        else:
            limit = 2 ** (width - 1)
            assert -limit <= value.min() <= value.max() < limit, name


def test_batches_longer_than_a_chunk():
    graph, codes = make({"blocks": 1}, images=65)
    whole = forward(graph, codes, keep=["logits", "blocks.0.fc1"])
    assert list(whole) == ["blocks.0.fc1", "logits"]
    assert whole["logits"].shape == (65, 1, 5)
    for i in (0, 31, 32, 64):
        assert (whole["logits"][i] == forward(graph, {"patches": codes["patches"][i]})[
            "logits"]).all()
    assert forward(graph, {"patches": codes["patches"][:0]})["logits"].shape == (0, 1, 5)


def test_inputs_are_not_written():
    graph, codes = make({})
    before = codes["patches"].copy()
    parameters = [getattr(node, name).copy() for node in graph.nodes for name in CODES
                  if getattr(node, name, None) is not None]
    forward(graph, codes)
    assert (codes["patches"] == before).all()
    after = [getattr(node, name) for node in graph.nodes for name in CODES
             if getattr(node, name, None) is not None]
    assert all(np.array_equal(*pair) for pair in zip(parameters, after, strict=True))


def test_unsymmetric_layers_reach_the_lowest_code():
    graph, codes = make({"blocks": 1}, images=8)
    for symmetric, lowest in (False, -128), (True, -127):
        changed = dataclasses.replace(graph, nodes=tuple(
            dataclasses.replace(node, bias=node.bias * 50, symmetric=symmetric)
            if node.name == "blocks.0.qkv" else node for node in graph.nodes))
        assert forward(changed, codes)["blocks.0.qkv"].min() == lowest


@pytest.mark.parametrize("variant", [{}, {"attention": "deferred"},
                                     {"attention": "normalised"}], ids=str)
def test_blocks_alone(variant):
    graph, codes = make(variant, images=2)
    whole, blocks = forward(graph, codes), encoder_blocks(graph, 2)
    got = forward(blocks, {"embed": whole["embed"]})
    assert list(got) == [f"blocks.{i}.{part}" for i in range(2) for part in PARTS]
    assert all((value == whole[name]).all() for name, value in got.items())
    single = forward(blocks, {"embed": whole["embed"][1]}, keep=["blocks.1.out"])
    assert list(single) == ["blocks.1.out"]
    assert (single["blocks.1.out"] == whole["blocks.1.out"][1]).all()


def test_errors_of_blocks_alone():
    blocks = encoder_blocks(make({})[0], 2)
    x = np.zeros((7, 12), np.int64)
    with pytest.raises(ValueError, match=r"^input 'embed' must be of shape \(7, 12\) or "
                                         r"\(B, 7, 12\), not \(6, 12\)$"):
        forward(blocks, {"embed": x[1:]})
    for bad in x + 32768, x.astype(float):
        with pytest.raises(ValueError, match=r"^input 'embed' must hold integers from -32768 to "
                                             r"32767$"):
            forward(blocks, {"embed": bad})
    with pytest.raises(ValueError, match=r"^keep must name tensors of the network, "
                                         r"not \['logits'\]$"):
        forward(blocks, {"embed": x}, keep=["logits"])


def test_errors():
    graph, codes = make({})
    patches = codes["patches"]
    with pytest.raises(ValueError, match=r"^input 'patches' must be of shape \(6, 3\) or "
                                         r"\(B, 6, 3\), not \(3, 6, 2\)$"):
        forward(graph, {"patches": patches[..., :2]})
    for bad in patches + 1000, patches.astype(float):
        with pytest.raises(ValueError, match=r"^input 'patches' must hold integers from -128 to "
                                             r"127$"):
            forward(graph, {"patches": bad})
    with pytest.raises(ValueError, match=r"^keep must name tensors of the network, "
                                         r"not \['patches', 'x'\]$"):
        forward(graph, codes, keep=["x", "logits", "patches"])
    for inputs, shown in ({}, "none"), ({"codes": patches}, "codes"), (
            {**codes, "x": patches}, "patches, x"):
        with pytest.raises(ValueError, match=f"^inputs must be patches, not {shown}$"):
            forward(graph, inputs)


def test_inputs_of_several_nodes_have_as_many_images():
    node = {"rows": 2, "channels": 3, "bits": 8}
    graph = Graph(nodes=(
        Input(name="a", **node), Input(name="b", **node),
        Rows(name="both", sources=("a", "b"), index=np.array([[1, 1], [0, 0]]))), outputs=("both",))
    a, b = np.arange(12).reshape(2, 2, 3), np.full((2, 2, 3), 7)
    got = forward(graph, {"b": b, "a": a})["both"]
    np.testing.assert_array_equal(got, np.stack([b[:, 1], a[:, 0]], axis=1))
    np.testing.assert_array_equal(forward(graph, {"a": a[0], "b": b[0]})["both"], got[0])
    for one, other, shown in (a, b[:1], "1 and 2"), (a, b[0], "2 and one without an axis"):
        with pytest.raises(ValueError, match=f"^inputs must all have the same number of images, "
                                             f"not {shown}$"):
            forward(graph, {"a": one, "b": other})


def test_float_networks_are_refused():
    graph = random_float_vit(np.random.default_rng(0), **SIZES)
    with pytest.raises(ValueError, match=r"^the network must be an integer one; quantize it "
                                         r"first$"):
        forward(graph, {"patches": np.zeros((6, 3), int)})
