"""Operators that only the integer reader has, as variants of nodes."""

import dataclasses

import numpy as np
import pytest

from systola.files.tensors import ModelError
from systola.hw.contract.config import AcceleratorConfig
from systola.model.data.synthetic import random_codes, random_float_vit, random_vit
from systola.model.graph import integer_forward
from systola.model.graph.graph_file import load_network, save_network
from systola.model.graph.nodes import ALTERNATIVES, Activation, Context, Norm, Softmax
from systola.model.kernel.engine import engine_report, forward
from systola.model.operators.ibert_gelu import ibert_gelu
from systola.model.operators.ibert_layernorm import ibert_layernorm
from systola.model.operators.ibert_softmax import ibert_softmax
from systola.model.operators.ita_softmax import ita_softmax
from systola.model.operators.l1_layernorm import l1_layernorm
from systola.model.operators.log2 import decode, encode
from systola.model.operators.log_int_softmax import decode_log_int, log_int_softmax
from systola.model.operators.requant import requantize
from systola.model.operators.shiftmax import shiftmax
from systola.model.operators.sqrt2 import FRACTION, decode_sqrt2, encode_sqrt2
from systola.model.quantization.quantize import quantize
from systola.model.quantization.replacements import REPLACED, check_operators, octave_scale
from systola.sw_driver.compiler.compiler import CompileError, compile_network

SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 19,
         "patch_dim": 6}
CASES = [(setting, variant) for setting, kind in REPLACED.items() for variant in ALTERNATIVES[kind]]

SOFTMAXES = {
    "ibert": lambda node, x: ibert_softmax(x, node.constants, node.bits),
    "log_int": lambda node, x: decode_log_int(log_int_softmax(x, node.constants)),
    "ita": lambda node, x: ita_softmax(x, [1, 2, 4, 8, 16, 32, 64, 128].index(node.unit)),
    "shiftmax_half_16": lambda node, x: decode(*encode(shiftmax(x, -node.unit), "Half_16")),
    "shiftmax_sqrt2_17": lambda node, x: decode_sqrt2(encode_sqrt2(shiftmax(x, -node.unit),
                                                          node.constants)),
}
FULL = {"ibert": 1 << 15, "log_int": 1 << 15, "ita": 255}
"""What a share of one is."""


def network(setting, variant, seed=0, method="minmax", **settings):
    rng = np.random.default_rng(seed)
    return random_vit(rng, **SIZES, method=method, operators={setting: variant}, **settings)


def changed(graph, target, **values):
    return dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, **values) if node.name == target else node
        for node in graph.nodes))


@pytest.mark.parametrize(("setting", "variant"), CASES)
def test_nodes_are_their_operators(setting, variant):
    graph = network(setting, variant)
    codes = random_codes(np.random.default_rng(1), graph, 3)
    got = integer_forward.forward(graph, codes)
    nodes = graph.of(REPLACED[setting])
    assert {node.variant for node in nodes} == {variant}
    for node in nodes:
        x = got[node.input]
        if isinstance(node, Softmax):
            wanted = SOFTMAXES[variant](node, x)
            assert wanted.min() >= 0
            assert wanted.max() < 1 << node.bits - 1
        elif isinstance(node, Activation):
            wanted = requantize(ibert_gelu(x, node.constants), node.mult, node.shift, node.bits)
            assert node.mult < 0
        else:
            o = {"ibert": ibert_layernorm, "l1": l1_layernorm}[variant](x)
            wanted = requantize(o + node.bias, node.mult, node.shift, node.bits)
        assert np.array_equal(got[node.name], wanted)


@pytest.mark.parametrize(("setting", "variant"), CASES)
@pytest.mark.parametrize("method", ["minmax", "gptq"])
def test_kernel_beside_models(setting, variant, method):
    """Nodes that the kernel leaves are named, and nothing that it computes differs."""
    graph = network(setting, variant, seed=3, method=method)
    codes = random_codes(np.random.default_rng(4), graph, 5)
    wanted, got = integer_forward.forward(graph, codes), forward(graph, codes)
    assert all(np.array_equal(got[name], wanted[name]) for name in wanted)
    report = engine_report(graph)
    if report["engine"] == "c":
        left = {node.name for node in graph.of(REPLACED[setting])}
        left |= {node.name for node in graph.of(Context)} if setting == "attention" else set()
        assert report["numpy_nodes"].keys() == left
        words = ALTERNATIVES[REPLACED[setting]][variant].words
        assert all(f"variant {variant!r} of node 'blocks." in reason or "'norm'" in reason
                   for reason in report["numpy_nodes"].values())
        assert all(words in reason for reason in report["numpy_nodes"].values())


@pytest.mark.parametrize(("setting", "variant"), CASES)
def test_compiler_names_node_and_way_out(setting, variant):
    graph = network(setting, variant)
    first = graph.of(REPLACED[setting])[0].name
    words = ALTERNATIVES[REPLACED[setting]][variant].words
    with pytest.raises(CompileError) as refused:
        compile_network(graph, AcceleratorConfig())
    assert str(refused.value) == (f"node {first!r}: the accelerator has no {words}; `systola "
                                  f"evaluate` runs the network as a model")


@pytest.mark.parametrize(("setting", "variant"), CASES)
def test_files_hold_it(setting, variant, tmp_path):
    graph = network(setting, variant)
    save_network(graph, tmp_path / "n.safetensors")
    loaded = load_network(tmp_path / "n.safetensors")
    codes = random_codes(np.random.default_rng(2), graph)
    one, other = integer_forward.forward(graph, codes), integer_forward.forward(loaded, codes)
    assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("variant", ["ibert", "log_int", "shiftmax_half_16", "shiftmax_sqrt2_17",
                                     "ita"])
def test_rows_of_attention_add_up(variant):
    """Each within what its codes lose: half of a row at most, as log2 codes may."""
    graph = network("attention", variant)
    codes = random_codes(np.random.default_rng(5), graph, 4)
    got = integer_forward.forward(graph, codes)
    for node in graph.of(Softmax):
        one = FULL.get(variant, 1 / graph.scales[node.name])
        rows = got[node.name].sum(axis=-1) / one
        assert rows.min() > 0.5
        assert rows.max() < 1.5
        if variant == "shiftmax_sqrt2_17":
            assert graph.scales[node.name] <= 2.0**-FRACTION


def test_logits_stay_near():
    """Of a random network, every operator: none is wrong by a scale."""
    rng = np.random.default_rng(8)
    graph = random_float_vit(rng, **SIZES)
    node = graph.inputs[0]
    patches = {"patches": rng.standard_normal((64, node.rows, node.channels), dtype=np.float32)}
    from systola.model.graph.float_forward import float_forward
    from systola.model.quantization.uniform import quantize as to_codes

    wanted = float_forward(graph, patches)["logits"]
    for setting, variant in CASES:
        made = quantize(graph, patches, method="minmax", operators={setting: variant})
        codes = to_codes(patches["patches"], made.scales["patches"], 8)
        got = integer_forward.forward(made, {"patches": codes}, keep=["logits"])["logits"]
        error = np.sqrt(np.mean((got * made.scales["logits"] - wanted)**2) / np.mean(wanted**2))
        assert error < 0.35, (setting, variant)


def test_context_of_alternatives_divides_nothing():
    graph = network("attention", "ibert")
    with pytest.raises(ValueError, match=r"attention must be exponentials with factor_bits, not "
                                         r"shares"):
        changed(graph, "blocks.0.context", factor_bits=12)


def test_sequences_of_several_lengths():
    graph = network("attention", "log_int")
    scores = graph.by_name["blocks.0.scores"]
    split = changed(graph, scores.name, sequences=((0, 4), (4, 15)))
    codes = random_codes(np.random.default_rng(3), graph)
    got = integer_forward.forward(split, codes)["blocks.0.attention"]
    assert not got[0, :, :4, 4:].any()


@pytest.mark.parametrize(("operators", "message"), [
    ({"attention": "published"}, (r"operators must give attention or gelu or norm a variant that .*"
                                 r"\(ibert, log_int, ita, shiftmax_half_16, "
                                 r"shiftmax_sqrt2_17\), not \{'attention'")),
    ({"softmax": "ibert"}, r".*\(none of another setting\), not \{'softmax': 'ibert'\}"),
    ({"norm": None}, r".*\(ibert, l1\), not \{'norm': None\}")])
def test_unknown_operators(operators, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        check_operators(operators)


@pytest.mark.parametrize("scale", [1e-6, 0.005, 0.0055, 0.3, 0.35, 0.69, 2.0])
def test_octave_scale(scale):
    found = float(octave_scale(scale))
    octave = np.log(2) / found
    assert round(octave) in (1, 2, 4, 8, 16, 32, 64, 128)
    assert abs(octave - round(octave)) < 1e-4
    assert found >= min(scale, np.log(2)) * (1 - 1e-6)
    assert round(octave) in (1, 128) or found < 2 * scale


def test_a_scale_out_of_range_names_the_node():
    """Scores of thousands: the polynomial has no constants for steps that large."""
    rng = np.random.default_rng(0)
    graph = random_float_vit(rng, **SIZES)
    graph.by_name["blocks.0.qkv"].weight[:48] *= np.float32(20)
    patches = {"patches": rng.standard_normal((8, 18, 6), dtype=np.float32)}
    with pytest.raises(ModelError, match=r"^node 'blocks.0.attention': constants must be x0"):
        quantize(graph, patches, method="minmax", operators={"attention": "ibert"})


def test_default_is_untouched():
    """No variant changes what a network without one computes."""
    one = random_vit(np.random.default_rng(0), **SIZES)
    other = random_vit(np.random.default_rng(0), **SIZES, operators={})
    assert one.scales == other.scales
    assert all(node.constants is None for node in (*one.of(Softmax), *one.of(Activation)))
    assert {node.variant for node in one.of(Norm)} == {"normalised"}
