"""Scales of all tensors of a quantized network, from ranges and weights."""

from math import sqrt

import numpy as np

from systola.hw.contract.numbers import MAX_SHIFT
from systola.model.graph.nodes import Activation, Add, Constant, Linear, Mean, Rows, Softmax
from systola.model.operators.l1_layernorm import l1_root
from systola.model.operators.requant import dyadic
from systola.model.quantization.precision import MAX_UNIT
from systola.model.quantization.replacements import octave_scale
from systola.model.quantization.uniform import MIN_SCALE, scale_for

__all__ = ["BIAS_BITS", "UNIT_FACTOR", "activation_scales", "exact_exponential", "least_scales",
           "multipliers", "norm_root", "tied_tensors", "weight_scales"]

UNIT_FACTOR = {Softmax: 1.0, Activation: 1.702}
"""Readers with exponentials, whose unit must be exact, and the factor of the scale in it."""


BIAS_BITS = 22
"""Most magnitude bits of a bias code: it shares an accumulator of 24 bits with the products."""


def weight_scales(weight, bias, bits, source):
    """Return the scales of the output channels of a linear layer, float32 (N,).

    They are those of the weights, coarser where the bias would not fit otherwise: it has the scale
    of the products, weight times `source`, the scale of what the layer reads. With a bias of
    2**22 codes the result's 16 bits are 2**7 codes each, so that nothing of them is lost. A row of
    zeros has the scale of its bias alone.
    """
    return np.maximum(scale_for(weight.min(axis=1), weight.max(axis=1), bits),
                      least_scales(bias, source).astype(np.float32))


def least_scales(bias, source):
    """Return the finest scales of output channels whose bias fits, float64 (N,)."""
    least = np.abs(bias.astype(np.float64)) / (float(source) * 2.0**BIAS_BITS)
    return np.maximum(least, MIN_SCALE)


def activation_scales(graph, ranges, bits, weight_bits, settings, shares):
    """Return the float32 scale of every tensor.

    Parameters
    ----------
    graph : Graph
        The float network.
    ranges : dict
        ``{tensor name: (low, high)}`` as `calibrate` returns.
    bits, weight_bits : dict of str to int
        Of every tensor, and of the weights of every linear node.
    settings : dict
        ``mult_bits``, ``attention``, ``gelu``.
    shares : SharesSample
        Of that attention.
    """
    ranges = dict(ranges)
    for node in graph.of(Constant):
        ranges[node.name] = node.values.min(), node.values.max()
    tied = tied_tensors(graph)
    scales = {}
    for node in graph.nodes:
        name = node.name
        if isinstance(node, Softmax):  # of exponentials: before the division
            scale = shares.scale(name, bits[name])
        else:
            low, high = (function(ranges[other][end] for other in tied[name])
                         for end, function in enumerate((min, max)))
            scale = scale_for(low, high, bits[name])
            factor = max((UNIT_FACTOR.get(type(reader), 0) for reader in graph.consumers[name]
                          if not (isinstance(reader, Activation)
                                  and settings["gelu"] != "published")), default=0)
            if factor and settings["attention"] == "ita" and any(
                    isinstance(reader, Softmax) for reader in graph.consumers[name]):
                scale = octave_scale(scale)
            elif factor:
                scale = exact_exponential(scale, factor)
        scales[name] = scale
    # Operands of few bits and a short multiplier can ask for a ratio of 2**mult_bits or more, which
    # no right shift expresses; a sum needs no steps that much finer than its terms.
    weights = {node.name: weight_scales(node.weight, node.bias, weight_bits[node.name],
                                        scales[node.input]).max()
               for node in graph.of(Linear) if bits[node.name] > 8}
    widened = True
    while widened:  # rows of others may take a scale back to a tensor that was read already
        widened = False
        for node in graph.nodes:
            least = _least_scale(node, graph, scales, weights, settings)
            for name in tied[node.name]:
                if scales[name] < least:
                    scales[name], widened = least, True
    return scales


def _least_scale(node, graph, scales, weights, settings):
    """Return the finest scale that the multipliers of a wide sum can express."""
    width = settings["mult_bits"]
    if node.name in weights:
        coarsest = max(weights[node.name] * scales[node.input],
                       scales[node.residual or node.name])
    elif isinstance(node, Add):
        coarsest = max(scales[name] for name in node.inputs)
    elif isinstance(node, Mean):
        coarsest = scales[node.input] / np.float32(
            graph.tensors[node.input].rows // node.groups)
        width = min(width, settings["code_mult_bits"])
    else:
        return np.float32(0)
    return coarsest / np.float32(2.0 ** (width - 1))


def tied_tensors(graph):
    """Return for every tensor the list of those that must have the same scale: rows of others."""
    groups = {node.name: [node.name] for node in graph.nodes}
    for node in graph.of(Rows):
        for name in node.sources:
            if groups[name] is not groups[node.name]:
                groups[node.name].extend(groups[name])
                for other in groups[name]:
                    groups[other] = groups[node.name]
    return groups


def exact_exponential(scale, factor):
    """Widen `scale` so that ``1 / (factor * scale)`` is an integer of at most `MAX_UNIT`.

    ShiftExp computes exp(code / unit). With unit = 12 for 1 / scale = 11.1 all its exponents would
    be 8 % too small; the next exact scale costs no more range than that.
    """
    count = min(int(1 / (factor * float(scale))), MAX_UNIT)
    if count < 1:
        return scale
    # One float above: below the exact quotient, the floor would give the next constant.
    return max(scale, np.nextafter(np.float32(1 / (factor * count)), np.float32(np.inf)))


def multipliers(ratio, bits):
    """Return multipliers of `bits` bits and shifts for `ratio`, a number or an array.

    A ratio too small for the largest shift (a layer norm channel with a tiny gamma) keeps that
    shift and gets a shorter multiplier.
    """
    ratio = np.asarray(ratio, dtype=np.float64)
    small = np.abs(ratio) < 2.0 ** (bits - 1 - MAX_SHIFT)
    mult, shift = dyadic(np.where(small, 0, ratio), bits=bits)
    return (np.where(small, np.rint(np.ldexp(ratio, MAX_SHIFT)), mult).astype(np.int64),
            np.where(small, MAX_SHIFT, shift).astype(np.int64))


def norm_root(channels, variant):
    """Return by what a layer norm's operator divides: ``o ~ 2**30 * normal / root``, a float.

    Parameters
    ----------
    channels : int
        Of a row, or of one of its groups.
    variant : str
        Of the norm.
    """
    return sqrt(channels) * (l1_root(channels) if variant == "l1" else 1)
