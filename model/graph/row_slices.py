"""Some rows of a network: the part that computes them, from the rows that it needs."""

import dataclasses
from functools import singledispatch

import numpy as np

from systola.model.graph.nodes import Constant, Context, Input, Mean, Rows, Scores, Softmax

__all__ = ["RowSlice", "cuts", "row_groups", "row_slice"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RowSlice:
    """A part of a network.

    ``graph`` computes rows ``made[name]`` of the outputs from rows ``read[name]`` of the inputs,
    arrays of row numbers of the whole network in ascending order.
    """

    graph: object
    read: dict
    made: dict


def cuts(graph):
    """Return the tensors at which a network can be cut in two, in order, inputs and outputs too.

    What comes behind such a tensor reads nothing before it but constants.
    """
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    last = {name: max([position[node.name] for node in readers] + [
        len(graph.nodes)] * (name in graph.outputs), default=-1)
            for name, readers in graph.consumers.items()}
    found = []
    for index, node in enumerate(graph.nodes):
        live = [other.name for other in graph.nodes[:index + 1]
                if not isinstance(other, Constant) and last[other.name] > index]
        later = any(isinstance(other, Input) for other in graph.nodes[index + 1:])
        if live == [node.name] and not later:
            found.append(node.name)
    return found


def row_groups(graph):
    """Return the smallest groups of rows of the only output that can be computed apart.

    Returns
    -------
    list of int array
        Row numbers, ascending; each row is in one of them.
    """
    (output,) = graph.outputs
    left, groups = np.ones(graph.tensors[output].rows, bool), []
    while left.any():
        rows = np.flatnonzero(_needed(graph, {output: [int(left.argmax())]})[output])
        groups.append(rows)
        left[rows] = False
    return groups


def row_slice(graph, rows):
    """Return the `RowSlice` that computes some rows of the only output, and what must be with them.

    Parameters
    ----------
    graph : Graph
        The network.
    rows : int array
        Row numbers of its output.
    """
    (output,) = graph.outputs
    needed = {name: np.flatnonzero(mask)
              for name, mask in _needed(graph, {output: rows}).items() if mask.any()}
    nodes = tuple(_sliced(node, needed[node.name], graph, needed)
                  for node in graph.nodes if node.name in needed)
    return RowSlice(graph=dataclasses.replace(graph, nodes=nodes), made={output: needed[output]},
                    read={node.name: needed[node.name] for node in nodes
                          if isinstance(node, Input)})


def _needed(graph, rows):
    """Return a mask of the rows of every tensor without which `rows` cannot be computed.

    A node works on all rows of what it reads, but for those that pick rows; so what is computed of
    one tensor may need more of the next one.
    """
    masks = {name: np.zeros(tensor.rows, bool) for name, tensor in graph.tensors.items()}
    for name, some in rows.items():
        masks[name][some] = True
    before = -1
    while (count := sum(int(mask.sum()) for mask in masks.values())) > before:
        before = count
        for node in reversed(graph.nodes):
            _read(node, graph, masks)
        for node in graph.nodes:
            if not isinstance(node, Rows | Mean):
                for name in node.inputs:
                    if masks[node.name].any():
                        masks[node.name] |= masks[name]
    return masks


@singledispatch
def _read(node, graph, masks):
    """Mark the rows that `node` reads to make those that are marked."""
    for name in node.inputs:
        masks[name] |= masks[node.name]


@_read.register(Scores)
@_read.register(Softmax)
@_read.register(Context)
def _(node, graph, masks):
    source = node.attention if isinstance(node, Context) else node.name
    mask = masks[node.name]
    for first, rows in graph.tensors[source].sequences:
        part = slice(first, first + rows)
        mask[part] |= mask[part].any()
    for name in node.inputs:
        masks[name] |= mask


@_read.register
def _(node: Rows, graph, masks):
    picked = node.index.reshape(-1, node.beside, 2)[masks[node.name]].reshape(-1, 2)
    for which, name in enumerate(node.sources):
        masks[name][picked[picked[:, 0] == which, 1]] = True


@_read.register
def _(node: Mean, graph, masks):
    rows = graph.tensors[node.input].rows // node.groups
    masks[node.input] |= np.repeat(masks[node.name], rows)


@singledispatch
def _sliced(node, rows, graph, needed):
    """Return `node` for some of its rows; `needed` are those of every tensor."""
    return node


@_sliced.register
def _(node: Input, rows, graph, needed):
    return dataclasses.replace(node, rows=len(rows))


@_sliced.register
def _(node: Constant, rows, graph, needed):
    return dataclasses.replace(node, values=node.values[rows])


@_sliced.register
def _(node: Mean, rows, graph, needed):
    return dataclasses.replace(node, groups=len(rows))


@_sliced.register
def _(node: Rows, rows, graph, needed):
    picked = node.index.reshape(-1, node.beside, 2)[rows].reshape(-1, 2).copy()
    for which, name in enumerate(node.sources):
        here = picked[:, 0] == which
        picked[here, 1] = np.searchsorted(needed[name], picked[here, 1])
    # Sources of which nothing is left are no tensors any more.
    kept = [which for which, name in enumerate(node.sources) if name in needed
            and (picked[:, 0] == which).any()]
    picked[:, 0] = np.searchsorted(kept, picked[:, 0])
    return dataclasses.replace(node, sources=tuple(node.sources[which] for which in kept),
                               index=picked)


@_sliced.register
def _(node: Scores, rows, graph, needed):
    sequences, end, chosen = [], 0, set(rows.tolist())
    for first, count in node.sequences:
        if first in chosen:
            sequences.append((end, count))
            end += count
    counts = None if node.key_counts is None else node.key_counts[rows]
    keys = max(keys for first, _, keys in graph.tensors[node.name].spans if first in chosen)
    index = None if node.bias_index is None else node.bias_index[rows, :keys]
    return dataclasses.replace(node, sequences=tuple(sequences), key_counts=counts,
                               bias_index=index)
