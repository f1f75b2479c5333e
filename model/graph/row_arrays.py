"""Moves of rows, heads and keys that both readers of a network need: no arithmetic."""

import numpy as np

__all__ = ["between_rows", "gathered", "heads_of", "over_keys", "score_bias",
           "side_by_side", "without_masked"]


def heads_of(x, first, heads, width):
    """Return channels of (..., rows, C) from `first` on as heads (..., heads, rows, width)."""
    part = x[..., first:first + heads * width]
    return np.swapaxes(part.reshape(*x.shape[:-1], heads, width), -3, -2)


def side_by_side(spans, function, attention, values):
    """Return ``function(attention, values)`` of each sequence, the heads in one row of channels.

    `attention` (..., heads, rows, keys), `values` (..., heads, rows, width); of `spans` see
    `systola.model.graph.node.Tensor`.
    """
    context = np.concatenate([
        function(attention[..., first:first + rows, :keys], values[..., first:first + keys, :])
        for first, rows, keys in spans], axis=-2)
    *lead, heads, rows, width = context.shape
    return np.swapaxes(context, -3, -2).reshape(*lead, rows, heads * width)


def between_rows(spans, function, queries, keys, bias=None):
    """Return ``function(queries, keys)`` of each sequence, with the most keys of all; others 0.

    With a `bias` (heads, rows, keys), it is the function's third argument.
    """
    most, out = max(count for _, _, count in spans), None
    for first, rows, count in spans:
        part = slice(first, first + rows)
        extra = () if bias is None else (bias[:, part, :count],)
        found = function(queries[..., part, :], keys[..., first:first + count, :], *extra)
        if out is None:
            out = np.zeros((*queries.shape[:-1], most), found.dtype)
        out[..., part, :count] = found
    return out


def over_keys(runs, function, scores):
    """Return ``function(scores)`` of the keys that the rows of each run have; others 0."""
    if all(keys == scores.shape[-1] for _, _, keys in runs):
        return function(scores)
    out = np.zeros_like(scores)
    for first, rows, keys in runs:
        part = slice(first, first + rows)
        out[..., part, :keys] = function(scores[..., part, :keys])
    return out


def without_masked(runs, scores):
    """Return `scores` with 0 for keys to which a row does not attend."""
    return over_keys(runs, lambda part: part, scores)


def score_bias(node):
    """Return the bias of every score of a `Scores` node, (heads, rows, keys), or None."""
    return None if node.bias_index is None else np.moveaxis(node.bias_table[node.bias_index], -1, 0)


def gathered(index, beside, *sources):
    """Return rows of `sources` (..., rows, C): row i is ``sources[index[i, 0]][index[i, 1]]``.

    `beside` of them that follow each other are one row.
    """
    rows = np.cumsum([0, *(source.shape[-2] for source in sources)])
    found = np.concatenate(sources, axis=-2)[..., rows[index[:, 0]] + index[:, 1], :]
    return found.reshape(*found.shape[:-2], found.shape[-2] // beside, beside * found.shape[-1])
