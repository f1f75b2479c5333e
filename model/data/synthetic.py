"""Random networks of realistic magnitude, for simulation and for sizes without a checkpoint."""

from dataclasses import replace

import numpy as np

from systola.model.importers.checkpoint import FloatVit, block_shapes
from systola.model.networks.integer_forward import forward
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["MODELS", "random_codes", "random_float_vit", "random_named", "random_stream",
           "random_vit"]

_IMAGENET = {"tokens": 197, "blocks": 12, "classes": 1000, "patch_dim": 768}

MODELS = {
    "deit_tiny": {"channels": 192, "heads": 3, "hidden": 768, **_IMAGENET},
    "deit_small": {"channels": 384, "heads": 6, "hidden": 1536, **_IMAGENET},
    "vit_base": {"channels": 768, "heads": 12, "hidden": 3072, **_IMAGENET},
}
"""Sizes of published networks, images of 224 x 224 in patches of 16 x 16, as in `random_vit`."""

_CALIBRATION_IMAGES = 8
_NAMED_IMAGES = 2  # a network of 197 tokens shows its ranges in few images


def random_float_vit(rng, *, channels, heads, blocks, hidden, classes, tokens, patch_dim):
    """Return a random float model; the sizes are those of `random_vit`.

    Weights are Gaussian with the variance that keeps activations at their magnitude, a little
    larger for qkv so that attention is not flat. Some gammas of layer norms are negative, and in
    four fifths of the models with 8 channels or more, one is zero.

    Raises
    ------
    ValueError
        If a size is not a positive integer (`blocks` may be 0), or heads do not divide channels.
    """
    sizes = {"channels": channels, "heads": heads, "blocks": blocks, "hidden": hidden,
             "classes": classes, "tokens": tokens, "patch_dim": patch_dim}
    for name, value in sizes.items():
        low = {"blocks": 0, "tokens": 2, "channels": 2}.get(name, 1)
        if not isinstance(value, int | np.integer) or value < low:
            raise ValueError(f"{name} must be an integer of at least {low}, not {value!r}")
    if channels % heads:
        raise ValueError(f"heads must divide the {channels} channels, not {heads!r}")
    shapes = {"patch_embed.proj.weight": (channels, patch_dim),
              "patch_embed.proj.bias": (channels,), "cls_token": (channels,),
              "pos_embed": (tokens, channels)}
    for index in range(blocks):
        shapes |= block_shapes(index, channels, hidden)
    shapes |= {"norm.weight": (channels,), "norm.bias": (channels,),
               "head.weight": (classes, channels), "head.bias": (classes,)}
    parameters = {name: _parameter(rng, name, shape) for name, shape in shapes.items()}
    return FloatVit(parameters=parameters, heads=int(heads), blocks=int(blocks))


def random_vit(rng, *, channels, heads, blocks, hidden, classes, tokens, patch_dim,
               images=_CALIBRATION_IMAGES, **settings):
    """Return the integer model of a random float model, calibrated on random images.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of randomness: equal generators give equal models.
    channels, heads, blocks, hidden, classes, tokens, patch_dim : int
        Sizes; `tokens` includes the class token.
    images : int
        Random images for the calibration.
    **settings
        Of `systola.model.quantization.quantize.quantize`.

    Raises
    ------
    ValueError
        If a size or a setting is out of range.
    """
    vit = random_float_vit(rng, channels=channels, heads=heads, blocks=blocks, hidden=hidden,
                           classes=classes, tokens=tokens, patch_dim=patch_dim)
    patches = rng.standard_normal((images, tokens - 1, patch_dim), dtype=np.float32)
    return quantize(vit, patches, **settings)


def random_named(name, *, blocks=None, seed=0, **settings):
    """Return a random integer model of the size of a published one.

    Parameters
    ----------
    name : str
        Key of `MODELS`.
    blocks : int, optional
        Encoder blocks; by default those of the published network.
    seed : int
        Equal seeds and sizes give equal models.
    **settings
        Of `systola.model.quantization.quantize.quantize`.

    Raises
    ------
    ValueError
        If the name is unknown or a setting out of range.
    """
    if name not in MODELS:
        raise ValueError(f"model must be {' or '.join(map(repr, MODELS))}, not {name!r}")
    sizes = MODELS[name] if blocks is None else {**MODELS[name], "blocks": blocks}
    model = random_vit(np.random.default_rng(seed), **sizes, images=_NAMED_IMAGES, **settings)
    return replace(model, meta={**model.meta, "source": f"{name}, random weights, seed {seed}"})


def random_codes(rng, model, images=1):
    """Return random patch codes for `model`, int64 (images, T-1, patch_dim), extremes included."""
    high = 2 ** (model.act_bits - 1)
    shape = (images, model.tokens - 1, model.patch.weight.shape[1])
    codes = np.rint(rng.standard_normal(shape) * high / 3).astype(np.int64)
    return np.clip(codes, -high, high - 1)


def random_stream(rng, model, images=1):
    """Return random input of the encoder blocks alone, int64 (images, T, C).

    The embedding of patches like those of the calibration: 16-bit codes as the first block of the
    whole network gets them.
    """
    shape = (images, model.tokens - 1, model.patch.weight.shape[1])
    patches = rng.standard_normal(shape, dtype=np.float32)
    codes = to_codes(patches, model.scales["input"], model.act_bits)
    return forward(replace(model, blocks=()), codes, keep=["embed"])["embed"]


def _parameter(rng, name, shape):
    value = rng.standard_normal(shape, dtype=np.float32)
    kind = name.rsplit(".", 2)[-2:]
    if len(shape) == 2 and name.endswith(".weight"):
        gain = {"qkv": 1.5, "proj": 0.7, "fc2": 0.7}.get(kind[0], 1.0)
        return value * np.float32(gain / np.sqrt(shape[1]))
    if "norm" in kind[0] and kind[1] == "weight":
        gamma = 1 + np.float32(0.3) * value
        negative = rng.random(shape) < 0.1
        if shape[0] >= 8 and rng.random() < 0.2:
            gamma[rng.integers(shape[0])] = 0
        return np.where(negative, -gamma, gamma)
    return value * np.float32(0.2)
