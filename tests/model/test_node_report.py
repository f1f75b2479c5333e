import numpy as np
import pytest

from systola.model.data.synthetic import random_float_vit
from systola.model.graph.nodes import Constant, Input
from systola.model.quantization.quantize import quantize

SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 12}


def report(**settings):
    rng = np.random.default_rng(7)
    graph = random_float_vit(rng, **SIZES)
    images = {"patches": rng.standard_normal((100, 9, 12), dtype=np.float32)}
    nodes = {}
    made = quantize(graph, images, nodes=nodes, **settings)
    return made, nodes


@pytest.mark.parametrize("settings", [{}, {"attention": "deferred"}, {"method": "minmax"}])
def test_every_node_is_reported(settings):
    made, nodes = report(**settings)
    assert list(nodes) == [node.name for node in made.nodes
                           if not isinstance(node, Input | Constant)]
    for name, found in nodes.items():
        assert found["kind"] == made.by_name[name].kind
        assert found["bits"] == made.tensors[name].bits
        assert found["snr_db"] > (12 if found["kind"] == "softmax" else 20), name
        assert 0 <= found["saturated"] < 0.02
        assert found["agreement"] >= 0.9


def test_few_bits_of_one_node_show_there():
    _, fine = report()
    _, coarse = report(choices={"blocks.1.norm2": {"bits": 2}})
    assert coarse["blocks.1.norm2"]["snr_db"] < fine["blocks.1.norm2"]["snr_db"] - 15
    assert coarse["blocks.1.norm2"]["agreement"] < 0.95 <= fine["blocks.1.norm2"]["agreement"]
    before = "blocks.0.norm1"
    assert coarse[before]["snr_db"] == pytest.approx(fine[before]["snr_db"])
    assert coarse["blocks.1.norm2"]["saturated"] > fine["blocks.1.norm2"]["saturated"]
