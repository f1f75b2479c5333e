"""Images and labels in ``.npz`` and ``.safetensors`` files."""

from systola.files.tensors import ModelError, other_kind, read_tensors
from systola.model.data.class_labels import integer_labels
from systola.model.data.image_source import ArraySource, checked_images

__all__ = ["image_facts", "open_split", "recognize", "splits"]

_SUFFIXES = ".npz", ".safetensors"


def recognize(path):
    """Tell whether a path is of such a file."""
    return path.suffix in _SUFFIXES and not path.is_dir()


def splits(path):
    """Return the parts of the set: it is one."""
    return {None: path}


def open_split(name, path, labelled):
    """Return the images of a file with ``images``, and with ``labels`` if they are wanted.

    Raises
    ------
    ModelError
        If the file or its contents are unusable.
    """
    tensors, metadata = read_tensors(path, lazy=("images",))
    for wanted in ("images", "labels") if labelled else ("images",):
        if wanted not in tensors:
            kind = other_kind(tensors, metadata, "images")
            raise ModelError(f"data file {str(path)!r} must hold {wanted!r}"
                             + (f"; it is {kind}" if kind else ""))
    images = tensors["images"]
    if images.ndim not in (3, 4) or not images.size:
        checked_images(images)  # says it
    labels = integer_labels(tensors["labels"], len(images)) if labelled else None
    return ArraySource(name, images, labels)


def image_facts(path):
    """Return ``mean`` and ``std`` that a file says, as lists; it may say neither.

    Raises
    ------
    ModelError
        If the file is unusable.
    """
    tensors, metadata = read_tensors(path, lazy=("images",))
    return {name: tensors[name].tolist() if name in tensors else metadata[name]
            for name in ("mean", "std") if name in tensors or name in metadata}
