"""Tensor files, read without pickle and written in one step; and the error of every model file."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

__all__ = ["ModelError", "read_tensors", "write_tensors"]


class ModelError(ValueError):
    """A model or a setting cannot be used; one line naming the value and what was expected."""


def read_tensors(path):
    """Return ``(tensors, metadata)`` of a ``.safetensors`` or ``.npz`` file.

    The metadata of an ``.npz`` file are its 0-d and text entries. All metadata values are strings.

    Raises
    ------
    ModelError
        If the file is missing, truncated, not of its type, or would need pickle.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise ModelError(f"model file must end in .safetensors or .npz, not {str(path)!r}")
    if not path.is_file():
        raise ModelError(f"model file {str(path)!r} does not exist")
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_npz(path)
    except (SafetensorError, zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, TypeError,
            ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
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
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise ModelError(f"model file {str(path)!r} cannot be written: "
                         f"{error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _read_safetensors(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def _read_npz(path):
    tensors, metadata = {}, {}
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        for name in file.files:
            value = file[name]
            if value.ndim == 0 or value.dtype.kind in "US":
                metadata[name] = ",".join(str(item) for item in value.ravel())
            else:
                tensors[name] = value
    return tensors, metadata
