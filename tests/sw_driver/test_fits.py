"""What an accelerator cannot run is refused in one line that names node, value and limit."""

import dataclasses
import re

import numpy as np
import pytest

from systola.hw.contract.config import PUBLISHED, AcceleratorConfig
from systola.model.data.synthetic import random_vit
from systola.model.graph.nodes import GraphError
from systola.sw_driver.compiler.compiler import CompileError, compile_network
from systola.sw_driver.compiler.fits import check_network

SMALL = {"channels": 12, "heads": 2, "blocks": 1, "hidden": 18, "classes": 5, "tokens": 7,
         "patch_dim": 5}
TINY = AcceleratorConfig(rows=6, cols=4, lanes=2, token_depth=8, banks=2, bank_depth=512,
                         weight_fifo=8, stream_fifo=8, queue_depth=4, param_depth=64, max_row=64,
                         **PUBLISHED)


def build(sizes=(), fields=()):
    model = random_vit(np.random.default_rng(1), **{**SMALL, **PUBLISHED, **dict(sizes)})
    return model, dataclasses.replace(TINY, **dict(fields))


def changed(graph, name, **values):
    return dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, **values) if node.name == name else node
        for node in graph.nodes))


def refused(message, graph, config=TINY):
    with pytest.raises(CompileError, match=f"^{message}$"):
        compile_network(graph, config)


def node(name):
    return "node " + re.escape(repr(name))


MISFITS = [
    ({}, {"attention_bits": 8},
     rf"attention_bits must be 16 as in {node('blocks.0.attention')}, not 8"),
    ({}, {"attention": "deferred"},
     rf"attention must be 'published' as in {node('blocks.0.attention')}, not 'deferred'"),
    ({"attention": "deferred"}, {},
     rf"attention must be 'deferred' as in {node('blocks.0.attention')}, not 'published'"),
    ({"attention": "normalised"}, {},
     rf"attention must be 'normalised' as in {node('blocks.0.attention')}, not 'published'"),
    ({"attention": "deferred"}, {"attention": "deferred", "mult_bits": 23, "code_mult_bits": 23},
     rf"{node('patch_embed')}: residual multipliers must be below 2\*\*23 \(mult_bits\), not \d+"),
    ({}, {"gelu": "table"},
     rf"gelu must be 'published' as in {node('blocks.0.gelu')}, not 'table'"),
    ({}, {"norm": "leading_one"},
     rf"norm must be 'published' as in {node('blocks.0.norm1')}, not 'leading_one'"),
    ({}, {"norm": "compared", "act_bits": 4},
     rf"act_bits must be at least 8, the bits of the input of {node('patch_embed')}, not 4"),
    ({"norm": "compared", "act_bits": 4}, {},
     rf"norm must be 'compared' as in {node('blocks.0.norm1')}, not 'published'"),
    ({"norm": "compared", "act_bits": 4}, {"norm": "normalised"},
     rf"norm must be 'compared' as in {node('blocks.0.norm1')}, not 'normalised'"),
    ({}, {"weight_bits": 7},
     rf"weight_bits must be at least 8 as in {node('patch_embed')}, not 7"),
    ({}, {"act_bits": 7},
     rf"act_bits must be at least 8, the bits of the input of {node('patch_embed')}, not 7"),
    ({}, {"mult_bits": 23},
     rf"{node('patch_embed')}: residual multipliers must be below 2\*\*23 \(mult_bits\), not \d+"),
    ({}, {"code_mult_bits": 20},
     rf"{node('blocks.0.norm1')}: multipliers must be below 2\*\*20 \(code_mult_bits\), not \d+"),
    ({}, {"max_row": 17},
     rf"max_row must be at least 18, the channels of {node('blocks.0.gelu')}, not 17"),
    ({}, {"max_row": 11},
     rf"max_row must be at least 12, the channels of {node('blocks.0.norm1')}, not 11"),
    ({"tokens": 20}, {"max_row": 19},
     rf"max_row must be at least 20, the keys of {node('blocks.0.scores')}, not 19"),
    ({}, {"acc_bits": 20},
     rf"acc_bits must be at least 23, the worst case of {node('blocks.0.context')}, not 20"),
    ({}, {"x0_bits": 1},
     rf"{node('blocks.0.attention')}: unit must be from 1 to 1 \(x0_bits\), not \d+"),
    ({}, {"bank_depth": 16}, r"scratchpad must have at least \d+ words for .*, not 32 \(.*\)"),
    ({}, {"param_depth": 4}, r"param_depth must be larger than 4 words: .* needs \d+ beside .*"),
]


@pytest.mark.parametrize(("sizes", "fields", "message"), MISFITS)
def test_misfit_names_the_values(sizes, fields, message):
    refused(message, *build(sizes, fields))


def test_table_needs_no_whole_rows():
    compile_network(*build({"gelu": "table"}, {"gelu": "table", "max_row": 12}))


def test_keys_and_values_must_fit_the_stationary_side():
    model, config = build({"weight_bits": 4}, {"weight_bits": 4})
    compile_network(model, config)
    refused(rf"weight_bits must be at least 8, the bits of K and V in {node('blocks.0.qkv')}, "
            rf"not 4", changed(model, "blocks.0.qkv", bits=8), config)


def test_few_bits_of_one_node_must_fit_too():
    model, config = build({"act_bits": 5, "weight_bits": 4}, {"act_bits": 5, "weight_bits": 4})
    compile_network(model, config)
    for name in "blocks.0.norm1", "blocks.0.context", "blocks.0.gelu":
        if name == "blocks.0.gelu":
            message = rf"act_bits must be at least 6 as in {node(name)}, not 5"
        else:
            reader = model.consumers[name][0].name
            message = (rf"act_bits must be at least 6(, the bits of the input of {node(reader)}"
                       rf"| as in {node(name)}), not 5")
        refused(message, changed(model, name, bits=6), config)
    refused(rf"weight_bits must be at least 5 as in {node('blocks.0.fc1')}, not 4",
            changed(model, "blocks.0.fc1", weight_bits=5), config)


@pytest.mark.parametrize(("name", "values", "message"), [
    ("patch_embed", {"res_mult": np.array(1 << 25), "res_shift": np.array(3)},
     r": residual multipliers must be below 2\*\*24 \(mult_bits\), not 33554432"),
    ("patch_embed", {"res_mult": np.array(-15 << 10), "res_shift": np.array(10)},
     r": residual rescaled from 16 bits must be less than 491520, not 491520"),
    ("logits", {"mult": np.full(5, 1 << 24)},
     r": multipliers must be below 2\*\*24 \(mult_bits\), not 16777216"),
    ("blocks.0.attention", {"unit": 256}, r": unit must be from 1 to 255 \(x0_bits\), not 256"),
    ("blocks.0.gelu", {"unit": 256}, r": unit must be from 1 to 255 \(x0_bits\), not 256"),
    ("blocks.0.scores", {"bits": 7}, r": bits must be 8, not 7"),
])
def test_node_that_does_not_fit_is_refused(name, values, message):
    model, config = build()
    assert values.keys() <= vars(model.by_name[name]).keys()
    refused(rf"{node(name)}{message}", changed(model, name, **values), config)


def test_norm_of_codes_is_refused():
    refused(rf"{node('norm')}: input must be of 9 to 16 bits, not 8",
            changed(build()[0], "blocks.0.out", bits=8))


def test_worst_case_of_a_layer_must_fit_the_accumulator():
    model, config = build()
    bias = np.full(12, (1 << 31) - 1)
    refused(rf"acc_bits must be at least 33, the worst case of {node('patch_embed')}, not 32",
            changed(model, "patch_embed", bias=bias), config)


def test_an_accumulator_of_24_bits_holds_a_thousand_keys():
    """Of normalised attention, whose rows add up to 2**16 and a rounding of each key."""
    config = dataclasses.replace(TINY, acc_bits=24, max_row=2048, attention="normalised")
    for tokens in 2, 1024:
        model, _ = build({"tokens": tokens, "attention": "normalised"})
        check_network(model, config)
        check_network(model, dataclasses.replace(config, mult_bits=31))
    model, _ = build({"tokens": 1040, "attention": "normalised"})
    refused(rf"acc_bits must be at least 25, the worst case of {node('blocks.0.context')}, not 24",
            model, config)


@pytest.mark.parametrize(("name", "values", "message"), [
    ("blocks.0.context", {"factor_bits": 24},
     r"attention must be exponentials with factor_bits, not shares"),
    ("blocks.0.scores", {"heads": 5}, r"key_channel must be an integer from 0 to 6, not 12"),
    ("prefix", {"values": np.full((1, 12), 40000)},
     r"values must be from -32768 to 32767, not 40000"),
    ("position", {"values": np.zeros((6, 11), np.int16)},
     r"residual must be 6 rows of 12 channels, not 6 of 11"),
    ("patch_embed", {"res_mult": np.array(1), "res_shift": np.array(64)},
     r"res_shift must be from 0 to 63, not 64"),
    ("patch_embed", {"bits": 17}, r"bits must be an integer from 2 to 16, not 17"),
    ("patch_embed", {"bits": 8}, r"sources must be tensors of the same channels and bits, not .*"),
    ("patch_embed", {"weight": np.full((12, 5), 128)}, r"weight must be from -127 to 127, not 128"),
    ("patch_embed", {"bias": np.full(12, 1 << 31)},
     r"bias must be from -2147483648 to 2147483647, not 2147483648"),
    ("patch_embed", {"bias": np.zeros(11, np.int32)},
     r"bias must be an array of shape \(12,\), not of shape \(11,\)"),
])
def test_inconsistent_network_is_never_built(name, values, message):
    with pytest.raises(GraphError, match=rf"^node '[a-z0-9_.]+': {message}$"):
        changed(build()[0], name, **values)
