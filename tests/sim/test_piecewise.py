"""A network larger than the memory on the Verilog, piece by piece."""

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.model.data.synthetic import random_float_text, random_tokens
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes
from systola.sim.runs import piecewise
from systola.sim.runs.piecewise import simulate_pieces

CONFIG = PRESETS["tiny"]


def network():
    """Return texts of which the memory of the smallest preset holds some, and two inputs."""
    rng = np.random.default_rng(0)
    floats = random_float_text(rng, vocabulary=7, tokens=8, lengths=(8,) * 12, causal=False,
                               channels=16, heads=2, blocks=1, hidden=16)
    graph = quantize(floats, {"patches": random_tokens(rng, floats, 8)}, method="minmax",
                     **CONFIG.model_settings)
    tokens = random_tokens(rng, floats, 2)
    return graph, {"patches": to_codes(tokens, graph.scales["patches"], 8)}


@pytest.mark.slow
def test_pieces_in_verilog():
    graph, codes = network()
    result = simulate_pieces(graph, CONFIG, codes)
    report = result.report()
    assert (report["mismatches"], report["differing"], report["images"]) == (0, {}, 2)
    (piece,) = report["pieces"]
    assert piece["runs"] > piece["programs"] == 1
    assert piece["rows"] == 96
    assert (piece["rows_in"], piece["rows_out"]) == (96 * 7, 96 * 7 * 2)
    assert piece["bytes_in"] > piece["rows_in"]
    assert piece["bytes_out"] >= piece["rows_out"]
    assert abs(report["cycles"] / report["cycles_predicted"] - 1) < 0.05
    assert report["bytes_per_cycle"] == pytest.approx(
        (piece["bytes_in"] + piece["bytes_out"]) / report["cycles"], abs=1e-3)
    assert 0 < report["utilisation"] < 1
    # Every slice of both images: all tensors but the input, then the results of the whole.
    assert report["tensors_compared"] > 2 * piece["runs"] + 2


def test_a_difference_is_seen(monkeypatch):
    """In a piece, and where rows are put together."""
    graph, codes = network()

    class Run:
        """A run whose results are one off."""

        tensors_compared = elements_compared = cycles = cycles_predicted = 1
        mismatches, differing = 3, {"image 0 logits": 3}

        def __init__(self, part, config, inputs, **options):
            rows = part.tensors["logits"].shape
            self.tensors = [{"logits": np.full(rows, 10**6)} for _ in inputs["patches"]]

    monkeypatch.setattr(piecewise, "simulate", Run)
    result = simulate_pieces(graph, CONFIG, codes)
    assert result.mismatches == 3 + 2 * 96 * 7
    assert result.differing == {"logits: image 0 logits": 3,
                                "the whole network: logits": 2 * 96 * 7}
