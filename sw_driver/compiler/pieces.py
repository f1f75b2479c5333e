"""Networks whose tensors do not fit the memory: pieces, one after the other.

A piece is some layers, from one tensor to another, and if need be some of their rows: windows that
do not see each other. Between pieces their rows leave over the output stream and come back over
the input stream, which costs bandwidth, and weights are streamed once for each slice of rows.
"""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from systola.model.graph.row_slices import cuts, row_groups, row_slice
from systola.sw_driver.compiler.compiler import check_fit
from systola.sw_driver.compiler.fits import check_network
from systola.sw_driver.compiler.layout import CompileError
from systola.sw_driver.compiler.payloads import words_of

__all__ = ["Piece", "pieces"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Layers that make tensor ``target`` of tensor ``source``.

    ``slices`` are its programs: a graph, and the rows (of ``source``, of ``target``) of every run
    of it. Slices that are computed alike share a graph.
    """

    source: str
    target: str
    slices: list

    @property
    def runs(self):
        """Runs of programs that compute the piece."""
        return sum(len(rows) for _, rows in self.slices)


def pieces(graph, config, *, trace=False, progress=None):
    """Return the `Piece` s of a network, of as many layers and rows as memory holds.

    Layers are taken together as long as all their rows fit; where one alone does not, as many of
    the layers as can be computed for some rows apart, for as many rows as fit.

    Parameters
    ----------
    graph : Graph
        An integer network with one input and one output.
    config : AcceleratorConfig
        The accelerator.
    trace : bool
        Whether there must be room for programs that store every tensor, too.
    progress : callable, optional
        Called as ``progress(done, total)`` with the tensors at which the network can be cut.

    Raises
    ------
    CompileError
        If the rows that must be computed together do not fit, or a node does not fit at all.
    """
    check_network(graph, config)  # what no piece would change
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise CompileError(f"a network in pieces must have one input and one output, not "
                           f"{len(graph.inputs)} and {len(graph.outputs)}")
    # Of more bits only: such rows lie at equal distances, whatever is made of them.
    names = [name for name in cuts(graph) if graph.tensors[name].bits > 8
             or name in (graph.inputs[0].name, *graph.outputs)]
    found, start = [], 0
    if names[:1] != [graph.inputs[0].name]:
        raise CompileError(f"input {graph.inputs[0].name!r} must be read before anything else is "
                           f"computed")
    while start < len(names) - 1:
        if progress:
            progress(start, len(names) - 1)
        end, piece = _next_piece(graph, config, names, start, trace)
        found.append(piece)
        start = end
    return found


def _next_piece(graph, config, names, start, trace):
    """Return the index of the tensor at which the next piece ends, and the piece.

    The more layers, the less goes out and in: all rows of them, or some if these reach further
    without that a row is computed twice.
    """
    parts = [(end, graph.between([names[start]], [names[end]]))
             for end in range(start + 1, len(names))]
    def refuses(part):
        return _refusal(part, config, trace)

    whole, refusal = _last(parts, refuses)
    apart, _ = _last(parts, lambda part: _refused_apart(part, refuses))
    if whole is None and apart is None:
        raise refusal
    if apart is None or (whole is not None and whole[0] >= apart[0]):
        end, part = whole
        every = [np.arange(part.tensors[name].rows) for name in (names[start], names[end])]
        slices = [(part, [every])]
    else:
        end, part = apart
        groups = row_groups(part)
        slices = _slices(part, groups, _most_groups(part, groups, refuses), names[start],
                         names[end])
    return end, Piece(source=names[start], target=names[end], slices=slices)


def _last(parts, refuses):
    """Return the last of `parts` before the first that is refused, or None, and why that is."""
    found = None
    for end, part in parts:
        if (refusal := refuses(part)) is not None:
            return found, refusal
        found = end, part
    return found, None


def _refused_apart(graph, refuses):
    """Return why not even the fewest rows of `graph` fit, or would be computed twice; or None."""
    slices = [row_slice(graph, group).graph for group in row_groups(graph)]
    computed, there = (sum(map(_rows, graphs)) for graphs in (slices, [graph]))
    if computed > there:  # of windows that lie across those of the layer behind
        return CompileError(f"{computed - there} rows would have to be computed twice")
    return refuses(max(slices, key=_rows))


def _rows(graph):
    """Return the rows of all tensors that are computed."""
    return sum(graph.tensors[node.name].rows for node in graph.nodes if node.inputs)


def _refusal(graph, config, trace):
    """Return why `graph` does not fit, or None.

    Every tensor of more than 8 bits is in memory as a whole, so that one that is larger decides
    without the minutes that it takes to look for smaller chunks of everything else.
    """
    for name, tensor in graph.tensors.items():
        words = 2 * tensor.rows * words_of(tensor.channels, config)
        if tensor.bits > 8 and not tensor.heads and words > config.scratchpad_words:
            return CompileError(f"scratchpad must have at least {words} words for {name!r} alone, "
                                f"not {config.scratchpad_words}")
    try:
        check_fit(graph, config)
        if trace:
            check_fit(graph, config, trace=True)
    except CompileError as error:
        return error
    return None


def _most_groups(graph, groups, refuses):
    """Return how many of `groups` fit at once: a divisor of all that is near, if there is one."""
    def fits(count):
        slices = [row_slice(graph, np.concatenate(groups[low:low + count])).graph
                  for low in range(0, len(groups), count)]
        return refuses(max(slices, key=_rows)) is None

    low, high = 1, len(groups) - 1  # `low` is taken to fit, more than `high` do not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    even = max(count for count in range(1, low + 1) if len(groups) % count == 0)
    return even if 2 * even >= low else low


def _slices(graph, groups, count, source, target):
    """Return the slices of `count` groups each; the last one may have fewer."""
    found = {}
    for low in range(0, len(groups), count):
        part = row_slice(graph, np.concatenate(groups[low:low + count]))
        key = _signature(part.graph)
        found.setdefault(key, (part.graph, []))[1].append((part.read[source], part.made[target]))
    return list(found.values())


def _signature(graph):
    """Return what differs between slices of one network: sizes, sequences, orders and constants."""
    digest = hashlib.sha256()
    for node in graph.nodes:
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if isinstance(value, np.ndarray) and field.name in (
                    "values", "index", "bias_index", "key_counts"):
                digest.update(repr((node.name, field.name, value.shape)).encode())
                digest.update(np.ascontiguousarray(value).tobytes())
            elif isinstance(value, int | str | tuple):
                digest.update(repr((node.name, field.name, value)).encode())
    return digest.hexdigest()
