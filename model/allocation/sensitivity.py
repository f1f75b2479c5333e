"""What every node loses at each of its precisions: the change of the logits if it alone has them.

Everything is measured on calibration images, without labels, or as HAWQ-V3 does.
"""

import numpy as np

from systola.hw.contract.config import AcceleratorConfig
from systola.model.allocation.curvature import mean_curvature, rounding_distance
from systola.model.allocation.measures import MEASURES
from systola.model.graph import float_forward
from systola.model.quantization.calibrate import calibrate
from systola.model.quantization.methods import BEST, method_named
from systola.model.quantization.precision import tensor_bits
from systola.model.quantization.quantize import prepared, symmetric_tensors
from systola.model.quantization.replacements import SharesSample
from systola.model.quantization.rounding import reconstructed
from systola.model.quantization.scales import activation_scales, weight_scales
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["IMAGES", "sensitivities"]

IMAGES = 64
"""Calibration images that the change of the logits is measured on, at most."""

_NUMBERS = 1 << 28  # of all tensors together, which are kept
_ROWS = 1 << 14
_DRAWS, _SEED = 8, 0


def sensitivities(graph, images, nodes, *, method=BEST, measure="logits", progress=None,
                  **settings):
    """Return the loss of every node at each precision.

    The network is the float one, as the method's equalisation leaves it. One node at a time reads
    codes of its precision's bits, with the scale that calibration gives them, and has weights
    rounded as the method does; its result and all other nodes stay real numbers. The loss is the
    mean square of what that changes in the outputs, over their variance. Errors of different nodes
    are taken as independent, so that losses add up. Nothing is drawn at random.

    By the measure ``trace`` the loss is the one of `systola.model.allocation.curvature`: of weights
    alone, so that the bits of activations change nothing, with 8 random directions, seed 0.

    Parameters
    ----------
    graph : Graph
        The float network.
    images : dict of str to ndarray or MappedRows
        Training images as its inputs, (B, rows, channels). All give ranges, at most `IMAGES`
        evenly spaced ones the change of the logits; fewer of large networks.
    nodes : NodePrecisions
        Its nodes and choices.
    measure : str
        One of `systola.model.allocation.measures.MEASURES`.
    method, **settings
        As of `systola.model.quantization.quantize.quantize`. The bits in `settings` are those of
        Q, K and V, and those that the equalisation is for.
    progress : callable, optional
        Called as ``progress(done, total)``.

    Returns
    -------
    list of list of float, int
        By node and choice; and the number of images that they were measured on.

    Raises
    ------
    ValueError
        As of `quantize`, and if `measure` is another.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, not {str(measure)[:40]!r}")
    settings = AcceleratorConfig(**settings).model_settings
    recipe = method_named(method)
    weights = dict.fromkeys(nodes.nodes, settings["weight_bits"])
    graph, images = prepared(graph, images, recipe, tensor_bits(graph, settings), weights, settings,
                             progress)
    scales = _scales(graph, images, nodes, recipe, settings)
    real, count = _tensors(graph, images)
    losses, rng = [], np.random.default_rng(_SEED)
    for done, name in enumerate(nodes.nodes):
        node = graph.by_name[name]
        steps = [scales[precision.act_bits][node.input] for precision in nodes.precisions]
        if measure == "trace":
            curvature = mean_curvature(graph, real, node, draws=_DRAWS, rng=rng)
            losses.append([curvature * rounding_distance(node, step, precision.weight_bits)
                           for step, precision in zip(steps, nodes.precisions, strict=True)])
        else:
            losses.append([_loss(graph, real, {name: _alone(node, real, precision, step, recipe)})
                           for step, precision in zip(steps, nodes.precisions, strict=True)])
        if progress:
            progress(done + 1, len(nodes.nodes))
    return losses, count


def _scales(graph, images, nodes, recipe, settings):
    """Return the scales of all tensors by the bits that linear nodes read."""
    found = {}
    for index, precision in enumerate(nodes.precisions):
        if precision.act_bits not in found:
            choices = nodes.choices([index] * len(nodes.nodes))
            bits = tensor_bits(graph, settings, choices)
            ranges = calibrate(graph, images, how=recipe.ranges, bits=bits,
                               symmetric=symmetric_tensors(graph, settings))
            found[precision.act_bits] = activation_scales(
                graph, ranges, bits, dict.fromkeys(nodes.nodes, settings["weight_bits"]), settings,
                SharesSample(graph, settings["attention"]))
    return found


def _tensors(graph, images):
    """Return all tensors of some evenly spaced images, and how many these are."""
    count = len(next(iter(images.values())))
    numbers = sum(int(np.prod(tensor.shape)) for tensor in graph.tensors.values())
    most = min(count, IMAGES, max(_NUMBERS // numbers, 1))
    chosen = np.unique(np.linspace(0, count - 1, most).round().astype(int))
    real = {node.name: np.broadcast_to(node.values, (most, *node.values.shape))
            for node in graph.nodes if node.kind == "constant"}
    float_forward.float_forward(graph, {name: np.asarray(value[chosen], np.float32)
                                        for name, value in images.items()}, real.__setitem__)
    return real, most


def _alone(node, real, precision, source, recipe):
    """Return what a linear node makes if it alone has a precision, float32."""
    inputs = to_codes(real[node.input], source, precision.act_bits) * float(source)
    if recipe.reconstruct:
        x, targets = (rows.reshape(-1, rows.shape[-1]) for rows in (inputs, real[node.name]))
        if node.residual is not None:
            targets = targets - real[node.residual].reshape(targets.shape)
        step = -(-len(x) // _ROWS)
        codes, scale, bias, _ = reconstructed(x[::step], targets[::step].astype(np.float64),
                                              node.weight, source, precision.weight_bits)
    else:
        scale = weight_scales(node.weight, node.bias, precision.weight_bits, source)
        top = (1 << precision.weight_bits - 1) - 1
        codes = np.clip(to_codes(node.weight, scale[:, None], precision.weight_bits), -top, top)
        bias = node.bias
    made = (inputs @ (codes * scale[:, None]).T + bias).astype(np.float32)
    return made if node.residual is None else made + real[node.residual]


def _loss(graph, real, changed):
    """Return the mean square of the change of the outputs over their variance."""
    outputs = float_forward.resumed(graph, real, changed)
    return sum(float(np.square(value - real[name], dtype=np.float64).mean()
                     / max(real[name].var(dtype=np.float64), np.finfo(float).tiny))
               for name, value in outputs.items())
