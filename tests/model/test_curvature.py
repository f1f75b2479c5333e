import numpy as np
import pytest

from systola.model.allocation.curvature import mean_curvature, rounding_distance
from systola.model.allocation.node_precisions import NodePrecisions, Precision
from systola.model.allocation.sensitivity import sensitivities
from systola.model.data.synthetic import random_float_vit
from systola.model.graph.float_forward import float_forward, softmax
from systola.model.graph.graph import Graph
from systola.model.graph.nodes import Input, Linear


@pytest.fixture(scope="module")
def layer():
    """Return a network of one layer, and its tensors for 50 images."""
    rng = np.random.default_rng(5)
    node = Linear(name="logits", input="x", bias=np.zeros(4, np.float32),
                  weight=rng.standard_normal((4, 6)).astype(np.float32))
    graph = Graph(nodes=(Input(name="x", rows=1, channels=6), node), outputs=("logits",))
    x = rng.standard_normal((50, 1, 6)).astype(np.float32)
    return graph, {"x": x, **float_forward(graph, {"x": x})}


def test_the_trace_of_a_layer_is_known(layer):
    """Of logits Wx it is the mean of |x|^2 times the sum of p (1 - p)."""
    graph, real = layer
    p = softmax(real["logits"].astype(float))
    exact = float((np.square(real["x"]).sum(axis=-1) * (p * (1 - p)).sum(axis=-1)).mean()) / 24
    got = mean_curvature(graph, real, graph.by_name["logits"], draws=400,
                         rng=np.random.default_rng(0))
    assert got == pytest.approx(exact, rel=0.05)


def test_the_distance_is_of_the_nearest_codes(layer):
    graph, _ = layer
    node = graph.by_name["logits"]
    step = np.abs(node.weight).max(axis=1, keepdims=True) / 3
    expected = np.square(np.rint(node.weight / step) * step - node.weight).sum()
    assert rounding_distance(node, np.float32(0.1), 3) == pytest.approx(expected, rel=1e-4)


def test_losses_are_of_weights_alone():
    rng = np.random.default_rng(7)
    graph = random_float_vit(rng, channels=24, heads=3, blocks=1, hidden=40, classes=5, tokens=10,
                             patch_dim=12)
    images = {"patches": rng.standard_normal((70, 9, 12), dtype=np.float32)}
    nodes = NodePrecisions(graph, [Precision(8, 8), Precision(4, 8), Precision(4, 4)])
    arguments = {"measure": "trace", "method": "minmax"}
    losses, _ = sensitivities(graph, images, nodes, **arguments)
    for eight, weights, both in losses:
        assert 0 < 100 * eight < weights == pytest.approx(both, rel=1e-6)
    assert losses == sensitivities(graph, images, nodes, **arguments)[0]
    with pytest.raises(ValueError, match=r"^measure must be one of logits, trace, not 'x'$"):
        sensitivities(graph, images, nodes, measure="x")
