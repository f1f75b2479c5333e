import copy
import re
from math import floor, sqrt
from pathlib import Path

import numpy as np
import pytest

from systola.files.tensors import ModelError
from systola.hw.contract.config import PUBLISHED, ConfigError
from systola.hw.contract.numbers import MAX_SHIFT
from systola.model.data.images import float_inputs, load_data
from systola.model.data.synthetic import random_codes, random_float_vit, random_vit
from systola.model.evaluation.accuracy import evaluate, open_float
from systola.model.graph.float_forward import float_forward
from systola.model.graph.graph import Graph
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Add, Constant, GraphError, Input, Linear, Mean, Norm, Rows
from systola.model.importers.registry import load_checkpoint
from systola.model.operators.requant import requantize
from systola.model.quantization.calibrate import calibrate
from systola.model.quantization.precision import MAX_UNIT
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes
from tests.settings import ACCURATE

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 7}
BLOCKS = range(SIZES["blocks"])


def make(seed=0, **settings):
    """Return a float network without zero gammas, its patches and its integer network."""
    rng = np.random.default_rng(seed)
    floats = random_float_vit(rng, **SIZES)
    for norm in floats.of(Norm):
        norm.weight[norm.weight == 0] = 1
    patches = {"patches": rng.standard_normal((64, 9, 7), dtype=np.float32)}
    settings = {"method": "minmax", **PUBLISHED, **settings}
    return floats, patches, quantize(floats, patches, **settings)


def codes_of(graph, patches, images=None):
    """Return float patches as input codes of an integer network."""
    return {"patches": to_codes(patches["patches"][:images], graph.scales["patches"],
                                graph.by_name["patches"].bits)}


def dyadics(graph):
    """Yield every requantization of a network: its node, which of two it is, mult, shift."""
    for node in graph.nodes:
        for mult, shift in ("mult", "shift"), ("res_mult", "res_shift"), (
                "other_mult", "other_shift"):
            if getattr(node, mult, None) is not None:
                yield node, mult, getattr(node, mult), getattr(node, shift)


def linears(floats, graph):
    """Yield (float node, integer node, scale of its input, scale of its output)."""
    assert len(graph.of(Linear)) == 2 + 4 * len(BLOCKS)
    for float_node, node in zip(floats.of(Linear), graph.of(Linear), strict=True):
        yield float_node, node, graph.scales[node.input], graph.scales[node.name]


@pytest.mark.parametrize("settings", [{}, ACCURATE, {"mult_bits": 31, "gelu": "table"},
                                      {"norm": "leading_one"}, {"code_mult_bits": 16},
                                      {"norm": "normalised"},
                                      {"attention": "deferred"}, {"attention": "normalised"}])
def test_every_tensor_follows_the_float_network(settings):
    """Every tensor times its scale is near the float one: no site has a wrong scale."""
    floats, patches, graph = make(**settings)
    expected = {}
    float_forward(floats, patches, expected.__setitem__)
    got = forward(graph, codes_of(graph, patches))
    assert got.keys() == expected.keys() - {"patches"}
    for name, value in got.items():
        real = value * graph.scales[name]
        if "attention" in settings and name.endswith("attention"):
            real = value / value.sum(axis=-1, keepdims=True)
        error = np.sqrt(np.mean((real - expected[name]) ** 2) / np.mean(expected[name] ** 2))
        assert error < 0.12, name


@pytest.mark.parametrize("settings", [
    {"mult_bits": 20, "norm": "leading_one", "attention_bits": 8},
    {"attention": "deferred", "gelu": "table", "code_mult_bits": 16, "weight_bits": 5}])
def test_every_node_has_the_settings(settings):
    _, _, graph = make(**settings)
    for index in BLOCKS:
        softmax, context, gelu = (graph.by_name[f"blocks.{index}.{name}"]
                                  for name in ("attention", "context", "gelu"))
        assert softmax.variant == settings.get("attention", "published")
        assert softmax.bits == (8 if softmax.variant == "deferred" else settings["attention_bits"])
        assert context.factor_bits == (24 if softmax.variant == "deferred" else None)
        assert gelu.variant == settings.get("gelu", "published")
    assert {norm.variant for norm in graph.of(Norm)} == {settings.get("norm", "published")}
    assert {node.weight_bits for node in graph.of(Linear)} == {settings.get("weight_bits", 8)}


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_symmetric_and_within_half_a_step(bits):
    floats, _, graph = make(weight_bits=bits)
    top = 2 ** (bits - 1) - 1
    for float_node, node, _, _ in linears(floats, graph):
        weight, name = float_node.weight, node.name
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / top, 2.0**-23)
        assert node.weight.dtype == np.int8
        assert np.abs(node.weight).max() <= top
        assert (np.abs(node.weight).max(axis=1) == top).all(), name  # per output channel
        assert np.abs(node.weight * scale - weight).max() <= scale.max() * 0.5001


def test_biases_and_multipliers_have_the_accumulator_scale():
    floats, _, graph = make()
    for float_node, node, source, target in linears(floats, graph):
        accumulator = np.abs(float_node.weight).max(axis=1) / 127 * source
        np.testing.assert_allclose(node.bias, float_node.bias / accumulator, rtol=1e-5, atol=0.51)
        ratio = node.mult / 2.0**node.shift
        np.testing.assert_allclose(ratio, accumulator / target, rtol=1e-6)


@pytest.mark.parametrize(("mult_bits", "code_mult_bits", "narrow"), [
    (8, 8, 8), (16, 24, 16), (24, 16, 16), (31, 24, 24), (31, 31, 31)])
def test_widths_of_multipliers(mult_bits, code_mult_bits, narrow):
    _, _, graph = make(mult_bits=mult_bits, code_mult_bits=code_mult_bits)
    sites = list(dyadics(graph))
    assert len(sites) == 4 + 2 * 11
    short = {"norm"} | {f"blocks.{index}.{name}" for index in BLOCKS for name in (
        "norm1", "norm2", "qkv", "fc1", "scores", "context", "gelu")}
    for node, which, mult, shift in sites:
        assert mult.dtype == shift.dtype == np.int64
        assert mult.shape == shift.shape
        bits = narrow if node.name in short and which == "mult" else mult_bits
        assert (np.abs(mult) < 2**bits).all()
        assert (np.abs(mult) >= 2 ** (bits - 1)).all()
        assert (shift >= 0).all()
        assert (shift <= MAX_SHIFT).all()


@pytest.mark.parametrize(("attention", "mult_bits", "code_bits", "bits", "factor_bits", "least"), [
    ("deferred", 24, 12, 31, 24, 2**7), ("deferred", 20, 20, 27, 20, 2**7),
    ("deferred", 8, 8, 15, 8, 2**7), ("normalised", 31, 31, 31, 17, 2**14),
    ("normalised", 31, 16, 30, 16, 2**14), ("normalised", 8, 24, 22, 8, 2**14),
    ("normalised", 24, 12, 26, 12, 2**14)])
def test_numerators_of_exponentials(attention, mult_bits, code_bits, bits, factor_bits, least):
    """The largest ones that a row factor leaves room for, of the least sum of a row."""
    _, _, graph = make(attention=attention, mult_bits=mult_bits, code_mult_bits=code_bits)
    for index in BLOCKS:
        context = graph.by_name[f"blocks.{index}.context"]
        ratio = graph.scales[f"blocks.{index}.qkv"] / graph.scales[context.name]
        assert 2 ** (bits - 1) <= context.mult < 2**bits
        assert context.mult / 2.0**context.shift == pytest.approx(ratio, rel=2.0**-14)
        assert context.factor_bits == factor_bits
        assert context.mult // least < 2**factor_bits


def test_stationary_results_saturate_symmetrically():
    for settings in {}, {"attention": "deferred"}, {"weight_bits": 3}:
        _, _, graph = make(**settings)
        assert [node.name for node in graph.of(Linear) if node.symmetric] == [
            f"blocks.{index}.qkv" for index in BLOCKS]


@pytest.mark.parametrize("seed", range(6))
def test_constants_of_the_exponentials_are_exact(seed):
    floats, patches, graph = make(seed)
    ranges = calibrate(floats, patches)
    for index in BLOCKS:
        for reader, factor, name in ("attention", 1, "scores"), ("gelu", 1.702, "fc1"):
            x0 = -graph.by_name[f"blocks.{index}.{reader}"].unit
            scale = graph.scales[f"blocks.{index}.{name}"]
            assert x0 == floor(-1 / (factor * scale))
            assert -x0 * factor * scale == pytest.approx(1, rel=1e-6)
            low, high = ranges[f"blocks.{index}.{name}"]
            observed = max(-low, high) / 127
            assert observed * 0.999999 <= scale <= observed / (1 - factor * observed)


def test_coarse_exponential_scales_stay():
    floats, patches, _ = make()
    floats.by_name["blocks.0.qkv"].weight[:] *= 30
    graph = quantize(floats, patches, method="minmax")
    assert graph.scales["blocks.0.scores"] > 1
    assert graph.by_name["blocks.0.attention"].unit == 1


def test_fine_scales_are_widened_to_the_largest_unit():
    floats, patches, _ = make()
    floats.by_name["blocks.0.qkv"].weight[:24] *= 1e-6
    floats.by_name["blocks.0.qkv"].bias[:24] *= 1e-6
    for part in "weight", "bias":
        getattr(floats.by_name["blocks.1.fc1"], part)[:] *= 1e-6
    graph = quantize(floats, patches, method="minmax", **PUBLISHED)
    assert MAX_UNIT >= graph.by_name["blocks.0.attention"].unit > MAX_UNIT - 2
    assert MAX_UNIT >= graph.by_name["blocks.1.gelu"].unit > MAX_UNIT - 2
    assert MAX_UNIT - 2 > graph.by_name["blocks.1.attention"].unit


def test_norm_bias_and_saturation():
    floats, patches, _ = make()
    gamma, beta = (getattr(floats.by_name["blocks.0.norm1"], part) for part in ("weight", "bias"))
    gamma[:3], beta[:3] = (0.001, -0.001, -0.5), (1, 1, 0.3)
    graph = quantize(floats, patches, method="minmax")
    norm = graph.by_name["blocks.0.norm1"]
    assert norm.bias[:2].tolist() == [2**31 - 1, -2**31 + 1]
    expected = np.floor(beta.astype(float) / gamma * 2**30 / sqrt(24))
    np.testing.assert_array_equal(norm.bias[2:], expected[2:])
    assert (np.sign(norm.mult) == np.sign(gamma)).all()
    # What 32 bits do not hold is in the next layer's bias.
    delivered = 2 * sqrt(24) * np.array([0.001, 0.001])
    missing = to_codes(beta[:2] - delivered, graph.scales["blocks.0.norm1"], 8)
    qkv, floating = graph.by_name["blocks.0.qkv"], floats.by_name["blocks.0.qkv"]
    scale = np.abs(floating.weight).max(axis=1) / 127 * graph.scales["blocks.0.norm1"]
    np.testing.assert_allclose(qkv.bias - qkv.weight[:, :2].astype(int) @ missing,
                               floating.bias / scale, rtol=1e-4, atol=0.51)


@pytest.fixture(scope="module")
def digits():
    """Return a function that changes a copy of the digits' float network: top-1 of both."""
    all_images, all_labels = load_data("digits")
    training = load_data("digits", "train")[0][::4]

    def measure(change, images=150, **settings):
        graph = copy.deepcopy(open_float("digits"))
        change(graph.by_name)
        network = quantize(graph, float_inputs(graph, training), **settings)
        result = evaluate(graph, network, all_images[:images], all_labels[:images])
        return result["float_top1"], result["int_top1"], network

    return measure


@pytest.mark.parametrize(("method", "within"), [("minmax", 2e-3), ("gptq", 2e-5)])
def test_a_row_of_zeros_with_a_bias(digits, method, within):
    """Its bias had no room at the scale of weights that are all 0."""
    name, floats = "blocks.2.out", copy.deepcopy(open_float("digits"))

    def change(nodes):
        for index in range(4):
            nodes[f"blocks.{index}.fc1"].weight[7] = 0
            nodes[f"blocks.{index}.fc1"].bias[7] = 3 * index - 4
            nodes[f"blocks.{index}.out"].weight[5] = 0
            nodes[f"blocks.{index}.out"].bias[5] = 0.8

    real, integer, network = digits(change, method=method)
    assert real > 0.9
    assert abs(real - integer) <= 0.02
    node = network.by_name[name]
    got = node.bias[5] * node.mult[5] / 2.0**node.shift[5] * network.scales[name]
    assert got == pytest.approx(0.8, rel=1e-3 if method == "minmax" else 0.1)
    assert abs(int(node.bias[5])) <= 2**22
    # GPTQ adds what the mean of the stream lost before, so that nothing of it is left.
    change(floats.by_name)
    training, means = load_data("digits", "train")[0][::4], []

    def hook(tensor, x):
        if tensor == name:
            means.append(x[..., 5].mean())

    float_forward(floats, float_inputs(floats, training), hook)
    codes = {source: to_codes(x, network.scales[source], 8)
             for source, x in float_inputs(network, training).items()}
    kept = forward(network, codes, keep=[name])[name]
    assert kept[..., 5].mean() * network.scales[name] == pytest.approx(means[0], rel=within)


@pytest.mark.slow
def test_betas_far_beyond_gamma(digits):
    def change(nodes):
        for name in "blocks.0.norm1", "blocks.1.norm2", "norm":
            nodes[name].weight[3], nodes[name].bias[3] = 1e-4, 1.5
            nodes[name].weight[9], nodes[name].bias[9] = -1e-3, 0.9

    real, integer, _ = digits(change)
    assert real > 0.6
    assert abs(real - integer) <= 0.02


@pytest.mark.slow
def test_an_epsilon_that_matters_is_noted(digits):
    _, _, network = digits(lambda nodes: None)
    assert "left_out_epsilon" not in network.meta

    def change(nodes):
        object.__setattr__(nodes["blocks.1.norm1"], "eps", 0.05)

    _, _, network = digits(change, norm="published")
    (name, effect), = network.meta["left_out_epsilon"].items()
    assert name == "blocks.1.norm1"
    assert 0.01 < effect < 10


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "by"), [
    (("patch_embed", "prefix", "position"), 1e-3), (("patch_embed", "prefix", "position"), 1e-2),
    (("patch_embed", "prefix", "position", "attn_out", "out"), 1e-2)])
def test_a_small_residual_stream_keeps_its_epsilon(digits, layers, by):
    """All of the stream, or what the first block reads: a small one must not be blown up."""
    def change(nodes):
        for name, node in nodes.items():
            if name.rpartition(".")[2] in layers:
                for array in ("weight", "bias") if isinstance(node, Linear) else ("values",):
                    getattr(node, array)[:] *= by

    real, integer, network = digits(change, images=359, norm="normalised")
    assert abs(real - integer) < 0.005
    assert "left_out_epsilon" not in network.meta
    assert all(norm.epsilon > 2**16 for norm in network.of(Norm))


def test_leaving_the_epsilon_out_changes_a_small_stream(digits):
    def change(nodes):
        for name in "prefix", "position", "patch_embed":
            getattr(nodes[name], "weight" if name == "patch_embed" else "values")[:] *= 1e-2
        nodes["patch_embed"].bias[:] *= 1e-2

    # A method that fits layers to the float network makes up for most of it.
    real, integer, network = digits(change, images=359, method="minmax", norm="published")
    assert abs(real - integer) > 0.03
    assert network.meta["left_out_epsilon"]["blocks.0.norm1"] > 0.1


def test_the_epsilon_is_that_of_the_node():
    """At the scale of the input's codes, in units of 2**-16; what is far above these is refused."""
    floats, patches, graph = make(norm="normalised")
    for before, after in zip(floats.of(Norm), graph.of(Norm), strict=True):
        real = after.epsilon / 2**16 * graph.scales[after.input] ** 2 / len(before.weight)
        assert real == pytest.approx(before.eps, rel=1e-6)
    object.__setattr__(floats.by_name["blocks.0.norm1"], "eps", 1.0)
    for name in "prefix", "position":
        floats.by_name[name].values[:] *= 1e-5
    floats.by_name["patch_embed"].weight[:] *= 1e-5
    floats.by_name["patch_embed"].bias[:] *= 1e-5
    with pytest.raises(ModelError, match=r"^node 'blocks.0.norm1': eps must be at most \S+ beside "
                                         r"an input all within \S+, not 1.0$"):
        quantize(floats, patches, norm="normalised")


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("method", ["minmax", "mse", "gptq"])
def test_compared_norms_are_standardised_rows(bits, method):
    """Their codes are elements over deviations in units of the scale, gains and biases elsewhere.

    To within half a step, and what the mean and the edge of codes of 16 bits are off; saturated.
    """
    floats, patches, _ = make()
    graph = quantize(floats, patches, **PUBLISHED | {"norm": "compared"}, act_bits=bits,
                     weight_bits=4, method=method)
    inputs = {"patches": patches["patches"] if "code_mean" not in graph.meta else None}
    got, top = forward(graph, codes_of(graph, inputs, 8)), 2 ** (bits - 1) - 1
    for before, node in zip(floats.of(Norm), graph.of(Norm), strict=True):
        assert (node.variant, node.bits, node.bias, node.mult) == ("compared", bits, None, None)
        x = got[node.input] * graph.scales[node.input]
        y = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(
            x.var(axis=-1, keepdims=True) + before.eps)
        codes = got[node.name]
        exact = y / graph.scales[node.name]
        assert np.abs(codes).max() <= top
        inside = np.abs(exact) < top + 0.5
        assert np.abs(codes - exact)[inside].max() < 0.502
        assert (codes == np.sign(exact) * top)[~inside].all()


def test_compared_norms_move_gains_and_biases_behind():
    """A gain of 0 is a column of zeros; codes of few bits choose finer weights than of 8."""
    floats, patches, _ = make()
    floats.by_name["blocks.0.norm1"].weight[5] = 0
    floats.by_name["blocks.0.norm1"].bias[5] = 0.7
    graph = quantize(floats, patches, method="minmax", norm="compared", act_bits=4, mult_bits=24)
    before, node = floats.by_name["blocks.0.qkv"], graph.by_name["blocks.0.qkv"]
    norm = floats.by_name["blocks.0.norm1"]
    weight = before.weight * norm.weight
    scale = np.abs(weight).max(axis=1, keepdims=True) / 127
    assert not node.weight[:, 5].any()
    assert np.abs(node.weight * scale - weight).max() <= scale.max() * 0.5001
    bias = (before.bias + before.weight @ norm.bias) / (scale[:, 0] * graph.scales[
        "blocks.0.norm1"])
    assert np.abs(node.bias - bias).max() <= 0.6


@pytest.mark.parametrize(("folder", "norm", "reader"), [
    ("timm_vit_qknorm", "blocks.0.q_norm", "'blocks.0.scores' (scores)"),
    ("timm_clip", "norm_pre", "'blocks.0.norm1' (norm)"),
    ("hf_swin", "patch_embed.norm", "'layers.0.blocks.0.norm1' (norm)"),
    ("timm_vit_features", "norm", "who takes results of the network")])
def test_a_compared_norm_needs_linear_readers(folder, norm, reader):
    graph = load_checkpoint(CHECKPOINTS / folder)
    with np.load(CHECKPOINTS / folder / "expected.npz") as arrays:
        inputs = float_inputs(graph, arrays["images"].astype(np.float32) / 255)
    message = (f"node {norm!r}: with norm 'compared', which has no gains and biases of channels "
               f"('normalised' has), its readers must be linear nodes, not {reader}")
    with pytest.raises(GraphError, match=f"^{re.escape(message)}$"):
        quantize(graph, inputs, norm="compared", act_bits=4, method="minmax")


def test_a_compared_norm_needs_few_bits():
    floats, patches, _ = make()
    few = {"norm": "compared", "act_bits": 4, "method": "minmax"}
    with pytest.raises(ModelError, match=r"^node 'blocks.1.norm2': bits of a norm must be at most "
                                         r"4 with norm 'compared' .*, not 6$"):
        quantize(floats, patches, **few, choices={"blocks.1.norm2": {"bits": 6}})


def test_gamma_of_zero_outputs_beta():
    """The rule of ARITHMETIC section 7: such a channel is the constant round(beta / S)."""
    floats, patches, _ = make()
    floats.by_name["blocks.0.norm1"].weight[5] = 0
    floats.by_name["blocks.0.norm1"].bias[5] = 0.7
    graph = quantize(floats, patches, method="minmax")
    got = forward(graph, codes_of(graph, patches, 4), keep=["blocks.0.norm1", "blocks.0.qkv"])
    assert (got["blocks.0.norm1"][..., 5] == 0).all()
    constant = int(to_codes(0.7, graph.scales["blocks.0.norm1"], 8))
    assert constant > 10
    rule = got["blocks.0.norm1"].copy()
    rule[..., 5] = constant
    qkv = graph.by_name["blocks.0.qkv"]
    plain = qkv.bias - qkv.weight[:, 5].astype(int) * constant
    accumulator = rule @ qkv.weight.astype(int).T + plain
    np.testing.assert_array_equal(
        got["blocks.0.qkv"], requantize(accumulator, qkv.mult, qkv.shift, 8))
    scale = np.abs(floats.by_name["blocks.0.qkv"].weight).max(axis=1) / 127
    bias = floats.by_name["blocks.0.qkv"].bias / (scale * graph.scales["blocks.0.norm1"])
    np.testing.assert_allclose(plain, bias, rtol=1e-4, atol=0.51)


def test_tiny_gamma_shortens_the_multiplier():
    floats, patches, _ = make()
    floats.by_name["norm"].weight[:2] = 1e-8, -1e-30
    norm = quantize(floats, patches, method="minmax", mult_bits=31).by_name["norm"]
    assert norm.shift[:2].tolist() == [MAX_SHIFT, MAX_SHIFT]
    assert 0 < norm.mult[0] < 2**30
    assert norm.mult[1] == 0


@pytest.mark.parametrize(("weight_bits", "act_bits", "qkv_bits"), [(8, 8, 8), (4, 6, 4),
                                                                   (6, 3, 3)])
def test_output_widths(weight_bits, act_bits, qkv_bits):
    _, _, graph = make(weight_bits=weight_bits, act_bits=act_bits)
    assert {name: graph.tensors[name].bits for name in (
        "patches", "position", "prefix", "patch_embed", "embed", "blocks.1.qkv",
        "blocks.1.attn_out", "blocks.1.fc1", "blocks.1.out", "norm", "logits")} == {
        "patches": act_bits, "position": 16, "prefix": 16, "patch_embed": 16, "embed": 16,
        "blocks.1.qkv": qkv_bits, "blocks.1.attn_out": 16, "blocks.1.fc1": 8, "blocks.1.out": 16,
        "norm": act_bits, "logits": 16}
    got = forward(graph, random_codes(np.random.default_rng(0), graph, 3))
    for name, bits in ("qkv", qkv_bits), ("norm1", act_bits), ("context", act_bits), (
            "gelu", act_bits), ("scores", 8):
        assert np.abs(got[f"blocks.1.{name}"]).max() <= 2 ** (bits - 1), name
        assert graph.tensors[f"blocks.1.{name}"].bits == bits, name
    for name in "scores", "fc1":  # never operands of the array: 8 bits whatever act_bits is
        assert np.abs(got[f"blocks.1.{name}"]).max() > 64, name


@pytest.mark.parametrize("seed", range(4))
def test_coarse_operands_and_short_multipliers_are_expressible(seed):
    """The residual scales give way where a ratio would need a left shift."""
    floats, patches, graph = make(seed, weight_bits=2, act_bits=2, mult_bits=8)
    full = quantize(floats, patches, method="minmax", weight_bits=2, act_bits=2, mult_bits=31,
                    **PUBLISHED)
    widened = {name for name in full.scales if graph.scales[name] > full.scales[name]}
    # Rows of others have the scale of these.
    streams = {name for name in widened - {"prefix", "pooled"}
               if name == "logits" or name.endswith(("embed", "attn_out", "out"))}
    assert streams
    assert widened - {"prefix", "pooled"} == streams
    assert all(graph.scales[name] >= scale for name, scale in full.scales.items())
    for float_node, node, source, target in linears(floats, graph):
        accumulator = np.abs(float_node.weight).max(axis=1) * source
        ratio = node.mult / 2.0**node.shift
        np.testing.assert_allclose(ratio, accumulator / target, rtol=2**-7)


def test_rows_of_others_have_their_scale():
    for settings in {}, {"weight_bits": 2, "act_bits": 2, "mult_bits": 8}:
        s = make(**settings)[2].scales
        assert s["prefix"] == s["patch_embed"] == s["embed"] != s["position"]
        assert s["pooled"] == s["blocks.1.out"]


def test_rows_have_the_bits_of_their_sources():
    """Of the last block's output in 12 bits, the head reads 12-bit rows at their scale."""
    floats, patches, full = make()
    graph = quantize(floats, patches, method="minmax", choices={"blocks.1.out": {"bits": 12}})
    assert graph.tensors["pooled"].bits == graph.tensors["blocks.1.out"].bits == 12
    assert graph.scales["pooled"] == graph.scales["blocks.1.out"] > 15 * full.scales["pooled"]
    expected = float_forward(floats, patches)["logits"]
    got = forward(graph, codes_of(graph, patches))["logits"] * graph.scales["logits"]
    assert np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)) < 0.12


@pytest.mark.parametrize("choice", [
    {"nothing": {"bits": 8}}, {"blocks.0.out": {"colour": 8}}, {"blocks.0.out": {"bits": 17}},
    {"blocks.0.out": {"weight_bits": 9}}, {"blocks.0.out": {"bits": 8.0}},
    {"blocks.0.norm1": {"weight_bits": 4}}, {"embed": {"bits": 12}},
    {"blocks.0.attention": {"bits": 8}}])
def test_choices_are_checked(choice):
    message = (f"choices must give bits, weight_bits or codebook of nodes that have them, not "
               f"{str(choice)[:60]}")
    with pytest.raises(ModelError, match=f"^{re.escape(message)}$"):
        make(choices=choice)


@pytest.mark.parametrize("mult_bits", [8, 24])
def test_sums_and_means_of_unequal_scales(mult_bits):
    """Means and sums far smaller than their terms still get multipliers, as a linear layer's."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 4, 6), dtype=np.float32) * 500
    x[:, 2:] = -x[:, :2] * np.float32(0.9999)  # nearly cancel in the mean
    floats = Graph(nodes=(
        Input(name="x", rows=4, channels=6), Mean(name="mean", input="x"),
        Rows(name="top", sources=("x",), index=np.array([[0, 0]])),
        Constant(name="small", values=rng.standard_normal((1, 6), dtype=np.float32) / 500),
        Add(name="sum", input="top", other="small")), outputs=("mean", "sum"))
    graph = quantize(floats, {"x": x}, method="minmax", mult_bits=mult_bits)
    for _, _, mult, _ in dyadics(graph):
        assert (np.abs(mult) < 2**mult_bits).all()
    codes = to_codes(x, graph.scales["x"], graph.by_name["x"].bits)
    assert graph.by_name["x"].bits == 16
    got, expected = forward(graph, {"x": codes}), float_forward(floats, {"x": x})
    for name in "sum", "mean":
        # Half a code of the input and of the result, and what the short multiplier is off.
        error = np.abs(got[name] * graph.scales[name] - expected[name]).max()
        reach = np.abs(x).max() if name == "sum" else np.abs(expected[name]).max()
        assert error <= graph.scales["x"] + graph.scales[name] + reach / 2**mult_bits, name


@pytest.mark.parametrize(("settings", "message"), [
    ({"weight_bits": 9}, "weight_bits must be an integer from 2 to 8, not 9"),
    ({"act_bits": 1}, "act_bits must be an integer from 2 to 8, not 1"),
    ({"attention_bits": 12}, "attention_bits must be 8 or 16, not 12"),
    ({"mult_bits": 32}, "mult_bits must be an integer from 8 to 31, not 32"),
    ({"code_mult_bits": 7}, "code_mult_bits must be an integer from 8 to 31, not 7"),
    ({"attention": "half_17"},
     "attention must not be 'half_17': its 17 levels have no code of 4 bits; half_16 has one"),
    ({"attention": "late"},
     ("attention must be 'published' or 'normalised' or 'deferred' or "
      "'single_16' or 'half_16' or 'sqrt2_16', not 'late'")),
    ({"attention": "normalised", "attention_bits": 8},
     "attention_bits must be 16 with attention 'normalised' ('published' takes 8, too), not 8"),
    ({"attention": "deferred", "act_bits": 6},
     "attention 'deferred' needs act_bits 8 and mult_bits up to 24, not 6 and 24"),
    ({"gelu": "relu"}, "gelu must be 'published' or 'table', not 'relu'"),
    ({"norm": 0},
     "norm must be 'published' or 'leading_one' or 'normalised' or 'compared', not 0"),
    ({"norm": "compared", "act_bits": 5},
     "act_bits must be at most 4 with norm 'compared' ('normalised' has no such limit), not 5")])
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make(**settings)


def test_no_calibration_images():
    floats, patches, _ = make()
    with pytest.raises(ValueError, match=r"^calibration images must be at least 1, not 0$"):
        quantize(floats, {"patches": patches["patches"][:0]})


def test_calibration_reports_progress_and_averages_batches():
    floats, inputs, _ = make()
    patches, seen = inputs["patches"], []
    ranges = calibrate(floats, inputs, batch=40, progress=lambda *call: seen.append(call))
    assert seen == [(40, 64), (64, 64)]
    low = 0.95 * patches[:40].min() + 0.05 * patches[40:].min()
    high = 0.95 * patches[:40].max() + 0.05 * patches[40:].max()
    np.testing.assert_allclose(ranges["patches"], (low, high), rtol=1e-6)


def test_random_networks_depend_on_the_seed_only():
    graphs = [random_vit(np.random.default_rng(seed), **SIZES) for seed in (5, 5, 6)]
    weights = [graph.by_name["blocks.1.out"].weight for graph in graphs]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_are_lively(seed):
    """Codes fill their range in every tensor, so that simulations of them mean something."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    graph = random_vit(rng, channels=heads * int(rng.integers(4, 9)), heads=heads, blocks=1,
                       hidden=int(rng.integers(4, 30)), classes=int(rng.integers(2, 8)),
                       tokens=int(rng.integers(3, 12)), patch_dim=int(rng.integers(1, 9)),
                       gelu=("published", "table")[seed % 2])
    got = forward(graph, random_codes(rng, graph, 4))
    for name, value in got.items():
        assert len(np.unique(value)) > min(12, value.size // 4), name
    saturated = np.mean(np.abs(got["blocks.0.out"]) >= 2**15 - 1)
    assert saturated < 0.05


@pytest.mark.parametrize(("change", "message"), [
    ({"channels": 1}, "channels must be an integer of at least 2, not 1"),
    ({"blocks": -1}, "blocks must be an integer of at least 0, not -1"),
    ({"tokens": 1.5}, "tokens must be an integer of at least 2, not 1.5"),
    ({"heads": 5}, "heads must divide the 24 channels, not 5")])
def test_random_sizes_are_checked(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        random_vit(np.random.default_rng(0), **{**SIZES, **change})


def test_network_without_blocks():
    graph = random_vit(np.random.default_rng(0), **{**SIZES, "blocks": 0})
    logits = forward(graph, random_codes(np.random.default_rng(1), graph))["logits"]
    assert logits.shape == (1, 1, 5)


def test_model_error_is_a_value_error():
    assert issubclass(ModelError, ValueError)
