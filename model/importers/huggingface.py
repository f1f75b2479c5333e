"""Vision Transformers of Hugging Face's transformers: ViT, DeiT, DINOv2 and CLIP's image tower."""

import re

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import SMALLEST, ModelError
from systola.model.importers.cropping import find_processing
from systola.model.importers.encoder_graph import (
    block_count,
    encoder_graph,
    patch_shape,
    refuse_unknown,
)
from systola.model.importers.facts import number, whole
from systola.model.importers.normalisation import find_normalisation

__all__ = ["find_activation", "find_preprocessing", "huggingface_graph", "recognize"]

_ACTIVATIONS = {"gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
               "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
               "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
"""Functions of the graph by the names in ``hidden_act``, and in timm's ``act_layer``."""

_FAMILIES = {"vit": "vit", "deit": "deit", "dinov2": "dinov2",
             "dinov2_with_registers": "dinov2", "clip": "clip", "clip_vision_model": "clip"}

_REFUSED = {"siglip": "attention pooling", "siglip_vision_model": "attention pooling",
            "siglip2": "attention pooling", "beit": "relative position bias",
            "data2vec-vision": "relative position bias", "swinv2": "cosine window attention",
            "dinov3_vit": "rotary position embedding", "vit_mae": "a decoder (masked autoencoder)",
            "vit_msn": "prototypes (MSN)", "ijepa": "predictors (I-JEPA)",
            "vit_hybrid": "a convolutional stem", "convnext": "a convolutional network",
            "resnet": "a convolutional network"}

_LAYER = {
    "attention.output.dense": "attn.proj", "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
    "layernorm_before": "norm1", "layernorm_after": "norm2",
    "norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma",
    "self_attn.out_proj": "attn.proj", "layer_norm1": "norm1", "layer_norm2": "norm2"}
"""Parts of a block by their names here, and in timm.

transformers 5 has other names in memory (``attention.o_proj``) than in the files that it writes.
"""

_OUTER = {
    "embeddings.cls_token": "cls_token", "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token", "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm",
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding.weight": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj", "pre_layrnorm": "norm_pre",
    "post_layernorm": "norm", "classifier": "head", "cls_classifier": "head",
    "distillation_classifier": "head_dist", "visual_projection": "head"}
"""The other parts, likewise."""

_QKV = re.compile(r"(.*)\.(?:attention\.attention\.(query|key|value)"
                  r"|(?:self_attn|attention)\.(q|k|v)_proj)\.(weight|bias)")
_UNUSED = {"embeddings.mask_token": "a token of pre-training",
           "embeddings.position_ids": "an index", "pooler.dense.weight": "the pooler",
           "pooler.dense.bias": "the pooler", "logit_scale": "the text tower"}
"""Tensors that classification does not read, and what they are."""


def recognize(checkpoint):
    """Tell whether a checkpoint has the names of transformers' Vision Transformers."""
    return any(re.search(r"embeddings\.(patch_embeddings\.projection|patch_embedding)\.weight",
                         name) for name in checkpoint.tensors)


def huggingface_graph(checkpoint, facts):
    """Return the float graph of a checkpoint of transformers.

    Parameters
    ----------
    checkpoint : Checkpoint
        With its ``config``, which says what the tensors do not.
    facts : Facts

    Raises
    ------
    ModelError
        If the network cannot be expressed, or what no file says is not given.
    """
    config, kind = checkpoint.config, checkpoint.config.get("model_type")
    if kind in _REFUSED:
        raise ModelError(f"model_type {kind!r} has {_REFUSED[kind]}, which is not supported")
    tensors = _own_names(checkpoint.tensors, facts)
    if kind is None:
        kind = "clip" if "norm_pre.weight" in tensors else "vit"
        facts.assumed.append(f"model_type {kind}: no config.json beside the weights")
    if kind not in _FAMILIES:
        raise ModelError(f"model_type must be one of {', '.join(_FAMILIES)}, not {shown(kind)}")
    if kind == "clip":
        config = config.get("vision_config") or {}
    if config.get("use_swiglu_ffn"):
        raise ModelError("the checkpoint has a gated MLP (SwiGLU), which is not supported")
    _check_depth(tensors, config)
    family = "deit_distilled" if "head_dist.weight" in tensors else _FAMILIES[kind]
    facts.note("family", family, f"model_type {kind}")
    find_preprocessing(checkpoint, facts, family,
                       patch_shape(tensors)[1])
    usual = {"clip": 1e-5, "dinov2": 1e-6}.get(family, 1e-12)
    eps = facts.find("eps", (config.get("layer_norm_eps"), "config.json"),
                     assume=(usual, f"the default of {kind} in transformers"),
                     check=number(SMALLEST, 1))
    return encoder_graph(
        tensors, facts, eps=eps, activation=find_activation(config, facts, family),
        pooling=_pooling(family, tensors, checkpoint.tensors),
        heads=lambda channels: _heads(channels, config, facts),
        image_size=(config.get("image_size"), "config.json"), antialias=False)


def _own_names(tensors, facts):
    """Return tensors with timm's names, queries, keys and values in one."""
    own, parts, left = {}, {}, []
    for name, value in tensors.items():
        if re.match(r"text_model\.|text_projection", name):
            left.append("the text tower")
            continue
        short = re.sub(r"^(vit|deit|dinov2(_with_registers)?|vision_model|clip)\.", "", name)
        if short in _UNUSED:
            left.append(_UNUSED[short])
            continue
        match = _QKV.fullmatch(short)
        if match:
            block, *role, what = match.groups()
            role = next(part for part in role if part)[0]
            parts.setdefault((_block(block), what), {})[role] = value
            continue
        own[_renamed(short)] = value
    for (block, what), found in parts.items():
        if found.keys() != {"q", "k", "v"} or any(part.shape != found["q"].shape
                                                  for part in found.values()):
            raise ModelError(f"{what} of queries, keys and values of {block} must be three "
                             f"tensors of one shape")
        own[f"{block}.attn.qkv.{what}"] = np.concatenate([found[role] for role in "qkv"])
    for name, lead in ("cls_token", (1, 1)), ("pos_embed", (1,)):
        if name in own and own[name].ndim == 3 - len(lead):  # CLIP's
            own[name] = own[name].reshape(*lead, *own[name].shape)
    if left:
        facts.note("left_out", sorted(set(left)), "tensors")
    return own


def _block(name):
    """Return ``blocks.i`` for ``encoder.layer.i`` or ``encoder.layers.i``."""
    match = re.fullmatch(r"(?:encoder\.)?layers?\.(\d+)", name)
    if not match:
        refuse_unknown([name], "a Vision Transformer of transformers")
    return f"blocks.{match[1]}"


def _renamed(name):
    """Return timm's name of a tensor."""
    match = re.fullmatch(r"((?:encoder\.)?layers?\.\d+)\.(.*)", name)
    table, rest, lead = (_LAYER, match[2], f"{_block(match[1])}.") if match else (_OUTER, name, "")
    if rest in table:
        return lead + table[rest]
    stem, _, what = rest.rpartition(".")
    if stem in table and what in ("weight", "bias"):
        return f"{lead}{table[stem]}.{what}"
    return refuse_unknown([name], "a Vision Transformer of transformers")


def _check_depth(tensors, config):
    """Refuse a checkpoint with other blocks than its configuration says."""
    said, there = config.get("num_hidden_layers"), block_count(tensors)
    if said is not None and said != there:
        raise ModelError(f"num_hidden_layers must be {there}, the blocks there are, not "
                         f"{shown(said)} (config.json)")


def find_preprocessing(checkpoint, facts, family, planes):
    """Find mean, deviation, interpolation and crop in ``preprocessor_config.json``.

    Raises
    ------
    ModelError
        If one is not usable.
    """
    said, origin = checkpoint.preprocessor, "preprocessor_config.json"
    if not isinstance(said.get("rescale_factor", 1.0), int | float):
        raise ModelError(f"rescale_factor must be a number, not {shown(said['rescale_factor'])} "
                         f"({origin})")
    # (v * 255 * factor - mean) / std for v in 0..1, in terms of v.
    factor = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor
    if said and said.get("do_normalize", True) is False:
        said = {**said, "image_mean": 0.0, "image_std": 1.0}
    scaled = {name: _divided(said.get(f"image_{name}"), factor) for name in ("mean", "std")}
    metadata = checkpoint.metadata
    find_normalisation(facts, planes, family, *(
        [(scaled[name], origin), (metadata.get(name), "metadata")] for name in ("mean", "std")))
    find_processing(facts, family, checkpoint.preprocessor, origin)


def _divided(value, factor):
    """Return numbers divided by `factor`; what is none is left to the check."""
    if factor == 1 or value is None:
        return value
    try:
        return [float(item) / factor for item in (value if isinstance(value, list) else [value])]
    except (TypeError, ValueError):
        return value


def find_activation(config, facts, family):
    """Return the function of ``hidden_act``; raises `ModelError` for an unknown one."""
    usual = "quick_gelu" if family == "clip" else "gelu"
    said = facts.find("activation", (config.get("hidden_act"), "config.json"),
                      assume=(usual, f"the default of {family} in transformers"))
    if said not in _ACTIVATIONS:
        raise ModelError(f"hidden_act must be one of {', '.join(_ACTIVATIONS)}, not {shown(said)}")
    facts.values["activation"] = _ACTIVATIONS[said]
    return _ACTIVATIONS[said]


def _heads(channels, config, facts):
    """Return the attention heads; found once."""
    if "heads" in facts.values:
        return facts.values["heads"]
    assume = (channels // 64, "channels / 64, as in ViT, DeiT, DINOv2 and CLIP") if (
        channels % 64 == 0) else None
    heads = facts.find("heads", (config.get("num_attention_heads"), "config.json"), assume=assume,
                       check=whole(1, channels))
    if channels % heads:
        raise ModelError(f"heads must divide the {channels} channels, not {heads}")
    return heads


def _pooling(family, tensors, original):
    """Return what the head reads in the classes of transformers."""
    if "head.weight" not in tensors:
        return "token"
    if family == "dinov2":
        return "token_and_mean"
    # CLIPForImageClassification averages the patches, without the last norm.
    if family == "clip" and "classifier.weight" in original:
        for kind in "weight", "bias":
            tensors.pop(f"norm.{kind}", None)
        return "mean"
    return "token"



