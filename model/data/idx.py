"""IDX files, as MNIST and Fashion-MNIST are published, plain or compressed with gzip."""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from systola.files.bounded import check_file, shorten
from systola.files.npz import LAZY_BYTES
from systola.files.rows import Rows
from systola.files.tensors import ModelError
from systola.model.data.image_source import SPLITS, PictureSource

__all__ = ["open_split", "recognize", "splits"]

_NAME = re.compile(r"(?P<stem>.*?)(?P<what>images|labels)[-._]idx[13][-._]ubyte(\.gz)?")
_DIMENSIONS = {"images": 3, "labels": 1}
_UNSIGNED_BYTES = 8
_MOST = 2**26
"""Most images of a file."""

_LEEWAY = 2**16

_DAMAGE = (OSError, EOFError, zlib.error, struct.error, ValueError)


def recognize(path):
    """Tell whether a path is of such a file of images, or of a folder with some."""
    if path.is_dir():
        return any(_named(file, "images") for file in path.iterdir())
    return bool(_named(path, "images"))


def _named(path, what):
    match = _NAME.fullmatch(path.name)
    return match if match and match["what"] == what else None


def splits(path):
    """Return the pairs of files by their part of the set; a named file is one.

    Raises
    ------
    ModelError
        If a folder has several pairs of the same part.
    """
    if not path.is_dir():
        return {None: (path, _labels_of(path))}
    files = [file for file in sorted(path.iterdir()) if _named(file, "images")]
    found = {_part(file): (file, _labels_of(file)) for file in files}
    if len(found) < len(files) or (None in found and len(found) > 1):
        raise ModelError(f"data {str(path)!r} must hold one file of images for training and one "
                         f"for test; name the file, as {str(files[0])!r}")
    return found


def _part(images):
    """Return the part of a set that the name of a file says, or None."""
    words = re.split(r"[-_.]", _named(images, "images")["stem"])
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _labels_of(images):
    """Return the file of labels that belongs to one of images, whether it exists or not."""
    name = re.sub(r"images([-._])idx3", r"labels\1idx1", images.name.removesuffix(".gz"))
    return next((path for path in (images.with_name(name), images.with_name(f"{name}.gz"))
                 if path.exists()), images.with_name(name))


def open_split(name, place, labelled):
    """Return the images of a pair of files.

    Raises
    ------
    ModelError
        If a file is missing, damaged, or not of unsigned bytes, or there is not one label for
        each image.
    """
    images, labels = place
    rows = _rows(images, "images")
    found = None
    if labelled:
        there = _rows(labels, "labels")
        if len(there) != len(rows):
            raise ModelError(f"labels {str(labels)!r} must be {len(rows)}, one for each image, not "
                             f"{len(there)}")
        try:
            found = there[:].astype(np.int64)
        except _DAMAGE as error:
            raise _damaged(labels, error) from None
    return _IdxSource(name, images, rows, found)


def _rows(path, what):
    """Return the rows of a file, whose header is checked."""
    def opened():
        return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")

    count = _DIMENSIONS[what]
    try:
        size = check_file(path, LAZY_BYTES)
        with opened() as file:
            zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
            if (zeros, kind, dimensions) != (0, _UNSIGNED_BYTES, count):
                raise ValueError(f"it must begin with {bytes([0, 0, _UNSIGNED_BYTES, count])}: "
                                 f"unsigned bytes in {count} dimensions")
            shape = struct.unpack(f">{count}I", file.read(4 * count))
        if not 0 < shape[0] <= _MOST or 0 in shape:
            raise ValueError(f"it must have 1 to {_MOST:,} {what}, not shape {shape}")
        content = 4 + 4 * count + math.prod(shape)
        if size > content + content // 1000 + _LEEWAY:  # gzip goes on looking behind the content
            raise ValueError(f"it must have no more bytes than its {content:,} need, not {size:,}")
        return Rows(opened, 4 + 4 * count, shape, np.uint8, last=True)
    except FileNotFoundError:
        raise ModelError(f"{what} {str(path)!r} do not exist") from None
    except _DAMAGE as error:
        raise _damaged(path, error) from None


def _damaged(path, error):
    reason = getattr(error, "strerror", None) or shorten(error)
    return ModelError(f"IDX file {str(path)!r} must be complete: {reason}")


class _IdxSource(PictureSource):
    """Grey pictures of one size; those of the network's are ready."""

    as_is = True

    def __init__(self, name, path, rows, labels):
        super().__init__(name, labels)
        self.path, self.rows = Path(path), rows

    def __len__(self):
        return len(self.rows)

    def where(self, index):
        """Return what an image is called in messages."""
        return f"{self.path}, {index}"

    def picture(self, index):
        """Return a picture, and that it is not to be turned."""
        from PIL import Image

        try:
            return Image.fromarray(self.rows[index:index + 1][0]), False
        except _DAMAGE as error:
            raise _damaged(self.path, error) from None
