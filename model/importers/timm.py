"""Vision Transformer checkpoints in the naming of timm and DeiT."""

from math import isqrt

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import (
    LARGEST,
    MAX_BLOCKS,
    SMALLEST,
    ModelError,
    other_kind,
    read_tensors,
)
from systola.model.graph.nodes import GraphError
from systola.model.importers.vision_transformer import block_shapes, vision_transformer

__all__ = ["load_timm"]

_EPS = 1e-6
_PATCH = "patch_embed.proj.weight"


def load_timm(path, *, heads=None):
    """Read a float checkpoint, check every tensor, and return its `Graph`.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` or ``.npz`` file. Its metadata may give ``heads``, ``eps`` (of the layer
        norms), ``mean`` and ``std`` (one value or one a channel, separated by commas).
    heads : int, optional
        Overrides the file. Without either, channels / 64, as in every DeiT.

    Raises
    ------
    ModelError
        If a tensor is missing, unknown, of a wrong shape or not finite, or heads do not divide the
        channels.
    """
    tensors, metadata = read_tensors(path)
    kind = other_kind(tensors, metadata, "a float checkpoint")
    if kind:
        raise ModelError(f"model file {str(path)!r} must be a float checkpoint, not {kind}")
    dims = _dimensions(tensors)
    expected = _shapes(dims)
    for name, shape in expected.items():
        _check(tensors, name, shape)
    unknown = sorted(tensors.keys() - expected.keys())
    if unknown:
        raise ModelError(f"tensor {shown(unknown[0])} is not part of a Vision Transformer with "
                         f"{dims['blocks']} blocks")
    parameters = {name: tensors[name].astype(np.float32) for name in expected}
    channels = dims["channels"]
    parameters[_PATCH] = parameters[_PATCH].reshape(channels, -1)
    token = parameters.pop("cls_token").reshape(1, channels)
    position = parameters.pop("pos_embed").reshape(-1, channels)
    planes, size = tensors[_PATCH].shape[1:3]
    with np.errstate(over="ignore"):  # the graph refuses what is not finite
        prefix = token + position[:1]
    try:
        return vision_transformer(
            parameters, heads=_heads(heads, metadata, channels), blocks=dims["blocks"],
            prefix=prefix, position=position[1:], eps=_numbers(metadata, "eps", _EPS, 1)[0],
            meta={"patch_size": size, "mean": list(_numbers(metadata, "mean", 0.5, planes)),
                  "std": list(_numbers(metadata, "std", 0.5, planes))})
    except GraphError as error:
        raise ModelError(str(error)) from None


def _dimensions(tensors):
    """Infer channels, patch shape, tokens, hidden, classes and blocks from the key tensors."""
    dims = {}
    for name, ndim in (_PATCH, 4), ("pos_embed", 3), ("head.weight", 2):
        if name not in tensors:
            raise ModelError(f"tensor {name!r} is missing from the checkpoint")
        if tensors[name].ndim != ndim or 0 in tensors[name].shape:
            raise ModelError(f"tensor {name!r} must have {ndim} dimensions, not shape "
                             f"{tensors[name].shape}")
    dims["channels"], *dims["patch"] = tensors[_PATCH].shape
    if dims["patch"][1] != dims["patch"][2]:
        raise ModelError(f"tensor {_PATCH!r} must have square patches, not shape "
                         f"{tensors[_PATCH].shape}")
    dims["tokens"] = tensors["pos_embed"].shape[1]
    if dims["tokens"] < 2 or isqrt(dims["tokens"] - 1) ** 2 != dims["tokens"] - 1:
        raise ModelError(f"tensor 'pos_embed' must have 1 + a square number of tokens, not "
                         f"{dims['tokens']}")
    dims["classes"] = len(tensors["head.weight"])
    indices = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    dims["blocks"] = max((int(index) for index in indices
                          if index.isdecimal() and len(index) < 10), default=-1) + 1
    if not 1 <= dims["blocks"] <= MAX_BLOCKS:
        raise ModelError("tensors 'blocks.0...' are missing from the checkpoint"
                         if not dims["blocks"] else f"the checkpoint must have at most "
                         f"{MAX_BLOCKS} blocks, not {dims['blocks']}")
    fc1 = tensors.get("blocks.0.mlp.fc1.bias")
    dims["hidden"] = len(fc1) if fc1 is not None and fc1.ndim == 1 else 4 * dims["channels"]
    return dims


def _shapes(dims):
    channels, tokens, classes = dims["channels"], dims["tokens"], dims["classes"]
    shapes = {_PATCH: (channels, *dims["patch"]), "patch_embed.proj.bias": (channels,),
              "cls_token": (1, 1, channels), "pos_embed": (1, tokens, channels)}
    for index in range(dims["blocks"]):
        shapes |= block_shapes(index, channels, dims["hidden"])
    return shapes | {"norm.weight": (channels,), "norm.bias": (channels,),
                     "head.weight": (classes, channels), "head.bias": (classes,)}


def _check(tensors, name, shape):
    if name not in tensors:
        raise ModelError(f"tensor {name!r} of shape {shape} is missing from the checkpoint")
    value = tensors[name]
    if value.shape != shape:
        raise ModelError(f"tensor {name!r} must have shape {shape}, not {value.shape}")
    if value.dtype.kind != "f":
        raise ModelError(f"tensor {name!r} must hold floating point numbers, not {value.dtype}")
    with np.errstate(over="ignore"):  # a float64 may be too large; the check says it
        finite = np.isfinite(value.astype(np.float32)).all()
    if not finite:
        raise ModelError(f"tensor {name!r} must hold finite float32 numbers only")


def _heads(heads, metadata, channels):
    if heads is None and "heads" in metadata:
        heads = metadata["heads"]
        heads = int(heads) if heads.isdecimal() and len(heads) < 10 else heads
    elif heads is None:
        heads = channels // 64 if channels % 64 == 0 else 0
    if not isinstance(heads, int) or heads < 1 or channels % heads:
        raise ModelError(f"heads must divide the {channels} channels, not {shown(heads)}")
    return heads


def _numbers(metadata, name, default, count):
    """Return the metadata entry `name` as one number or `count` numbers."""
    text = metadata.get(name, str(default))
    try:
        values = tuple(float(item) for item in text.split(","))
    except ValueError:
        values = ()
    low, high = {"mean": (-LARGEST, LARGEST), "eps": (SMALLEST, 1)}.get(name, (SMALLEST, LARGEST))
    if len(values) not in (1, count) or not all(low <= value <= high for value in values):
        wanted = "1 number" if count == 1 else f"1 or {count} numbers"
        raise ModelError(f"metadata {name!r} must be {wanted} from {low:g} to {high:g}, "
                         f"not {shown(text)}")
    return values
