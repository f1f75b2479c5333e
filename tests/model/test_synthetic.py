import re

import numpy as np
import pytest

from systola.model.data.synthetic import (
    MODELS,
    random_codes,
    random_float_swin,
    random_float_vit,
    random_named,
    random_stream,
    random_vit,
)
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.integer_forward import forward
from systola.model.graph.nodes import Linear, Norm, Scores

PARTS = ("norm1", "qkv", "scores", "attention", "context", "attn_out", "norm2", "fc1", "gelu",
         "out")
SIZES = {"channels": 12, "heads": 3, "blocks": 2, "hidden": 9, "classes": 2, "tokens": 7,
         "patch_dim": 4}


@pytest.mark.parametrize("attention", ["published", "deferred"])
def test_published_size(attention):
    graph = random_named("deit_tiny", blocks=1, attention=attention, code_mult_bits=16)
    (scores,) = graph.of(Scores)
    shapes = {name: graph.tensors[name].shape for name in ("patches", "embed", "blocks.0.fc1",
                                                           "logits")}
    assert shapes == {"patches": (196, 768), "embed": (197, 192), "blocks.0.fc1": (197, 768),
                      "logits": (1, 1000)}
    assert (graph.by_name["patch_embed"].weight.shape, scores.heads, scores.head_dim) == (
        (192, 768), 3, 64)
    assert graph.by_name["blocks.0.attention"].variant == attention
    assert np.abs(graph.by_name["blocks.0.qkv"].mult).max() < 2**16
    assert graph.meta["source"] == "deit_tiny, random weights, seed 0"
    stream = random_stream(np.random.default_rng(0), graph, 2)
    assert list(stream) == ["embed"]
    x = stream["embed"]
    assert x.shape == (2, 197, 192)
    assert np.abs(x).max() > 2**14
    assert len(np.unique(x)) > 10000
    tensors = forward(encoder_blocks(graph, 1), stream)
    assert [name.rsplit(".")[-1] for name in tensors] == list(PARTS)
    for name, value in tensors.items():
        assert len(np.unique(value)) > 30, name
        top = max(int(np.abs(value).max()), 1)
        assert np.mean(np.abs(value) == top) < 0.01, name  # nothing saturates noticeably


def test_table_of_sizes():
    assert [(size["channels"], size["channels"] // size["heads"], size["hidden"], size["blocks"])
            for size in MODELS.values()] == [(192, 64, 768, 12), (384, 64, 1536, 12),
                                             (768, 64, 3072, 12)]
    assert random_named("deit_tiny", blocks=0).of(Scores) == []


def test_seed_decides():
    graphs = [random_named("deit_tiny", blocks=0, seed=seed) for seed in (3, 3, 4)]
    weights = [graph.by_name["logits"].weight for graph in graphs]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_stream_is_the_embedding_of_any_network():
    graph = random_vit(np.random.default_rng(0), **SIZES)
    x = random_stream(np.random.default_rng(1), graph)
    assert (x["embed"][0, 0] == graph.by_name["prefix"].values[0]).all()
    without = graph.between(["patches"], ["embed"])
    assert (random_stream(np.random.default_rng(1), without)["embed"] == x["embed"]).all()


def test_stream_without_tokens_is_the_patches():
    graph = random_vit(np.random.default_rng(0), **SIZES, prefixes=0, pooling="mean")
    x = random_stream(np.random.default_rng(1), graph, 2)
    assert {name: value.shape for name, value in x.items()} == {"patch_embed": (2, 7, 12)}
    assert list(forward(encoder_blocks(graph, 2), x))[-1] == "blocks.1.out"


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_codes_reach_both_ends(bits):
    graph = random_vit(np.random.default_rng(0), **SIZES, act_bits=bits)
    codes = random_codes(np.random.default_rng(1), graph, 40)
    assert {name: value.shape for name, value in codes.items()} == {"patches": (40, 6, 4)}
    assert codes["patches"].dtype == np.int64
    half = 2 ** (bits - 1)
    assert (codes["patches"].min(), codes["patches"].max()) == (-half, half - 1)


def test_forms_of_networks():
    """Tokens before the patches, the pooling and the second head are what the arguments say."""
    def nodes(**form):
        return random_float_vit(np.random.default_rng(0), **SIZES, **form).by_name

    plain, distilled = nodes(), nodes(prefixes=2, distilled=True)
    assert (len(plain["prefix"].values), len(distilled["prefix"].values)) == (1, 2)
    assert (plain["patches"].rows, distilled["patches"].rows) == (6, 5)
    assert "logits_dist" not in plain
    assert distilled["pooled"].index.tolist() == [[0, 0]]
    assert distilled["pooled_dist"].index.tolist() == [[0, 1]]
    assert distilled["logits"].residual == "logits_dist"
    assert (distilled["norm"].weight == distilled["norm_dist"].weight).all()
    mean, beside = nodes(prefixes=0, pooling="mean"), nodes(prefixes=2, pooling="mean")
    assert "prefix" not in mean
    assert (mean["pooled"].input, beside["pooled"].input) == ("blocks.1.out", "pooled_rows")
    assert beside["pooled_rows"].index[:, 1].tolist() == [2, 3, 4, 5, 6]


def test_float_networks_have_every_kind_of_gamma():
    """Negative and zero ones, which are what the quantizer must not get wrong."""
    gammas = np.concatenate([norm.weight for seed in range(6) for norm in random_float_vit(
        np.random.default_rng(seed), **SIZES).of(Norm)])
    assert (gammas < 0).any()
    assert (gammas == 0).any()
    graph = random_float_vit(np.random.default_rng(0), **SIZES)
    assert {node.weight.dtype for node in graph.of(Linear)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("form", "message"), [
    ({"prefixes": -1}, "prefixes must be an integer of at least 1, not -1"),
    ({"prefixes": 0}, "prefixes must be an integer of at least 1, not 0"),
    ({"distilled": True}, "prefixes must be an integer of at least 2, not 1"),
    ({"distilled": True, "prefixes": 2, "pooling": "mean"},
     "a distilled network must have pooling 'token', not 'mean'"),
    ({"prefixes": 7}, "tokens must be an integer of at least 8, not 7"),
    ({"prefixes": 1.0}, "prefixes must be an integer of at least 1, not 1.0"),
    ({"pooling": "max"}, ("pooling must be 'token' or 'mean' or 'mean_of_norm' or "
                          "'token_and_mean' or 'rows', not 'max'"))])
def test_forms_are_checked(form, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        random_float_vit(np.random.default_rng(0), **SIZES, **form)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"^model must be 'deit_tiny' or 'deit_small' or "
                                         r"'vit_base' or 'swin_tiny' or 'text_causal' or "
                                         r"'text_padded', not 'deit'$"):
        random_named("deit")


def test_stages_are_no_blocks():
    with pytest.raises(ValueError, match=r"^blocks must be left out with swin_tiny, whose stages"):
        random_named("swin_tiny", blocks=1)


def test_a_swin_has_the_sizes_that_were_asked_for():
    sizes = {"channels": 6, "depths": (2, 1), "heads": (1, 2), "window": 2, "side": 16, "patch": 2,
             "classes": 3}
    graph = random_float_swin(np.random.default_rng(1), **sizes)
    scores = graph.of(Scores)
    assert [node.heads for node in scores] == [1, 1, 2]
    assert [graph.tensors[node.name].rows for node in scores] == [64, 64, 16]
    assert len(scores[0].sequences) == 16 < len(scores[1].sequences)  # shifted: more, of fewer rows
    assert graph.tensors["logits"].shape == (1, 3)
    assert graph.meta["assumed"] == []
    again = random_float_swin(np.random.default_rng(1), **sizes)
    np.testing.assert_array_equal(again.by_name["logits"].weight, graph.by_name["logits"].weight)
