"""Causal and padding masks on the Verilog: every stored tensor, and keys without effect."""

import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.model.data.synthetic import random_float_text, random_tokens
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes
from systola.sim.runs.simulate import simulate

CONFIG = dataclasses.replace(PRESETS["tiny"], rows=6, cols=4, lanes=2, vector_lanes=2,
                             bank_depth=1024, masks=True)
SIZES = {"vocabulary": 7, "tokens": 13, "channels": 16, "heads": 2, "blocks": 1, "hidden": 20}


@pytest.mark.slow
@pytest.mark.parametrize(("attention", "lengths", "causal"), [
    ("normalised", (13, 6), True), ("normalised", (4, 13, 9), False)])
def test_masked_keys_have_no_effect_in_verilog(attention, lengths, causal):
    config = dataclasses.replace(CONFIG, attention=attention)
    rng = np.random.default_rng(1)
    floats = random_float_text(rng, **SIZES, lengths=lengths, causal=causal)
    graph = quantize(floats, {"patches": random_tokens(rng, floats, 8)}, method="minmax",
                     **config.model_settings)
    tokens = random_tokens(rng, floats, 1)[0]
    tokens = np.stack([tokens, tokens])
    # In the second image: other tokens in the filling, and the last one of every text.
    other = np.concatenate([np.arange(13 * text + length - causal, 13 * text + 13)
                            for text, length in enumerate(lengths)])
    tokens[1, other] = np.roll(tokens[1, other], 1, axis=-1)
    result = simulate(graph, config, {"patches": to_codes(tokens, graph.scales["patches"], 8)})
    assert (result.mismatches, result.differing) == (0, {})
    assert abs(result.cycles / result.cycles_predicted - 1) < 0.05
    one, two = (tensors["logits"] for tensors in result.tensors)
    same = np.setdiff1d(np.arange(13 * len(lengths)), other)
    np.testing.assert_array_equal(one[same], two[same])
    assert (one[other] != two[other]).any(axis=-1).all()
