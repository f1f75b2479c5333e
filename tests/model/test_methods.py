import copy

import numpy as np
import pytest

from systola.model.data.synthetic import random_float_vit
from systola.model.graph.float_forward import float_forward
from systola.model.graph.integer_forward import forward
from systola.model.quantization.lockstep import Lockstep
from systola.model.quantization.methods import BEST, METHODS
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes

SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 12}


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(7)
    graph = random_float_vit(rng, **SIZES)
    images = rng.standard_normal((512, 9, 12), dtype=np.float32)
    return graph, {"patches": images[:384]}, {"patches": images[384:]}


def error(network, **settings):
    """Return the relative error of the logits of images that gave no ranges."""
    graph, training, test = network
    real = float_forward(graph, test)["logits"]
    made = quantize(graph, training, **settings)
    bits = made.tensors["patches"].bits
    codes = to_codes(test["patches"], made.scales["patches"], bits)
    got = forward(made, {"patches": codes}, keep=["logits"])["logits"] * made.scales["logits"]
    return np.sqrt(np.square(got - real).mean() / np.square(real).mean())


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_best_method_is_the_best(network, bits):
    settings = {"weight_bits": bits, "act_bits": bits, "gelu": "table"}
    errors = {method: error(network, method=method, **settings)
              for method in METHODS.keys() - {"recorded"}}
    assert errors[BEST] == error(network, **settings)
    assert errors[BEST] < 1.02 * min(errors.values())
    if bits == 4:
        assert errors[BEST] < 0.75 * errors["minmax"]


def test_lockstep_computes_what_the_readers_compute(network):
    graph, training, _ = network
    made = quantize(graph, training, method="minmax")
    lockstep = Lockstep(graph, training, made.scales)
    for node, integer in zip(graph.nodes, made.nodes, strict=True):
        lockstep.step(node, integer)
    assert lockstep.codes.keys() == set(graph.outputs)
    codes = to_codes(lockstep.inputs["patches"], made.scales["patches"], 8)
    np.testing.assert_array_equal(lockstep.codes["logits"],
                                  forward(made, {"patches": codes})["logits"])
    np.testing.assert_array_equal(lockstep.real["logits"],
                                  float_forward(graph, lockstep.inputs)["logits"])


def test_refuses_other_names(network):
    graph, training, _ = network
    with pytest.raises(ValueError, match=r"^method must be one of minmax, .*, not 'best'$"):
        quantize(graph, training, method="best")


def test_what_was_done_is_said(network):
    graph, training, _ = network
    for method, fitted in ("minmax", 0), ("gptq", 384):
        about = quantize(graph, training, method=method).meta["quantization"]
        assert about == {"method": method, "fitted_images": fitted, "coarse": []}
    images = {"patches": np.concatenate([training["patches"]] * 2)}
    assert quantize(graph, images).meta["quantization"]["fitted_images"] == 512


def test_tensors_that_no_scale_holds_are_named(network):
    graph, training, _ = network
    small = copy.deepcopy(graph)
    for node in small.nodes:
        if node.name in ("prefix", "position", "patch_embed"):
            for name in {"values", "weight", "bias"} & vars(node).keys():
                getattr(node, name)[:] *= 1e-8
    about = quantize(small, training, method="minmax").meta["quantization"]
    assert {"patch_embed", "embed"} <= set(about["coarse"])
    assert "logits" not in about["coarse"]
