"""The handwritten digits bundled with scikit-learn, their fixed split, and images as patches."""

from hashlib import sha256
from importlib.resources import files

import numpy as np

__all__ = ["SPLITS", "checkpoint_path", "load_images", "patches", "split_indices"]

SPLITS = ("train", "test")


def checkpoint_path():
    """Return the committed float checkpoint of the digits example."""
    return files("systola.examples.digits") / "digits.safetensors"


def split_indices(labels, split, *, parts=5, salt="test"):
    """Return the indices of `split`, in ascending order.

    Of every class, the `1/parts` images whose SHA-256 of ``salt:index`` is lowest are ``test`` and
    the others ``train``: stratified, and the same in every version of every library.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be {' or '.join(map(repr, SPLITS))}, not {split!r}")
    chosen = []
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label).tolist(),
                         key=lambda index: sha256(f"{salt}:{index}".encode()).digest())
        count = round(len(members) / parts)
        chosen += members[:count] if split == "test" else members[count:]
    return np.sort(np.array(chosen, dtype=np.int64))


def load_images(split):
    """Return the scans of `split`, float32 (B, 8, 8) in 0..1, and their labels, int64 (B,)."""
    from sklearn.datasets import load_digits  # slow to import, and needed here only

    data = load_digits()
    index = split_indices(data.target, split)
    return (data.images[index] / 16).astype(np.float32), data.target[index].astype(np.int64)


def patches(images, size):
    """Cut (B, H, W) or (B, channels, H, W) images into (B, H/size * W/size, channels*size*size).

    Patches go by rows; inside a patch the order is channel, row, column, that of a flattened
    PyTorch convolution kernel.
    """
    images = np.asarray(images)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[2] % size or images.shape[3] % size:
        raise ValueError(f"images must be (B, channels, H, W) with H and W multiples of the patch "
                         f"size {size}, not of shape {images.shape}")
    count, channels, height, width = images.shape
    cut = images.reshape(count, channels, height // size, size, width // size, size)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(
        count, (height // size) * (width // size), channels * size * size)
