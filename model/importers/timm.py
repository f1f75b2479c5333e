"""Vision Transformers in the naming of timm, DeiT's own and Meta's included."""

import re

from systola.files.bounded import shown
from systola.files.tensors import SMALLEST, ModelError
from systola.model.graph.nodes import FUNCTIONS
from systola.model.importers.cropping import find_transform
from systola.model.importers.encoder_graph import encoder_graph, patch_shape
from systola.model.importers.facts import number, whole
from systola.model.importers.normalisation import find_normalisation

__all__ = ["recognize", "timm_graph"]

_HEADS = {192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16,
          1152: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}
"""Heads by channels of timm's Vision Transformers; exceptions are `_OTHER_HEADS`."""

_OTHER_HEADS = {"vit_base_patch16_gap": 16, "vit_giantopt": 16, "test_vit": 2}
"""The same by the start of an architecture's name."""

_REFUSED = (
    (r"_rpn_", "norms behind attention and MLP (ResPostBlock)"),
    (r"_\d+x2_|_xp_|_d?pwee_", "parallel blocks"),
    (r"aimv2|test_vit4", "RMS norms"), (r"_map_|siglip_\d|test_vit3", "attention pooling"),
    (r"^(beit|beitv2|eva02|eva_giant|cait|xcit|levit|mvit|swinv2|maxvit|coat|pvt|twins|volo)",
     "another family of networks"))
"""Architectures whose arithmetic differs, by their names; tensors alone do not always show it."""

_HARMLESS = {
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes",
    "in_chans", "global_pool", "qkv_bias", "qk_norm", "init_values", "class_token", "reg_tokens",
    "no_embed_class", "pre_norm", "fc_norm", "final_norm", "dynamic_img_size", "strict_img_size",
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate",
    "drop_path_rate", "weight_init", "fix_init", "act_layer", "norm_layer", "eps", "distilled"}
"""Arguments of a model that are taken from its tensors, read here, or of training alone."""


def recognize(checkpoint):
    """Tell whether a checkpoint has timm's names."""
    return "patch_embed.proj.weight" in checkpoint.tensors and any(
        name.startswith("blocks.") for name in checkpoint.tensors)


def timm_graph(checkpoint, facts):
    """Return the float graph of a checkpoint of a Vision Transformer of timm.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its ``config`` may be empty: then heads, epsilon and normalisation come from `facts`, from
        the metadata of the tensor file, or are assumed.
    facts : Facts

    Raises
    ------
    ModelError
        If the network cannot be expressed, or what no file says is not given.
    """
    tensors = dict(checkpoint.tensors)
    if "register_tokens" in tensors:  # Meta's name
        tensors["reg_token"] = tensors.pop("register_tokens")
    if tensors.pop("mask_token", None) is not None:
        facts.note("left_out", ["a token of pre-training"], "tensors")
    config, metadata = checkpoint.config, checkpoint.metadata
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise ModelError(f"model_args of config.json must be a table, not {shown(arguments)}")
    name = config.get("architecture")
    name = name if isinstance(name, str) else ""
    _refuse_architecture(name, arguments)
    family = _family(name, tensors)
    facts.note("family", family, f"architecture {name}" if name else "tensors")
    size = _find_images(checkpoint, facts, name, family,
                        patch_shape(tensors)[1])
    for key in sorted(arguments.keys() - _HARMLESS):
        if arguments[key] not in (None, False):
            facts.assumed.append(f"model_args {shown(key)} {shown(arguments[key])}: not known, and "
                                 f"taken to change nothing")
    eps, why = _eps(name, family)
    eps = facts.find("eps", (arguments.get("eps"), "config.json"), (metadata.get("eps"),
                     "metadata"), (eps if name else None, f"timm's {name}"), assume=(eps, why),
                     check=number(SMALLEST, 1))
    return encoder_graph(
        tensors, facts, eps=eps, pooling=_pooling(name, config, arguments, tensors),
        activation=_activation(name, arguments, facts),
        heads=lambda channels: _heads(channels, name, arguments, metadata, facts),
        classes=config.get("num_classes"),
        image_size=(arguments.get("img_size") or size, "config.json"))


def _find_images(checkpoint, facts, name, family, planes):
    """Find how images become the network's input; returns what is said of their size."""
    config, metadata = checkpoint.config, checkpoint.metadata
    pretrained = config.get("pretrained_cfg") or config
    if not isinstance(pretrained, dict):
        raise ModelError(f"pretrained_cfg of config.json must be a table, not {shown(pretrained)}")
    find_normalisation(facts, planes, family, *(
        [(pretrained.get(what), "config.json"), (metadata.get(what), "metadata")]
        for what in ("mean", "std")))
    find_transform(facts, pretrained)
    size, tested = pretrained.get("input_size"), pretrained.get("test_input_size")
    if tested not in (None, size) and not facts.is_given("image_size"):
        facts.assumed.append(f"image_size as input_size {shown(size)}: timm's own figures are of "
                             f"test_input_size {shown(tested)}")
    return size[1:] if isinstance(size, list) and len(size) == 3 else None


def _refuse_architecture(name, arguments):
    what = next((what for pattern, what in _REFUSED if re.search(pattern, name)), None)
    if "rms" in str(arguments.get("norm_layer", "")).lower():
        what = "RMS norms"
    if what:
        raise ModelError(f"architecture {shown(name)} has {what}, which is not supported")


def _family(name, tensors):
    if "head_dist.weight" in tensors:
        return "deit_distilled"
    for part in "dinov2", "clip", "deit":
        if part in name:
            return part
    return "clip" if "norm_pre.weight" in tensors else "vit"


def _eps(name, family):
    """Return epsilon of the layer norms and the reason to assume it."""
    clip = family == "clip" or name.startswith("beit3")
    return (1e-5, "as in CLIP's towers of timm") if clip else (
        1e-6, "as in timm's and DeiT's Vision Transformers")


def _heads(channels, name, arguments, metadata, facts):
    """Return the attention heads; found once."""
    if "heads" in facts.values:
        return facts.values["heads"]
    known = next((heads for start, heads in _OTHER_HEADS.items() if name.startswith(start)),
                 _HEADS.get(channels))
    assume = None
    if channels % 64 == 0:
        assume = channels // 64, "channels / 64, as in every ViT and DeiT of that size"
    elif channels < 192 and channels % 3 == 0:
        assume = 3, "as in vit_tiny and deit_tiny, the smallest published ones"
    heads = facts.find(
        "heads", (arguments.get("num_heads"), "config.json"), (metadata.get("heads"), "metadata"),
        (known if name else None, f"timm's {name}"), assume=assume, check=whole(1, channels))
    if channels % heads:
        raise ModelError(f"heads must divide the {channels} channels, not {heads}")
    return heads


def _activation(name, arguments, facts):
    """Return the activation's function."""
    said = arguments.get("act_layer")
    quick = "quickgelu" in name.replace("_", "")
    tanh = re.search(r"base_patch32_siglip|large_patch16_siglip_(gap_)?512|so400m_patch16_siglip"
                     r"|giantopt", name)
    function = facts.find(
        "activation", (said, "config.json"),
        ("quick_gelu" if quick else "gelu_tanh" if tanh else "gelu", f"timm's {name}"
         if name else "timm's default"))
    if function not in FUNCTIONS:
        raise ModelError(f"activation must be one of {', '.join(FUNCTIONS)}, not "
                         f"{shown(function)}")
    return function


def _pooling(name, config, arguments, tensors):
    """Return the pooling that the configuration says, or that the tensors are for."""
    said = arguments.get("global_pool", config.get("global_pool"))
    if said is None:
        gap = "_gap_" in name or "fc_norm.weight" in tensors or "cls_token" not in tensors
        said = "avg" if gap else "token"
    if said not in ("token", "avg"):
        raise ModelError(f"global_pool must be 'token' or 'avg', not {shown(said)}: other poolings "
                         f"are not supported")
    if said == "token":
        return "token"
    return "mean" if "fc_norm.weight" in tensors or "norm.weight" not in tensors else (
        "mean_of_norm")
