"""Which presets can run a network: with how many images at once, or with what changes."""

import numpy as np

from systola.files.tensors import ModelError
from systola.hw.contract.config import PRESETS
from systola.model.graph.nodes import GraphError
from systola.model.quantization.quantize import quantize
from systola.sw_driver.compiler.compiler import check_fit
from systola.sw_driver.compiler.layout import CompileError
from systola.sw_driver.compiler.requirements import largest_batch, requirements

__all__ = ["MOST_BATCH", "first_preset", "preset_table"]

MOST_BATCH = 16
"""Images at once that are tried, at most."""

_IMAGES = 2  # of noise; whether a network fits depends on its shapes, not on its ranges


def preset_table(graph, *, progress=None):
    """Return for every preset whether it can run `graph`.

    Parameters
    ----------
    graph : Graph
        A float network, which is quantized as each preset wants it on inputs of noise, or an
        integer one.
    progress : callable, optional
        Called as ``progress(presets done, presets in total)``.

    Returns
    -------
    dict of str to dict
        By preset: ``runs``; ``batch``, the most images at once of 1, 2, 4 to `MOST_BATCH`; ``why``
        not, the first limit; ``needs``, the fields with which it would run, None if none do.
    """
    table = {}
    for done, (name, config) in enumerate(PRESETS.items()):
        table[name] = _row(graph, config)
        if progress:
            progress(done + 1, len(PRESETS))
    return table


def first_preset(graph):
    """Return the name of the first preset that can run `graph`, as in `preset_table`; or None."""
    for name, config in PRESETS.items():
        try:
            check_fit(_integer(graph, config), config, whole=False)
        except (CompileError, ModelError, GraphError):
            continue
        return name
    return None


def _row(graph, config):
    try:
        network = _integer(graph, config)
    except (ModelError, GraphError) as error:
        return {"runs": False, "batch": 0, "why": str(error), "needs": None}
    needs, refusal, able = requirements(network, config)
    if refusal is None:
        return {"runs": True, "batch": largest_batch(network, config, MOST_BATCH), "why": None,
                "needs": {}}
    return {"runs": False, "batch": 0, "why": refusal, "needs": needs if able else None}


def _integer(graph, config):
    """Return the integer network that stands for `graph` on an accelerator, as far as it fits."""
    if graph.is_integer:
        return graph
    rng = np.random.default_rng(0)
    inputs = {node.name: rng.standard_normal((_IMAGES, node.rows, node.channels), np.float32)
              for node in graph.inputs}
    return quantize(graph, inputs, method="minmax", **config.model_settings)  # sizes alone matter
