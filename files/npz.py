"""Archives of plain arrays (.npz) from anywhere, read without pickle and with bounds."""

import math
import struct
import warnings
import zipfile
import zlib

import numpy as np

from systola.files.bounded import check_file, shorten, shown
from systola.files.rows import Rows

__all__ = ["DAMAGE", "FILE_BYTES", "LAZY_BYTES", "read_npz"]

FILE_BYTES, LAZY_BYTES = 2**32, 2**42
"""Largest file of arrays that is read, and largest one of which rows are."""

_RATIO, _LEEWAY = 16, 2**26
"""An archive may expand to `_RATIO` times its size, and `_LEEWAY` bytes more."""

DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, TypeError,
           AttributeError, NotImplementedError, OverflowError, RuntimeError, SyntaxError,
           MemoryError, ValueError, Warning)
"""What the libraries raise for damaged archives (encrypted: RuntimeError; old headers: Warning)."""


def read_npz(path, lazy=()):
    """Return the arrays of a file by name, read-only; those named in `lazy` as `Rows`.

    Raises ``ValueError`` if it is damaged, would expand to much more than its size, or holds
    anything but numbers and text, and ``OSError``; neither message names the file.
    """
    size = check_file(path, LAZY_BYTES if lazy else FILE_BYTES)
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            warnings.simplefilter("error")
            entries = archive.infolist()
            expanded = sum(entry.file_size for entry in entries)
            if expanded > _RATIO * size + _LEEWAY:
                raise ValueError(f"{size:,} bytes must not expand to {expanded:,}")
            arrays = {name: _read(archive, entry, path if name in lazy else None)
                      for entry in entries for name in [entry.filename.removesuffix(".npy")]}
    except DAMAGE as error:
        raise ValueError(shorten(error) or "truncated") from None
    if len(arrays) != len(entries):
        raise ValueError("every array must be there once")
    return arrays


def _read(archive, entry, lazy):
    """Return one array, whose header must announce just the bytes that follow.

    It is `Rows` if `lazy`, the file, is given and the order of its elements allows it.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{shown(entry.filename)} must be stored or deflated")
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{shown(entry.filename)} must be of format 1.0 or 2.0")
        header = (np.lib.format.read_array_header_1_0 if version == (1, 0)
                  else np.lib.format.read_array_header_2_0)
        shape, fortran, dtype = header(file)
        offset = file.tell()
        length = entry.file_size - offset
        rows = lazy is not None and shape and not fortran
        if not rows and length > FILE_BYTES:
            raise ValueError(f"{shown(entry.filename)} must have at most {FILE_BYTES:,} bytes, "
                             f"not {length:,}")
        data = b"" if rows else file.read()
    if dtype.kind not in "biufSU":
        raise ValueError(f"{shown(entry.filename)} must hold numbers or text, not "
                         f"{shorten(dtype)}; pickled objects are refused")
    announced = math.prod(shape) * dtype.itemsize
    # Without a size the number of items is anything, and so is that of a negative dimension.
    length = length if rows else len(data)
    if not dtype.itemsize or min(shape, default=0) < 0 or announced != length:
        raise ValueError(f"{shown(entry.filename)} must hold {length:,} bytes as announced, "
                         f"not {shown(shape)} of {shorten(dtype)}")
    if rows:
        return Rows(lambda: _opened(lazy, entry), offset, shape, dtype, last=True)
    return np.ndarray(shape, dtype, data, order="F" if fortran else "C")


def _opened(path, entry):
    """Open an entry; the archive is closed with it."""
    with zipfile.ZipFile(path) as archive:
        return archive.open(entry)
