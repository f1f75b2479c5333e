from itertools import pairwise

import numpy as np
import pytest

from systola.model.allocation.node_precisions import NodePrecisions, Precision
from systola.model.allocation.sensitivity import IMAGES, sensitivities
from systola.model.data.synthetic import random_float_vit
from systola.model.graph.float_forward import float_forward
from systola.model.quantization.calibrate import calibrate
from systola.model.quantization.precision import tensor_bits
from systola.model.quantization.uniform import quantize as to_codes
from systola.model.quantization.uniform import scale_for

SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 12}
LADDER = [Precision(bits, bits) for bits in (8, 6, 4, 2)]


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(7)
    graph = random_float_vit(rng, **SIZES)
    return graph, {"patches": rng.standard_normal((100, 9, 12), dtype=np.float32)}


@pytest.mark.parametrize("method", ["minmax", "mse", "gptq"])
def test_fewer_bits_lose_more(network, method):
    graph, images = network
    losses, count = sensitivities(graph, images, NodePrecisions(graph, LADDER), method=method)
    assert count == IMAGES
    assert len(losses) == 10
    for row in losses:
        assert 0 < row[0] < 1e-3
        assert all(2 * fine < coarse for fine, coarse in pairwise(row)), row
    assert losses == sensitivities(graph, images, NodePrecisions(graph, LADDER), method=method)[0]


def test_the_loss_is_what_the_logits_change(network):
    """The first layer by hand: codes of its input and its weights, everything else as it is."""
    graph, images = network
    nodes = NodePrecisions(graph, [Precision(8, 8), Precision(3, 5)])
    (_, loss), *_ = sensitivities(graph, images, nodes, method="minmax")[0]
    chosen = images["patches"][np.linspace(0, 99, IMAGES).round().astype(int)]
    low, high = calibrate(graph, images, bits=tensor_bits(graph, {
        "weight_bits": 8, "act_bits": 5, "attention": "normalised", "attention_bits": 16},
    ))["patches"]
    step = scale_for(low, high, 5)
    weight = graph.by_name["patch_embed"].weight
    rows = scale_for(weight.min(axis=1), weight.max(axis=1), 3)[:, None]
    coarse = np.clip(to_codes(weight, rows, 3), -3, 3) * rows
    changed = graph.by_name["patch_embed"].__class__(
        **{**vars(graph.by_name["patch_embed"]), "weight": coarse.astype(np.float32)})
    other = type(graph)(nodes=tuple(changed if node.name == "patch_embed" else node
                                    for node in graph.nodes), outputs=graph.outputs)
    codes = (to_codes(chosen, step, 5) * float(step)).astype(np.float32)
    real = float_forward(graph, {"patches": chosen})["logits"].astype(float)
    got = float_forward(other, {"patches": codes})["logits"]
    assert loss == pytest.approx(np.square(got - real).mean() / real.var(), rel=1e-3)


def test_activations_count_too(network):
    graph, images = network
    nodes = NodePrecisions(graph, [Precision(8, 8), Precision(4, 8), Precision(4, 4)])
    losses, _ = sensitivities(graph, images, nodes, method="mse")
    assert all(eight < weights < both for eight, weights, both in losses)
