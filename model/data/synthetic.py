"""Random networks of realistic magnitude, for simulation and for sizes without a checkpoint."""

import dataclasses

import numpy as np

from systola.model.allocation.node_precisions import take_turns
from systola.model.graph.encoder import stream_name
from systola.model.graph.integer_forward import forward
from systola.model.graph.masks import causal_counts, masked, padded_counts
from systola.model.importers.checkpoint import Checkpoint
from systola.model.importers.facts import Facts
from systola.model.importers.swin import swin_graph
from systola.model.importers.vision_transformer import block_shapes, vision_transformer
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["MODELS", "SWINS", "TEXTS", "random_codes", "random_float_swin", "random_float_text",
           "random_float_vit", "random_named", "random_stream", "random_token_codes",
           "random_tokens", "random_vit"]

_IMAGENET = {"tokens": 197, "blocks": 12, "classes": 1000, "patch_dim": 768}

MODELS = {
    "deit_tiny": {"channels": 192, "heads": 3, "hidden": 768, **_IMAGENET},
    "deit_small": {"channels": 384, "heads": 6, "hidden": 1536, **_IMAGENET},
    "vit_base": {"channels": 768, "heads": 12, "hidden": 3072, **_IMAGENET},
}
"""Sizes of published networks, images of 224 x 224 in patches of 16 x 16, as in `random_vit`."""

SWINS = {"swin_tiny": {"channels": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24), "window": 7,
                       "side": 224, "patch": 4, "classes": 1000}}
"""The same of Swin Transformers, as in `random_float_swin`."""

_TEXT = {"vocabulary": 64, "channels": 96, "heads": 4, "blocks": 2, "hidden": 192}

TEXTS = {"text_causal": {"tokens": 96, "lengths": (96,), "causal": True, **_TEXT},
         "text_padded": {"tokens": 32, "lengths": (32, 19, 7, 26), "causal": False, **_TEXT}}
"""Examples of masks, as in `random_float_text`: a network that predicts the next token of a text,
and one that looks at four texts of different lengths at once."""

_CALIBRATION_IMAGES = 8
_NAMED_IMAGES = 2  # a network of 197 tokens shows its ranges in few images


def random_float_vit(rng, *, channels, heads, blocks, hidden, classes, tokens, patch_dim,
                     prefixes=1, pooling="token", distilled=False):
    """Return a random float network; the sizes are those of `random_vit`.

    Weights are Gaussian with the variance that keeps activations at their magnitude, a little
    larger for qkv so that attention is not flat. Some gammas of layer norms are negative, and in
    four fifths of the networks with 8 channels or more, one is zero.

    Raises
    ------
    ValueError
        If a size is not a positive integer (`blocks` and `prefixes` may be 0), or heads do not
        divide channels.
    """
    sizes = {"channels": channels, "heads": heads, "blocks": blocks, "hidden": hidden,
             "classes": classes, "tokens": tokens, "patch_dim": patch_dim, "prefixes": prefixes}
    lowest = {"blocks": 0, "prefixes": 1 + distilled if pooling == "token" else 0,
              "tokens": prefixes + 1, "channels": 2}
    for name, value in sizes.items():
        low = lowest.get(name, 1)
        if not isinstance(value, int | np.integer) or value < low:
            raise ValueError(f"{name} must be an integer of at least {low}, not {value!r}")
    if channels % heads:
        raise ValueError(f"heads must divide the {channels} channels, not {heads!r}")
    shapes = {"patch_embed.proj.weight": (channels, patch_dim),
              "patch_embed.proj.bias": (channels,), "cls_token": (prefixes, channels),
              "pos_embed": (tokens, channels)}
    for index in range(blocks):
        shapes |= block_shapes(index, channels, hidden)
    shapes |= {"norm.weight": (channels,), "norm.bias": (channels,),
               "head.weight": (classes, channels), "head.bias": (classes,)}
    if distilled:
        shapes |= {"head_dist.weight": (classes, channels), "head_dist.bias": (classes,)}
    parameters = {name: _parameter(rng, name, shape) for name, shape in shapes.items()}
    prefix, position = parameters.pop("cls_token"), parameters.pop("pos_embed")
    return vision_transformer(parameters, heads=int(heads), blocks=int(blocks),
                              prefix=prefix + position[:prefixes], position=position[prefixes:],
                              pooling=pooling)


def random_float_swin(rng, *, channels, depths, heads, window, side, patch, classes):
    """Return a random float Swin Transformer, its weights like those of `random_float_vit`.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of randomness.
    channels : int
        Of the first stage; each stage has twice those of the one before.
    depths, heads : sequence of int
        Blocks and heads of each stage.
    window, side, patch : int
        Sides of a window in tokens, of an image and of a patch in pixels.
    classes : int
        Of the head.

    Raises
    ------
    ModelError
        If sizes do not fit each other.
    """
    shapes = {"patch_embed.proj.weight": (channels, 3 * patch**2),
              "patch_embed.proj.bias": (channels,), "patch_embed.norm.weight": (channels,),
              "patch_embed.norm.bias": (channels,)}
    for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        width = channels << stage
        if stage:
            name = f"layers.{stage}.downsample"
            shapes |= {f"{name}.norm.weight": (2 * width,), f"{name}.norm.bias": (2 * width,),
                       f"{name}.reduction.weight": (width, 2 * width)}
        for index in range(depth):
            block = f"layers.{stage}.blocks.{index}"
            shapes |= {name.replace("blocks.0", block, 1): shape
                       for name, shape in block_shapes(0, width, 4 * width).items()}
            shapes[f"{block}.attn.relative_position_bias_table"] = (2 * window - 1) ** 2, count
    shapes |= {"norm.weight": (width,), "norm.bias": (width,),
               "head.fc.weight": (classes, width), "head.fc.bias": (classes,)}
    tensors = {name: _parameter(rng, name, shape) for name, shape in shapes.items()}
    # What a norm before the residual stream cuts off could not be added behind it.
    gamma = tensors["patch_embed.norm.weight"]
    tensors["patch_embed.norm.weight"] = np.where(gamma == 0, np.float32(1), gamma)
    weight = tensors["patch_embed.proj.weight"]
    tensors["patch_embed.proj.weight"] = weight.reshape(channels, 3, patch, patch)
    config = {"model_args": {"num_heads": list(heads), "img_size": side}}
    return swin_graph(Checkpoint(path=None, tensors=tensors, config=config),
                      Facts({"mean": 0.5, "std": 0.5, "eps": 1e-5, "activation": "gelu"}))


def random_float_text(rng, *, vocabulary, tokens, lengths, causal, channels, heads, blocks, hidden):
    """Return a random float network of texts, its weights like those of `random_float_vit`.

    Input ``patches`` has a row a token, 1 in the channel of its number and else 0, one text behind
    the other, each filled up to `tokens` rows. The result are logits of every row.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of randomness.
    vocabulary, tokens : int
        Different tokens; rows of a text with its filling.
    lengths : sequence of int
        Tokens of every text.
    causal : bool
        Whether a token attends only to itself and those before, not to the whole text.
    channels, heads, blocks, hidden : int
        Sizes of the encoder.

    Raises
    ------
    ValueError
        If a size is out of range.
    """
    graph = random_float_vit(
        rng, channels=channels, heads=heads, blocks=blocks, hidden=hidden, classes=vocabulary,
        tokens=tokens, patch_dim=vocabulary, prefixes=0, pooling="rows")
    graph = dataclasses.replace(graph.repeated(len(lengths)), images=1)
    sequences = tuple((index * tokens, tokens) for index in range(len(lengths)))
    counts = padded_counts(sequences, lengths)
    return masked(graph, np.minimum(counts, causal_counts(sequences)) if causal else counts)


def random_tokens(rng, graph, count):
    """Return input of a network of `random_float_text`: (count, rows, vocabulary) float32."""
    node = graph.by_name["patches"]
    return np.eye(node.channels, dtype=np.float32)[
        rng.integers(node.channels, size=(count, node.rows))]


def random_vit(rng, *, channels, heads, blocks, hidden, classes, tokens, patch_dim, prefixes=1,
               pooling="token", distilled=False, images=_CALIBRATION_IMAGES, linear_bits=(),
               **settings):
    """Return the integer network of a random float network, calibrated on random images.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of randomness: equal generators give equal networks.
    channels, heads, blocks, hidden, classes, tokens, patch_dim : int
        Sizes; `tokens` includes the prefixes.
    prefixes : int
        Constant rows before the patches: class tokens and registers.
    pooling : str
        ``token`` or ``mean``.
    distilled : bool
        Two heads on the first two rows, averaged.
    images : int
        Random images for the calibration.
    linear_bits : sequence of Precision
        What linear nodes have in turn, see `take_turns`; by default what `settings` say.
    **settings
        Of `systola.model.quantization.quantize.quantize`, of which `method` is ``minmax`` here.

    Raises
    ------
    ValueError
        If a size or a setting is out of range.
    """
    graph = random_float_vit(rng, channels=channels, heads=heads, blocks=blocks, hidden=hidden,
                             classes=classes, tokens=tokens, patch_dim=patch_dim,
                             prefixes=prefixes, pooling=pooling, distilled=distilled)
    return _calibrated(rng, graph, images, linear_bits, **settings)


def _calibrated(rng, graph, images, linear_bits=(), inputs=None, **settings):
    """Return the integer network of a float one, by `inputs` or random images."""
    node = graph.by_name["patches"]
    if inputs is None:
        inputs = rng.standard_normal((images, node.rows, node.channels), dtype=np.float32)
    if linear_bits:
        settings["choices"] = {**(settings.get("choices") or {}), **take_turns(graph, linear_bits)}
    return quantize(graph, {"patches": inputs}, **{"method": "minmax", **settings})


def random_named(name, *, blocks=None, seed=0, **settings):
    """Return a random integer network of the size of a published one.

    Parameters
    ----------
    name : str
        Key of `MODELS`, `SWINS` or `TEXTS`.
    blocks : int, optional
        Encoder blocks of one of `MODELS` or `TEXTS`; by default those of the published network.
    seed : int
        Equal seeds and sizes give equal networks.
    **settings
        Of `systola.model.quantization.quantize.quantize`, and ``linear_bits`` of `random_vit`.

    Raises
    ------
    ValueError
        If the name is unknown or a setting out of range.
    """
    named = {**MODELS, **SWINS, **TEXTS}
    if name not in named:
        raise ValueError(f"model must be {' or '.join(map(repr, named))}, not {name!r}")
    rng = np.random.default_rng(seed)
    if name in SWINS:
        if blocks is not None:
            raise ValueError(f"blocks must be left out with {name}, whose stages differ")
        graph = _calibrated(rng, random_float_swin(rng, **SWINS[name]), _NAMED_IMAGES, **settings)
    else:
        sizes = named[name] if blocks is None else {**named[name], "blocks": blocks}
        if name in TEXTS:
            graph = random_float_text(rng, **sizes)
            graph = _calibrated(rng, graph, _NAMED_IMAGES, inputs=random_tokens(
                rng, graph, _CALIBRATION_IMAGES), **settings)
        else:
            graph = random_vit(rng, **sizes, images=_NAMED_IMAGES, **settings)
    return dataclasses.replace(graph, meta={
        **graph.meta, "source": f"{name}, random weights, seed {seed}"})


def random_codes(rng, graph, images=1):
    """Return random input codes by name, int64 (images, rows, channels), extremes included."""
    codes = {}
    for node in graph.inputs:
        high = 2 ** (node.bits - 1)
        values = rng.standard_normal((images, node.rows, node.channels)) * high / 3
        codes[node.name] = np.clip(np.rint(values).astype(np.int64), -high, high - 1)
    return codes


def random_token_codes(rng, graph, images=1):
    """Return the codes of random texts by name, int64 (images, rows, vocabulary)."""
    node = graph.by_name["patches"]
    return {node.name: to_codes(random_tokens(rng, graph, images), graph.scales[node.name],
                                node.bits)}


def random_stream(rng, graph, images=1):
    """Return random input of the encoder blocks alone, int64 (images, T, C), by name.

    The embedding of patches like those of the calibration: 16-bit codes as the first block of the
    whole network gets them.
    """
    node, name = graph.by_name["patches"], stream_name(graph)
    patches = rng.standard_normal((images, node.rows, node.channels), dtype=np.float32)
    codes = to_codes(patches, graph.scales["patches"], node.bits)
    return {name: forward(graph.between(["patches"], [name]), {"patches": codes})[name]}


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
