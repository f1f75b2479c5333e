"""Ranges of tensors that a checkpoint's own quantizers recorded while it was fine-tuned."""

from math import isfinite

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import ModelError
from systola.model.graph.graph import RECORDED_RANGES
from systola.model.graph.nodes import Constant
from systola.model.quantization.scales import tied_tensors

__all__ = ["recorded"]


def recorded(graph, settings):
    """Return ``{tensor name: (low, high)}`` of all tensors of a range that was recorded.

    Rows of a tensor have its range, whichever of the two was recorded; constants have that of their
    numbers.

    Parameters
    ----------
    graph : Graph
        The float network, with `RECORDED_RANGES` in its ``meta``.
    settings : dict
        ``norm``.

    Raises
    ------
    ModelError
        If nothing was recorded, or nothing that is of use for these settings.
    """
    said = graph.meta.get(RECORDED_RANGES)
    if not isinstance(said, dict) or not said:
        raise ModelError("method must be another one than 'recorded' for a checkpoint whose "
                         "quantizers recorded no ranges: only models fine-tuned with I-ViT's "
                         "public code have some")
    if settings["norm"] == "compared":
        raise ModelError("norm must be another one than 'compared' for ranges that were recorded, "
                         "which are of norms with their gains")
    for name, reach in said.items():
        if name not in graph.by_name or isinstance(reach, bool) or not isinstance(
                reach, int | float) or not (isfinite(reach) and reach > 0):
            raise ModelError(f"{RECORDED_RANGES} must be numbers above 0 by tensor of the network, "
                             f"not {shown(reach)} of {shown(name)}")
    ranges = {}
    for name, tied in tied_tensors(graph).items():
        reach = np.float32(max((said[other] for other in tied if other in said), default=0))
        if reach and not isinstance(graph.by_name[name], Constant):
            ranges[name] = -reach, reach
    return ranges
