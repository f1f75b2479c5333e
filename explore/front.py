"""The Pareto front: points that no other one is better than in everything."""

import numpy as np

__all__ = ["dominated", "spread"]

_CHUNK = 256
"""Points that are compared with all others at a time."""


def dominated(best, worst=None):
    """Tell which points cannot be on the front; less is better.

    Parameters
    ----------
    best : ndarray of float (points, objectives)
        The least that each objective may be.
    worst : ndarray, optional
        The most, where it is an estimate; by default it is exact. A point is dominated if another
        one, at its worst, is not worse in any objective than that point at its best, and better in
        one. Of equal points the first one stays.

    Returns
    -------
    ndarray of bool (points,)
    """
    best = np.asarray(best, float)
    worst = best if worst is None else np.asarray(worst, float)
    count = len(best)
    result, order = np.zeros(count, bool), np.arange(count)
    for start in range(0, count, _CHUNK):
        part = best[start:start + _CHUNK, None]
        not_worse = (worst[None] <= part).all(axis=2)
        first = order[None] < order[start:start + _CHUNK, None]
        below = not_worse & ((worst[None] < part).any(axis=2) | first)
        below[np.arange(len(part)), order[start:start + _CHUNK]] = False
        result[start:start + _CHUNK] = below.any(axis=1)
    return result


def spread(items, count):
    """Return `count` of the `items`, evenly spaced, with the first and the last; all if fewer."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(index * (len(items) - 1) / (count - 1))] for index in range(count)]
