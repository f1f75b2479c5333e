"""Networks larger than the memory, in pieces on the machine model."""

import dataclasses
import itertools

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.model.data.synthetic import random_float_text, random_tokens
from systola.model.graph.integer_forward import forward
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler.compiler import check_fit, compile_network
from systola.sw_driver.compiler.layout import CompileError
from systola.sw_driver.compiler.pieces import pieces
from systola.sw_driver.program.image import decode_outputs
from tests.sw_driver.test_checkpoints import network_of

SMALL = dataclasses.replace(PRESETS["windows"], banks=4, bank_depth=256)


def texts(config, lengths, seed=0):
    """Return an integer network of texts, and codes for it."""
    rng = np.random.default_rng(seed)
    floats = random_float_text(rng, vocabulary=9, tokens=10, lengths=lengths, causal=False,
                               channels=24, heads=2, blocks=2, hidden=36)
    tokens = random_tokens(rng, floats, 4)
    graph = quantize(floats, {"patches": tokens}, method="minmax", **config.model_settings)
    return graph, {"patches": to_codes(tokens[0], graph.scales["patches"], 8)}


def run(graph, config, codes):
    """Return the pieces and what they make, by tensor."""
    plan, (values,) = pieces(graph, config), codes.values()
    found = {}
    for piece in plan:
        tensor = graph.tensors[piece.target]
        out = np.full(tensor.shape, 2**20)
        for part, slices in piece.slices:
            program = compile_network(part, config)
            for source, target in slices:
                stream = program.fill({piece.source: values[source]})
                out[target] = decode_outputs(program, Machine(config).run(stream))[piece.target]
        found[piece.target] = values = out
    return plan, found


def check(graph, config, codes):
    """Compare what lies between pieces with the whole network; return the pieces."""
    with pytest.raises(CompileError, match="scratchpad"):
        check_fit(graph, config)
    plan, found = run(graph, config, codes)
    assert [plan[0].source, plan[-1].target] == [*codes, *graph.outputs]
    assert all(one.target == two.source for one, two in itertools.pairwise(plan))
    expected = forward(graph, codes)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)
    return plan


def test_a_swin():
    """Windows of shifted and of other blocks, in slices; what fits as a whole is one run."""
    graph, codes = network_of("timm_swin")
    plan = check(graph, SMALL, codes)
    assert [piece.runs for piece in plan][-1] == 1
    for piece in plan:  # no row is computed twice
        rows = np.concatenate([source for _, slices in piece.slices for source, _ in slices])
        assert sorted(rows) == list(range(graph.tensors[piece.source].rows))
    assert max(piece.runs for piece in plan) > 4
    assert max(len(piece.slices) for piece in plan) > 1


@pytest.mark.parametrize("lengths", [(10,) * 12, (10, 4, 7, 10, 10, 10, 2, 3, 10)])
def test_texts(lengths):
    """Equal ones share a program, all layers of some texts at a time."""
    config = dataclasses.replace(PRESETS["digits"], banks=1, bank_depth=128)
    graph, codes = texts(config, lengths)
    plan = check(graph, config, codes)
    assert len(plan) == 1
    if len(set(lengths)) == 1:
        assert [len(piece.slices) for piece in plan] == [1]


def test_what_fits_is_one_piece():
    graph, _ = texts(PRESETS["digits"], (10, 10))
    (piece,) = pieces(graph, PRESETS["digits"])
    assert (piece.source, piece.target, piece.runs) == ("patches", "logits", 1)


def test_rows_that_belong_together_and_do_not_fit_are_refused():
    config = dataclasses.replace(PRESETS["digits"], banks=1, bank_depth=16)
    graph, _ = texts(config, (10, 10))
    with pytest.raises(CompileError, match=r"^scratchpad must have at least \d+ words"):
        pieces(graph, config)
