"""Moves of rows, heads and keys that both readers of a network need: no arithmetic."""

import numpy as np

__all__ = ["between_rows", "gathered", "heads_of", "over_keys", "side_by_side"]


def heads_of(x, first, heads, width):
    """Return channels of (..., rows, C) from `first` on as heads (..., heads, rows, width)."""
    part = x[..., first:first + heads * width]
    return np.swapaxes(part.reshape(*x.shape[:-1], heads, width), -3, -2)


def side_by_side(sequences, function, attention, values):
    """Return ``function(attention, values)`` of each sequence, the heads in one row of channels.

    `attention` (..., heads, rows, keys), `values` (..., heads, rows, width).
    """
    context = np.concatenate([
        function(attention[..., first:first + rows, :rows], values[..., first:first + rows, :])
        for first, rows in sequences], axis=-2)
    *lead, heads, rows, width = context.shape
    return np.swapaxes(context, -3, -2).reshape(*lead, rows, heads * width)


def between_rows(sequences, function, queries, keys):
    """Return ``function(queries, keys)`` of each sequence, with keys for the longest; others 0."""
    most, out = max(rows for _, rows in sequences), None
    for first, rows in sequences:
        part = slice(first, first + rows)
        found = function(queries[..., part, :], keys[..., part, :])
        if out is None:
            out = np.zeros((*queries.shape[:-1], most), found.dtype)
        out[..., part, :rows] = found
    return out


def over_keys(sequences, function, scores):
    """Return ``function(scores)`` of the keys that the rows of each sequence have; others 0."""
    if all(rows == scores.shape[-1] for _, rows in sequences):
        return function(scores)
    out = np.zeros_like(scores)
    for first, rows in sequences:
        part = slice(first, first + rows)
        out[..., part, :rows] = function(scores[..., part, :rows])
    return out


def gathered(index, *sources):
    """Return rows of `sources` (..., rows, C): row i is ``sources[index[i, 0]][index[i, 1]]``."""
    rows = np.cumsum([0, *(source.shape[-2] for source in sources)])
    return np.concatenate(sources, axis=-2)[..., rows[index[:, 0]] + index[:, 1], :]
