"""Causal and padding masks: what a row does not attend to has no effect, whatever it is."""

import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PUBLISHED
from systola.hw.contract.numbers import LEVELS
from systola.model.data.synthetic import random_float_text, random_tokens
from systola.model.graph.float_forward import float_forward
from systola.model.graph.graph_file import load_network, save_network
from systola.model.graph.integer_forward import forward
from systola.model.graph.masks import causal_counts, masked, padded_counts
from systola.model.graph.node import GraphError
from systola.model.graph.nodes import Scores
from systola.model.kernel.engine import forward as fast_forward
from systola.model.quantization.calibrate import calibrate
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes

SIZES = {"vocabulary": 8, "tokens": 10, "channels": 12, "heads": 2, "blocks": 2, "hidden": 18}
ATTENTIONS = "published", "normalised", "deferred", *LEVELS


def network(*, lengths, causal, seed=0, **settings):
    """Return a float network of texts, its integer network and random texts."""
    rng = np.random.default_rng(seed)
    floats = random_float_text(rng, **SIZES, lengths=lengths, causal=causal)
    tokens = random_tokens(rng, floats, 8)
    return floats, quantize(floats, {"patches": tokens}, method="minmax", **settings), tokens


def changed(tokens, rows):
    """Return tokens with others in these rows."""
    other = tokens.copy()
    other[:, rows] = np.roll(tokens[:, rows], 1, axis=-1)
    return other


def outputs(floats, graph, tokens):
    """Return the logits of the float network, of the models and of the C code."""
    codes = {"patches": to_codes(tokens, graph.scales["patches"], 8)}
    found = {}
    float_forward(floats, {"patches": tokens}, lambda name, x: found.__setitem__(name, x))
    return [found["logits"], forward(graph, codes)["logits"],
            fast_forward(graph, codes)["logits"]]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_later_tokens_do_not_matter(attention):
    bits = {} if attention == "published" else {"gelu": "table", "norm": "normalised"}
    case = network(lengths=(10,), causal=True, **{**PUBLISHED, **bits, "attention": attention})
    floats, graph, tokens = case
    before = outputs(*case)
    for row in 1, 5, 9:
        after = outputs(floats, graph, changed(tokens, slice(row, None)))
        for one, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(one[:, :row], other[:, :row])
            assert (one[:, row:] != other[:, row:]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_filling_and_other_texts_do_not_matter(attention, causal):
    lengths = 10, 4, 1
    case = network(lengths=lengths, causal=causal, **{**PUBLISHED, "attention": attention})
    floats, graph, tokens = case
    filling = np.concatenate([np.arange(10 * text + length, 10 * text + 10)
                              for text, length in enumerate(lengths)])
    before = outputs(*case)
    for one, other in zip(before, outputs(floats, graph, changed(tokens, filling)), strict=True):
        text = np.setdiff1d(np.arange(30), filling)
        np.testing.assert_array_equal(one[:, text], other[:, text])
        assert (one[:, filling] != other[:, filling]).any()
    # Alone, a text gives what it gives beside others.
    for one, other in zip(before, outputs(floats, graph, changed(tokens, slice(10, None))),
                          strict=True):
        np.testing.assert_array_equal(one[:, :10], other[:, :10])


def test_models_and_c_code_are_equal():
    for seed, (lengths, causal) in enumerate([((10,), True), ((3, 10), False), ((7, 2), True)]):
        for attention in ATTENTIONS:
            floats, graph, tokens = network(lengths=lengths, causal=causal, seed=seed,
                                            **{**PUBLISHED, "attention": attention})
            _, model, fast = outputs(floats, graph, tokens)
            np.testing.assert_array_equal(model, fast)


def test_softmax_of_float_networks_is_over_the_keys():
    floats, _, tokens = network(lengths=(10,), causal=True, **PUBLISHED)
    found = {}
    float_forward(floats, {"patches": tokens[:1]}, lambda name, x: found.__setitem__(name, x))
    scores, shares = found["blocks.0.scores"][0], found["blocks.0.attention"][0]
    for row in range(10):
        e = np.exp(scores[:, row, :row + 1] - scores[:, row, :row + 1].max(-1, keepdims=True))
        np.testing.assert_allclose(shares[:, row, :row + 1], e / e.sum(-1, keepdims=True),
                                   rtol=1e-5)
        assert not shares[:, row, row + 1:].any()


def test_scores_without_weight_do_not_widen_the_range():
    floats, _, tokens = network(lengths=(10,), causal=True, **PUBLISHED)
    name = floats.of(Scores)[0].name
    found = {}
    float_forward(floats, {"patches": tokens}, lambda name, x: found.__setitem__(name, x))
    kept = np.where(np.tri(10, dtype=bool), found[name], 0)
    low, high = calibrate(floats, {"patches": tokens})[name]
    assert (low, high) == (kept.min(), kept.max())
    assert np.abs(found[name]).max() > max(-low, high)


def test_network_file(tmp_path):
    _, graph, tokens = network(lengths=(10,), causal=True, **PUBLISHED)
    save_network(graph, tmp_path / "text.safetensors")
    again = load_network(tmp_path / "text.safetensors")
    assert [node.key_counts.tolist() for node in again.of(Scores)] == 2 * [list(range(1, 11))]
    codes = {"patches": to_codes(tokens, graph.scales["patches"], 8)}
    np.testing.assert_array_equal(forward(again, codes)["logits"], forward(graph, codes)["logits"])


def test_counts():
    sequences = (0, 3), (3, 2)
    assert causal_counts(sequences).tolist() == [1, 2, 3, 1, 2]
    assert padded_counts(sequences, (2, 1)).tolist() == [2, 2, 2, 1, 1]
    for lengths, message in (((1,), "lengths must be 2, one a sequence, not 1"),
                             ((0, 1), "lengths must be from 1 to 3, not 0"),
                             ((3, 3), "lengths must be from 1 to 2, not 3")):
        with pytest.raises(ValueError, match=f"^{message}$"):
            padded_counts(sequences, lengths)


def test_masks_add_up():
    floats, _, _ = network(lengths=(10, 4), causal=False, **PUBLISHED)
    both = masked(floats, causal_counts(floats.of(Scores)[0].sequences))
    assert both.of(Scores)[0].key_counts.tolist() == [
        *range(1, 11), 1, 2, 3, *[4] * 7]
    assert both.tensors["blocks.0.scores"].shape == (2, 20, 10)
    assert both.multiplications < floats.multiplications


@pytest.mark.parametrize(("counts", "message"), [
    (np.zeros(20, int), r"key_counts must be from 1 to \d+, not 0"),
    (np.arange(1, 21), "key_counts must be at most the 10 rows of the sequence from row 10 on"),
    (np.ones(19, int), r"key_counts must be an array of shape \(20,\)"),
])
def test_refused(counts, message):
    floats = random_float_text(np.random.default_rng(0), **SIZES, lengths=(10, 10), causal=False)
    nodes = tuple(dataclasses.replace(node, key_counts=counts) if isinstance(node, Scores)
                  else node for node in floats.nodes)
    with pytest.raises(GraphError, match=rf"^node 'blocks\.0\.scores': {message}"):
        dataclasses.replace(floats, nodes=nodes)


def test_repeated_images_keep_their_masks():
    _, graph, _ = network(lengths=(10, 4), causal=True, **PUBLISHED)
    twice = graph.repeated(2)
    counts = graph.of(Scores)[0].key_counts.tolist()
    assert twice.of(Scores)[0].key_counts.tolist() == 2 * counts
