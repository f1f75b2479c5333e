"""The network as data: what is refused, and that its readers agree on what it means."""

import dataclasses

import numpy as np
import pytest

from systola.files.tensors import ModelError
from systola.hw.contract.config import PUBLISHED
from systola.model.data.synthetic import random_codes, random_float_vit, random_vit
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.float_forward import float_forward
from systola.model.graph.graph import Graph
from systola.model.graph.graph_file import load_network, save_network
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import (
    Add,
    Constant,
    GraphError,
    Input,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)
from systola.model.importers.vision_transformer import vision_transformer
from tests.settings import ACCURATE

SIZES = {"channels": 12, "heads": 2, "blocks": 2, "hidden": 18, "classes": 5, "tokens": 9,
         "patch_dim": 5}
FORMS = {
    "class token": {}, "distilled": {"prefixes": 2, "distilled": True},
    "registers": {"prefixes": 5}, "mean": {"prefixes": 0, "pooling": "mean"},
    "mean beside tokens": {"prefixes": 2, "pooling": "mean"},
}
OPTIONS = {"published": {}, "deferred": {"attention": "deferred"},
           "normalised": ACCURATE,
           "few bits": {"weight_bits": 4, "act_bits": 5, "gelu": "table"}}


def network(form="class token", seed=0, **settings):
    return random_vit(np.random.default_rng(seed),
                      **{**SIZES, **FORMS[form], **PUBLISHED, **settings})


def changed(graph, target, /, **values):
    return dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, **values) if node.name == target else node
        for node in graph.nodes))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_images_in_one_network_are_images_apart(form, options):
    graph = network(form, **OPTIONS[options])
    codes = random_codes(np.random.default_rng(1), graph, 3)
    apart = forward(graph, codes)
    whole = graph.repeated(3)
    together = forward(whole, {name: value.reshape(-1, value.shape[-1])
                               for name, value in codes.items()})
    assert list(together) == list(apart)
    for name, value in together.items():
        assert value.shape == whole.tensors[name].shape
        one = apart[name] if apart[name].ndim == 3 else np.swapaxes(apart[name], 0, 1)
        heads = whole.tensors[name].heads
        expected = one.reshape(*([heads] if heads else []), -1, one.shape[-1])
        assert np.array_equal(value, expected), name


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_files_hold_all_of_it(form, options, tmp_path):
    graph = network(form, **OPTIONS[options])
    save_network(graph, tmp_path / "n.safetensors")
    loaded = load_network(tmp_path / "n.safetensors")
    codes = random_codes(np.random.default_rng(2), graph, 2)
    one, other = forward(graph, codes), forward(loaded, codes)
    assert list(one) == list(other)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert (loaded.scales, loaded.meta, loaded.outputs) == (graph.scales, graph.meta, graph.outputs)


@pytest.mark.parametrize("form", FORMS)
def test_integers_follow_the_floats(form):
    rng = np.random.default_rng(5)
    graph = random_float_vit(rng, **SIZES, **FORMS[form])
    node = graph.inputs[0]
    patches = rng.standard_normal((64, node.rows, node.channels), dtype=np.float32)
    from systola.model.quantization.quantize import quantize
    from systola.model.quantization.uniform import quantize as to_codes

    integer = quantize(graph, {"patches": patches})
    assert [(node.name, node.inputs) for node in integer.nodes] == [
        (node.name, node.inputs) for node in graph.nodes]
    wanted = float_forward(graph, {"patches": patches})["logits"]
    codes = to_codes(patches, integer.scales["patches"], 8)
    got = forward(integer, {"patches": codes}, keep=["logits"])["logits"]
    error = got * integer.scales["logits"] - wanted
    assert np.sqrt(np.mean(error**2)) < 0.1 * np.sqrt(np.mean(wanted**2))


def test_sequences_keep_rows_apart():
    graph = network()
    scores = graph.by_name["blocks.0.scores"]
    apart = dataclasses.replace(scores, sequences=((0, 4), (4, 5)))
    split = dataclasses.replace(graph, nodes=tuple(
        apart if node is scores else node for node in graph.nodes))
    codes = random_codes(np.random.default_rng(3), graph)
    one, other = forward(graph, codes), forward(split, codes)
    assert split.tensors["blocks.0.scores"].shape == (2, 9, 5)
    assert np.array_equal(other["blocks.0.scores"][0, :, :4, :4],
                          one["blocks.0.scores"][0, :, :4, :4])
    assert np.array_equal(other["blocks.0.scores"][0, :, 4:], one["blocks.0.scores"][0, :, 4:, 4:])
    assert not other["blocks.0.attention"][0, :, :4, 4:].any()
    full = other["blocks.0.attention"].sum(axis=-1)
    assert (abs(full - 2**15) < 2**11).all()


COMPARED = {"variant": "compared", "bias": None, "mult": None, "shift": None, "bits": 4,
            "epsilon": 0, "share": 5}


@pytest.mark.parametrize(("name", "values", "message"), [
    ("blocks.0.fc1", {"name": "blocks.0.qkv"}, "node 'blocks.0.qkv': name must be used once"),
    ("blocks.0.fc1", {"input": "nothing"}, "input 'nothing' must be made by a node before it"),
    ("blocks.0.fc1", {"bits": 17}, "bits must be an integer from 2 to 16, not 17"),
    ("blocks.0.fc1", {"weight": np.zeros((18, 11), np.int8)}, "weight must be an array of shape"),
    ("blocks.0.fc1", {"weight": np.full((18, 12), -128, np.int8)}, "weight must be from -127"),
    ("blocks.0.fc1", {"mult": np.zeros(18)}, "mult must be integers, not float64"),
    ("blocks.0.fc1", {"shift": np.full(18, 64)}, "shift must be from 0 to 63, not 64"),
    ("blocks.0.out", {"residual": "patches"}, "residual must be 9 rows of 12 channels, not 8 of 5"),
    ("blocks.0.scores", {"sequences": ((0, 4), (5, 4))}, "sequences must be whole, in order"),
    ("blocks.0.scores", {"sequences": ((0, 4),)}, "sequences must be all 9 rows, not 4"),
    ("blocks.0.scores", {"key_channel": 25}, "key_channel must be an integer from 0 to 24"),
    ("blocks.0.attention", {"variant": "other"}, "variant must be 'published' or 'normalised'"),
    ("blocks.0.attention", {"unit": 0}, "unit must be an integer from 1 to"),
    ("embed", {"index": np.array([[0, 0], [1, 8]])}, "index must be rows of the sources"),
    ("embed", {"sources": ("prefix", "patches")}, "sources must be tensors of the same channels"),
    ("blocks.0.norm1", {"variant": None},
     ("variant must be 'published' or 'leading_one' or 'normalised' or 'compared' or 'ibert' or "
      "'l1', not None")),
    ("blocks.0.norm1", {"share": 3}, "share must be left out here, not 3"),
    ("blocks.0.norm1", {**COMPARED, "share": 2**32},
     f"share must be an integer from 0 to {2**32 - 1}, not {2**32}"),
    ("blocks.0.norm1", {**COMPARED, "share": None},
     f"share must be an integer from 0 to {2**32 - 1}, not None"),
    ("blocks.0.norm1", {**COMPARED, "bits": 5}, "bits must be an integer from 2 to 4, not 5"),
    ("blocks.0.norm1", {**COMPARED, "epsilon": None}, "epsilon must be an integer from 0 to"),
    ("blocks.0.norm1", {"variant": "compared", "epsilon": 0, "bits": 4, "share": 1},
     "bias must be left out here, not of shape "),
    ("blocks.0.attention", {"constants": (1, 2, 3)}, "constants must be left out here, not "),
    ("blocks.0.attention", {"variant": "ibert", "constants": (-12, 32, 402)},
     "unit must be left out here, not "),
    ("blocks.0.attention", {"variant": "ibert", "unit": None, "constants": (-12, 32)},
     "node 'blocks.0.attention': constants must be x0 below 0, b from -x0"),
    ("blocks.0.attention", {"variant": "ibert", "unit": None, "constants": [-12, 32, 402]},
     "constants must be a tuple of integers, not "),
    ("blocks.0.attention", {"variant": "ita", "unit": 3}, "unit must be 1 or 2 or 4 or 8 or 16 or"),
    ("blocks.0.attention", {"variant": "ita", "unit": 8}, "bits must be 9, not 16"),
    ("blocks.0.attention", {"variant": "shiftmax_sqrt2_17", "constants": (3, 4)},
     "node 'blocks.0.attention': thresholds must be 16 that do not increase"),
    ("blocks.0.gelu", {"variant": "ibert", "unit": None, "constants": (1, -2, -3)},
     "node 'blocks.0.gelu': constants must be b, c and one, below 0"),
    ("blocks.0.gelu", {"variant": "ibert", "constants": (-1, -2, -3)},
     "unit must be left out here"),
    ("blocks.0.norm1", {"variant": "l1", "epsilon": 3}, "epsilon must be left out here, not 3"),
    ("blocks.0.norm1", {"epsilon": 0}, "epsilon must be left out here, not 0"),
    ("blocks.0.norm1", {"variant": "normalised"}, "epsilon must be an integer from 0 to"),
    ("blocks.0.norm1", {"variant": "normalised", "epsilon": 2**50},
     f"epsilon must be an integer from 0 to {2**50 - 1}, not {2**50}"),
    ("patches", {"bits": None}, "bits must be given"),
    ("patches", {"name": "a b"}, "name of a node must be letters, digits and _")])
def test_what_does_not_fit_is_named(name, values, message):
    with pytest.raises(GraphError, match=message):
        changed(network(), name, **values)


def test_outputs_must_exist():
    with pytest.raises(GraphError, match="output 'nothing' must be the name of a node"):
        dataclasses.replace(network(), outputs=("nothing",))
    with pytest.raises(GraphError, match="must have an output"):
        dataclasses.replace(network(), outputs=())


def test_parts_of_a_network():
    graph = network()
    blocks = encoder_blocks(graph, 1)
    assert [node.name for node in blocks.inputs] == ["embed"]
    assert blocks.outputs == ("blocks.0.out",)
    codes = random_codes(np.random.default_rng(4), graph)
    whole = forward(graph, codes)
    part = forward(blocks, {"embed": whole["embed"]})
    assert all(np.array_equal(part[name], whole[name]) for name in part)
    with pytest.raises(GraphError, match="needs the input 'patches' as well"):
        graph.between(["blocks.0.out"], ["blocks.0.norm1"])
    with pytest.raises(GraphError, match="blocks must be from 1 to 2"):
        encoder_blocks(graph, 3)


@pytest.mark.parametrize(("second", "tokens", "needed"), [({}, 0, 1),
                                                          ({"head_dist.weight": 0}, 1, 2)])
def test_heads_need_tokens(second, tokens, needed):
    with pytest.raises(GraphError, match=f"^prefix must have at least {needed} rows for the heads, "
                                         f"not {tokens}$"):
        vision_transformer(second, heads=1, blocks=0, prefix=np.zeros((tokens, 4), np.float32),
                           position=np.zeros((2, 4), np.float32))


def test_tensors_are_of_bounded_size():
    """Three sizes of a few digits each must not make a reader allocate terabytes."""
    x = Input(name="x", rows=2**18, channels=2, bits=8)
    Graph(nodes=(x, Rows(name="r", sources=("x",), index=np.array([[0, 1]]))), outputs=("r",))
    one = np.array(1)
    with pytest.raises(GraphError, match=r"^node 's': tensor must have at most 268,435,456 "
                                         r"numbers, not 2 x 262144 x 262144$"):
        Graph(nodes=(x, Scores(name="s", query="x", key="x", heads=2, head_dim=1, bits=8, mult=one,
                               shift=one, sequences=((0, 2**18),))), outputs=("s",))


def test_every_operator_of_rows():
    floats = np.random.default_rng(6).standard_normal((2, 6, 4)).astype(np.float32)
    graph = Graph(nodes=(
        Input(name="x", rows=6, channels=4),
        Constant(name="c", values=np.ones((2, 4), np.float32)),
        Rows(name="g", sources=("c", "x"), index=np.array([[1, 5], [0, 0], [1, 0], [1, 1]])),
        Mean(name="m", input="g", groups=2), Add(name="a", input="m", other="c")), outputs=("a",))
    got = float_forward(graph, {"x": floats})["a"]
    wanted = np.stack([(floats[:, 5] + 1) / 2, (floats[:, 0] + floats[:, 1]) / 2], axis=1) + 1
    assert np.allclose(got, wanted, atol=1e-6)


def test_bits_of_one_node_alone():
    graph = network(choices={
        "blocks.1.out": {"weight_bits": 3}, "blocks.0.norm2": {"bits": 4}})
    assert np.abs(graph.by_name["blocks.1.out"].weight).max() <= 3
    assert np.abs(graph.by_name["blocks.0.out"].weight).max() == 127
    assert graph.tensors["blocks.0.norm2"].bits == 4
    codes = random_codes(np.random.default_rng(7), graph, 4)
    assert np.abs(forward(graph, codes)["blocks.0.norm2"]).max() <= 8
    with pytest.raises(ModelError, match="choices must give bits, weight_bits or codebook of"):
        network(choices={"nothing": {"bits": 4}})


def test_a_tensor_has_one_precision():
    graph = random_float_vit(np.random.default_rng(0), **SIZES)
    node = graph.by_name["blocks.0.norm2"]
    wide = dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(other, residual="blocks.0.norm2")
        if other.name == "blocks.0.out" else other for other in graph.nodes))
    from systola.model.quantization.precision import tensor_bits

    settings = {"act_bits": 8, "weight_bits": 8, "attention": "published", "attention_bits": 16}
    with pytest.raises(GraphError, match=f"node {node.name!r}: its readers need it as operand and "
                                         f"as wide"):
        tensor_bits(wide, settings)


def test_floats_and_integers_are_not_mixed():
    graph = network()
    with pytest.raises(GraphError, match="bits must be given"):
        changed(graph, "blocks.0.norm1", bits=None, weight=np.ones(12, np.float32),
                bias=np.ones(12, np.float32), eps=1e-6)
    with pytest.raises(ValueError, match="must be a float one"):
        float_forward(graph, {"patches": np.zeros((1, 8, 5))})


def test_kinds_check_their_inputs():
    x = Input(name="x", rows=3, channels=4, bits=16)
    with pytest.raises(GraphError, match="node 's': input must be scores"):
        Graph(nodes=(x, Softmax(name="s", input="x", variant="published", unit=3, bits=16)),
              outputs=("s",))
    with pytest.raises(GraphError, match="node 'm': groups must be a divisor of 3 rows, not 2"):
        Graph(nodes=(x, Mean(name="m", input="x", groups=2, bits=8, mult=np.int64(1),
                             shift=np.int64(0))), outputs=("m",))
    with pytest.raises(GraphError, match="node 's': scale must be a positive number"):
        Graph(nodes=(Input(name="x", rows=3, channels=4),
                     Scores(name="s", query="x", key="x", heads=1, head_dim=2,
                            sequences=((0, 3),))), outputs=("s",))
    with pytest.raises(GraphError, match="node 'n': eps must be a number from 0 to 1"):
        Graph(nodes=(Input(name="x", rows=3, channels=4),
                     Norm(name="n", input="x", weight=np.ones(4, np.float32),
                          bias=np.ones(4, np.float32))), outputs=("n",))
    with pytest.raises(GraphError, match="node 'l': bias must be finite"):
        Graph(nodes=(Input(name="x", rows=3, channels=4),
                     Linear(name="l", input="x", weight=np.ones((2, 4), np.float32),
                            bias=np.full(2, np.nan, np.float32))), outputs=("l",))
