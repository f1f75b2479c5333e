"""Images and labels as data: the bundled digits, a file or a folder, and their way into models."""

from pathlib import Path

import numpy as np

from systola.files.bounded import shown
from systola.files.rows import MappedRows
from systola.files.tensors import ModelError
from systola.model.data import array_file, digits, examples, idx, image_folder, parquet
from systola.model.data.image_source import (
    SPLITS,
    ArraySource,
    Images,
    choose_split,
    set_name,
)
from systola.model.quantization.uniform import quantize

__all__ = ["FORMATS", "encode", "float_inputs", "has_training", "image_facts", "load_data",
           "normalised_patches", "open_images"]

FORMATS = {"arrays (.npz, .safetensors)": array_file, "IDX": idx, "Parquet": parquet,
           "folder of pictures": image_folder}
"""Readers by what they read, the first that recognizes a path is taken."""


def open_images(source, split="test", *, graph=None, labelled=True):
    """Return `Images`, which are read and prepared when they are asked for.

    Parameters
    ----------
    source : str or Path
        One of `systola.model.data.examples.EXAMPLES`, or a file or folder of one of `FORMATS`. The
        name of a part behind it, as in ``FOLDER/validation``, chooses that part.
    split : str
        ``train`` or ``test``, where the set has such parts; one without is taken whole.
    graph : Graph, optional
        The network that takes them: pictures get its size and colours, labels its classes.
    labelled : bool
        Without it, labels are neither needed nor there.

    Raises
    ------
    ModelError
        If the source or its contents are unusable.
    """
    if str(source) == "digits":
        images, labels = digits.load_images(split)
        return Images(ArraySource(set_name(source, split), images, labels if labelled else None),
                      graph)
    try:
        path, kind, split = _found(_place(source), split)
        split, place = choose_split(kind.splits(path), split, path)
        images = Images(kind.open_split(set_name(path, split), place, labelled), graph)
        images.said += examples.remarks(source)
        return images
    except OSError as error:
        raise ModelError(f"data {str(source)!r} cannot be read: {error.strerror}") from None


def has_training(source):
    """Tell whether a set of images has a part for training beside one to be scored.

    Raises
    ------
    ModelError
        If the source is unusable.
    """
    if str(source) == "digits":
        return True
    path, kind, split = _found(_place(source), None)
    parts = kind.splits(path)
    return split is None and "train" in parts and len(parts) > 1


def _place(source):
    """Return the path of images that a path, or the name of an example, stands for."""
    return Path(examples.images_path(source) if examples.is_example(source) else source)


def _found(path, split):
    """Return a path, its reader, and the part that is wanted."""
    if not path.exists() and path.name in SPLITS and path.parent.is_dir():
        path, split = path.parent, SPLITS[path.name]
    kind = next((kind for kind in FORMATS.values() if kind.recognize(path)), None)
    if kind is None:
        what = "be one of" if path.exists() else "exist, and be one of"
        raise ModelError(f"data {shown(str(path))} must {what}: {', '.join(FORMATS)}")
    return path, kind, split


def load_data(source, split="test", *, labelled=True, graph=None):
    """Return images and their labels, int64 (B,).

    Parameters
    ----------
    source, split, labelled
        As of `open_images`.
    graph : Graph, optional
        The network that they are for. With it the images are a sequence whose slices are read when
        they are asked for, and may come from pictures; without it, one array, float32 in 0..1.

    Raises
    ------
    ModelError
        If the source or its contents are unusable.
    """
    images = open_images(source, split, graph=graph, labelled=labelled)
    return images if graph is not None else images[:], images.labels


def image_facts(source):
    """Return ``mean`` and ``std`` that a file of images says, as lists; most say neither.

    Raises
    ------
    ModelError
        If the file is unusable.
    """
    if examples.is_example(source) or not array_file.recognize(Path(source)):
        return {}
    return array_file.image_facts(source)


def normalised_patches(images, *, patch_size, mean, std):
    """Return images in 0..1 as normalised patches, float32 (B, patches, patch_dim)."""
    images = np.asarray(images, dtype=np.float32)
    if images.ndim == 3:
        images = images[:, None]
    mean, std = (np.array(value, dtype=np.float32).reshape(-1, 1, 1) for value in (mean, std))
    for value in mean, std:
        if len(value) not in (1, images.shape[1]):
            raise ModelError(f"images must have {len(value)} channels, not {images.shape[1]}")
    return digits.patches((images - mean) / std, patch_size)


def float_inputs(graph, images):
    """Return images in 0..1 as the input of a float or an integer network, by name: float32.

    They are normalised by the network's ``mean`` and ``std``, or by what its codes are of instead,
    ``code_mean`` and ``code_std``. Of `Images`, inputs are `MappedRows`.

    Raises
    ------
    ModelError
        If the images do not fit the network, or it was made without images (a random one).
    """
    names, inputs = ("patch_size", "mean", "std"), graph.inputs
    if not all(graph.meta.get(name) for name in names) or len(inputs) != 1:
        raise ModelError("the network must know its patch size, mean and std to take images; this "
                         "one takes its input only")
    if isinstance(images, Images):
        return {inputs[0].name: MappedRows(
            images, lambda part: float_inputs(graph, part)[inputs[0].name])}
    size, shape = graph.meta.get("image_size"), np.shape(images)[-2:]
    if size and list(shape) != list(size):
        raise ModelError(f"images must be of {size[0]} x {size[1]} pixels, not {shape[0]} x "
                         f"{shape[1]} (--image-size makes a network for another size)")
    cut = normalised_patches(images, patch_size=graph.meta["patch_size"], **{
        name: graph.meta.get(f"code_{name}", graph.meta[name]) for name in ("mean", "std")})
    if cut.shape[1:] != (inputs[0].rows, inputs[0].channels):
        raise ModelError(f"images must give {inputs[0].rows} patches of {inputs[0].channels} "
                         f"values, not {cut.shape[1]} of {cut.shape[2]}")
    return {inputs[0].name: cut}


def encode(graph, images):
    """Return the codes of images in 0..1 as the input of an integer network, int64 by name.

    Raises
    ------
    ModelError
        If the images do not fit the network, or it does not know its input's scale.
    """
    if isinstance(images, Images):
        return {node.name: MappedRows(
            images, lambda part, name=node.name: encode(graph, part)[name])
            for node in graph.inputs}
    codes = {}
    for name, values in float_inputs(graph, images).items():
        if name not in graph.scales:
            raise ModelError(f"the integer network must know the scale of its input {name!r} to "
                             f"take images")
        codes[name] = quantize(values, graph.scales[name], graph.tensors[name].bits)
    return codes
