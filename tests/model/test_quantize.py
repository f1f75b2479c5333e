import dataclasses
import re
from math import floor, sqrt

import numpy as np
import pytest

from systola.files.tensors import ModelError
from systola.hw.contract.config import ConfigError
from systola.model.data.synthetic import random_codes, random_float_vit, random_vit
from systola.model.networks import float_vit
from systola.model.networks.integer_forward import forward
from systola.model.networks.integer_vit import MAX_X0, Dyadic, Linear
from systola.model.operators.requant import MAX_SHIFT, requantize
from systola.model.quantization.calibrate import calibrate
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes

SIZES = {"channels": 24, "heads": 3, "blocks": 2, "hidden": 40, "classes": 5, "tokens": 10,
         "patch_dim": 7}


def make(seed=0, **settings):
    """Return a float model without zero gammas, its patches and its integer model."""
    rng = np.random.default_rng(seed)
    vit = random_float_vit(rng, **SIZES)
    for name, value in vit.parameters.items():
        if "norm" in name and name.endswith("weight"):
            value[value == 0] = 1
    patches = rng.standard_normal((64, 9, 7), dtype=np.float32)
    return vit, patches, quantize(vit, patches, **settings)


def every(part, kind):
    """Yield all parts of type `kind` inside a model."""
    if isinstance(part, kind):
        yield part
    values = part if isinstance(part, tuple) else [
        getattr(part, item.name) for item in dataclasses.fields(part)
    ] if dataclasses.is_dataclass(part) else []
    for value in values:
        yield from every(value, kind)


def linears(vit, model):
    """Yield (float name, `Linear`, scale of its input, scale of its output)."""
    s = model.scales
    yield "patch_embed.proj", model.patch, s["input"], s["embed"]
    for i, block in enumerate(model.blocks):
        name = f"blocks.{i}"
        for linear, part, source, target in (
                ("attn.qkv", block.qkv, "norm1", "qkv"),
                ("attn.proj", block.proj, "context", "attn_out"),
                ("mlp.fc1", block.fc1, "norm2", "fc1"), ("mlp.fc2", block.fc2, "gelu", "out")):
            yield f"{name}.{linear}", part, s[f"{name}.{source}"], s[f"{name}.{target}"]
    yield "head", model.head, s["norm"], s["logits"]


@pytest.mark.parametrize("settings", [{}, {"mult_bits": 31, "gelu": "table"},
                                      {"norm_start": "leading_one"}, {"code_mult_bits": 16},
                                      {"attention": "deferred"}])
def test_every_tensor_follows_the_float_model(settings):
    """Every tensor times its scale is near the float one: no site has a wrong scale."""
    vit, patches, model = make(**settings)
    expected = {}
    float_vit.forward(vit, patches, expected.__setitem__)
    got = forward(model, to_codes(patches, model.scales["input"], model.act_bits))
    assert got.keys() == expected.keys() - {"input"}
    for name, value in got.items():
        real = value * model.scales[name]
        if model.attention == "deferred" and name.endswith("attention"):
            real = value / value.sum(axis=-1, keepdims=True)
        error = np.sqrt(np.mean((real - expected[name]) ** 2) / np.mean(expected[name] ** 2))
        assert error < 0.12, name


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_symmetric_and_within_half_a_step(bits):
    vit, _, model = make(weight_bits=bits)
    top = 2 ** (bits - 1) - 1
    for name, linear, _, _ in linears(vit, model):
        weight = vit.parameters[f"{name}.weight"]
        scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / top, 2.0**-23)
        assert linear.weight.dtype == np.int8
        assert np.abs(linear.weight).max() <= top
        assert (np.abs(linear.weight).max(axis=1) == top).all(), name  # per output channel
        assert np.abs(linear.weight * scale - weight).max() <= scale.max() * 0.5001


def test_biases_and_multipliers_have_the_accumulator_scale():
    vit, _, model = make()
    for name, linear, source, target in linears(vit, model):
        weight = vit.parameters[f"{name}.weight"]
        accumulator = np.abs(weight).max(axis=1) / 127 * source
        bias = vit.parameters[f"{name}.bias"] / accumulator
        np.testing.assert_allclose(linear.bias, bias, rtol=1e-5, atol=0.51)
        ratio = linear.requant.mult / 2.0**linear.requant.shift
        np.testing.assert_allclose(ratio, accumulator / target, rtol=1e-6)


@pytest.mark.parametrize(("mult_bits", "code_mult_bits", "narrow"), [
    (8, 8, 8), (16, 24, 16), (24, 16, 16), (31, 24, 24), (31, 31, 31)])
def test_widths_of_multipliers(mult_bits, code_mult_bits, narrow):
    _, _, model = make(mult_bits=mult_bits, code_mult_bits=code_mult_bits)
    sites = list(every(model, Dyadic))
    assert len(sites) == 4 + 2 * 11
    short = [model.norm.requant]
    for block in model.blocks:
        short += [block.norm1.requant, block.norm2.requant, block.qkv.requant, block.fc1.requant,
                  block.scores, block.context, block.gelu]
    for site in sites:
        assert site.mult.dtype == site.shift.dtype == np.int64
        assert site.mult.shape == site.shift.shape
        bits = narrow if any(site is other for other in short) else mult_bits
        assert (np.abs(site.mult) < 2**bits).all()
        assert (np.abs(site.mult) >= 2 ** (bits - 1)).all()
        assert (site.shift >= 0).all()
        assert (site.shift <= MAX_SHIFT).all()


@pytest.mark.parametrize(("mult_bits", "bits"), [(24, 31), (20, 27), (8, 15)])
def test_numerators_of_deferred_attention(mult_bits, bits):
    """The largest ones a row factor of ``mult_bits`` bits leaves room for."""
    _, _, model = make(attention="deferred", mult_bits=mult_bits)
    for index, block in enumerate(model.blocks):
        ratio = model.scales[f"blocks.{index}.qkv"] / model.scales[f"blocks.{index}.context"]
        assert 2 ** (bits - 1) <= block.context.mult < 2**bits
        assert block.context.mult / 2.0**block.context.shift == pytest.approx(ratio, rel=2.0**-14)
        assert block.context.mult // 128 < 2**mult_bits


def test_stationary_results_saturate_symmetrically():
    for settings in {}, {"attention": "deferred"}, {"weight_bits": 3}:
        _, _, model = make(**settings)
        assert all(block.qkv.symmetric for block in model.blocks)
        assert sum(linear.symmetric for linear in every(model, Linear)) == len(model.blocks)


@pytest.mark.parametrize("seed", range(6))
def test_constants_of_the_exponentials_are_exact(seed):
    vit, patches, model = make(seed)
    ranges = calibrate(vit, patches)
    for i, block in enumerate(model.blocks):
        for x0, factor, name in ((block.softmax_x0, 1, "scores"), (block.gelu_x0, 1.702, "fc1")):
            scale = model.scales[f"blocks.{i}.{name}"]
            assert x0 == floor(-1 / (factor * scale))
            assert -x0 * factor * scale == pytest.approx(1, rel=1e-6)
            observed = max(-ranges[f"blocks.{i}.{name}"][0], ranges[f"blocks.{i}.{name}"][1]) / 127
            assert observed * 0.999999 <= scale <= observed / (1 - factor * observed)


def test_coarse_exponential_scales_stay():
    vit, patches, _ = make()
    vit.parameters["blocks.0.attn.qkv.weight"][:] *= 30
    model = quantize(vit, patches)
    assert model.scales["blocks.0.scores"] > 1
    assert model.blocks[0].softmax_x0 == -1


def test_fine_scales_are_widened_to_the_largest_x0():
    vit, patches, _ = make()
    vit.parameters["blocks.0.attn.qkv.weight"][:24] *= 1e-6
    vit.parameters["blocks.0.attn.qkv.bias"][:24] *= 1e-6
    for part in "weight", "bias":
        vit.parameters[f"blocks.1.mlp.fc1.{part}"][:] *= 1e-6
    model = quantize(vit, patches)
    assert -MAX_X0 <= model.blocks[0].softmax_x0 < -MAX_X0 + 2
    assert -MAX_X0 <= model.blocks[1].gelu_x0 < -MAX_X0 + 2
    assert -MAX_X0 + 2 < model.blocks[1].softmax_x0


def test_norm_bias_and_saturation():
    vit, patches, _ = make()
    gamma, beta = (vit.parameters[f"blocks.0.norm1.{part}"] for part in ("weight", "bias"))
    gamma[:3], beta[:3] = (0.001, -0.001, -0.5), (1, 1, 0.3)
    norm = quantize(vit, patches).blocks[0].norm1
    assert norm.bias[:2].tolist() == [2**31 - 1, -2**31]
    expected = np.floor(beta.astype(float) / gamma * 2**30 / sqrt(24))
    np.testing.assert_array_equal(norm.bias[2:], expected[2:])
    assert (np.sign(norm.requant.mult) == np.sign(gamma)).all()


def test_gamma_of_zero_outputs_beta():
    """The rule of ARITHMETIC section 7: such a channel is the constant round(beta / S)."""
    vit, patches, _ = make()
    vit.parameters["blocks.0.norm1.weight"][5] = 0
    vit.parameters["blocks.0.norm1.bias"][5] = 0.7
    model = quantize(vit, patches)
    codes = to_codes(patches[:4], model.scales["input"], model.act_bits)
    got = forward(model, codes, keep=["blocks.0.norm1", "blocks.0.qkv"])
    assert (got["blocks.0.norm1"][..., 5] == 0).all()
    constant = int(to_codes(0.7, model.scales["blocks.0.norm1"], 8))
    assert constant > 10
    rule = got["blocks.0.norm1"].copy()
    rule[..., 5] = constant
    qkv = model.blocks[0].qkv
    plain = qkv.bias - qkv.weight[:, 5].astype(int) * constant
    accumulator = rule @ qkv.weight.astype(int).T + plain
    np.testing.assert_array_equal(
        got["blocks.0.qkv"], requantize(accumulator, qkv.requant.mult, qkv.requant.shift, 8))
    scale = np.abs(vit.parameters["blocks.0.attn.qkv.weight"]).max(axis=1) / 127
    bias = vit.parameters["blocks.0.attn.qkv.bias"] / (scale * model.scales["blocks.0.norm1"])
    np.testing.assert_allclose(plain, bias, rtol=1e-4, atol=0.51)


def test_tiny_gamma_shortens_the_multiplier():
    vit, patches, _ = make()
    vit.parameters["norm.weight"][:2] = 1e-8, -1e-30
    norm = quantize(vit, patches, mult_bits=31).norm
    assert norm.requant.shift[:2].tolist() == [MAX_SHIFT, MAX_SHIFT]
    assert 0 < norm.requant.mult[0] < 2**30
    assert norm.requant.mult[1] == 0


@pytest.mark.parametrize(("weight_bits", "act_bits", "qkv_bits"), [(8, 8, 8), (4, 6, 4),
                                                                   (6, 3, 3)])
def test_output_widths(weight_bits, act_bits, qkv_bits):
    _, _, model = make(weight_bits=weight_bits, act_bits=act_bits)
    block = model.blocks[1]
    assert [part.out_bits for part in (model.patch, block.qkv, block.proj, block.fc1, block.fc2,
                                       model.head)] == [16, qkv_bits, 16, 8, 16, 16]
    got = forward(model, random_codes(np.random.default_rng(0), model, 3))
    for name, bits in ("qkv", qkv_bits), ("norm1", act_bits), ("context", act_bits), (
            "gelu", act_bits), ("scores", 8):
        assert np.abs(got[f"blocks.1.{name}"]).max() <= 2 ** (bits - 1), name
    for name in "scores", "fc1":  # never operands of the array: 8 bits whatever act_bits is
        assert np.abs(got[f"blocks.1.{name}"]).max() > 64, name


@pytest.mark.parametrize("seed", range(4))
def test_coarse_operands_and_short_multipliers_are_expressible(seed):
    """The residual scales give way where a ratio would need a left shift."""
    vit, patches, model = make(seed, weight_bits=2, act_bits=2, mult_bits=8)
    full = quantize(vit, patches, weight_bits=2, act_bits=2, mult_bits=31)
    widened = [name for name in full.scales if model.scales[name] > full.scales[name]]
    assert widened
    assert all(name == "logits" or name.endswith(("embed", "attn_out", "out")) for name in widened)
    assert all(model.scales[name] >= scale for name, scale in full.scales.items())
    for name, linear, source, target in linears(vit, model):
        accumulator = np.abs(vit.parameters[f"{name}.weight"]).max(axis=1) * source
        ratio = linear.requant.mult / 2.0**linear.requant.shift
        np.testing.assert_allclose(ratio, accumulator / target, rtol=2**-7)


@pytest.mark.parametrize(("settings", "message"), [
    ({"weight_bits": 9}, "weight_bits must be an integer from 2 to 8, not 9"),
    ({"act_bits": 1}, "act_bits must be an integer from 2 to 8, not 1"),
    ({"attention_bits": 12}, "attention_bits must be 8 or 16, not 12"),
    ({"mult_bits": 32}, "mult_bits must be an integer from 8 to 31, not 32"),
    ({"code_mult_bits": 7}, "code_mult_bits must be an integer from 8 to 31, not 7"),
    ({"attention": "late"}, "attention must be 'exact' or 'deferred', not 'late'"),
    ({"attention": "deferred", "act_bits": 6},
     "attention 'deferred' needs act_bits 8 and mult_bits up to 24, not 6 and 24"),
    ({"gelu": "relu"}, "gelu must be 'exact' or 'table', not 'relu'"),
    ({"norm_start": 0}, "norm_start must be 'published' or 'leading_one', not 0")])
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        make(**settings)


def test_no_calibration_images():
    vit, patches, _ = make()
    with pytest.raises(ValueError, match=r"^calibration images must be at least 1, not 0$"):
        quantize(vit, patches[:0])


def test_calibration_reports_progress_and_averages_batches():
    vit, patches, _ = make()
    seen = []
    ranges = calibrate(vit, patches, batch=40, progress=lambda *call: seen.append(call))
    assert seen == [(40, 64), (64, 64)]
    low = 0.95 * patches[:40].min() + 0.05 * patches[40:].min()
    high = 0.95 * patches[:40].max() + 0.05 * patches[40:].max()
    np.testing.assert_allclose(ranges["input"], (low, high), rtol=1e-6)


def test_random_models_depend_on_the_seed_only():
    models = [random_vit(np.random.default_rng(seed), **SIZES) for seed in (5, 5, 6)]
    weights = [model.blocks[1].fc2.weight for model in models]
    assert (weights[0] == weights[1]).all()
    assert (weights[0] != weights[2]).any()


@pytest.mark.parametrize("seed", range(12))
def test_random_models_are_lively(seed):
    """Codes fill their range in every tensor, so that simulations of them mean something."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    model = random_vit(rng, channels=heads * int(rng.integers(4, 9)), heads=heads, blocks=1,
                       hidden=int(rng.integers(4, 30)), classes=int(rng.integers(2, 8)),
                       tokens=int(rng.integers(3, 12)), patch_dim=int(rng.integers(1, 9)),
                       gelu=("exact", "table")[seed % 2])
    got = forward(model, random_codes(rng, model, 4))
    for name, value in got.items():
        assert len(np.unique(value)) > min(12, value.size // 4), name
    saturated = np.mean(np.abs(got["blocks.0.out"]) >= 2**15 - 1)
    assert saturated < 0.05


@pytest.mark.parametrize(("change", "message"), [
    ({"channels": 1}, "channels must be an integer of at least 2, not 1"),
    ({"blocks": -1}, "blocks must be an integer of at least 0, not -1"),
    ({"tokens": 1.5}, "tokens must be an integer of at least 2, not 1.5"),
    ({"heads": 5}, "heads must divide the 24 channels, not 5")])
def test_random_sizes_are_checked(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        random_vit(np.random.default_rng(0), **{**SIZES, **change})


def test_model_without_blocks():
    model = random_vit(np.random.default_rng(0), **{**SIZES, "blocks": 0})
    assert forward(model, random_codes(np.random.default_rng(1), model))["logits"].shape == (1, 5)


def test_model_error_is_a_value_error():
    assert issubclass(ModelError, ValueError)
