"""Scales and constants moved between layers of a float network, which computes the same.

Codes have one scale for all channels of a tensor, so a channel of large numbers costs the others
their resolution, and a range that is not symmetric costs everyone. Where a linear layer reads a
tensor, both can be moved into that layer: ``W x + b = (W r) ((x - z) / r) + (b + W z)``. Then what
makes the tensor has to deliver ``(x - z) / r``:

- a layer norm, in its gamma and beta (Li et al. 2023, "RepQ-ViT");
- A.V, in the rows of V: the weights of attention add up to 1;
- an activation, a constant alone (its table holds it);
- the images, whose codes then use their whole range.

Queries and keys are scaled against each other channel by channel, and constants are taken off keys,
which adds the same to all scores of a row, as softmax does not see.

By the same way all gains and biases of layer norms move into the layers behind, where an operator
has none (`fold_norms`).
"""

import dataclasses

import numpy as np

from systola.files.rows import MappedRows
from systola.model.graph.nodes import (
    Activation,
    Context,
    GraphError,
    Input,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
)

__all__ = ["ChannelSamples", "equalize", "fold_norms", "sampled_tensors"]

_SAMPLE = 4096
_SHARES = None, 0.0, 0.25, 0.5, 0.75, 1.0
"""How much of a scale is chosen for the tensor, the rest for the weights; None moves none."""


class ChannelSamples:
    """Rows of some tensors, kept while a network runs: at most about `_SAMPLE` of each.

    Also their lowest and highest value by channel, of all rows.
    """

    def __init__(self, names, batches):
        self.rows = {name: [] for name in names}
        self.low, self.high = {}, {}
        self._share = max(_SAMPLE // max(batches, 1), 64)

    def __call__(self, name, x):
        """Take in a batch (B, rows, channels) of tensor `name`."""
        if name not in self.rows:
            return
        x = x.reshape(-1, x.shape[-1])
        low, high = x.min(axis=0), x.max(axis=0)
        if name in self.low:
            low, high = np.minimum(low, self.low[name]), np.maximum(high, self.high[name])
        self.low[name], self.high[name] = low, high
        self.rows[name].append(x[::-(-len(x) // self._share)].copy())

    def of(self, name):
        """Return the kept rows of a tensor, (n, channels)."""
        return np.concatenate(self.rows[name])

    def centre(self, name):
        """Return the middle of every channel's range, and half of its length."""
        low, high = self.low[name].astype(np.float64), self.high[name].astype(np.float64)
        return (low + high) / 2, (high - low) / 2


def sampled_tensors(graph):
    """Return the names of the tensors that `equalize` needs samples of."""
    wanted = set()
    for node in graph.nodes:
        if isinstance(node, Norm | Context | Activation):
            wanted.add(node.name)
        elif isinstance(node, Scores):
            wanted |= {node.query, node.key}
        if isinstance(node, Context):
            wanted.add(node.value)
    return wanted


def fold_norms(graph):
    """Return a float network that computes the same, whose layer norms have no gains and biases.

    The linear layers that read a norm, also by rows of it or means of them, take them over: gains
    into their weights, biases times these into theirs.

    Raises
    ------
    GraphError
        If anything else reads a norm, or it is a result.
    """
    network = _Rewritten(graph)
    for node in graph.of(Norm):
        readers = network.readers(node.name)
        if readers is None:
            raise GraphError(f"node {node.name!r}: with norm 'compared', which has no gains and "
                             f"biases of channels ('normalised' has), its readers must be linear "
                             f"nodes, not {network.blocker(node.name)}")
        gain, bias = node.weight.astype(np.float64), node.bias.astype(np.float64)
        network.change(node.name, weight=np.ones_like(gain), bias=np.zeros_like(bias))
        network.shift_columns(readers, bias, gain)
    return network.made()


def equalize(graph, inputs, samples, bits, weight_bits, *, tables, norms=True):
    """Return a float network that computes the same, with ranges that codes hold better.

    Images are normalised by ``code_mean`` and ``code_std`` of its ``meta`` then, if it has them.

    Parameters
    ----------
    graph : Graph
        The float network.
    inputs : dict of str to ndarray or MappedRows
        Images as its inputs, (B, rows, channels).
    samples : ChannelSamples
        Of `sampled_tensors`.
    bits, weight_bits : dict of str to int
        Of every tensor, and of the weights of every linear node.
    tables : bool
        Whether activations are tables, which may add a constant.
    norms : bool
        Whether layer norms may have gains and biases.

    Returns
    -------
    Graph, dict of str to ndarray or MappedRows
        The network, and the images as its inputs.
    """
    equalizer = _Equalizer(graph, samples, bits, weight_bits, tables, norms)
    made = equalizer.graph()
    return made, {name: _moved(value, *equalizer.moved[name]) if name in equalizer.moved else value
                  for name, value in inputs.items()}


def _moved(inputs, offset, scale):
    """Return ``(inputs - offset) / scale``; of images that are read on demand, on demand, too."""
    if isinstance(inputs, np.ndarray):
        return (inputs - offset) / scale
    return MappedRows(inputs, lambda part: (part - offset) / scale)


class _Rewritten:
    """The nodes of a network while they are rewritten, by name."""

    def __init__(self, graph):
        self.old, self.nodes, self.meta = graph, dict(graph.by_name), dict(graph.meta)

    def made(self):
        """Return the network as it is now."""
        return dataclasses.replace(self.old, nodes=tuple(self.nodes.values()), meta=self.meta)

    def change(self, name, **attributes):
        """Replace attributes of a node; arrays become float32."""
        self.nodes[name] = dataclasses.replace(self.nodes[name], **{
            key: value.astype(np.float32) if isinstance(value, np.ndarray) else value
            for key, value in attributes.items()})

    def readers(self, name):
        """Return the linear nodes that alone read a tensor, also by rows of it, or None."""
        found = []
        if name in self.old.outputs:
            return None
        for reader in self.old.consumers[name]:
            if isinstance(reader, Linear) and reader.residual != name:
                found.append(reader.name)
            elif isinstance(reader, Mean) or (
                    isinstance(reader, Rows) and len(reader.sources) == 1 and reader.beside == 1):
                behind = self.readers(reader.name)
                if behind is None:
                    return None
                found += behind
            else:
                return None
        return found

    def blocker(self, name):
        """Return in words why `readers` of a tensor are None."""
        if name in self.old.outputs:
            return "who takes results of the network"
        for reader in self.old.consumers[name]:
            if isinstance(reader, Mean | Rows) and len(reader.inputs) == 1 and (
                    self.readers(reader.name) is None and getattr(reader, "beside", 1) == 1):
                return self.blocker(reader.name)
            if not isinstance(reader, Mean | Linear) or name == getattr(reader, "residual", None):
                return f"{reader.name!r} ({reader.kind})"
        raise AssertionError(name)

    def maker(self, name, first, count):
        """Return the linear node that makes channels of a tensor for one reader alone, or None."""
        node = self.old.by_name[name]
        if not isinstance(node, Linear) or node.residual is not None or name in self.old.outputs:
            return None
        uses = []
        for reader in self.old.consumers[name]:
            if isinstance(reader, Scores):
                width = reader.heads * reader.head_dim
                uses += [(start, width) for tensor, start in (
                    (reader.query, reader.query_channel), (reader.key, reader.key_channel))
                    if tensor == name]
            elif isinstance(reader, Context) and reader.value == name:
                heads = self.old.tensors[reader.attention].heads
                uses.append((reader.value_channel, heads * reader.head_dim))
            else:
                return None
        overlaps = sum(start < first + count and first < start + width for start, width in uses)
        return node.name if overlaps == 1 else None

    def shift_rows(self, name, part, offset, scale):
        """Make a linear node deliver ``(y - offset) / scale`` in the channels `part`."""
        node = self.nodes[name]
        weight, bias = node.weight.astype(np.float64), node.bias.astype(np.float64)
        bias[part] = (bias[part] - offset) / scale
        weight[part] /= np.reshape(scale, (-1, 1)) if np.ndim(scale) else scale
        self.change(name, weight=weight, bias=bias)

    def shift_columns(self, names, offset, scale):
        """Make linear nodes read ``(x - offset) / scale`` for x."""
        for name in names:
            node = self.nodes[name]
            weight = node.weight.astype(np.float64)
            bias = node.bias + weight @ np.broadcast_to(offset, weight.shape[1])
            self.change(name, weight=weight * scale, bias=bias)


class _Equalizer(_Rewritten):
    """A network whose scales are moved, kind of node by kind."""

    def __init__(self, graph, samples, bits, weight_bits, tables, norms):
        super().__init__(graph)
        self.samples, self.bits, self.weight_bits = samples, bits, weight_bits
        self.tables, self.norms = tables, norms
        self.moved = {}  # of inputs: offset and scale of every channel

    def graph(self):
        """Return the whole network, rewritten."""
        for node in self.old.nodes:
            step = {Input: self._input, Scores: self._scores, Context: self._context,
                    Norm: self._norm, Activation: self._activation}.get(type(node))
            if step:
                step(node)
        return self.made()

    def _input(self, node):
        """Let the codes of images, 0..1 before the normalization, use their range on both sides."""
        readers, mean, std = self.readers(node.name), self.meta.get("mean"), self.meta.get("std")
        if not readers or not mean or not std or node.channels % len(mean):
            return
        mean, std = (np.repeat(np.asarray(part, np.float64), node.channels // len(mean))
                     for part in (mean, std))
        offset, scale = (0.5 - mean) / std, 0.5 / std
        self.shift_columns(readers, offset, scale)
        self.moved[node.name] = offset.astype(np.float32), scale.astype(np.float32)
        colours = len(self.meta["mean"])
        self.meta |= {"code_mean": [0.5] * colours, "code_std": [0.5] * colours}

    def _scores(self, node):
        """Give all channels of queries and keys, and with them all values, a range of 1."""
        count = node.heads * node.head_dim
        parts = {}
        for what in "query", "key":
            name, first = getattr(node, what), getattr(node, f"{what}_channel")
            parts[what] = self.maker(name, first, count), slice(first, first + count), name
        if None in (parts["query"][0], parts["key"][0]):
            return
        (q_node, q_part, q_name), (k_node, k_part, k_name) = parts["query"], parts["key"]
        offset, k_range = (part[k_part] for part in self.samples.centre(k_name))
        q_range = np.maximum(np.abs(self.samples.low[q_name]),
                             np.abs(self.samples.high[q_name]))[q_part].astype(np.float64)
        both = np.sqrt(q_range * k_range)
        top = both.max()
        if not top > 0:
            return
        live = both > 1e-6 * top
        q_scale = np.where(live, np.divide(q_range, both, where=live, out=np.ones_like(both)), 1)
        self.shift_rows(q_node, q_part, 0, q_scale * top)
        self.shift_rows(k_node, k_part, offset, top / q_scale)
        self.change(node.name, scale=float(node.scale * top * top))

    def _context(self, node):
        """Move scales and constants of the values behind A.V."""
        readers, first = self.readers(node.name), node.value_channel
        count = self.old.tensors[node.name].channels
        maker = self.maker(node.value, first, count)
        if not readers or maker is None:
            return
        part = slice(first, first + count)
        offset, reach = (x[part] for x in self.samples.centre(node.value))
        if not reach.max() > 0:
            return
        scale = self._scale(self.samples.of(node.name) - offset, reach, readers, node.name)
        top = (reach / scale).max()  # as those of queries and keys, which share the codes' scale
        self.shift_rows(maker, part, offset, scale * top)
        self.shift_columns(readers, offset, scale * top)

    def _norm(self, node):
        """Move scales and constants of a norm's channels behind it."""
        readers = self.readers(node.name)
        if not readers or not self.norms:
            return
        offset, reach = self.samples.centre(node.name)
        scale = self._scale(self.samples.of(node.name) - offset, reach, readers, node.name)
        self.change(node.name, weight=node.weight / scale, bias=(node.bias - offset) / scale)
        self.shift_columns(readers, offset, scale)

    def _activation(self, node):
        """Centre what an activation makes, which is not symmetric."""
        readers = self.readers(node.name)
        if not readers or not self.tables:
            return
        values, bits = self.samples.of(node.name).ravel().astype(np.float64), self.bits[node.name]
        low, most = min(values.min(), 0.0), values.max()
        best = np.inf, 0.0
        for high in most * np.linspace(0.3, 1, 29):
            offset = (low + high) / 2
            error = _error(values - offset, (high - low) / 2, bits)
            best = min(best, (error, offset))
        self.change(node.name, offset=-float(best[1]))
        self.shift_columns(readers, best[1], 1.0)

    def _scale(self, rows, reach, readers, name):
        """Return the scale of each channel with the least error of what the readers make.

        `rows` are samples of the tensor, less the constants that are moved; `reach` is the largest
        magnitude of every channel.
        """
        weight = np.concatenate([self.nodes[reader].weight for reader in readers]).astype(
            np.float64)
        width = min(self.weight_bits[reader] for reader in readers)
        peaks, live = np.abs(weight).max(axis=0), reach > 0
        live &= peaks > 0
        rows, target, best = rows.astype(np.float64), rows.astype(np.float64) @ weight.T, None
        for share in _SHARES:
            scale = np.ones(len(reach))
            if share is not None and live.any():
                scale[live] = reach[live] ** share / peaks[live] ** (1 - share)
                scale[live] /= np.exp(np.log(scale[live]).mean())
            x = _fake(rows / scale, np.max(reach / scale), self.bits[name])
            w = weight * scale
            w = _fake(w, np.abs(w).max(axis=1, keepdims=True), width)
            error = np.square(x @ w.T - target).sum()
            if best is None or error < best[0]:
                best = error, scale
        return best[1]


def _fake(x, reach, bits):
    """Return `x` as codes of a scale that holds `reach`, as real numbers again."""
    half = 1 << bits - 1
    scale = np.maximum(reach, 1e-30) / (half - 1)
    return np.clip(np.rint(x / scale), -half, half - 1) * scale


def _error(x, reach, bits):
    return np.square(_fake(x, reach, bits) - x).sum()
