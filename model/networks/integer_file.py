"""Integer models on disk: safetensors with one JSON entry, versioned, verified, without pickle."""

import json
from dataclasses import fields

import numpy as np

from systola.files.bounded import parse_json, shorten, shown
from systola.files.tensors import (
    INTEGER_KEY,
    LARGEST,
    MAX_BLOCKS,
    SMALLEST,
    ModelError,
    read_tensors,
    write_tensors,
)
from systola.hw.contract.config import MODEL_SETTINGS, AcceleratorConfig
from systola.model.networks.integer_vit import (
    MAX_X0,
    NUMERATOR_BITS,
    RESIDUAL_BITS,
    VECTOR_BITS,
    Block,
    Dyadic,
    IntegerVit,
    Linear,
    Norm,
)
from systola.model.operators.requant import MAX_SHIFT

__all__ = ["VERSION", "is_integer_model", "load_model", "save_model"]

VERSION = 2
"""Version of the file format; a reader accepts its own only."""

_SIZES = ("heads", "channels", "tokens", "hidden", "classes", "patch_dim", "blocks")
_INT32 = (-2**31, 2**31 - 1)
_INT16 = (-2**15, 2**15 - 1)
_HEADER_BYTES = 2**20
"""Most bytes of the JSON entry."""


def save_model(model, path):
    """Write `model` to the ``.safetensors`` file `path`, in one step.

    Raises
    ------
    ModelError
        If the model is inconsistent (see `load_model`) or the file cannot be written.
    """
    header = {"version": VERSION, **{name: getattr(model, name) for name in MODEL_SETTINGS},
              "heads": model.heads, "channels": model.channels, "tokens": model.tokens,
              "hidden": model.hidden, "classes": model.classes,
              "patch_dim": model.patch.weight.shape[1], "blocks": len(model.blocks),
              "scales": model.scales, "meta": model.meta}
    tensors = _flatten(model)
    layout = _layout(_check_header(header))
    _check_tensors(tensors, layout)
    write_tensors(path, {name: tensors[name].astype(dtype)
                         for name, (_, dtype, _, _) in layout.items()},
                  {INTEGER_KEY: json.dumps(header, sort_keys=True)})


def load_model(path):
    """Read and verify an integer model.

    Raises
    ------
    ModelError
        If the file is damaged, of another version, or any tensor or setting is missing, unknown, of
        a wrong shape or type, or out of range.
    """
    tensors, metadata = read_tensors(path)
    if INTEGER_KEY not in metadata:
        raise ModelError(f"model file {str(path)!r} must hold an integer model "
                         f"(metadata {INTEGER_KEY!r}), as `systola quantize` writes")
    if len(metadata[INTEGER_KEY]) > _HEADER_BYTES:
        raise ModelError(f"metadata {INTEGER_KEY!r} must have at most {_HEADER_BYTES:,} bytes, "
                         f"not {len(metadata[INTEGER_KEY]):,}")
    try:
        header = parse_json(metadata[INTEGER_KEY])
    except ValueError as error:
        raise ModelError(f"metadata {INTEGER_KEY!r} must be JSON: {shorten(error)}") from None
    header = _check_header(header)
    layout = _layout(header)
    _check_tensors(tensors, layout, stored=True)
    return _assemble(header, {name: value if value.dtype == np.int8 or name in _INT16_TENSORS
                              else value.astype(np.int64) for name, value in tensors.items()})


def is_integer_model(path):
    """Tell whether `path` is an integer model rather than a float checkpoint.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    return INTEGER_KEY in read_tensors(path)[1]


_INT16_TENSORS = ("position", "cls_row")


def _check_header(header):
    """Return the header if all its entries are usable."""
    if not isinstance(header, dict) or header.get("version") != VERSION:
        version = header.get("version") if isinstance(header, dict) else header
        raise ModelError(f"version of the integer model must be {VERSION}, "
                         f"not {shown(version)}")
    expected = {"version", *MODEL_SETTINGS, *_SIZES, "scales", "meta"}
    wrong = sorted(expected ^ header.keys())
    if wrong:
        raise ModelError(f"entries of the integer model must be {', '.join(sorted(expected))}; "
                         f"missing or unknown: {shorten(', '.join(wrong))}")
    try:
        AcceleratorConfig(**{name: header[name] for name in MODEL_SETTINGS})
    except ValueError as error:
        raise ModelError(str(error)) from None
    for name in _SIZES:
        value, low = header[name], {"blocks": 0, "tokens": 2, "channels": 2}.get(name, 1)
        low = 0 if name == "hidden" and not header["blocks"] else low
        high = MAX_BLOCKS if name == "blocks" else 2**20 - 1
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ModelError(f"{name} must be an integer from {low} to {high}, "
                             f"not {shown(value)}")
    if header["channels"] % header["heads"]:
        raise ModelError(f"heads must divide the {header['channels']} channels, "
                         f"not {header['heads']!r}")
    for name in "scales", "meta":
        if not isinstance(header[name], dict):
            raise ModelError(f"{name} must be a table, not {shown(header[name])}")
    _check_numbers(header["scales"], header["meta"])
    return header


def _check_numbers(scales, meta):
    """Check what is computed with: scales, and how images become the model's input."""
    for name, value in scales.items():
        if not _is_number(value) or not SMALLEST <= value <= LARGEST:
            raise ModelError(f"scale {shown(name)} must be a number from {SMALLEST:g} to "
                             f"{LARGEST:g}, not {shown(value)}")
    size = meta.get("patch_size", 0)
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**16:
        raise ModelError(f"patch_size must be an integer from 0 to {2**16 - 1}, not {shown(size)}")
    for name, low in ("mean", -LARGEST), ("std", SMALLEST):
        values = meta.get(name, [0.5])
        if (not isinstance(values, list) or not values
                or not all(_is_number(value) and low <= value <= LARGEST for value in values)):
            raise ModelError(f"{name} must be a list of numbers from {low:g} to {LARGEST:g}, "
                             f"not {shown(values)}")


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _layout(header):
    """Return ``{tensor: (shape, dtype, lowest, highest)}`` of a model with this header."""
    channels, tokens, hidden = header["channels"], header["tokens"], header["hidden"]
    layout, weight = {}, 2 ** (header["weight_bits"] - 1) - 1
    wide = header["mult_bits"]
    narrow = min(wide, header["code_mult_bits"])

    def dyadic(name, bits, shape=(), low=None):
        high = 2**bits - 1
        layout[f"{name}.mult"] = shape, np.int32, -high if low is None else low, high
        layout[f"{name}.shift"] = shape, np.uint8, 0, MAX_SHIFT

    def linear(name, rows, columns, bits=(VECTOR_BITS + 1, RESIDUAL_BITS)):
        layout[f"{name}.weight"] = (rows, columns), np.int8, -weight, weight
        layout[f"{name}.bias"] = (rows,), np.int32, *_INT32
        layout[f"{name}.out_bits"] = (), np.uint8, *bits
        layout[f"{name}.symmetric"] = (), np.uint8, 0, 1
        dyadic(f"{name}.requant", narrow if bits[1] <= VECTOR_BITS else wide, (rows,))

    def norm(name):
        layout[f"{name}.bias"] = (channels,), np.int32, *_INT32
        dyadic(f"{name}.requant", narrow, (channels,))

    linear("patch", channels, header["patch_dim"])
    layout["position"] = (tokens - 1, channels), np.int16, *_INT16
    layout["cls_row"] = (channels,), np.int16, *_INT16
    dyadic("position_residual", wide)
    for index in range(header["blocks"]):
        block = f"blocks.{index}"
        norm(f"{block}.norm1")
        linear(f"{block}.qkv", 3 * channels, channels, (2, VECTOR_BITS))
        linear(f"{block}.proj", channels, channels)
        norm(f"{block}.norm2")
        linear(f"{block}.fc1", hidden, channels, (2, VECTOR_BITS))
        linear(f"{block}.fc2", channels, hidden)
        for name, bits in (("scores", narrow), ("gelu", narrow), ("attn_residual", wide),
                           ("mlp_residual", wide)):
            dyadic(f"{block}.{name}", bits)
        if header["attention"] == "deferred":
            dyadic(f"{block}.context", min(NUMERATOR_BITS, wide + 7), low=0)
        else:
            dyadic(f"{block}.context", narrow)
        for name in "softmax_x0", "gelu_x0":
            layout[f"{block}.{name}"] = (), np.int32, -MAX_X0, -1
    norm("norm")
    linear("head", header["classes"], channels)
    return layout


def _check_tensors(tensors, layout, stored=False):
    wrong = sorted(tensors.keys() ^ layout.keys())
    if wrong:
        raise ModelError(f"tensor {shown(wrong[0])} is "
                         f"{'missing from' if wrong[0] in layout else 'not part of'} the model")
    for name, (shape, dtype, low, high) in layout.items():
        value = tensors[name]
        if value.shape != shape:
            raise ModelError(f"tensor {name!r} must have shape {shape}, not {value.shape}")
        if value.dtype != dtype if stored else value.dtype.kind not in "iu":
            raise ModelError(f"tensor {name!r} must hold {np.dtype(dtype)}, not {value.dtype}")
        if value.size and not low <= value.min() <= value.max() <= high:
            outside = value[(value < low) | (value > high)].ravel()[0]
            raise ModelError(f"tensor {name!r} must lie from {low} to {high}, not {outside}")


def _flatten(part, prefix=""):
    """Return the arrays and plain numbers of a layer or block in `part` by their dotted names."""
    tensors = {}
    for item in fields(part):
        name, value = prefix + item.name, getattr(part, item.name)
        if isinstance(value, (Dyadic, Linear, Norm, Block)):
            tensors |= _flatten(value, f"{name}.")
        elif isinstance(value, tuple):
            for index, block in enumerate(value):
                tensors |= _flatten(block, f"{name}.{index}.")
        elif isinstance(value, np.ndarray) or name.endswith(
                ("_x0", ".out_bits", ".symmetric")):
            tensors[name] = np.asarray(value if isinstance(value, np.ndarray) else int(value))
    return tensors


def _assemble(header, tensors):
    """Return the model whose header and tensors were checked."""
    def dyadic(name):
        return Dyadic(mult=tensors[f"{name}.mult"], shift=tensors[f"{name}.shift"])

    def linear(name):
        return Linear(weight=tensors[f"{name}.weight"], bias=tensors[f"{name}.bias"],
                      requant=dyadic(f"{name}.requant"),
                      out_bits=int(tensors[f"{name}.out_bits"]),
                      symmetric=bool(tensors[f"{name}.symmetric"]))

    def norm(name):
        return Norm(bias=tensors[f"{name}.bias"], requant=dyadic(f"{name}.requant"))

    def block(name):
        parts = {part: build(f"{name}.{part}") for build, parts in (
            (norm, ("norm1", "norm2")), (linear, ("qkv", "proj", "fc1", "fc2")),
            (dyadic, ("scores", "context", "gelu", "attn_residual", "mlp_residual")),
        ) for part in parts}
        return Block(softmax_x0=int(tensors[f"{name}.softmax_x0"]),
                     gelu_x0=int(tensors[f"{name}.gelu_x0"]), **parts)

    return IntegerVit(
        heads=header["heads"], **{name: header[name] for name in MODEL_SETTINGS},
        patch=linear("patch"), position=tensors["position"],
        position_residual=dyadic("position_residual"), cls_row=tensors["cls_row"],
        blocks=tuple(block(f"blocks.{index}") for index in range(header["blocks"])),
        norm=norm("norm"), head=linear("head"), scales=header["scales"], meta=header["meta"])
