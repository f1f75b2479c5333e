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
    errors = {method: error(network, method=method, **settings) for method in METHODS}
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
