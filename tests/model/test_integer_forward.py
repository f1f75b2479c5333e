import dataclasses

import numpy as np
import pytest

from systola.model.data.synthetic import random_codes, random_vit
from systola.model.networks.integer_forward import forward, forward_blocks, tensor_names
from systola.model.operators.deferred import deferred_softmax, exp_table, row_factors
from systola.model.operators.layernorm import layernorm
from systola.model.operators.requant import requantize
from systola.model.operators.shiftgelu import gelu_table, shiftgelu
from systola.model.operators.shiftmax import shiftmax

SIZES = {"channels": 12, "heads": 3, "blocks": 2, "hidden": 21, "classes": 5, "tokens": 7,
         "patch_dim": 3}
VARIANTS = [{}, {"attention_bits": 8}, {"gelu": "table"}, {"norm_start": "leading_one"},
            {"act_bits": 5, "weight_bits": 3, "mult_bits": 12}, {"heads": 1, "tokens": 2},
            {"attention": "deferred"}, {"attention": "deferred", "weight_bits": 4, "mult_bits": 9},
            {"code_mult_bits": 16, "gelu": "table"}]


def make(variant, images=3, seed=0):
    rng = np.random.default_rng(seed)
    model = random_vit(rng, **{**SIZES, **variant})
    return model, random_codes(rng, model, images)


def scaled(z, dyadic, bits, *extra):
    extra = dict(zip(("residual", "res_mult", "res_shift"), extra, strict=False))
    return requantize(z, dyadic.mult, dyadic.shift, bits, **extra)


def dense(layer, x, residual=None, rescale=None):
    acc = np.einsum("tk,nk->tn", x, layer.weight.astype(np.int64)) + layer.bias
    extra = () if residual is None else (residual, rescale.mult, rescale.shift)
    y = scaled(acc, layer.requant, layer.out_bits, *extra)
    return np.maximum(y, 1 - 2 ** (layer.out_bits - 1)) if layer.symmetric else y


def normed(model, norm, x):
    return scaled(layernorm(x, model.norm_start) + norm.bias, norm.requant, model.act_bits)


def reference(model, codes):
    """Run one image, head by head, with plain int64 products."""
    patches = dense(model.patch, codes, model.position.astype(np.int64), model.position_residual)
    x = np.concatenate([model.cls_row[None].astype(np.int64), patches])
    tensors = {"embed": x}
    for i, block in enumerate(model.blocks):
        part = {"norm1": normed(model, block.norm1, x)}
        part["qkv"] = dense(block.qkv, part["norm1"])
        heads = []
        for h in range(model.heads):
            q, k, v = (part["qkv"][:, g * model.channels + h * model.head_dim:][:, :model.head_dim]
                       for g in range(3))
            scores = scaled(q @ k.T, block.scores, 8)
            if model.attention == "deferred":
                attention, sums = deferred_softmax(scores, exp_table(block.softmax_x0))
                factors = row_factors(sums, int(block.context.mult), model.mult_bits)
                context = requantize(attention @ v, factors[:, None], block.context.shift, 8)
            else:
                attention = shiftmax(scores, block.softmax_x0, 15, model.attention_bits)
                context = scaled(attention @ v, block.context, model.act_bits)
            heads.append((scores, attention, context))
        part["scores"], part["attention"], context = map(np.stack, zip(*heads, strict=True))
        part["context"] = np.concatenate(context, axis=1)
        part["attn_out"] = dense(block.proj, part["context"], x, block.attn_residual)
        part["norm2"] = normed(model, block.norm2, part["attn_out"])
        part["fc1"] = dense(block.fc1, part["norm2"])
        if model.gelu == "table":
            table = gelu_table(block.gelu_x0, block.gelu.mult, block.gelu.shift, model.act_bits)
            part["gelu"] = np.array([[table[c + 128] for c in row] for row in part["fc1"]])
        else:
            part["gelu"] = scaled(shiftgelu(part["fc1"], block.gelu_x0), block.gelu,
                                  model.act_bits)
        x = part["out"] = dense(block.fc2, part["gelu"], part["attn_out"], block.mlp_residual)
        tensors |= {f"blocks.{i}.{name}": value for name, value in part.items()}
    tensors["norm"] = normed(model, model.norm, x[:1])
    tensors["logits"] = dense(model.head, tensors["norm"])[0]
    return tensors


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_equals_a_plain_evaluation(variant):
    model, codes = make(variant)
    got = forward(model, codes)
    for i, image in enumerate(codes):
        want = reference(model, image)
        assert list(want) == tensor_names(model) == list(got)
        for name, value in want.items():
            assert got[name][i].shape == value.shape, name
            assert (got[name][i] == value).all(), name
    assert len(np.unique(got["logits"])) > 3


def test_names_and_shapes():
    model, codes = make({})
    tensors, single = forward(model, codes), forward(model, codes[1])
    heads, tokens, channels, hidden = 3, 7, 12, 21
    shapes = {"norm1": (tokens, channels), "qkv": (tokens, 3 * channels),
              "scores": (heads, tokens, tokens), "attention": (heads, tokens, tokens),
              "context": (tokens, channels), "attn_out": (tokens, channels),
              "norm2": (tokens, channels), "fc1": (tokens, hidden), "gelu": (tokens, hidden),
              "out": (tokens, channels)}
    shapes = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in shapes.items()}
    shapes |= {"embed": (tokens, channels), "norm": (1, channels), "logits": (5,)}
    assert {name: value.shape for name, value in single.items()} == shapes
    assert {name: value.shape[1:] for name, value in tensors.items()} == shapes
    for name, value in tensors.items():
        assert value.dtype == np.int64
        assert (value[1] == single[name]).all()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_tensor_keeps_its_width(variant):
    model, codes = make(variant, images=8)
    codes[0], codes[1] = -2 ** (model.act_bits - 1), 2 ** (model.act_bits - 1) - 1
    bits = {"embed": 16, "attn_out": 16, "out": 16, "logits": 16, "scores": 8, "fc1": 8}
    for name, value in forward(model, codes).items():
        part = name.rsplit(".")[-1]
        if part == "attention":
            assert value.min() >= 0
            deferred = model.attention == "deferred"
            assert value.max() <= (128 if deferred else 2 ** (model.attention_bits - 1) - 1)
        elif part == "qkv":
            assert np.abs(value).max() < 2 ** (model.blocks[0].qkv.out_bits - 1)
        else:
            limit = 2 ** (bits.get(part, model.act_bits) - 1)
            assert -limit <= value.min() <= value.max() < limit, name


def test_batches_longer_than_a_chunk():
    model, codes = make({"blocks": 1}, images=65)
    whole = forward(model, codes, keep=["logits", "blocks.0.fc1"])
    assert set(whole) == {"logits", "blocks.0.fc1"}
    assert whole["logits"].shape == (65, 5)
    for i in (0, 31, 32, 64):
        assert (whole["logits"][i] == forward(model, codes[i])["logits"]).all()
    assert forward(model, codes[:0])["logits"].shape == (0, 5)


def test_unsymmetric_layers_reach_the_lowest_code():
    model, codes = make({"blocks": 1}, images=8)
    block = model.blocks[0]
    for symmetric, lowest in (False, -128), (True, -127):
        qkv = dataclasses.replace(block.qkv, bias=block.qkv.bias * 50, symmetric=symmetric)
        changed = dataclasses.replace(model, blocks=(dataclasses.replace(block, qkv=qkv),))
        assert forward(changed, codes)["blocks.0.qkv"].min() == lowest


@pytest.mark.parametrize("variant", [{}, {"attention": "deferred"}], ids=str)
def test_blocks_alone(variant):
    model, codes = make(variant, images=2)
    whole = forward(model, codes)
    got = forward_blocks(model, whole["embed"])
    assert list(got) == [name for name in tensor_names(model) if name.startswith("blocks.")]
    assert all((value == whole[name]).all() for name, value in got.items())
    single = forward_blocks(model, whole["embed"][1], keep=["blocks.1.out"])
    assert list(single) == ["blocks.1.out"]
    assert (single["blocks.1.out"] == whole["blocks.1.out"][1]).all()


def test_errors_of_blocks_alone():
    model, _ = make({})
    x = np.zeros((7, 12), np.int64)
    with pytest.raises(ValueError, match=r"^x must be of shape \(7, 12\) or \(B, 7, 12\), "
                                         r"not \(6, 12\)$"):
        forward_blocks(model, x[1:])
    for bad in x + 32768, x.astype(float):
        with pytest.raises(ValueError, match=r"^x must be integers from -32768 to 32767$"):
            forward_blocks(model, bad)
    with pytest.raises(ValueError, match=r"^keep must name tensors of the model, "
                                         r"not \['logits'\]$"):
        forward_blocks(model, x, keep=["logits"])


def test_errors():
    model, codes = make({})
    with pytest.raises(ValueError, match=r"^codes must be of shape \(6, 3\) or \(B, 6, 3\), "
                                         r"not \(3, 6, 2\)$"):
        forward(model, codes[..., :2])
    for bad in codes + 1000, codes.astype(float):
        with pytest.raises(ValueError, match=r"^codes must be integers from -128 to 127$"):
            forward(model, bad)
    with pytest.raises(ValueError, match=r"^keep must name tensors of the model, not \['x'\]$"):
        forward(model, codes, keep=["x", "logits"])
