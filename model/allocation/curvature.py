"""What a node's weights lose by HAWQ-V3's measure: curvature of the loss times squared rounding.

HAWQ-V3 (Yao et al. 2021) takes for a layer the trace of the Hessian of the cross-entropy by its
weights, over their number, times the squared distance of weights and codes. The trace is estimated
by Hutchinson's method, the mean of v'Hv over random signs v. Here H is its Gauss-Newton part, the
curvature of softmax and cross-entropy seen through the slopes of the logits: the rest vanishes on
average where predicted probabilities are right, and this one needs no labels and no derivatives, as
``Jv`` is how far the logits move when the weights move along v.
"""

import numpy as np

from systola.model.graph.float_forward import compute, resumed, softmax
from systola.model.quantization.scales import weight_scales
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["mean_curvature", "rounding_distance"]

_STEP = 1e-2
"""Length of a step along v, in parts of the weights' own."""


def mean_curvature(graph, real, node, *, draws, rng):
    """Return an estimate of the trace over the number of weights of a linear node.

    Parameters
    ----------
    graph : Graph
        The float network.
    real : dict of str to ndarray
        Its tensors for some images, (B, *shape of the tensor).
    node : Linear
        One of its nodes.
    draws : int
        How many v the mean is of; each computes twice what depends on the node.
    rng : numpy.random.Generator
        Where they come from.
    """
    weight = node.weight.astype(np.float64)
    step = _STEP * max(np.sqrt(np.square(weight).mean()), np.finfo(np.float32).tiny)
    inputs, total = real[node.input], 0.0
    still = compute(node, graph, *(real[name] for name in node.inputs))
    for _ in range(draws):
        signs = rng.choice(np.array([-1.0, 1.0]), weight.shape)
        moved = (inputs @ (step * signs).T).astype(np.float32)
        there, back = (resumed(graph, real, {node.name: made})
                       for made in (still + moved, still - moved))
        for name in graph.outputs:
            slope = (there[name].astype(np.float64) - back[name]) / (2 * step)
            p = softmax(real[name].astype(np.float64))
            curved = (p * slope**2).sum(axis=-1) - (p * slope).sum(axis=-1) ** 2
            total += float(curved.reshape(len(curved), -1).sum(axis=1).mean())
    return total / draws / weight.size


def rounding_distance(node, source, bits):
    """Return the squared distance of a linear node's weights to their nearest codes of `bits`.

    `source` is the scale of what it reads, on which the least scale of its weights depends.
    """
    scale = weight_scales(node.weight, node.bias, bits, source)
    top = (1 << bits - 1) - 1
    codes = np.clip(to_codes(node.weight, scale[:, None], bits), -top, top)
    return float(np.square(codes * scale[:, None].astype(np.float64) - node.weight).sum())
