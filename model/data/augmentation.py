"""Training images that are a little different in every epoch."""

import numpy as np

__all__ = ["Augmentation"]

_MOST_BYTES = 2**31
"""Most bytes of images that are kept in memory; more are read anew for every batch."""

_PART = 512


class Augmentation:
    """Images mirrored and moved at random: what an image becomes in an epoch depends on the seed.

    Mirrored is left for right, half of the images. What a moved image leaves free is black. An
    image is moved by whole pixels, so that all its values are those of the file.

    Parameters
    ----------
    images : Images or array
        In 0..1, (B, H, W) or (B, planes, H, W).
    mirror : bool
    shift : int
        Most pixels that an image is moved up or down, and left or right.
    seed : int
    """

    def __init__(self, images, *, mirror, shift, seed=0):
        self.mirror, self.shift, self.seed = mirror, shift, seed
        self._count, self._images = len(images), _held(images)
        self._drawn = None, None

    def at(self, epoch, chosen):
        """Return the images of some indices as they are in an epoch, float32."""
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        mirrored, moved = self._drawn[1]
        images = np.array(self._images[chosen], np.float32)
        images[mirrored[chosen]] = images[mirrored[chosen]][..., ::-1]
        if not self.shift:
            return images
        empty = np.zeros_like(images)
        for image, target, (down, right) in zip(images, empty, moved[chosen].tolist(),
                                                strict=True):
            (rows, from_rows), (columns, from_columns) = (
                _overlap(down, image.shape[-2]), _overlap(right, image.shape[-1]))
            target[..., rows, columns] = image[..., from_rows, from_columns]
        return empty

    def _draw(self, epoch):
        """Return for all images of an epoch whether they are mirrored, and how far moved."""
        rng = np.random.default_rng([self.seed, epoch, 1])  # [seed, epoch] is the order of images
        mirrored = (rng.random(self._count) < 0.5) & self.mirror
        return mirrored, rng.integers(-self.shift, self.shift, (self._count, 2), endpoint=True)


def _overlap(by, size):
    """Return where pixels of a side go when moved, and where they come from, as slices."""
    by = int(np.clip(by, -size, size))
    return slice(max(by, 0), size + min(by, 0)), slice(max(-by, 0), size - max(by, 0))


def _held(images):
    """Return images in memory, or as they are if they are too many.

    Compressed files are read from their beginning: in the order of training that would take long.
    """
    first = np.asarray(images[:1], np.float32)
    if len(images) * first.nbytes > _MOST_BYTES:
        return images
    held = np.empty((len(images), *first.shape[1:]), np.float32)
    for start in range(0, len(images), _PART):
        held[start:start + _PART] = images[start:start + _PART]
    return held
