"""A model in memory, of timm or transformers, as a checkpoint; neither is imported for it."""

import json

import numpy as np

from systola.files.bounded import shorten, shown
from systola.files.tensors import ModelError
from systola.model.importers.checkpoint import Checkpoint, float_tensors

__all__ = ["CALLED", "object_checkpoint"]

CALLED = {"config.json": "the model", "preprocessor_config.json": "the processor"}
"""What the origins of facts are called, which files would say."""

_FUNCTIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}
"""Functions of the graph by the classes of timm and PyTorch."""

_NORMS = "LayerNorm", "LayerNormFp32"
_WRAPPED = "module", "_orig_mod"
"""Where wrapping modules have the one that they wrap."""

_NARROW = "torch.bfloat16"
"""A type of PyTorch that numpy does not have."""


def object_checkpoint(model, processor=None):
    """Return the checkpoint of a model in memory.

    What files say of a checkpoint the model says itself: one of transformers by its ``config``, one
    of timm by its ``pretrained_cfg`` and its layers, whose heads, epsilon and activation may be
    others than the architecture's.

    Parameters
    ----------
    model : torch.nn.Module
        Of timm or transformers; wrapping modules (``module``, ``_orig_mod``) are taken off.
    processor : object, optional
        The image processor of a model of transformers.

    Raises
    ------
    ModelError
        If it is no such model, has no weights, or has layers that the network cannot have.
    """
    while True:  # a compiled module passes on what it is asked for, so it is taken off first
        inner = next((getattr(model, name) for name in _WRAPPED if hasattr(model, name)), None)
        if inner is None:
            break
        model = inner
    if not (_says(model, "config") or _says(model, "pretrained_cfg")):
        raise ModelError(f"model must be a path, or an object with state_dict and the config of "
                         f"transformers or pretrained_cfg of timm, not {type(model).__name__}")
    if _says(model, "config"):
        config = _plain(_table(model.config))
    elif processor is not None:
        raise ModelError("processor must be left out with a model of timm, which says itself how "
                         "images are prepared")
    else:
        config = _timm_config(model)
    tensors = {name: _array(name, value) for name, value in model.state_dict().items()}
    tensors, notes = float_tensors(tensors, {}, f"model {type(model).__name__}")
    return Checkpoint(path=None, tensors=tensors, config=config, notes=tuple(notes),
                      preprocessor={} if processor is None else _plain(_table(processor)))


def _says(model, name):
    return callable(getattr(model, "state_dict", None)) and (
        isinstance(getattr(model, name, None), dict)
        or callable(getattr(getattr(model, name, None), "to_dict", None)))


def _table(said):
    """Return the table of a configuration."""
    if isinstance(said, dict):
        return said
    try:
        return dict(said.to_dict())
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError(f"{type(said).__name__} must have to_dict, as a configuration or image "
                         f"processor of transformers: {shorten(error)}") from None


def _plain(table):
    """Return a table as JSON would hold it: tuples are lists, keys strings."""
    return json.loads(json.dumps(table, default=str))


def _array(name, tensor):
    """Return a tensor's numbers."""
    if isinstance(tensor, np.ndarray):
        return tensor
    if getattr(tensor, "is_meta", False):
        raise ModelError(f"tensor {shown(name)} has no numbers (it is on the device meta): load "
                         f"the model's weights first")
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == _NARROW else tensor).numpy()
    except (AttributeError, RuntimeError, TypeError) as error:
        raise ModelError(f"tensor {shown(name)} must be numbers that numpy has: "
                         f"{shorten(error)}") from None


def _timm_config(model):
    """Return what ``config.json`` of a model of timm would say, from its layers."""
    pretrained = _plain(_table(model.pretrained_cfg))
    layers = dict(model.named_modules())
    for name, layer in layers.items():
        if "norm" in name.rpartition(".")[2] and hasattr(layer, "eps") and (
                type(layer).__name__ not in _NORMS):
            raise ModelError(f"layer {name} must be of {' or '.join(_NORMS)}, not "
                             f"{type(layer).__name__}")
    arguments = {
        "num_heads": _heads(layers),
        "eps": _one("epsilon of layer norms", {
            name: layer.eps for name, layer in layers.items()
            if type(layer).__name__ in _NORMS}),
        "act_layer": _one("activation", {
            name: _function(name, layer) for name, layer in layers.items()
            if name.endswith(".mlp.act")}),
        "img_size": getattr(layers.get("patch_embed"), "img_size", None)}
    return _plain({
        "architecture": pretrained.get("architecture"), "pretrained_cfg": pretrained,
        **{name: getattr(model, name) for name in ("num_classes", "global_pool")
           if hasattr(model, name)},
        "model_args": {name: value for name, value in arguments.items() if value is not None}})


def _heads(layers):
    """Return the heads of all blocks; of those in stages one number a stage."""
    heads = {name: layer.num_heads for name, layer in layers.items()
             if name.endswith(".attn") and hasattr(layer, "num_heads")}
    stages = {}
    for name, count in heads.items():
        if name.startswith("layers."):
            stages.setdefault(int(name.split(".")[1]), {})[name] = count
    if not stages:
        return _one("number of heads", heads)
    return [_one("number of heads", stages[stage]) for stage in sorted(stages)]


def _function(name, layer):
    """Return the function of an activation layer."""
    kind = type(layer).__name__
    if kind == "GELU" and getattr(layer, "approximate", "none") == "tanh":
        return "gelu_tanh"
    if kind not in _FUNCTIONS:
        raise ModelError(f"layer {name} must be {', '.join(_FUNCTIONS)}, not {kind}")
    return _FUNCTIONS[kind]


def _one(what, values):
    """Return what all layers have in common, None of none."""
    if len(set(values.values())) > 1:
        first = next(iter(values))
        other = next(name for name in values if values[name] != values[first])
        raise ModelError(f"{what} must be the same everywhere, not {values[first]} in {first} and "
                         f"{values[other]} in {other}")
    return next(iter(values.values()), None)
