"""How the tokens are cut into chunks: as few and as large as overlap wants and memory allows."""

from dataclasses import dataclass

from systola.sw_driver.compiler.lowering import split

__all__ = ["Plan", "plans"]

_PASS = 1.25
"""Least rows that a chunk should have, in times of the cycles in which a tile is loaded."""

_UNITS, _MLP = 6, 4
"""Chunks with which everything overlaps; more need less memory, but load the weights more often."""

_FIRST = 1.5
"""The same of the first chunk of all, whose norm nothing hides."""

_HIDDEN = 0.78
"""Share of the time of a first chunk's projections that the norm of the next chunk may take.

The drain has the parameter memory first, which costs the norm about an eighth more.
"""


@dataclass(frozen=True)
class Plan:
    """Chunks of the tokens, each list as (first row, rows).

    ``first`` for the norm and the projections at the start of the first block when nothing comes
    before it, ``units`` for the attention, ``mlp`` for the MLP and the next block's projections.
    """

    first: tuple
    units: tuple
    mlp: tuple


def plans(model, config):
    """Yield plans for `model` in order of preference, with more and more chunks."""
    tokens, load = model.tokens, max(config.rows, config.cols)
    first = _growing(tokens, config.token_depth, int(_FIRST * load), load,
                     _HIDDEN * _projection_share(model, config))
    least = -(-tokens // config.token_depth)
    enough = max(int(tokens / (_PASS * load)), 1)
    starts = max(min(_UNITS, enough), least), max(min(_MLP, enough), least)
    units, mlp = (_counts(start, tokens) for start in starts)
    for more in range(len(units) + len(mlp) - 1):
        for index in range(min(more, len(units) - 1), -1, -1):
            if more - index < len(mlp):
                yield Plan(first=first, units=tuple(split(tokens, units[index])),
                           mlp=tuple(split(tokens, mlp[more - index])))


def _counts(start, tokens):
    """Return numbers of chunks to try, from `start` to one for each of `tokens` rows."""
    counts = [start]
    while counts[-1] < tokens:
        counts.append(min(counts[-1] + max(counts[-1] // 4, 1), tokens))
    return counts


def _projection_share(model, config):
    """Return the time of a row's projections to Q, and K and V of a head, in that of its norm."""
    tiles = (model.heads + 2) * -(-model.head_dim // config.cols)
    return tiles * -(-model.channels // config.rows) * config.norm_lanes / model.channels


def _growing(tokens, most, start, least, factor):
    """Return chunks of `least` to `most` rows that grow from `start` rows by `factor`."""
    sizes, rows = [], float(min(start, most))
    while sum(sizes) < tokens:
        sizes.append(int(min(rows, most)))
        rows = min(max(rows * factor, rows), most)
    sizes[-1] -= sum(sizes) - tokens
    if sizes[-1] < least and len(sizes) > 1:  # too short for its weights: part of the one before
        both = sizes.pop() + sizes.pop()
        sizes += [both] if both <= most else [both - both // 2, both // 2]
    edges = [sum(sizes[:index]) for index in range(len(sizes))]
    return tuple(zip(edges, sizes, strict=True))
