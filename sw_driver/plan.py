"""How the tokens are cut into chunks: as few and as large as overlap wants and memory allows."""

from dataclasses import dataclass

from systola.sw_driver.lowering import split

__all__ = ["Plan", "plans"]

_PASS = 2
"""Rows that a chunk should have, in times of the cycles in which a tile of weights is loaded."""

_GROWTH = 1.5
"""Most rows of a first chunk, in times of the one before: it hides the next one's norm."""


@dataclass(frozen=True)
class Plan:
    """Chunks of the tokens, each list as (first row, rows).

    ``first`` for the norm and the projections at the start of the first block when nothing comes
    before it, ``units`` for the attention, ``mlp`` for the MLP and the next block's projections.
    """

    first: tuple
    units: tuple
    mlp: tuple


def plans(tokens, config):
    """Yield plans in order of preference, with more and more chunks.

    More chunks need less memory at once, but load the weights more often.
    """
    load = max(config.rows, config.cols)
    least = -(-tokens // config.token_depth)
    start = max(tokens // (_PASS * load), least, 1)
    tried = set()
    for more in range(2 * tokens):
        for units in range(more, -1, -1):
            counts = min(start + units, tokens), min(start + more - units, tokens)
            if counts not in tried:
                tried.add(counts)
                yield Plan(first=_growing(tokens, load, config), units=_chunks(tokens, counts[0]),
                           mlp=_chunks(tokens, counts[1]))


def _chunks(tokens, count):
    return tuple(split(tokens, count))


def _growing(tokens, load, config):
    """Return chunks that grow from as few rows as hide the loading of weights."""
    sizes, rows = [], load
    while sum(sizes) < tokens:
        sizes.append(min(rows, config.token_depth))
        rows = int(rows * _GROWTH)
    # The last chunk is not shorter than it may be, but takes from the one before.
    rest = tokens - sum(sizes[:-1])
    if rest < load and len(sizes) > 1:
        both = sizes[-2] + rest
        sizes[-2:] = [both // 2, both - both // 2] if both >= 2 * load else [both]
        if sizes[-1] > config.token_depth:
            sizes[-1:] = [both // 2, both - both // 2]
    else:
        sizes[-1] = rest
    edges = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(zip(edges, sizes, strict=True))
