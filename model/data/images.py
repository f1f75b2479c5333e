"""Images and labels as data: the bundled digits or a file, and their way into the models."""

import numpy as np

from systola.files.tensors import ModelError, other_kind, read_tensors
from systola.model.data import digits
from systola.model.quantization.uniform import quantize

__all__ = ["encode", "float_inputs", "image_facts", "load_data", "normalised_patches"]


def load_data(source, split="test", *, labelled=True):
    """Return images, float32 in 0..1, and their labels, int64 (B,).

    Parameters
    ----------
    source : str or Path
        ``digits``, or a ``.safetensors`` or ``.npz`` file with ``images``, (B, H, W) or (B,
        channels, H, W), floating point in 0..1 or uint8, and ``labels`` (B,).
    split : str
        ``train`` or ``test`` of the digits; a file is one split, and all of it is returned.
    labelled : bool
        Without it, labels are neither needed nor returned, but None.

    Raises
    ------
    ModelError
        If the file or its contents are unusable.
    """
    if str(source) == "digits":
        return digits.load_images(split)
    tensors, metadata = read_tensors(source)
    for name in ("images", "labels") if labelled else ("images",):
        if name not in tensors:
            kind = other_kind(tensors, metadata, "images")
            raise ModelError(f"data file {str(source)!r} must hold {name!r}"
                             + (f"; it is {kind}" if kind else ""))
    images = _check_images(tensors["images"])
    return images, _check_labels(tensors["labels"], len(images)) if labelled else None


def _check_images(images):
    if images.ndim not in (3, 4) or not images.size:
        raise ModelError(f"'images' must have shape (B, H, W) or (B, channels, H, W), "
                         f"not {images.shape}")
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255
    if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
        raise ModelError(f"'images' must be uint8 or floating point from 0 to 1, "
                         f"not {images.dtype} from {images.min()} to {images.max()}")
    return images.astype(np.float32)


def _check_labels(labels, count):
    if labels.shape != (count,):
        raise ModelError(f"'labels' must have shape {(count,)}, one for each image, "
                         f"not {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ModelError(f"'labels' must hold integers, not {labels.dtype}")
    if labels.max() >= 2**31:
        raise ModelError(f"'labels' must be numbers of classes, not {labels.max()}")
    return labels.astype(np.int64)


def image_facts(source):
    """Return ``mean`` and ``std`` that a file of images says, as lists; a file may say neither.

    Raises
    ------
    ModelError
        If the file is unusable.
    """
    if str(source) == "digits":
        return {}
    tensors, metadata = read_tensors(source)
    return {name: tensors[name].tolist() if name in tensors else metadata[name]
            for name in ("mean", "std") if name in tensors or name in metadata}


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
    ``code_mean`` and ``code_std``.

    Raises
    ------
    ModelError
        If the images do not fit the network, or it was made without images (a random one).
    """
    names, inputs = ("patch_size", "mean", "std"), graph.inputs
    if not all(graph.meta.get(name) for name in names) or len(inputs) != 1:
        raise ModelError("the network must know its patch size, mean and std to take images; this "
                         "one takes its input only")
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
    codes = {}
    for name, values in float_inputs(graph, images).items():
        if name not in graph.scales:
            raise ModelError(f"the integer network must know the scale of its input {name!r} to "
                             f"take images")
        codes[name] = quantize(values, graph.scales[name], graph.tensors[name].bits)
    return codes
