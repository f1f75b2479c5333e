import numpy as np
import pytest

from systola.model.allocation.node_precisions import (
    PRECISIONS,
    NodePrecisions,
    Precision,
    take_turns,
)
from systola.model.data.synthetic import random_vit
from systola.model.graph.graph import Graph
from systola.model.graph.nodes import Input, Linear, Rows
from systola.model.quantization.precision import tensor_bits
from systola.model.quantization.quantize import quantize

SETTINGS = {"weight_bits": 8, "act_bits": 8, "attention": "normalised", "attention_bits": 16}


def linear(name, source, channels=3, inputs=4):
    rng = np.random.default_rng(len(name))
    return Linear(name=name, input=source, bias=np.zeros(channels, np.float32),
                  weight=rng.standard_normal((channels, inputs)).astype(np.float32))


def shared():
    """Return a network in which `a` and `b` read the same tensor, and `c` a row of it and of x."""
    nodes = (Input(name="x", rows=2, channels=4), Input(name="z", rows=2, channels=4),
             linear("a", "x"), linear("b", "x"),
             Rows(name="r", sources=("x", "z"), index=np.array([[0, 1], [1, 0]])),
             linear("c", "r"), linear("d", "a", inputs=3))
    return Graph(nodes=nodes, outputs=("b", "c", "d"))


def test_readers_of_the_same_rows_are_tied():
    nodes = NodePrecisions(shared())
    assert nodes.nodes == ["a", "b", "c", "d"]
    assert nodes.tied == [[0, 1, 2]]
    assert nodes.changed_with(1, 2) == (0, 1, 2)
    assert nodes.changed_with(1, 1) == (1,)  # weights alone
    assert nodes.changed_with(3, 2) == (3,)


def test_tied_nodes_take_one_turn():
    choices = take_turns(shared(), [Precision(2, 3), Precision(5, 6)])
    assert [choices[name]["weight_bits"] for name in "abcd"] == [2, 2, 2, 5]
    assert [choices[name]["bits"] for name in "xza"] == [3, 3, 6]


@pytest.mark.parametrize("turns", [["8x8"], ["8x8", "4x4"], ["4x4", "8x8", "2x8"]])
def test_nodes_have_their_turn(turns):
    turns = [Precision.parse(text) for text in turns]
    graph = random_vit(np.random.default_rng(0), channels=8, heads=2, blocks=2, hidden=12,
                       classes=3, tokens=5, patch_dim=4, linear_bits=turns)
    for index, node in enumerate(graph.of(Linear)):
        assert Precision(node.weight_bits, graph.tensors[node.input].bits) == turns[
            index % len(turns)], node.name
    assert {node.bits for node in graph.nodes if node.kind == "scores"} == {8}


def test_choices_are_what_quantize_takes():
    graph = shared()
    nodes = NodePrecisions(graph)
    assert nodes.precisions == PRECISIONS
    choices = nodes.choices([1, 0, 1, 2])
    assert choices == {"a": {"weight_bits": 4, "bits": 4}, "b": {"weight_bits": 8},
                       "c": {"weight_bits": 4}, "d": {"weight_bits": 4}, "x": {"bits": 8},
                       "z": {"bits": 8}}
    bits = tensor_bits(graph, SETTINGS, choices)
    assert (bits["x"], bits["r"], bits["a"], bits["b"]) == (8, 8, 4, 16)
    rng = np.random.default_rng(0)
    images = {name: rng.standard_normal((4, 2, 4), np.float32) for name in ("x", "z")}
    made = quantize(graph, images, method="minmax", choices=choices)
    assert [node.weight_bits for node in made.of(Linear)] == [4, 8, 4, 4]
    assert made.tensors["a"].bits == 4


def test_tied_nodes_must_agree():
    with pytest.raises(ValueError, match=r"^bits of 'x' must be the same for all its readers, not "
                                         r"8 and 4$"):
        NodePrecisions(shared()).choices([0, 2, 0, 0])


@pytest.mark.parametrize(("text", "line"), [
    ("8", "precision must be bits of weights x bits of activations, like 4x8, not '8'"),
    ("ax4", "precision must be .* not 'ax4'"), ("-4x4", "precision must be .* not '-4x4'"),
    ("9x4", "weight_bits must be an integer from 2 to 8, not 9"),
    ("4x1", "act_bits must be an integer from 2 to 8, not 1")])
def test_texts_that_are_no_precision(text, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        Precision.parse(text)


def test_precisions_are_at_least_two():
    assert str(Precision.parse("4x8")) == "4x8"
    with pytest.raises(ValueError, match=r"^precisions must be at least two to choose from, not "
                                         r"8x8$"):
        NodePrecisions(shared(), [Precision(8, 8)] * 2)
