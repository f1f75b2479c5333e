import math

import numpy as np
import pytest

from systola.model.data.synthetic import random_float_vit
from systola.model.networks.float_vit import forward, gelu, softmax


def make(seed=0, **sizes):
    sizes = {"channels": 12, "heads": 3, "blocks": 2, "hidden": 10, "classes": 5, "tokens": 6,
             "patch_dim": 4, **sizes}
    rng = np.random.default_rng(seed)
    vit = random_float_vit(rng, **sizes)
    return vit, rng.standard_normal((3, sizes["tokens"] - 1, sizes["patch_dim"]))


def reference(vit, patches):
    """Return the logits of one image, token by token in float64."""
    p = {name: value.astype(np.float64) for name, value in vit.parameters.items()}
    dim = vit.channels // vit.heads

    def linear(x, name):
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    def norm(x, name):
        return (x - x.mean()) / math.sqrt(x.var() + vit.eps) * p[f"{name}.weight"] + p[
            f"{name}.bias"]

    tokens = [p["cls_token"] + p["pos_embed"][0]]
    tokens += [linear(x, "patch_embed.proj") + e for x, e in zip(patches, p["pos_embed"][1:],
                                                                strict=True)]
    for i in range(vit.blocks):
        qkv = [linear(norm(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv") for x in tokens]
        for t, own in enumerate(qkv):
            context = []
            for h in range(vit.heads):
                q = own[h * dim:][:dim]
                keys = [row[vit.channels + h * dim:][:dim] for row in qkv]
                values = [row[2 * vit.channels + h * dim:][:dim] for row in qkv]
                e = [math.exp(q @ k / math.sqrt(dim)) for k in keys]
                context += list(sum(a / sum(e) * v for a, v in zip(e, values, strict=True)))
            tokens[t] = tokens[t] + linear(np.array(context), f"blocks.{i}.attn.proj")
        for t, x in enumerate(tokens):
            hidden = linear(norm(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
            hidden = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in hidden])
            tokens[t] = x + linear(hidden, f"blocks.{i}.mlp.fc2")
    return linear(norm(tokens[0], "norm"), "head")


@pytest.mark.parametrize("sizes", [{}, {"heads": 1, "tokens": 2}, {"channels": 20, "heads": 5,
                                                                  "hidden": 33, "blocks": 1}])
def test_matches_a_token_by_token_reference(sizes):
    vit, patches = make(**sizes)
    expected = np.array([reference(vit, image) for image in patches])
    np.testing.assert_allclose(forward(vit, patches), expected, atol=2e-5, rtol=1e-4)


def test_gelu_is_exact_to_float32():
    x = np.linspace(-20, 20, 40001)
    expected = np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    np.testing.assert_allclose(gelu(x), expected, atol=1e-6)


def test_softmax_survives_large_inputs():
    x = np.array([[1000.0, 1000.0, -1000.0], [0, math.log(3), -1e4]])
    np.testing.assert_allclose(softmax(x), [[0.5, 0.5, 0], [0.25, 0.75, 0]], atol=1e-12)


def test_hook_sees_every_stored_tensor_once():
    vit, patches = make()
    seen = {}
    forward(vit, patches, lambda name, x: seen.setdefault(name, []).append(x.shape))
    parts = ["norm1", "qkv", "scores", "attention", "context", "attn_out", "norm2", "fc1", "gelu",
             "out"]
    assert list(seen) == ["input", "embed", *(f"blocks.{i}.{part}" for i in range(2)
                                             for part in parts), "norm", "logits"]
    assert all(len(shapes) == 1 for shapes in seen.values())
    assert seen["blocks.0.attention"] == [(3, 3, 6, 6)]
    assert seen["norm"] == [(3, 1, 12)]


def test_wrong_patches_are_refused():
    vit, patches = make()
    with pytest.raises(ValueError, match=r"^patches must be of shape \(B, 5, 4\), not \(3, 5, 3\)"):
        forward(vit, patches[..., :3])
