"""Rows that are moved to another place in the scratchpad, by as few COPYs as there are rectangles.

Results are made where they belong wherever that can be (`storage.py`). What is left are rows whose
order changes between two layers: windows of an image, and back; patches that are put side by side.
"""

import itertools

import numpy as np

from systola.model.graph.nodes import Context, Rows
from systola.sw_driver.compiler.layout import View

__all__ = ["copy_rows", "moved_rows", "source_runs"]


def moved_rows(graph, config):
    """Return the names of the `Rows` nodes that an accelerator with COPY moves.

    Others are made in place, or are rows of one tensor that are only looked at. Rows of a context
    are always moved, even if their order stays: the context lies where its queries were.
    """
    return {node.name for node in graph.of(Rows) if config.copies and (
        node.beside > 1 or (graph.tensors[node.name].bits <= 8
                            and (len(list(source_runs(node.index))) > 1 or any(
                                isinstance(graph.by_name[name], Context)
                                for name in node.sources))))}


def source_runs(index):
    """Yield (start, source, first row, rows) of the runs of an index list."""
    start = 0
    for (which, _), members in itertools.groupby(
            enumerate(index.tolist()), key=lambda item: (item[1][0], item[1][1] - item[0])):
        rows = [row for _, (_, row) in members]
        yield start, which, rows[0], len(rows)
        start += len(rows)


def copy_rows(build, name, source, target, *, words=None, places=(0, 0)):
    """Append the COPYs of rows of one tensor to rows of another one.

    Parameters
    ----------
    build : Lowering
        Where operations go.
    name : str
        What is moved.
    source, target : (Tensor, int array)
        Which rows, and where each goes; targets ascend.
    words : int, optional
        How many of a row, with all planes; by default all.
    places : (int, int)
        The first word of a source's row, and where it goes in a target's row.
    """
    (origin, sources), (aim, targets) = source, target
    words = words or origin.stride
    whole = words == origin.stride == aim.stride
    for (first, to), length, count, (step, to_step) in _rectangles(sources, targets, whole):
        # Rows behind each other are one long row.
        build.copy(name, View(origin, first, count, places[0], words * length, 1, step=step),
                   View(aim, to, count, places[1], words * length, 1, step=to_step))


def _rectangles(sources, targets, whole):
    """Yield (first rows, length, count, steps) of runs at equal distances, of pairs of rows.

    Runs have one row unless rows are `whole` words behind each other.
    """
    pairs = np.stack([sources, targets], axis=1)
    breaks = (np.diff(pairs, axis=0) != 1).any(axis=1) | (not whole)
    starts = np.flatnonzero(np.concatenate([[True], breaks]))
    lengths = np.diff(starts, append=len(pairs))
    index = 0
    while index < len(starts):
        end, step = index + 1, np.ones(2, np.int64)
        if end < len(starts):
            step = pairs[starts[end]] - pairs[starts[index]]
        while (end < len(starts) and (step > 0).all() and lengths[end] == lengths[index]
               and (pairs[starts[end]] - pairs[starts[end - 1]] == step).all()):
            end += 1
        count = end - index
        yield (pairs[starts[index]].tolist(), int(lengths[index]), count,
               step.tolist() if count > 1 else [1, 1])
        index = end
