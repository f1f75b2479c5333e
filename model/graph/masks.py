"""Masks of attention: how many of the first keys of its sequence each row attends to."""

import dataclasses

import numpy as np

from systola.model.graph.nodes import Scores

__all__ = ["causal_counts", "masked", "padded_counts"]


def causal_counts(sequences):
    """Return the keys of rows that attend to themselves and those before, (rows,) int32.

    Parameters
    ----------
    sequences : sequence of (int, int)
        First row and rows of every sequence, as `Scores` has them.
    """
    return np.concatenate([np.arange(1, rows + 1, dtype=np.int32) for _, rows in sequences])


def padded_counts(sequences, lengths):
    """Return the keys of rows of texts that are filled up to whole sequences, (rows,) int32.

    Rows of the filling attend to the text, too: what they make is nobody's, but a number.

    Parameters
    ----------
    sequences : sequence of (int, int)
        First row and rows of every sequence.
    lengths : sequence of int
        Rows of the text in each of them.

    Raises
    ------
    ValueError
        If there are not as many lengths, or one is not from 1 to its sequence's rows.
    """
    if len(lengths) != len(sequences):
        raise ValueError(f"lengths must be {len(sequences)}, one a sequence, not {len(lengths)}")
    for (_, rows), length in zip(sequences, lengths, strict=True):
        if not 1 <= length <= rows:
            raise ValueError(f"lengths must be from 1 to {rows}, not {length!r}")
    return np.concatenate([np.full(rows, length, np.int32)
                           for (_, rows), length in zip(sequences, lengths, strict=True)])


def masked(graph, counts):
    """Return a network, float or integer, whose rows attend to so many keys in every attention.

    Parameters
    ----------
    graph : Graph
        The network; its attentions must have the same rows.
    counts : (rows,) int array
        Keys of each row. The fewest of these and of those that the row had.

    Raises
    ------
    GraphError
        If a number is not from 1 to the rows of its sequence.
    """
    def fewer(node):
        had = counts if node.key_counts is None else node.key_counts
        return dataclasses.replace(node, key_counts=np.minimum(had, counts).astype(np.int32))

    return dataclasses.replace(graph, nodes=tuple(
        fewer(node) if isinstance(node, Scores) else node for node in graph.nodes))
