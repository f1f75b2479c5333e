"""Ranges of every tensor of a float network over calibration images."""

import numpy as np

from systola.files.tensors import ModelError
from systola.model.graph.float_forward import float_forward
from systola.model.quantization.uniform import Calibration

__all__ = ["calibrate"]


def calibrate(graph, inputs, *, batch=64, progress=None, watch=None):
    """Run the float network over `inputs` and return ``{tensor name: (low, high)}``.

    Parameters
    ----------
    graph : Graph
        The float network.
    inputs : dict of str to ndarray
        Training images as its inputs, (B, rows, channels).
    batch : int
        Images in one update of the running ranges.
    progress : callable, optional
        Called as ``progress(done, total)`` after every batch.
    watch : callable, optional
        Called as ``watch(name, array)`` with every tensor of every batch.

    Raises
    ------
    ValueError
        If there are no images, their shape does not fit the network, or its weights are so large
        that a tensor gets infinite.
    """
    count = len(next(iter(inputs.values())))
    if not count:
        raise ValueError("calibration images must be at least 1, not 0")
    ranges = {}

    def hook(name, x):
        if not np.isfinite(x).all():
            raise ModelError(f"weights must keep every tensor finite, which {name!r} is not for "
                             f"the calibration images")
        ranges.setdefault(name, Calibration()).update(x)
        if watch:
            watch(name, x)

    for start in range(0, count, batch):
        with np.errstate(over="ignore", invalid="ignore"):  # the hook says it
            float_forward(graph, {name: value[start:start + batch]
                                  for name, value in inputs.items()}, hook)
        if progress:
            progress(min(start + batch, count), count)
    return {name: calibration.range for name, calibration in ranges.items()}
