"""Images of a file or folder, read when a network asks for them."""

from collections import defaultdict
from copy import copy
from hashlib import blake2b

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import ModelError
from systola.model.data.class_labels import network_labels
from systola.model.data.preparation import preparation

__all__ = ["SPLITS", "ArraySource", "Images", "PictureSource", "checked_images", "choose_split",
           "set_name"]

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "t10k": "test",
          "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation", "eval": "validation"}
"""What parts of a set of images are called, and what they are."""


def choose_split(splits, wanted, path):
    """Return the name and the content of a part of a set of images.

    Parameters
    ----------
    splits : dict
        By value of `SPLITS`; a set without parts has one, None.
    wanted : str
        ``train``, ``validation`` or ``test``, for which ``validation`` will do.
    path : Path
        For messages.

    Raises
    ------
    ModelError
        If it is not there.
    """
    for name in (None, wanted, *(["validation"] if wanted == "test" else ())):
        if name in splits:
            return name, splits[name]
    raise ModelError(f"data {str(path)!r} must have {wanted} images; there are those of "
                     f"{', '.join(splits)} only")


class ArraySource:
    """Arrays of images as a network takes them.

    Attributes
    ----------
    name : str
        Where they are from.
    images : array or Rows
        (B, H, W) or (B, planes, H, W), uint8 or floating point in 0..1.
    labels : int64 array (B,), or None
    classes : None
        Labels are numbers of the network's classes.
    said : list of str
        What a user should know of the images.
    """

    classes = None

    def __init__(self, name, images, labels):
        self.name, self.images, self.labels, self.said = name, images, labels, []

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        """Return the images of a range, or of a list of indices, as an array: float32 in 0..1.

        Raises
        ------
        ModelError
            If they cannot be read, or are out of range.
        """
        try:
            part = self.images[indices]
        except (ValueError, OSError, EOFError, RuntimeError) as error:
            raise ModelError(f"images of {self.name!r} must be complete: {error}") from None
        return checked_images(part)


class PictureSource:
    """Pictures of any size, which are prepared for a network one by one.

    Subclasses have ``picture(index)``, which returns one of Pillow and whether it says that it is
    to be turned, and ``__len__``.

    Attributes
    ----------
    name, labels, said
        As of an `ArraySource`.
    classes : tuple of str or None
        Names of what the labels number.
    numbered : bool
        Whether the numbers of `labels` are those of a file, rather than the order of the names.
    as_is : bool
        Whether those of the network's size are ready, and not resized and cropped again.
    """

    classes, numbered, as_is = None, True, False

    def __init__(self, name, labels):
        self.name, self.labels, self.said = name, labels, []


class Images:
    """Images of a source in the form that a network takes: slices are arrays, read on demand.

    Parameters
    ----------
    source : ArraySource or PictureSource
    graph : Graph, optional
        The network; pictures need it.
    indices : range, optional
        Which images; by default all.

    Attributes
    ----------
    labels : int64 array (B,), or None
        Numbers of the network's classes.

    Raises
    ------
    ModelError
        If labels are no classes of the network, or no file says how it takes pictures.
    """

    def __init__(self, source, graph=None, indices=None):
        self.source, self.graph = source, graph
        self.indices = range(len(source)) if indices is None else indices
        self.digests, self._converted, self._assumed = {}, defaultdict(set), ()
        self.said, self.labels, self._preparation = list(source.said), None, None
        if isinstance(source, PictureSource):
            self._prepare()
        if source.labels is not None:
            labels, sentence = network_labels(source, graph)
            self.labels = labels[self.indices.start:self.indices.stop:self.indices.step]
            self.said += [sentence] if sentence else []

    def _prepare(self):
        if self.graph is None or len(self.graph.inputs) != 1 or not self.graph.meta.get(
                "patch_size"):
            raise ModelError(f"pictures of {self.name!r} need a network that takes images, whose "
                             f"size and colours they get")
        meta, channels = self.graph.meta, self.graph.inputs[0].channels
        size = meta["patch_size"]
        if type(size) is not int or size < 1 or channels % size**2:
            raise ModelError(f"patch_size must divide the {channels} values of a patch, not "
                             f"{shown(size)}")
        self._preparation = preparation(meta, channels // size**2)
        (height, width), rows = self._preparation.size, self.graph.inputs[0].rows
        if height % size or width % size or height * width // size**2 != rows:
            raise ModelError(f"image_size must give {rows} patches of {size} x {size} pixels, not "
                             f"{height} x {width}")

    @property
    def name(self):
        """Where the images are from."""
        return self.source.name

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, part):
        """Return the images of a slice, or of a sequence of indices.

        They are float32, in 0..1, (B, planes, H, W) or (B, H, W).

        Raises
        ------
        ModelError
            If one is damaged, or does not fit.
        """
        chosen = self.indices[part] if isinstance(part, slice) else [
            self.indices[index] for index in part]
        if self._preparation is None:
            images = self.source.read(chosen)
        else:
            images = np.zeros((0, self._preparation.planes, *self._preparation.size), np.float32)
            if len(chosen):
                images = np.stack([self._prepared(index) for index in chosen])
        for index, image in zip(chosen, images, strict=True):
            if index not in self.digests:
                self.digests[index] = blake2b(image.tobytes(), digest_size=16).digest()
        return images

    def _prepared(self, index):
        picture, turned = self.source.picture(index)
        steps = self._preparation
        if picture.mode != steps.mode:
            self._converted[f"are {picture.mode} and read as {steps.mode}"].add(index)
        if turned:
            self._converted["say that they are to be turned (EXIF), which is not done"].add(index)
        ready = self.source.as_is and picture.size == steps.size[::-1]
        if self.source.as_is and not ready:
            self._converted[f"are {picture.height} x {picture.width} and resized to "
                            f"{steps.size[0]} x {steps.size[1]}"].add(index)
        try:
            if ready:
                pixels = steps.pixels(steps.coloured(picture))
            else:
                pixels, self._assumed = steps.apply(picture), steps.assumed
        except ModelError as error:
            raise ModelError(f"image {self.source.where(index)!r}: {error}") from None
        return pixels.astype(np.float32) / 255

    def thinned(self, most):
        """Return at most that many of the images, evenly spaced."""
        step = max(-(-len(self) // most), 1)
        return Images(self.source, self.graph, self.indices[::step])

    @property
    def in_files(self):
        """Whether they are pictures in files, so that whoever has these can prepare some."""
        return self._preparation is not None

    def part(self, start, stop):
        """Return some of the images as a set of its own, which notes what it reads for itself."""
        part = copy(self)
        part.indices, part.digests = self.indices[start:stop], {}
        part._converted, part._assumed = defaultdict(set), ()
        part.labels = None if self.labels is None else self.labels[start:stop]
        return part

    def noted(self):
        """Return what was found in the images read so far, for `note` of the set they are of."""
        return self.digests, dict(self._converted), self._assumed

    def note(self, noted):
        """Take over what was found in a part of the images, be it by another process."""
        digests, converted, assumed = noted
        self.digests |= digests
        for what, found in converted.items():
            self._converted[what] |= found
        self._assumed = assumed or self._assumed

    def about(self):
        """Return what results say of the images: plain data."""
        return {"source": self.name, "images": len(self), "of": len(self.source),
                "remarks": self.remarks()}

    def remarks(self):
        """Return sentences: what was assumed and converted, of the images read so far."""
        return [*self.said, *(f"assumed {sentence}" for sentence in self._assumed),
                *(f"{len(found)} of {len(self)} images {what}"
                  for what, found in self._converted.items())]

    def shared_with(self, other):
        """Return how many of the images read so far were also read of `other`: equal pixels."""
        theirs = set(other.digests.values())
        return sum(digest in theirs for digest in self.digests.values())


def checked_images(images):
    """Return an array of images as float32; raises `ModelError` unless they are in 0..1."""
    if images.ndim not in (3, 4) or not images.size:
        raise ModelError(f"'images' must have shape (B, H, W) or (B, channels, H, W), "
                         f"not {images.shape}")
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
        raise ModelError(f"'images' must be uint8 or floating point from 0 to 1, "
                         f"not {images.dtype} from {images.min()} to {images.max()}")
    return images.astype(np.float32)


def set_name(path, split):
    """Return what a part of a set of images is called in results; None is all of it."""
    texts = {None: "", "train": ", training images"}
    return f"{path}{texts.get(split, f', {split} images')}"
