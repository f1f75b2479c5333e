"""PyTorch files (.pt, .pth, .bin) as plain data: nothing in them is executed.

A file is a pickle of tensors and of what somebody saved beside them. Of all that a pickle may name,
only the few functions that rebuild tensors and plain containers are known here, as functions of our
own; every other name refuses the file before anything is called.
"""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from systola.files.bounded import check_file, shorten, shown
from systola.files.npz import DAMAGE, FILE_BYTES

__all__ = ["SUFFIXES", "read_torch", "widened"]

SUFFIXES = ".pt", ".pth", ".bin", ".tar", ".ckpt"
"""How the names of such files end (``.pth.tar``, too)."""

_TYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2",
          "BFloat16Storage": "bfloat16", "LongStorage": "<i8", "IntStorage": "<i4",
          "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1",
          "BoolStorage": "|b1"}
"""NumPy's names for what PyTorch's storages hold."""

_MAGIC = 0x1950a86a20f9469cfc6c
_PROTOCOL = 1001
"""First and second pickle of files from before PyTorch 1.6."""

_MOST_OBJECTS = 2**18
_DEPTH = 8
"""Most numbers, texts and tensors of a file, and of dictionaries and lists in each other."""


def read_torch(path):
    """Return what a file holds: nested dictionaries and lists of numbers, text and arrays.

    Parameters
    ----------
    path : str or Path
        A zip archive as PyTorch writes them since 1.6, or an older file.

    Raises
    ------
    ValueError
        If it is damaged, or would need anything but tensors and plain containers to be rebuilt.
    OSError
        If it cannot be read. Neither message names the file.
    """
    size = check_file(path, FILE_BYTES)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _from_archive(archive, size)
        with Path(path).open("rb") as file:
            return _from_stream(file, size)
    except (*DAMAGE, pickle.UnpicklingError, RecursionError) as error:
        raise ValueError(shorten(error) or "truncated") from None


def widened(array, is_bfloat16):
    """Return `array`, 16-bit codes if `is_bfloat16`, as numbers that NumPy knows."""
    if not is_bfloat16:
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


@dataclass
class _Storage:
    """The numbers of one or several tensors; `data` is None until an older file got there."""

    dtype: str
    count: int
    data: bytes | None = None


@dataclass
class _Tensor:
    """A view of a storage, all in elements."""

    storage: _Storage
    offset: int
    shape: tuple
    strides: tuple

    def array(self):
        """Return the numbers, as a view of the file's if NumPy knows their type."""
        is_bfloat16 = self.storage.dtype == "bfloat16"
        dtype = np.dtype("<u2" if is_bfloat16 else self.storage.dtype)
        if math.prod(self.shape) > self.storage.count:
            raise ValueError(f"a tensor must not be larger than its storage of "
                             f"{self.storage.count:,} numbers, but is of shape {shown(self.shape)}")
        view = np.ndarray(self.shape, dtype, self.storage.data, self.offset * dtype.itemsize,
                          [stride * dtype.itemsize for stride in self.strides])
        return widened(view, is_bfloat16)


class _Namespace:
    """The attributes of a saved ``argparse.Namespace``, which are dropped."""

    def __setstate__(self, state):
        pass


def _tensor(storage, offset, shape, strides, *_):
    whole = all(type(value) is int and value >= 0 for value in (offset, *shape, *strides))
    if not isinstance(storage, _Storage) or not whole or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor must be a view of a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor, *_):
    return tensor


def _bytes(text, encoding):
    return str(text).encode("latin1") if encoding == "latin1" else b""


def _dropped(*_):
    return None


_KNOWN = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("collections", "OrderedDict"): OrderedDict,
    ("argparse", "Namespace"): _Namespace,
    ("_codecs", "encode"): _bytes,
    # A best accuracy or a learning rate beside the weights, as a NumPy number.
    **{(module, "scalar"): _dropped
       for module in ("numpy.core.multiarray", "numpy._core.multiarray")},
    ("numpy", "dtype"): type("_Dtype", (), {"__init__": lambda self, *_: None,
                                            "__setstate__": lambda self, state: None}),
    ("torch", "Size"): tuple,
    **{("torch", name): name for name in _TYPES},
}
"""What a pickle may name, and what it gets."""


class _Unpickler(pickle.Unpickler):
    """Rebuilds data from known names only; `storage` finds what a persistent id stands for."""

    def __init__(self, file, storage):
        super().__init__(file, encoding="latin1")
        self._storage = storage

    def find_class(self, module, name):
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {shown(f'{module}.{name}')}, and nothing but tensors is taken from "
                f"such a file (save the state_dict alone)")
        return _KNOWN[module, name]

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or (
                pid[1] not in _TYPES or type(pid[4]) is not int or pid[4] < 0):
            raise pickle.UnpicklingError(f"storage {shown(pid)} is of a kind that is not known")
        return self._storage(_TYPES[pid[1]], str(pid[2]), pid[4])


def _from_archive(archive, size):
    entries = {entry.filename: entry for entry in archive.infolist()}
    total = sum(entry.file_size for entry in entries.values())
    if total > 2 * size + 2**20:
        raise ValueError(f"{size:,} bytes must not expand to {total:,}")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("it must hold one entry data.pkl, as torch.save writes")
    folder, storages = pickles[0].removesuffix("data.pkl"), {}
    order = f"{folder}byteorder"
    if order in entries and archive.read(order) != b"little":
        raise ValueError("its numbers must be little-endian")

    def storage(dtype, key, count):
        if key not in storages:
            storages[key] = _checked(_Storage(dtype, count, archive.read(f"{folder}data/{key}")))
        return storages[key]

    return _plain(_Unpickler(io.BytesIO(archive.read(pickles[0])), storage).load(), size)


def _from_stream(file, size):
    """Read a file from before PyTorch 1.6: pickles one after the other, then the storages."""
    def no_storage(dtype, key, count):
        raise pickle.UnpicklingError("it starts with a tensor")

    def load(storage=no_storage):
        return _Unpickler(file, storage).load()

    if load() != _MAGIC or load() != _PROTOCOL:
        raise ValueError("it must be a file that torch.save wrote")
    if load().get("little_endian") is not True:
        raise ValueError("its numbers must be little-endian")
    storages = {}

    def storage(dtype, key, count):
        return storages.setdefault(key, _Storage(dtype, count))

    content = load(storage)
    for key in load():
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages or count != storages[key].count:
            raise ValueError(f"storage {shown(key)} must have as many numbers as its tensors say")
        width = _width(storages[key].dtype)
        if not 0 <= count * width <= size:
            raise ValueError(f"storage {shown(key)} must be in the file")
        storages[key].data = file.read(count * width)
    for found in storages.values():
        _checked(found)
    return _plain(content, size)


def _width(dtype):
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _checked(storage):
    """Return `storage` if it holds as many numbers as announced."""
    have, announced = len(storage.data or b""), storage.count * _width(storage.dtype)
    if have != announced:
        raise ValueError(f"a storage must have {announced:,} bytes as announced, not {have:,}")
    return storage


def _plain(content, size):
    """Return nested containers with arrays for tensors; other objects become None.

    A pickle of a few bytes can name one object many times, so their number is bounded, as is what
    bfloat16 takes when it gets wider.
    """
    left = {"objects": _MOST_OBJECTS, "bytes": 4 * size}

    def one(value, depth):
        left["objects"] -= 1
        if isinstance(value, _Tensor):
            value = value.array()
            left["bytes"] -= value.nbytes if value.flags.writeable else 0
        elif isinstance(value, dict) and depth < _DEPTH:
            value = {str(key): one(item, depth + 1) for key, item in value.items()}
        elif isinstance(value, list | tuple) and depth < _DEPTH:
            value = [one(item, depth + 1) for item in value]
        elif not isinstance(value, bool | int | float | str):
            value = None
        if min(left.values()) < 0:
            raise ValueError(f"it must hold at most {_MOST_OBJECTS:,} objects, each once")
        return value

    return one(content, 0)
