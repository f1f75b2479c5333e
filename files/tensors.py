"""Tensor files, read without pickle and written in one step; and the error of every model file."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from systola.files.at_once import write_at_once
from systola.files.bounded import check_file, shorten
from systola.files.npz import FILE_BYTES, LAZY_BYTES, read_npz
from systola.files.rows import Rows
from systola.files.torch_file import widened

__all__ = ["INTEGER_KEY", "LARGEST", "MAX_BLOCKS", "SMALLEST", "ModelError", "other_kind",
           "read_tensors", "write_tensors"]

INTEGER_KEY = "systola_network"
"""Metadata entry of an integer model."""

MAX_BLOCKS = 1000
"""Most encoder blocks of a model: readers list what a model of so many has before they look."""
SMALLEST, LARGEST = 1e-30, 1e30
"""Bounds of scales and other real parameters, so that float32 holds them and their inverses."""

_ITEMS = 4096
"""Most items in a text entry of an ``.npz`` file."""

_HEADER_BYTES = 100_000_000  # as the library has it


class ModelError(ValueError):
    """A model or a setting cannot be used; one line naming the value and what was expected."""


def other_kind(tensors, metadata, wanted):
    """Return what a file is that lacks what was `wanted` of it, or None if that is not known.

    `wanted` and the result are ``an integer model``, ``a float checkpoint``, ``images``.
    """
    kinds = {"an integer model": INTEGER_KEY in metadata,
             "a float checkpoint": "patch_embed.proj.weight" in tensors,
             "images": "images" in tensors}
    return next((kind for kind, there in kinds.items() if there and kind != wanted), None)


def read_tensors(path, lazy=()):
    """Return ``(tensors, metadata)`` of a ``.safetensors`` or ``.npz`` file.

    The metadata of an ``.npz`` file are its 0-d and text entries. All metadata values are strings.
    Tensors named in `lazy` are `Rows`, read when they are asked for, where their layout allows it.

    Raises
    ------
    ModelError
        If the file is missing, truncated, not of its type, would need pickle, or would take much
        more memory than it has bytes.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ModelError(f"model file must end in .safetensors or .npz, not {str(path)!r}")
    try:
        read = _read_safetensors if path.suffix == ".safetensors" else _read_npz
        return read(path, lazy)
    except FileNotFoundError:
        raise ModelError(f"model file {str(path)!r} does not exist") from None
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, OverflowError,
            MemoryError, ValueError) as error:
        reason = getattr(error, "strerror", None) or shorten(error) or type(error).__name__
        raise ModelError(f"model file {str(path)!r} must be a complete {path.suffix} file without "
                         f"pickled objects: {reason}") from None


def write_tensors(path, tensors, metadata):
    """Write a ``.safetensors`` file; `path` holds either its old content or all of the new one.

    Raises
    ------
    ModelError
        If `path` has another suffix or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"model file to write must end in .safetensors, not {str(path)!r}")
    content = save({name: np.asarray(value, order="C") for name, value in tensors.items()},
                   metadata)
    try:
        write_at_once(path, content)
    except OSError as error:
        raise ModelError(f"model file {str(path)!r} cannot be written: "
                         f"{error.strerror or error}") from None


def _read_safetensors(path, lazy):
    size = check_file(path, LAZY_BYTES if lazy else FILE_BYTES)
    if size > FILE_BYTES:
        _check_end(path, size)
    with safe_open(path, framework="numpy") as file:
        names = {name: file.get_slice(name).get_dtype() for name in file.keys()}
        strange = sorted(set(names.values()) - _SAFETENSORS.keys())
        if strange:
            raise ValueError(f"numbers of type {strange[0]} are not known")
        by_rows = [name for name, dtype in names.items()
                   if name in lazy and dtype != "BF16" and file.get_slice(name).get_shape()]
        tensors = {name: file.get_tensor(name) for name, dtype in names.items()
                   if dtype != "BF16" and name not in by_rows}
        metadata = file.metadata() or {}
    short = [name for name, dtype in names.items() if dtype == "BF16"]
    return tensors | _read_bfloat16(path, short) | {
        name: Rows(lambda: open(path, "rb"), offset, shape, _SAFETENSORS[names[name]])
        for name, (offset, _, shape) in _layout(path, by_rows).items()}, metadata


_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
                "I16": "<i2", "I8": "i1", "U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8",
                "BOOL": "?"}
"""How the numbers of a type lie in a file."""


def _check_end(path, size):
    """Raise ``ValueError`` unless a file ends where it says, before the library maps all of it."""
    start, header = _header(path)
    end = start + max((entry["data_offsets"][1] for name, entry in header.items()
                       if name != "__metadata__"), default=0)
    if end != size:
        raise ValueError(f"it must have {end:,} bytes as announced, not {size:,}")


def _header(path):
    """Return the number of bytes before the tensors of a file, and its table of them."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_BYTES:
            raise ValueError(f"its header must have at most {_HEADER_BYTES:,} bytes, not "
                             f"{length:,}")
        return 8 + length, json.loads(file.read(length))


def _layout(path, names):
    """Return offset, bytes and shape of tensors in a file that the library has checked."""
    if not names:
        return {}
    before, header = _header(path)
    places = {name: header[name]["data_offsets"] for name in names}
    return {name: (before + start, end - start, header[name]["shape"])
            for name, (start, end) in places.items()}


def _read_bfloat16(path, names):
    """Return tensors as float32 from a file that the library, which has no such type, checked."""
    tensors = {}
    with open(path, "rb") as file:
        for name, (offset, size, shape) in _layout(path, names).items():
            file.seek(offset)
            tensors[name] = widened(np.frombuffer(file.read(size), "<u2"), True).reshape(shape)
    return tensors


def _read_npz(path, lazy):
    tensors, metadata = {}, {}
    for name, value in read_npz(path, lazy).items():
        if value.ndim and value.dtype.kind not in "US":
            tensors[name] = value
        elif value.size <= _ITEMS:
            metadata[name] = ",".join(str(item) for item in value.ravel())
        else:
            raise ValueError(f"text must have at most {_ITEMS} items, not {value.size}")
    return tensors, metadata
