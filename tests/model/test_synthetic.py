import dataclasses

import numpy as np
import pytest

from systola.model.data.synthetic import MODELS, random_named, random_stream, random_vit
from systola.model.networks.integer_forward import forward_blocks

PARTS = ("norm1", "qkv", "scores", "attention", "context", "attn_out", "norm2", "fc1", "gelu",
         "out")


@pytest.mark.parametrize("attention", ["exact", "deferred"])
def test_published_size(attention):
    model = random_named("deit_tiny", blocks=1, attention=attention, code_mult_bits=16)
    assert (model.tokens, model.channels, model.heads, model.hidden, model.classes) == (
        197, 192, 3, 768, 1000)
    assert (model.patch.weight.shape, len(model.blocks), model.head_dim) == ((192, 768), 1, 64)
    assert (model.attention, model.code_mult_bits) == (attention, 16)
    x = random_stream(np.random.default_rng(0), model, 2)
    assert x.shape == (2, 197, 192)
    assert np.abs(x).max() > 2**14
    assert len(np.unique(x)) > 10000
    tensors = forward_blocks(model, x)
    assert [name.rsplit(".")[-1] for name in tensors] == list(PARTS)
    for name, value in tensors.items():
        assert len(np.unique(value)) > 30, name
        top = max(int(np.abs(value).max()), 1)
        assert np.mean(np.abs(value) == top) < 0.01, name  # nothing saturates noticeably


def test_table_of_sizes():
    assert [(size["channels"], size["channels"] // size["heads"], size["hidden"], size["blocks"])
            for size in MODELS.values()] == [(192, 64, 768, 12), (384, 64, 1536, 12),
                                             (768, 64, 3072, 12)]
    assert random_named("deit_tiny", blocks=0).blocks == ()


def test_seed_decides():
    models = [random_named("deit_tiny", blocks=0, seed=seed) for seed in (3, 3, 4)]
    weights = [model.head.weight for model in models]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


def test_stream_is_the_embedding_of_any_model():
    model = random_vit(np.random.default_rng(0), channels=12, heads=3, blocks=2, hidden=9,
                       classes=2, tokens=5, patch_dim=4)
    x = random_stream(np.random.default_rng(1), model)
    assert (x[0, 0] == model.cls_row).all()
    without = dataclasses.replace(model, blocks=())
    assert (random_stream(np.random.default_rng(1), without) == x).all()


def test_unknown_name():
    with pytest.raises(ValueError, match=r"^model must be 'deit_tiny' or 'deit_small' or "
                                         r"'vit_base', not 'deit'$"):
        random_named("deit")
