"""Ranges of every tensor of a float network over calibration images."""

import numpy as np

from systola.files.tensors import ModelError
from systola.hw.contract.numbers import CODE_BITS
from systola.model.graph.float_forward import float_forward
from systola.model.graph.nodes import Scores, Softmax
from systola.model.graph.row_arrays import without_masked
from systola.model.quantization.histogram import Histogram
from systola.model.quantization.uniform import Calibration

__all__ = ["BATCH", "calibrate"]

BATCH = 64
"""Images in one update of the running ranges."""


def calibrate(graph, inputs, *, how="running", bits=None, symmetric=(), batch=BATCH, progress=None,
              watch=None):
    """Run the float network over `inputs` and return ``{tensor name: (low, high)}``.

    Parameters
    ----------
    graph : Graph
        The float network.
    inputs : dict of str to ndarray or MappedRows
        Training images as its inputs, (B, rows, channels).
    how : str
        ``running`` (the publications' moving average), or of tensors of codes ``percentile`` or
        ``error`` (least squared error), and of wider ones the largest magnitude.
    bits : dict of str to int
        Of every tensor, unless `how` is ``running``.
    symmetric : collection of str
        Tensors whose lowest code is the negative of the largest.
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
        if name not in ranges:
            counted = how != "running" and not isinstance(graph.by_name[name], Softmax)
            ranges[name] = Histogram() if counted else Calibration()
        if graph.tensors[name].key_counts and isinstance(graph.by_name[name], Scores):
            x = without_masked(graph.tensors[name].runs, x)  # the others decide
        ranges[name].update(x)
        if watch:
            watch(name, x)

    for start in range(0, count, batch):
        with np.errstate(over="ignore", invalid="ignore"):  # the hook says it
            float_forward(graph, {name: value[start:start + batch]
                                  for name, value in inputs.items()}, hook)
        if progress:
            progress(min(start + batch, count), count)
    return {name: _range(graph.by_name[name], found, how, bits and bits[name], name in symmetric)
            for name, found in ranges.items()}


def _range(node, found, how, bits, symmetric):
    """Return the low and high end that the tensor of `node` gets, of `bits` bits.

    Of scores the largest decide, which must not be cut.
    """
    if isinstance(found, Calibration):
        return found.range
    if bits > CODE_BITS or isinstance(node, Scores):
        reach = found.peak
    else:
        reach = found.percentile() if how == "percentile" else found.least_error(
            bits, symmetric=symmetric)
    return np.float32(-reach), np.float32(reach)
