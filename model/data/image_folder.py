"""Folders of pictures: one folder a class, or a file of labels beside them."""

import csv
import io
import os
from pathlib import Path

import numpy as np

from systola.files.bounded import read_file, shorten, shown
from systola.files.tensors import ModelError
from systola.model.data.image_source import SPLITS, PictureSource
from systola.model.data.pictures import SUFFIXES, decoded

__all__ = ["open_split", "recognize", "splits"]

_LABELS = "labels.csv", "metadata.csv", "labels.txt"
"""Files of labels, the one to prefer first."""

_FILE, _LABEL = ("file_name", "filename", "file", "image", "path"), ("label", "class", "labels")
"""What the columns of a CSV file are called."""

_LABEL_BYTES = 2**28


def recognize(path):
    """Tell whether a path is a folder."""
    return path.is_dir()


def splits(path):
    """Return the folders of the parts of a set by name, or the folder if it is one set.

    Folders ``train``, ``test``, ``val`` and the like are parts; their names may not be classes.

    Raises
    ------
    ModelError
        If two folders are the same part.
    """
    folders = _folders(path)
    if not folders or not all(folder.name.lower() in SPLITS for folder in folders):
        return {None: path}
    found = {}
    for folder in folders:
        split = SPLITS[folder.name.lower()]
        if split in found:
            raise ModelError(f"data {str(path)!r} must have one folder of {split} images, not "
                             f"{found[split].name!r} and {folder.name!r}")
        found[split] = folder
    return found


def open_split(name, folder, labelled):
    """Return the pictures of a folder, in the order of their names.

    Parameters
    ----------
    name : str
    folder : Path
        With a folder of pictures for each class, in which there may be further folders; or with
        pictures and a file ``labels.csv``, ``metadata.csv`` (a line of names of columns, among
        them ``file_name`` and ``label``) or ``labels.txt`` (name and label in each line).
    labelled : bool
        Without it, all pictures are taken, and labels not looked for.

    Raises
    ------
    ModelError
        If there are no pictures, or not one label for each.
    """
    table = next((folder / file for file in _LABELS if (folder / file).is_file()), None)
    files, others = _walk(folder)
    if not files:
        raise ModelError(f"data folder {str(folder)!r} must hold pictures "
                         f"({', '.join(SUFFIXES)})")
    labels = classes = None
    numbered = False
    if labelled and table is not None:
        labels, classes, numbered = _from_table(folder, table, files)
    elif labelled:
        labels, classes = _from_folders(folder, files)
    source = _FolderSource(name, folder, files, labels)
    source.classes, source.numbered = classes, numbered
    others = [other for other in others if table is None or folder / other != table]
    if others:
        source.said.append(f"{len(others)} files of {str(folder)!r} are no pictures and left out, "
                           f"{others[0]!r} for example")
    return source


def _folders(path):
    return sorted(entry for entry in path.iterdir() if entry.is_dir())


def _walk(folder):
    """Return the names of pictures and of other files in a folder, relative to it, sorted."""
    pictures, others = [], []

    def failed(error):
        raise ModelError(f"data folder {error.filename!r} cannot be read: {error.strerror}")

    for place in (folder, *_folders(folder)):
        for root, folders, files in os.walk(place, onerror=failed):
            if place == folder:
                folders.clear()
            else:
                folders.sort()
            lead = os.path.relpath(root, folder)
            for file in files:
                kept = pictures if file.lower().endswith(SUFFIXES) else others
                kept.append(file if lead == "." else f"{lead}/{file}")
    return sorted(pictures, key=lambda file: file.split("/")), sorted(others)


def _from_folders(folder, files):
    """Return the labels of pictures in folders of classes, and the names of those."""
    loose = next((file for file in files if "/" not in file), None)
    if loose is not None:
        raise ModelError(f"data folder {str(folder)!r} must have a folder for each class, or a "
                         f"file {_LABELS[0]}, for the pictures in it: {shown(loose)} has no label")
    classes = tuple(path.name for path in _folders(folder))
    numbers = {name: index for index, name in enumerate(classes)}
    return np.array([numbers[file.partition("/")[0]] for file in files], np.int64), classes


def _from_table(folder, table, files):
    """Return labels of a file, the names of classes or None, and whether it has numbers."""
    said = {}
    for name, label in _lines(table):
        if said.setdefault(name, label) != label:
            raise ModelError(f"labels {str(table)!r} must have one for each image, not two for "
                             f"{shown(name)}")
    missing = next((file for file in files if file not in said), None)
    if missing is not None:
        raise ModelError(f"labels {str(table)!r} must have one for each image, and have none for "
                         f"{shown(missing)}")
    unknown = said.keys() - set(files)
    if unknown:
        raise ModelError(f"labels {str(table)!r} must be of images that are there, which "
                         f"{shown(min(unknown))} is not")
    labels = [said[file] for file in files]
    if all(label.isdecimal() and len(label) < 10 for label in labels):
        return np.array([int(label) for label in labels], np.int64), None, True
    classes = tuple(sorted(set(labels)))
    numbers = {name: index for index, name in enumerate(classes)}
    return np.array([numbers[label] for label in labels], np.int64), classes, False


def _lines(table):
    """Yield names of files and labels as a file of labels has them."""
    try:
        text = read_file(table, _LABEL_BYTES).decode("utf-8-sig")
        if table.suffix == ".csv":
            reader = csv.DictReader(io.StringIO(text), strict=True)
            columns = [next((name for name in names if name in (reader.fieldnames or ())), None)
                       for names in (_FILE, _LABEL)]
            if None in columns:
                raise ValueError(f"its first line must name a column {_FILE[0]} and a column "
                                 f"{_LABEL[0]}, not {shown(reader.fieldnames)}")
            rows = [[row[column] for column in columns] for row in reader]
        else:
            rows = [line.rsplit(maxsplit=1) for line in text.splitlines() if line.strip()]
        wrong = next((row for row in rows if len(row) != 2 or None in row), None)
        if wrong is not None:
            raise ValueError(f"every line must have a file and a label, not {shown(wrong)}")
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or shorten(error)
        raise ModelError(f"labels {str(table)!r} cannot be read: {reason}") from None
    yield from ((name.strip().removeprefix("./"), label.strip()) for name, label in rows)


class _FolderSource(PictureSource):
    """Pictures in files of their own."""

    def __init__(self, name, folder, files, labels):
        super().__init__(name, labels)
        self.folder, self.files = Path(folder), files

    def __len__(self):
        return len(self.files)

    def where(self, index):
        """Return what an image is called in messages."""
        return str(self.folder / self.files[index])

    def picture(self, index):
        """Return a picture, and whether it says that it is to be turned."""
        path = self.folder / self.files[index]
        return decoded(path, str(path))
