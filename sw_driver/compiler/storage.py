"""Where the wide tensors of a network live: which share the words of another one.

Results replace what nobody reads any more: a linear layer its residual, so that a residual stream
stays where it is; constants lie where the layer that adds to them writes; concatenated rows are
made in place, and selected rows are only looked at.
"""

from dataclasses import dataclass

import numpy as np

from systola.model.graph.nodes import Constant, Linear, Rows
from systola.sw_driver.compiler.layout import CompileError

__all__ = ["Home", "homes", "is_view"]


@dataclass(frozen=True, eq=False)
class Home:
    """Row i of a tensor is row ``rows[i]`` of the memory that belongs to tensor ``storage``."""

    storage: str
    rows: np.ndarray


def homes(graph, moved=frozenset()):
    """Return the `Home` of every tensor of more than 8 bits, by name.

    Nodes must be in the order in which they will be computed. The `Rows` nodes that are `moved`, a
    set of names, have a home of their own.

    Raises
    ------
    CompileError
        If a `Rows` node would have to move rows in memory.
    """
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    placed = {node.name for node in graph.of(Rows)
              if node.name not in moved and _in_place(graph, node)}
    found = {}
    for node in graph.nodes:
        if node.name in placed:
            found[node.name] = Home(node.name, np.arange(len(node.index)))
            for which, source in enumerate(node.sources):
                target = np.flatnonzero(node.index[:, 0] == which)
                found[source] = Home(node.name, target[np.argsort(node.index[target, 1])])
    for node in graph.nodes:
        tensor = graph.tensors[node.name]
        if node.name in found or tensor.bits <= 8:
            continue
        if isinstance(node, Rows) and node.name not in moved:
            found[node.name] = _view(node, found)
        elif isinstance(node, Linear) and _replaces(graph, node, order, found):
            found[node.name] = found[node.residual]
        elif not (isinstance(node, Constant) and _sum(graph, node)):
            found[node.name] = Home(node.name, np.arange(tensor.rows))
    for node in graph.of(Constant):
        if node.name not in found:
            found[node.name] = found[_sum(graph, node).name]
    return found


def is_view(graph, node, found):
    """Return whether `node` only looks at rows of another tensor's memory."""
    return isinstance(node, Rows) and (node.name not in found
                                       or found[node.name].storage != node.name)


def _in_place(graph, node):
    """Return whether all rows of all sources of a `Rows` node can be made in its memory."""
    rows = [graph.tensors[name].rows for name in node.sources]
    keys = {tuple(pair) for pair in node.index.tolist()}
    return (graph.tensors[node.name].bits > 8 and len(set(node.sources)) == len(node.sources)
            and len(keys) == len(node.index) == sum(rows)
            and all(isinstance(graph.by_name[name], Constant | Linear)
                    and graph.consumers[name] == [node] and name not in graph.outputs
                    and _own_residual(graph, graph.by_name[name])
                    for name in node.sources))


def _own_residual(graph, node):
    """Return whether a source writes over nothing, or over constants of its own."""
    return isinstance(node, Constant) or node.residual is None or (
        isinstance(graph.by_name[node.residual], Constant)
        and graph.consumers[node.residual] == [node])


def _view(node, found):
    storages = {found[name].storage for name in node.sources if name in found}
    if len(storages) != 1:
        raise CompileError(f"node {node.name!r}: rows of several tensors that are not made for it "
                           f"cannot be moved together by this accelerator")
    rows = [found[name].rows for name in node.sources]
    return Home(storages.pop(), np.array([rows[which][row] for which, row in node.index.tolist()]))


def _sum(graph, node):
    """Return the linear node that alone reads the constant `node`, as its residual, or None."""
    readers = graph.consumers[node.name]
    alone = len(readers) == 1 and isinstance(readers[0], Linear) and (
        readers[0].residual == node.name and readers[0].input != node.name
        and node.name not in graph.outputs)
    return readers[0] if alone else None


def _replaces(graph, node, order, found):
    """Return whether `node` may write over its residual: nobody reads that later."""
    if node.residual is None or isinstance(graph.by_name[node.residual], Constant):
        return False
    own = found[node.residual]
    return (node.residual not in graph.outputs and len(own.rows) == len(set(own.rows.tolist()))
            and all(order[reader] < order[node.name] for name in found
                    if found[name].storage == own.storage and name in order
                    and set(found[name].rows.tolist()) & set(own.rows.tolist())
                    for reader in _readers(graph, name) if reader != node.name))


def _readers(graph, name):
    return [reader.name for reader in graph.consumers[name]]
