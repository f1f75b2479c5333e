"""Parquet files of images, as the data sets of Hugging Face's hub are stored."""

import contextlib
import re

import numpy as np

from systola.files.bounded import check_file, parse_json, shorten, shown
from systola.files.npz import LAZY_BYTES
from systola.files.tensors import ModelError
from systola.model.data.image_source import SPLITS, PictureSource
from systola.model.data.pictures import decoded

__all__ = ["open_split", "recognize", "splits"]

_IMAGES, _LABELS = ("image", "img", "images"), ("label", "labels", "fine_label", "class")
"""What columns are called, the name to prefer first."""

_PART = re.compile(r"([a-z]+)([-_.].*)?\.parquet")
_GROUP_BYTES = 2**30
"""Most bytes of a group of rows, of which one is in memory."""


def recognize(path):
    """Tell whether a path is of such a file, or of a folder with some, or with `data` that has."""
    if path.is_dir():
        return any(_files(place) for place in (path, path / "data"))
    return path.suffix == ".parquet"


def _files(folder):
    return sorted(folder.glob("*.parquet"))


def splits(path):
    """Return the files of each part of the set by name, as the names of the files have it.

    Raises
    ------
    ModelError
        If some files have such a name and others have not.
    """
    if not path.is_dir():
        return {None: [path]}
    files, found = _files(path) or _files(path / "data"), {}
    for file in files:
        match = _PART.fullmatch(file.name)
        found.setdefault(SPLITS.get(match[1]) if match else None, []).append(file)
    if None in found and len(found) > 1:
        raise ModelError(f"data {str(path)!r} must hold files whose names begin with train, test "
                         f"or validation, not {found[None][0].name!r}")
    return found


def open_split(name, files, labelled):
    """Return the images of a list of files.

    Raises
    ------
    ModelError
        If a file is damaged, or has no column of images (bytes of pictures), or none of labels.
    ModuleNotFoundError
        Without pyarrow, which the extra ``parquet`` brings.
    """
    from pyarrow import parquet

    groups, labels, classes = [], [], None
    for path in files:
        with _reading(path):
            check_file(path, LAZY_BYTES)
        with _reading(path), parquet.ParquetFile(path) as file:
            image = _column(path, file.schema_arrow.names, _IMAGES)
            for index in range(file.num_row_groups):
                group = file.metadata.row_group(index)
                if group.total_byte_size > _GROUP_BYTES:
                    raise ValueError(f"a group of rows must have at most {_GROUP_BYTES:,} bytes, "
                                     f"not {group.total_byte_size:,}")
                groups.append((path, index, image, group.num_rows))
            if labelled:
                column = _column(path, file.schema_arrow.names, _LABELS)
                labels.append(_label_column(file, column))
                classes = _class_names(file.schema_arrow, column)
    if not sum(count for *_, count in groups):
        raise ModelError(f"data {str(files[0])!r} must hold images, not 0 rows")
    source = _ParquetSource(name, groups, np.concatenate(labels) if labelled else None)
    source.classes = classes
    return source


@contextlib.contextmanager
def _reading(path):
    """Turn what the library raises for a file into one line."""
    from pyarrow import ArrowException

    try:
        yield
    except ModelError:
        raise
    except (ArrowException, OSError, ValueError, TypeError, LookupError, MemoryError,
            NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or shorten(error)
        raise ModelError(f"data file {str(path)!r} must be a complete Parquet file: "
                         f"{reason}") from None


def _column(path, names, wanted):
    found = next((name for name in wanted if name in names), None)
    if found is None:
        raise ModelError(f"data file {str(path)!r} must have a column {wanted[0]}, not "
                         f"{shown(names)}")
    return found


def _label_column(file, column):
    table = file.read(columns=[column]).column(column)
    if table.null_count:
        raise ValueError(f"every image must have a {column}, which {table.null_count} have not")
    numbers = table.to_numpy()
    if numbers.dtype.kind not in "iu":
        raise ValueError(f"column {column} must hold integers, not {table.type}")
    return numbers.astype(np.int64)


def _class_names(schema, column):
    """Return the names of classes that a file of Hugging Face's library has, or None."""
    try:
        said = parse_json((schema.metadata or {})[b"huggingface"])
        names = said["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):
        return None
    usable = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if usable else None


class _ParquetSource(PictureSource):
    """Pictures in the rows of files; the group of rows that was read last is kept."""

    def __init__(self, name, groups, labels):
        super().__init__(name, labels)
        self.groups = groups
        self.starts = np.cumsum([0, *(count for *_, count in groups)])
        self._kept = None, None

    def __getstate__(self):
        return {**self.__dict__, "_kept": (None, None)}  # another process reads for itself

    def __len__(self):
        return int(self.starts[-1])

    def where(self, index):
        """Return what an image is called in messages."""
        path, *_ = self.groups[self._group(index)]
        return f"{path}, row {index}"

    def _group(self, index):
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def picture(self, index):
        """Return a picture, and whether it says that it is to be turned."""
        group = self._group(index)
        if self._kept[0] != group:
            self._kept = None, None  # not two at once
            self._kept = group, self._column(*self.groups[group])
        value = self._kept[1][index - int(self.starts[group])].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise ModelError(f"image {self.where(index)!r} must hold the bytes of a picture, not "
                             f"{shown(value)}")
        return decoded(content, self.where(index))

    def _column(self, path, index, column, count):
        from pyarrow import parquet

        with _reading(path), parquet.ParquetFile(path) as file:
            found = file.read_row_group(index, columns=[column]).column(column)
            if len(found) != count:
                raise ValueError(f"group {index} must have {count} rows, not {len(found)}")
        return found
