"""Pictures and tables of graphs: every node is there once, equal networks give equal files."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from systola.model.data.synthetic import random_float_vit, random_vit
from systola.model.evaluation.accuracy import open_float
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.graph import Graph
from systola.model.graph.graph_file import save_network
from systola.model.graph.nodes import Add, Input, Linear, Rows
from systola.report.diagram import Box, Line, Text, digest, drawn_digest, save
from systola.report.graph_picture import draw_graph, graph_shapes, repeated_part, variant
from systola.report.graph_table import graph_table
from systola.report.routes import Router, corners

SIZES = {"channels": 8, "heads": 2, "blocks": 3, "hidden": 12, "classes": 3, "tokens": 7,
         "patch_dim": 4}


def layer(name, source, residual=None, seed=0):
    weight = np.random.default_rng(seed).standard_normal((4, 4), np.float32)
    return Linear(name=name, input=source, residual=residual, weight=weight,
                  bias=np.zeros(4, np.float32))


def hand_made():
    """Return a network with two inputs, two outputs, one of them read, and branches."""
    nodes = (Input(name="x", rows=3, channels=4), Input(name="y", rows=3, channels=4),
             layer("a", "x"), layer("b", "a"), layer("c", "a"),
             Add(name="sum", input="b", other="c"), layer("d", "sum", "y"),
             Rows(name="rows", sources=("d", "x"), index=np.array([(0, 2), (1, 0)])),
             layer("unused", "b"))
    return Graph(nodes=nodes, outputs=("d", "rows"))


NETWORKS = {
    "digits": lambda: open_float("digits"),
    "integer": lambda: random_vit(np.random.default_rng(1), **SIZES),
    "two heads": lambda: random_float_vit(np.random.default_rng(1), **{
        **SIZES, "prefixes": 2, "distilled": True}),
    "mean": lambda: random_float_vit(np.random.default_rng(1), pooling="mean", **SIZES),
    "no blocks": lambda: random_float_vit(np.random.default_rng(1), **{**SIZES, "blocks": 0}),
    "blocks alone": lambda: encoder_blocks(open_float("digits"), 2),
    "three images": lambda: open_float("digits").repeated(3),
    "by hand": hand_made,
}


@pytest.fixture(scope="module", params=NETWORKS)
def graph(request):
    return NETWORKS[request.param]()


def test_every_node_is_drawn_once(graph):
    shapes, size, stands_for = graph_shapes(graph, "a network")
    names = list(itertools.chain(*stands_for.values()))
    assert sorted(names) == sorted(node.name for node in graph.nodes)
    drawn = {text.text for text in shapes if isinstance(text, Text) and text.bold}
    for name in stands_for:
        assert {name, name.split(".", 2)[-1]} & drawn, name
    boxes = [shape for shape in shapes if isinstance(shape, Box) and shape.layer == 3
             and shape.width > 100]
    assert len(boxes) == len(stands_for)
    for one, other in itertools.combinations(boxes, 2):
        assert (one.x + one.width < other.x or other.x + other.width < one.x
                or one.y + one.height < other.y or other.y + other.height < one.y)
    for box in boxes:
        assert 0 < box.x
        assert box.x + box.width < size[0]
        assert box.y + box.height < size[1]


def test_lines_go_around_boxes(graph):
    shapes, _, _ = graph_shapes(graph, "a network")
    boxes = [shape for shape in shapes if isinstance(shape, Box) and shape.layer == 3]
    for line in (shape for shape in shapes if isinstance(shape, Line)):
        for (x0, y0), (x1, y1) in itertools.pairwise(line.points):
            for box in boxes:
                assert not (max(x0, x1) > box.x + 1 and min(x0, x1) < box.x + box.width - 1
                            and max(y0, y1) > box.y + 1 and min(y0, y1) < box.y + box.height - 1)


def test_equal_networks_give_equal_shapes(graph):
    assert digest(graph_shapes(graph, "n")[0]) == digest(graph_shapes(graph, "n")[0])
    assert digest(graph_shapes(graph, "n")[0]) != digest(graph_shapes(graph, "m")[0])


def test_files_are_equal_and_say_what_they_show(tmp_path):
    graph = NETWORKS["blocks alone"]()
    for name in "a.svg", "b.svg", "a.png":
        draw_graph(graph, "blocks", tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert "<dc:date>" not in text
    assert drawn_digest(text) == digest(graph_shapes(graph, "blocks")[0])
    assert drawn_digest("<svg/>") is None
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "expected"), [
    ("digits", (5, 10, 4)), ("blocks alone", (1, 10, 2)), ("no blocks", None), ("by hand", None)])
def test_repeated_blocks_are_found(name, expected):
    repeat = repeated_part(NETWORKS[name]())
    assert (repeat and (repeat.first, repeat.nodes, repeat.count)) == expected


def test_a_block_that_others_look_into_is_not_folded():
    graph = open_float("digits")
    inner = Rows(name="inner", sources=("blocks.0.fc1",), index=np.array([(0, 0)]))
    seen = dataclasses.replace(graph, nodes=(*graph.nodes, inner), outputs=("logits", "inner"))
    repeat = repeated_part(seen)
    assert repeat.part(graph.nodes.index(graph.by_name["blocks.0.fc1"])) is None
    assert repeat.count == 3


def test_table_has_what_the_file_has(tmp_path):
    graph = NETWORKS["integer"]()
    table = graph_table(graph)
    assert [row["name"] for row in table["nodes"]] == [node.name for node in graph.nodes]
    assert table["products"] == graph.multiplications
    save_network(graph, tmp_path / "n.safetensors")
    data = (tmp_path / "n.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    arrays = json.loads(data[8:header])
    assert table["parameter_bytes"] == sum(
        entry["data_offsets"][1] - entry["data_offsets"][0]
        for name, entry in arrays.items() if name != "__metadata__")
    scores = next(row for row in table["nodes"] if row["kind"] == "scores")
    assert (scores["shape"], scores["bits"], scores["tensor_bytes"]) == ([2, 7, 7], 8, 98)


def test_router_bends_little_and_goes_around():
    wall = {(5, y) for y in range(9)}
    router = Router((11, 11), wall)
    way = router.route("a", {((2, 2), (1, 0)): 0.0}, {((8, 2), (1, 0)): 0.0})
    assert not wall.intersection(way)
    assert (way[0], way[-1]) == ((2, 2), (8, 2))
    assert len(corners(way)) == 6
    # Another net takes cells of its own, the same net those that it has.
    other = router.route("b", {((2, 3), (1, 0)): 0.0}, {((8, 3), (1, 0)): 0.0})
    assert len(set(way) & set(other)) <= 2
    assert set(router.route("a", {((2, 2), (1, 0)): 0.0}, {((8, 2), (1, 0)): 0.0})) == set(way)
    closed = Router((11, 3), wall)
    with pytest.raises(ValueError, match=r"^there is no way for a line of 'a'$"):
        closed.route("a", {((2, 2), (1, 0)): 0.0}, {((8, 2), (1, 0)): 0.0})


def test_short_lines_and_single_points_are_drawn(tmp_path):
    shapes = [Line(points=((5, 5), (5, 6))), Line(points=((5, 9), (5, 9)), dashed=True)]
    save(shapes, (20, 20), tmp_path / "a.svg")
    assert corners([(1, 1)]) == [(1, 1)]


def test_a_codebook_is_said():
    graph = random_vit(np.random.default_rng(1), **SIZES, choices={"logits": {
        "codebook": "squares"}})
    assert variant(graph.by_name["logits"]) == "8-bit weights of 15 values"
    assert variant(graph.by_name["blocks.0.fc1"]) == "8-bit weights"
    rows = {row["name"]: row for row in graph_table(graph)["nodes"]}
    assert rows["logits"]["parameter_bytes"] == 3 * 8 + 15 + 3 * (4 + 4 + 1)
