"""Codebooks of weights: 16 values of 8 bits at most for a layer, so that 4 bits stand for a weight.

- ``nupes``: ``sign(q) rint(127 (|q| / 7)**(1/a))`` for q from -7 to 7, by Yvinec et al. 2023,
  "NUPES": 1/2 is the codebook of squares, 1 the uniform one. The exponent a of a layer is one of
  `EXPONENTS`; ``squares`` are those of 1/2 for every layer.
- ``powers``: 0 and ``+-2**k``.
- ``kmeans``: the 16 values of least squared error over the layer's weights.

What is searched is judged by the error of the layer's outputs after rounding
(`systola.model.quantization.rounding`).
"""

from functools import partial

import numpy as np

from systola.hw.contract.numbers import CODE_BITS
from systola.model.graph.nodes import CODEBOOK_BITS
from systola.model.quantization.grid import CodebookGrid, UniformGrid
from systola.model.quantization.rounding import round_columns, row_scales

__all__ = ["EXPONENTS", "exponent_of", "kmeans_values", "nupes_values",
           "power_values", "search_of"]

EXPONENTS = tuple(percent / 100 for percent in range(100, 25, -5))
"""Exponents that are tried, the uniform one first: 1 down to 0.3."""

_TOP = 127
_MOST = (1 << CODEBOOK_BITS) - 1  # values besides 0
_STEPS = _MOST // 2
_ROUNDS = 4  # of values and scales in turns; more gain nothing


def nupes_values(exponent):
    """Return the codebook of an exponent, int64, ascending: 15 values, fewer below about 0.4.

    Raises
    ------
    ValueError
        If `exponent` is not above 0 and at most 1.
    """
    if not 0 < exponent <= 1:
        raise ValueError(f"exponent must be above 0 and at most 1, not {exponent!r}")
    half = np.rint(_TOP * (np.arange(_STEPS + 1) / _STEPS) ** (1 / exponent)).astype(np.int64)
    return np.unique([-half, half])


def exponent_of(values):
    """Return the first of `EXPONENTS` with a codebook of these values, or None."""
    return next((exponent for exponent in EXPONENTS
                 if np.array_equal(nupes_values(exponent), values)), None)


def power_values():
    """Return 0 and the powers of two of 8 bits, of both signs, int64, ascending."""
    half = 1 << np.arange(7)
    return np.concatenate([-half[::-1], [0], half])


def kmeans_values(x, energy):
    """Return the 16 integers, 0 among them, of least squared error to numbers.

    It is least over all sets of integers from -127 to 127, by dynamic programming (Wang and Song
    2011, "Ckmeans.1d.dp"), so that no start is drawn. Numbers are taken to the nearest value by the
    integer that they are nearest to.

    Parameters
    ----------
    x : array
        Of any shape, from -127 to 127; what is beyond counts as the last integer.
    energy : array
        What the square of the error of each number counts, not negative; broadcasts to `x`.

    Returns
    -------
    int64 array (16,)
        In ascending order.
    """
    energy = np.broadcast_to(energy, np.shape(x)).ravel()
    x = np.clip(x, -_TOP, _TOP).ravel()
    count = 2 * _TOP + 1
    place = np.rint(x).astype(np.int64) + _TOP
    # Of all numbers below an integer: sums of energy times 1, x and x**2.
    sums = [np.concatenate([[0], np.cumsum(np.bincount(place, energy * x**power, count))])
            for power in range(3)]

    def cost(first, end, value):
        """Return the error of the integers from `first` up to, not with, `end` as `value`."""
        zeroth, once, twice = (part[end] - part[first] for part in sums)
        value = value - _TOP
        return twice - 2 * value * once + value**2 * zeroth

    at = np.arange(count)
    low, high = at[:, None], at[None, :]
    middle = (low + high) // 2 + 1
    between = np.where(low < high, cost(low + 1, middle, low) + cost(middle, high, high), np.inf)
    own = cost(at, at + 1, at)
    below = _chains(cost(0, at, at) + own, between + own)
    above = _chains((cost(at + 1, count, at) + own)[::-1], (between.T + own)[::-1, ::-1])
    zero = _TOP
    totals = [below[0][left, zero] + above[0][_MOST - left, zero] for left in range(_MOST + 1)]
    left = int(np.argmin(totals))
    lower = _chain(below[1], left, zero)
    upper = count - 1 - _chain(above[1], _MOST - left, zero)
    return np.unique(np.concatenate([lower, upper])) - _TOP


def _chains(start, step):
    """Return the least cost of chains of 1 to 16 values up to each one, and what each came from.

    `start` (n,) is the cost of a value alone, `step` (n, n) that of a value behind another.
    """
    costs, origins = [start], []
    for _ in range(_MOST):
        total = costs[-1][:, None] + step
        origins.append(total.argmin(axis=0))
        costs.append(total.min(axis=0))
    return np.array(costs), np.array(origins)


def _chain(origins, count, last):
    """Return the `count` values before `last`, and it."""
    chain = [last]
    for step in reversed(range(count)):
        chain.append(origins[step, chain[-1]])
    return np.array(chain)


def search_of(codebook):
    """Return the search for a codebook: a function of what `row_scales` takes but the grid.

    It returns the `CodebookGrid` of the layer, of those that it tries the one with the least error
    of the outputs, of equal ones the first. Every codebook is used as it is for all rows of a
    layer, each with a scale of its own.

    Parameters
    ----------
    codebook : str
        One of `systola.model.quantization.methods.CODEBOOKS`.
    """
    return {"nupes": _nupes, "kmeans": _kmeans, "squares": lambda *_: CodebookGrid(
        nupes_values(0.5)), "powers": lambda *_: CodebookGrid(power_values())}[codebook]


def _nupes(weight, least, moments):
    return _best(map(CodebookGrid, map(nupes_values, EXPONENTS)), weight, least, moments)


def _kmeans(weight, least, moments):
    """Fit values to the weights over their scales, and scales to the values, in turns.

    A weight counts by what an error of it does to the outputs.
    """
    energy = np.diag(moments.square) + moments.damping  # so that dead inputs count a little, too

    def rounds():
        scale = row_scales(weight, least, UniformGrid(CODE_BITS), moments)
        for _ in range(_ROUNDS):
            scale = scale.astype(np.float64)
            x = weight / scale[:, None]
            grid = CodebookGrid(kmeans_values(x, np.square(scale)[:, None] * energy))
            yield grid
            # The largest value is 127 again in the next round, else resolution gets lost.
            scale = row_scales(weight, least, grid, moments) * (grid.top / _TOP)

    return _best(rounds(), weight, least, moments)


def _best(grids, weight, least, moments):
    """Return the grid of least error of the outputs, the first of equal ones."""
    return min(grids, key=partial(_error, weight, least, moments))


def _error(weight, least, moments, grid):
    scale = row_scales(weight, least, grid, moments)
    return moments.error(round_columns(weight, scale, grid, moments) * scale[:, None].astype(float))
