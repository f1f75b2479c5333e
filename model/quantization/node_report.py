"""What quantization does to each node: noise, saturation, and what the node alone costs."""

import numpy as np

from systola.model.graph import float_forward, integer_forward
from systola.model.graph.attention_nodes import EXPONENTIALS
from systola.model.graph.nodes import Constant, Input, Softmax
from systola.model.quantization.lockstep import Lockstep
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["node_report"]

_IMAGES = 64
_NUMBERS = 1 << 28  # of all tensors together, which are kept
_SILENT_DB = 200.0  # stands for no noise at all


def node_report(graph, network, inputs, progress=None):
    """Compare an integer network with the float one it was made of, node by node.

    Parameters
    ----------
    graph : Graph
        The float network whose nodes were quantized.
    network : Graph
        The integer network.
    inputs : dict of str to ndarray or MappedRows
        Images as inputs of `graph`; at most 64 evenly spaced ones, fewer of large networks.
    progress : callable, optional
        Called as ``progress(nodes done, nodes in total)``.

    Returns
    -------
    dict of str to dict
        By node that computes: ``kind``, ``bits``; ``snr_db``, the signal to noise ratio of its
        tensor when all nodes before are quantized as well; ``saturated``, the share of its numbers
        that the codes' range cuts off; ``agreement``, the share of images whose prediction stays
        when this node alone is quantized.
    """
    count = len(next(iter(inputs.values())))
    numbers = sum(int(np.prod(tensor.shape)) for tensor in graph.tensors.values())
    most = min(count, _IMAGES, max(_NUMBERS // numbers, 1))
    chosen = np.unique(np.linspace(0, count - 1, most).round().astype(int))
    inputs = {name: value[chosen] for name, value in inputs.items()}
    computing = [node for node in graph.nodes if not isinstance(node, Input | Constant)]
    lockstep, report, real = Lockstep(graph, inputs, network.scales), {}, {}
    for node in graph.nodes:
        made = network.by_name[node.name]
        lockstep.step(node, made)
        real[node.name] = value = lockstep.real[node.name]
        if isinstance(node, Input | Constant):
            continue
        got = _real(lockstep.codes[node.name], made, network.scales[node.name])
        report[node.name] = {"kind": node.kind, "bits": network.tensors[node.name].bits,
                             "snr_db": _snr(value, got),
                             "saturated": _saturated(network, node.name, value)}
    name = graph.outputs[0]
    right = real[name].reshape(len(real[name]), -1).argmax(axis=1)
    for done, node in enumerate(computing):
        alone = _with_one(graph, network, node, real)[name]
        report[node.name]["agreement"] = float(np.mean(
            alone.reshape(len(alone), -1).argmax(axis=1) == right))
        if progress:
            progress(done + 1, len(computing))
    return report


def _real(codes, made, scale):
    """Return real numbers of a node's codes; exponentials are divided by their sum."""
    if _relative(made):
        return codes / codes.sum(axis=-1, keepdims=True)
    return codes * float(scale)


def _relative(made):
    """Tell whether a node makes exponentials that only A.V divides."""
    return isinstance(made, Softmax) and made.variant in EXPONENTIALS


def _snr(value, got):
    """Return the signal to noise ratio in decibels."""
    noise, signal = np.square(got - value).sum(dtype=np.float64), np.square(value).sum(
        dtype=np.float64)
    if not noise:
        return _SILENT_DB
    return float(np.clip(10 * np.log10(max(signal, 1e-300) / noise), -_SILENT_DB, _SILENT_DB))


def _saturated(network, name, value):
    """Return the share of numbers more than half a code outside the range."""
    if isinstance(network.by_name[name], Softmax):
        return 0.0
    half, codes = 1 << network.tensors[name].bits - 1, value / float(network.scales[name])
    return float(np.mean((codes > half - 0.5) | (codes < -half - 0.5)))


def _with_one(graph, network, node, real):
    """Return the outputs of the float network in which `node` alone computes in integers."""
    def codes_of(name):
        source = network.by_name[name]
        if isinstance(source, Softmax):
            return integer_forward.compute(source, graph, codes_of(source.input))
        if isinstance(source, Constant):
            return np.broadcast_to(source.values.astype(np.int64), real[name].shape)
        return to_codes(real[name], network.scales[name], network.tensors[name].bits)

    made = network.by_name[node.name]
    codes = integer_forward.compute(made, graph, *map(codes_of, node.inputs))
    return float_forward.resumed(graph, real, {
        node.name: _real(codes, made, network.scales[node.name]).astype(np.float32)})
