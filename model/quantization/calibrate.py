"""Ranges of every tensor of a float model over calibration images."""

import numpy as np

from systola.files.tensors import ModelError
from systola.model.networks.float_vit import forward
from systola.model.quantization.uniform import Calibration

__all__ = ["calibrate"]


def calibrate(vit, patches, *, batch=64, progress=None):
    """Run the float model over `patches` and return ``{tensor name: (low, high)}``.

    Parameters
    ----------
    vit : FloatVit
        The float model.
    patches : ndarray
        Normalised patches of training images, (B, T-1, patch_dim).
    batch : int
        Images in one update of the running ranges.
    progress : callable, optional
        Called as ``progress(done, total)`` after every batch.

    Raises
    ------
    ValueError
        If there are no images, their shape does not fit the model, or its weights are so large
        that a tensor gets infinite.
    """
    if not len(patches):
        raise ValueError("calibration images must be at least 1, not 0")
    ranges = {}

    def hook(name, x):
        if not np.isfinite(x).all():
            raise ModelError(f"weights must keep every tensor finite, which {name!r} is not for "
                             f"the calibration images")
        ranges.setdefault(name, Calibration()).update(x)

    for start in range(0, len(patches), batch):
        with np.errstate(over="ignore", invalid="ignore"):  # the hook says it
            forward(vit, patches[start:start + batch], hook)
        if progress:
            progress(min(start + batch, len(patches)), len(patches))
    return {name: calibration.range for name, calibration in ranges.items()}
