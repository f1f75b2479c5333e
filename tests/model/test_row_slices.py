"""Some rows of a network, and what is needed for them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from systola.model.data.synthetic import (
    random_codes,
    random_float_text,
    random_float_vit,
    random_tokens,
)
from systola.model.graph.float_forward import float_forward
from systola.model.graph.integer_forward import forward
from systola.model.graph.row_slices import cuts, row_groups, row_slice
from systola.model.importers.registry import load_checkpoint
from systola.model.quantization.quantize import quantize

SIZES = {"channels": 12, "heads": 2, "blocks": 2, "hidden": 18, "classes": 5, "tokens": 9,
         "patch_dim": 5}
SWIN = Path(__file__).parent.parent / "checkpoints" / "timm_swin"


def text(lengths=(7, 3, 7), *, causal=True):
    """Return a float network of texts and tokens for it."""
    rng = np.random.default_rng(0)
    graph = random_float_text(rng, vocabulary=6, tokens=7, lengths=lengths, causal=causal,
                              channels=12, heads=2, blocks=2, hidden=18)
    return graph, {"patches": random_tokens(rng, graph, 4)}


def tensors(graph, inputs):
    """Return all tensors of a float network, its inputs too."""
    found = dict(inputs)
    float_forward(graph, inputs, lambda name, x: found.__setitem__(name, x))
    return found


def test_cuts_are_tensors_that_everything_behind_them_goes_through():
    graph = random_float_vit(np.random.default_rng(0), **SIZES)
    names = cuts(graph)
    assert names == ["patches", "patch_embed", "embed", *(
        f"blocks.{index}.{name}" for index in range(2) for name in ("attn_out", "out")),
        "pooled", "norm", "logits"]
    rng = np.random.default_rng(1)
    whole = tensors(graph, {"patches": rng.standard_normal((2, 8, 5), np.float32)})
    for first, second in itertools.pairwise(names):
        part = graph.between([first], [second])
        np.testing.assert_array_equal(tensors(part, {first: whole[first]})[second], whole[second])


@pytest.mark.parametrize("source", ["swin", "text"])
def test_every_group_of_rows_is_computed_apart(source):
    if source == "text":
        graph, inputs = text()
    else:
        graph = load_checkpoint(SWIN)
        rng = np.random.default_rng(1)
        inputs = {node.name: rng.standard_normal((1, node.rows, node.channels), np.float32)
                  for node in graph.inputs}
    whole, sizes = tensors(graph, inputs), set()
    for first, second in itertools.pairwise(cuts(graph)):
        part = graph.between([first], [second])
        groups = row_groups(part)
        assert sorted(np.concatenate(groups)) == list(range(part.tensors[second].rows))
        for group in groups[::max(len(groups) // 3, 1)]:
            piece = row_slice(part, group)
            np.testing.assert_array_equal(piece.made[second], group)
            rows = piece.read[first]
            got = tensors(piece.graph, {first: whole[first][:, rows]})[second]
            np.testing.assert_allclose(got, whole[second][:, group], rtol=1e-4, atol=1e-5)
            sizes.add(len(group))
    assert len(sizes) > 1


def test_several_groups_at_once_of_an_integer_network():
    floats, inputs = text((7, 2, 7, 5), causal=False)
    graph = quantize(floats, inputs, method="minmax")
    codes = random_codes(np.random.default_rng(2), graph, 2)
    whole = forward(graph, codes)
    part = row_slice(graph, np.arange(7, 21))
    assert part.made["logits"].tolist() == list(range(7, 21))
    got = forward(part.graph, {"patches": codes["patches"][:, 7:21]})
    for name, values in got.items():
        rows = slice(7, 21)
        expected = whole[name][..., rows, :]
        np.testing.assert_array_equal(values, expected[..., :values.shape[-1]])


def test_rows_bring_those_that_are_computed_with_them():
    graph, _ = text()
    part = row_slice(graph, [8])
    assert part.made["logits"].tolist() == part.read["patches"].tolist() == list(range(7, 14))
    assert [len(group) for group in row_groups(graph)] == [7, 7, 7]
    one = load_checkpoint(SWIN)
    assert len(row_groups(one)) == 1  # a mean needs all rows
