"""From the tensors of an encoder, named as timm names them, to its float graph."""

import re
from math import isqrt

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import MAX_BLOCKS, ModelError
from systola.model.graph.nodes import GraphError
from systola.model.importers.facts import pair
from systola.model.importers.position import resampled
from systola.model.importers.vision_transformer import block_shapes, vision_transformer

__all__ = ["block_count", "checked", "encoder_graph", "note_classes", "patch_shape",
           "refuse_unknown"]

_PATCH = "patch_embed.proj.weight"
_TOKENS = "cls_token", "dist_token", "reg_token"
_NAMED = (
    (r"\.(w12|w1|w2|w3|fc1_g|fc1_x|gate|weights_in|weights_out)\.|fc1_[gx]",
     "a gated MLP (SwiGLU)"),
    (r"attn_pool|pooling_head|map_head", "attention pooling"),
    (r"relative_position_bias|rel_pos|relative_attention_bias", "relative position bias"),
    (r"rope|rotary|freqs_cis", "rotary position embedding"),
    (r"lambda_[qk]", "differential attention"),
    (r"attn\.norm\.|mlp\.norm\.|inner_attn_ln|ffn_ln|scale_norm", "norms inside attention or MLP"),
    (r"blocks\.\d+\.(attns|ffns|attn[1-9]|ffn[1-9]|mlp[1-9])", "parallel blocks"),
    (r"blocks\.\d+\.(in_proj|attn_out_proj|mlp_out_proj)", "parallel attention and MLP"),
    (r"pre_logits", "a representation layer before the head (pre_logits)"),
    (r"downsample|layers\.\d+\.blocks", "window attention (Swin)"),
    (r"stem|conv|stages|bn\d?\.|running_mean", "a convolutional network"),
    (r"decoder", "a decoder"), (r"lora_|adapter", "LoRA or adapter weights"),
    (r"qweight|qzeros|\.scales$|absmax|quant_state|SCB", "weights that are quantized already"),
)
"""What an unknown tensor is part of, by its name."""


def refuse_unknown(names, kind):
    """Raise `ModelError` for the first of `names`, with what it belongs to if that is known."""
    for name in sorted(names):
        what = next((what for pattern, what in _NAMED if re.search(pattern, name)), None)
        if what:
            raise ModelError(f"the checkpoint has {what}, which is not supported (tensor "
                             f"{shown(name)})")
        raise ModelError(f"tensor {shown(name)} is not part of {kind}")


def checked(tensors, name, shape):
    """Return a tensor as float32; raises `ModelError` if it is missing or not as expected."""
    if name not in tensors:
        raise ModelError(f"tensor {name!r} of shape {shape} is missing from the checkpoint")
    value = tensors[name]
    if value.shape != tuple(shape):
        raise ModelError(f"tensor {name!r} must have shape {tuple(shape)}, not {value.shape}")
    if value.dtype.kind != "f":
        raise ModelError(f"tensor {name!r} must hold floating point numbers, not {value.dtype}")
    with np.errstate(over="ignore"):  # a float64 may be too large; the check says it
        value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise ModelError(f"tensor {name!r} must hold finite float32 numbers only")
    return value


def patch_shape(tensors):
    """Return channels, planes, rows and columns of the patch embedding.

    Raises
    ------
    ModelError
        If it is missing, or its patches are not square.
    """
    if _PATCH not in tensors:
        raise ModelError(f"tensor {_PATCH!r} is missing from the checkpoint")
    shape = tensors[_PATCH].shape
    if len(shape) != 4 or 0 in shape:
        raise ModelError(f"tensor {_PATCH!r} must have 4 dimensions, not shape {shape}")
    if shape[2] != shape[3]:
        raise ModelError(f"tensor {_PATCH!r} must have square patches, not shape {shape}")
    return shape


def block_count(tensors, prefix="blocks"):
    """Return the number of blocks ``<prefix>.0`` to ``<prefix>.n-1``."""
    indices = {name.split(".")[prefix.count(".") + 1] for name in tensors
               if name.startswith(f"{prefix}.")}
    count = max((int(index) for index in indices
                 if index.isdecimal() and len(index) < 10), default=-1) + 1
    if not 1 <= count <= MAX_BLOCKS:
        raise ModelError(f"tensors '{prefix}.0...' are missing from the checkpoint"
                         if not count else f"the checkpoint must have at most "
                         f"{MAX_BLOCKS} blocks, not {count}")
    return count


def encoder_graph(tensors, facts, *, pooling, eps, activation, heads, image_size=None,
                  classes=None, antialias=True, kind="a Vision Transformer"):
    """Return the float graph of a Vision Transformer.

    Parameters
    ----------
    tensors : dict of str to ndarray
        Parameters in the naming of timm: ``cls_token``, ``dist_token`` and ``reg_token`` where
        there are such, ``pos_embed`` with rows for all of them, all but registers, or none,
        ``patch_embed.proj``, ``norm_pre``, ``blocks.i``, ``norm`` or ``fc_norm``, ``head``,
        ``head_dist``.
    facts : Facts
        Takes what is found here (``image_size``, ``patch_size``), and gives the graph's ``meta``.
    pooling, eps, activation
        As `vision_transformer` takes them.
    heads : callable
        Returns the attention heads for a number of channels.
    image_size : (value, str), optional
        What the configuration says, and where.
    classes : int, optional
        What the configuration says.
    antialias : bool
        How position embeddings are resampled to another image size: timm's way, or Hugging Face's.
    kind : str
        For messages.

    Raises
    ------
    ModelError
        If a tensor is missing, unknown, of a wrong shape or not finite, or facts contradict it.
    """
    tensors = dict(tensors)
    blocks = block_count(tensors)
    note_classes(tensors, "head.weight", classes, facts)
    channels, planes, *patch = patch_shape(tensors)
    shapes = _shapes(tensors, channels, planes, patch, blocks, heads, pooling)
    left_out = _left_out(tensors, blocks)
    parameters = {name: checked(tensors, name, shape) for name, shape in shapes.items()
                  if name in tensors or name not in left_out}
    refuse_unknown(tensors.keys() - shapes.keys() - {"pos_embed"},
                   f"{kind} with {blocks} blocks")
    parameters[_PATCH] = parameters[_PATCH].reshape(channels, -1)
    _fold_layer_scale(parameters, blocks)
    tokens = {name: parameters.pop(name)[0] for name in _TOKENS if name in parameters}
    prefix = np.concatenate([np.zeros((0, channels), np.float32), *tokens.values()])
    placed = len(prefix), len(prefix) - len(tokens.get("reg_token", ())), 0
    rows, position = _positions(tensors, channels, placed, patch[0], facts, image_size, antialias)
    with np.errstate(over="ignore"):  # the graph refuses what is not finite
        prefix[:len(rows)] += rows
    if "fc_norm.weight" in parameters:
        parameters |= {f"norm.{kind}": parameters.pop(f"fc_norm.{kind}")
                       for kind in ("weight", "bias")}
    try:
        return vision_transformer(parameters, heads=heads(channels), blocks=blocks, prefix=prefix,
                                  position=position, eps=eps, pooling=pooling,
                                  activation=activation,
                                  meta={**facts.meta(), "patch_size": patch[0]})
    except GraphError as error:
        raise ModelError(str(error)) from None


def _shapes(tensors, channels, planes, patch, blocks, heads, pooling):
    """Return the shapes of all tensors that there may be, position embeddings aside."""
    shapes = {_PATCH: (channels, planes, *patch), "patch_embed.proj.bias": (channels,)}
    for name in _TOKENS:
        if name in tensors:
            count = tensors[name].shape[1] if tensors[name].ndim == 3 else 1
            shapes[name] = (1, count if name == "reg_token" else 1, channels)
    fc1 = tensors.get("blocks.0.mlp.fc1.weight")
    hidden = len(fc1) if fc1 is not None and fc1.ndim == 2 else 4 * channels
    for index in range(blocks):
        shapes |= block_shapes(index, channels, hidden)
        for kind in ("q_norm", "k_norm"):
            if f"blocks.{index}.attn.{kind}.weight" in tensors:
                shapes |= {f"blocks.{index}.attn.{kind}.{part}": (channels // heads(channels),)
                           for part in ("weight", "bias")}
        for kind in ("ls1", "ls2"):
            if f"blocks.{index}.{kind}.gamma" in tensors:
                shapes[f"blocks.{index}.{kind}.gamma"] = (channels,)
    for name in ("norm_pre", "norm", "fc_norm"):
        if f"{name}.weight" in tensors or f"{name}.bias" in tensors:
            shapes |= {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
    if not {"norm.weight", "fc_norm.weight"} & shapes.keys() and pooling == "token":
        shapes |= {"norm.weight": (channels,), "norm.bias": (channels,)}  # said to be missing
    for name in ("head", "head_dist"):
        if f"{name}.weight" in tensors:
            if tensors[f"{name}.weight"].ndim != 2 or 0 in tensors[f"{name}.weight"].shape:
                raise ModelError(f"tensor '{name}.weight' must have 2 dimensions, not shape "
                                 f"{tensors[f'{name}.weight'].shape}")
            classes = len(tensors[f"{name}.weight"])
            read = 2 * channels if pooling == "token_and_mean" else channels
            shapes |= {f"{name}.weight": (classes, read), f"{name}.bias": (classes,)}
    return shapes


def note_classes(tensors, name, said, facts):
    """Note the classes of the head `name`, 0 for features; `said` they must be, if anything."""
    there = len(tensors[name]) if name in tensors and tensors[name].ndim else 0
    if said is not None and said != there:
        raise ModelError(f"the head must be of {shown(said)} classes as config.json says, not of "
                         f"{there}" + ("" if there else f" (tensor {name!r} is missing)"))
    facts.note("classes", there, "tensors")


def _left_out(tensors, blocks):
    """Return the biases that a network of this kind may do without."""
    names = {f"blocks.{index}.attn.qkv.bias" for index in range(blocks)}
    if not names.isdisjoint(tensors):
        names = set()
    if "norm_pre.weight" in tensors:  # CLIP
        names |= {"patch_embed.proj.bias", "head.bias"}
    return names


def _fold_layer_scale(parameters, blocks):
    """Multiply the layers before a LayerScale by it."""
    for index in range(blocks):
        for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            gamma = parameters.pop(f"blocks.{index}.{scale}.gamma", None)
            if gamma is not None:
                layer = f"blocks.{index}.{layer}"
                parameters[f"{layer}.weight"] = parameters[f"{layer}.weight"] * gamma[:, None]
                if f"{layer}.bias" in parameters:
                    parameters[f"{layer}.bias"] = parameters[f"{layer}.bias"] * gamma


def _positions(tensors, channels, placed, size, facts, image_size, antialias):
    """Return the position embeddings of the prefix and of the patches of the wanted image size.

    `placed` are the tokens that may have a position: all, those that are no registers, none.
    """
    found = tensors.get("pos_embed")
    if found is None or found.ndim != 3:
        raise ModelError("tensor 'pos_embed' must have 3 dimensions"
                         + ("; it is missing from the checkpoint" if found is None else
                            f", not shape {found.shape}"))
    count = found.shape[1]
    found = checked(tensors, "pos_embed", (1, count, channels))[0]
    grid, own = _grid(count, placed, size, image_size)
    if placed[0] and not own and not (image_size and image_size[0] is not None):
        facts.assumed.append(f"positions of patches only: {count} are {grid[0]} x {grid[1]}, and "
                             f"leave none for tokens")
    wanted = facts.find("image_size", ([side * size for side in grid], (
        image_size[1] if image_size and image_size[0] is not None else "pos_embed")), check=pair)
    if any(side % size for side in wanted):
        raise ModelError(f"image_size must be a multiple of the patch size {size}, not "
                         f"{wanted[0]} x {wanted[1]}")
    target = [side // size for side in wanted]
    position = found[own:]
    if target != grid:
        position = resampled(position, grid, target, antialias=antialias)
    return found[:own], position


def _grid(count, placed, size, image_size):
    """Return (rows, columns) of patches, and how many of `count` positions tokens have."""
    if image_size and image_size[0] is not None:
        try:
            sides = pair(image_size[0])
        except ValueError as error:
            raise ModelError(f"image_size must be {error}, not {shown(image_size[0])} "
                             f"({image_size[1]})") from None
        grid = [side // size for side in sides]
        for own in placed:
            if grid[0] * grid[1] + own == count:
                return grid, own
        raise ModelError(f"tensor 'pos_embed' must have {grid[0] * grid[1]} positions of patches "
                         f"(image_size {sides[0]} x {sides[1]} from {image_size[1]}), with or "
                         f"without {placed[0]} of tokens, not {count}")
    for own in placed:
        side = isqrt(max(count - own, 0))
        if side and side * side == count - own:
            return [side, side], own
    raise ModelError(f"tensor 'pos_embed' must have {placed[0]} + a square number of tokens, not "
                     f"{count}")
