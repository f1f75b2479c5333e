"""Choosing one of some choices for each of many nodes: least loss within limits, exactly."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import floor, gcd, isfinite, lcm

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

__all__ = ["AllocationError", "ChoiceProblem", "Solution", "exact", "text"]

_PARTS = 1 << 30
"""Losses are compared in these parts of what all nodes can lose together."""

_LARGEST = 1 << 30
"""Coefficients of rows for the solver are at most so large; exact ones are checked afterwards."""

_ATTEMPTS = 1000


class AllocationError(ValueError):
    """Limits cannot be kept; the message is one line that says which, and what would do."""


@dataclass(frozen=True)
class Solution:
    """What was chosen.

    Attributes
    ----------
    choices : tuple of int
        For each node, which of its choices.
    loss : float
        Sum of the losses.
    costs : dict of str to int or Fraction
        Sum of the costs by name, exact.
    """

    choices: tuple
    loss: float
    costs: dict


@dataclass(frozen=True, kw_only=True)
class ChoiceProblem:
    """One choice for each node, so that the losses' sum is least and the costs' sums are limited.

    A binary variable a node and choice, solved by HiGHS (Huangfu and Hall 2018) through
    `scipy.optimize.milp`. The solver computes in floating point with tolerances, this class does
    not: numbers are taken as the decimals that they print as, what the solver returns is rounded
    and checked in integers, and excluded if it breaks a limit; the search ends when no choice of
    less loss is left. The form of the problem is that of HAWQ-V3 (Yao et al. 2021).

    Losses are compared in parts of 2**-30 of what all nodes can lose together. Of equal ones the
    solution of less cost counts, limit after limit in the order given; of equal ones still, the
    one whose first node has the earlier choice, then the second, and so on.

    Parameters
    ----------
    losses : sequence of sequences of float
        For each node, the loss of each of its choices.
    costs : dict of str to sequence of sequences of numbers
        The same of costs: int, float or Fraction.
    labels : sequence of sequences, optional
        For each node, a label of each of its choices.
    tied : sequence of sequences of int
        Groups of nodes that must have choices of the same label.

    Raises
    ------
    ValueError
        If a table has another shape than `losses`, or a number in it is not finite.
    """

    losses: tuple
    costs: dict
    labels: tuple | None = None
    tied: tuple = ()

    def __post_init__(self):
        shape = [len(row) for row in self.losses]
        if not shape or not all(shape):
            raise ValueError("losses must have at least one node, and a choice for each")
        for name, rows in (("losses", self.losses), *self.costs.items()):
            if [len(row) for row in rows] != shape:
                raise ValueError(f"{name} must have {shape} choices by node, not "
                                 f"{[len(row) for row in rows]}")
            for value in (value for row in rows for value in row):
                if not isfinite(value):
                    raise ValueError(f"{name} must be finite, not {value}")

    def solve(self, limits):
        """Return the best `Solution` with every cost of `limits` at most what it says.

        Raises
        ------
        AllocationError
            If there is none: with the limits that cannot be kept and the least that would do.
        """
        rows = {name: self._row(name, limit) for name, limit in limits.items()}
        weights, found = self._loss_units, self._least(self._loss_units, rows.values())
        if found is None:
            raise AllocationError(self._refusal(limits))
        found = self._improved(weights, list(rows.values()), found)
        fixed = [*rows.values(), (weights, self._sum(weights, found))]
        for costs, _ in rows.values():
            found = self._improved(costs, fixed, found)
            fixed.append((costs, self._sum(costs, found)))
        return self.solution(self._first(fixed, found))

    def solution(self, choices):
        """Return the `Solution` that `choices`, an index for each node, are."""
        return Solution(
            choices=tuple(choices),
            loss=float(sum(row[choice] for row, choice in zip(self.losses, choices, strict=True))),
            costs={name: self.cost(name, choices) for name in self.costs})

    def cost(self, name, choices):
        """Return the exact sum of a cost: an int where it is one, else a Fraction."""
        return _plain(sum(exact(row[choice]) for row, choice in zip(
            self.costs[name], choices, strict=True)))

    def least(self, name, limits=None):
        """Return the least sum that cost `name` can have, within limits of others, or None."""
        costs, _ = self._row(name, 0)
        rows = [self._row(other, limit) for other, limit in (limits or {}).items()]
        found = self._least(costs, rows)
        return None if found is None else self.cost(name, self._improved(costs, rows, found))

    def most(self, name):
        """Return the sum of the largest costs of each node."""
        return _plain(sum(max(map(exact, row)) for row in self.costs[name]))

    def _refusal(self, limits):
        """Return which limits cannot be kept, and what would do."""
        if self._least(None, ()) is None:
            return "tied nodes must have choices of the same label, which these have not"
        parts = []
        for name, limit in limits.items():
            least = self.least(name)
            if least > limit:
                parts.append(f"{name} must be at least {text(least)}, with every node at its "
                             f"fewest bits, not {text(limit)}")
        if parts:
            return "; ".join(parts)
        parts = []
        for name in limits:
            others = {other: limit for other, limit in limits.items() if other != name}
            least = self.least(name, others)
            if least is not None:
                kept = " and ".join(f"{other} {text(limit)}" for other, limit in others.items())
                parts.append(f"{name} {text(least)} with {kept}")
        shown = " and ".join(f"{name} {text(limit)}" for name, limit in limits.items())
        return (f"limits {shown} cannot be kept together"
                + (f"; what would do: {', or '.join(parts)}" if parts else ""))

    @cached_property
    def _slots(self):
        """The first variable of each node, and the number of all."""
        return np.cumsum([0, *map(len, self.losses)])

    @cached_property
    def _loss_units(self):
        """The losses as integers, each node's least one being 0."""
        rows = [[exact(value) - min(map(exact, row)) for value in row] for row in self.losses]
        total = sum(map(max, rows)) or 1
        return [[round(value * _PARTS / total) for value in row] for row in rows]

    def _row(self, name, limit):
        """Return costs beyond each node's least ones as integers without divisor, and the limit."""
        rows = [list(map(exact, row)) for row in self.costs[name]]
        base = [min(row) for row in rows]
        over = [[value - low for value in row] for row, low in zip(rows, base, strict=True)]
        scale = lcm(*(value.denominator for row in over for value in row))
        whole = [[int(value * scale) for value in row] for row in over]
        divisor = gcd(*(value for row in whole for value in row)) or 1
        return ([[value // divisor for value in row] for row in whole],
                floor((exact(limit) - sum(base)) * scale / divisor))

    @staticmethod
    def _sum(rows, choices):
        return sum(row[choice] for row, choice in zip(rows, choices, strict=True))

    def _improved(self, objective, rows, found):
        """Return choices for which `objective` is least, starting from `found`."""
        while True:
            better = self._least(objective, [*rows, (objective, self._sum(objective, found) - 1)])
            if better is None:
                return found
            found = better

    def _first(self, rows, found):
        """Return of all choices within `rows` the first in order, `found` being one of them."""
        if self._least(None, rows, cuts=[found]) is None:
            return found
        for node in range(len(self.losses)):
            if found[node]:
                place = [[0] * len(row) for row in self.losses]
                place[node] = list(range(len(self.losses[node])))
                found = self._improved(place, rows, found)
                rows = [*rows, (place, found[node])]
        return found

    def _least(self, objective, rows, cuts=()):
        """Return choices within integer `rows`, with `objective` least as the solver sees it.

        None if there are none. What the solver's tolerances let through is excluded, one by one.
        """
        rows, cuts = list(rows), list(cuts)
        if any(limit < 0 for _, limit in rows):
            return None
        for _ in range(_ATTEMPTS):
            found = self._solved(objective, rows, cuts)
            if found is None or all(self._sum(costs, found) <= limit for costs, limit in rows):
                return found
            cuts.append(found)
        raise RuntimeError(f"the solver returned {_ATTEMPTS} choices in a row that break a limit")

    def _solved(self, objective, rows, cuts):
        """Return what the solver finds, rounded, or None if it finds nothing."""
        count = self._slots[-1]
        matrix, low, high = [], [], []
        for node, start in enumerate(self._slots[:-1]):
            line = np.zeros(count)
            line[start:start + len(self.losses[node])] = 1
            matrix, low, high = [*matrix, line], [*low, 1], [*high, 1]
        for line in self._ties():
            matrix, low, high = [*matrix, line], [*low, 0], [*high, 0]
        for costs, limit in rows:
            line, scale = _scaled(costs)
            # Integers: half a unit more lets nothing else in, and keeps tolerances off the limit.
            matrix, low, high = [*matrix, line], [*low, -np.inf], [*high, (limit + 0.5) * scale]
        for cut in cuts:
            line = np.zeros(count)
            line[self._slots[:-1] + np.array(cut)] = 1
            matrix, low, high = [*matrix, line], [*low, 0], [*high, len(cut) - 1]
        wanted = np.zeros(count) if objective is None else _scaled(objective)[0]
        result = milp(wanted, integrality=np.ones(count), bounds=Bounds(0, 1),
                      constraints=LinearConstraint(np.array(matrix), low, high),
                      options={"mip_rel_gap": 0})
        if result.status == 2:
            return None
        if result.status:
            raise RuntimeError(f"the solver stopped: {result.message}")
        return tuple(int(np.argmax(result.x[start:end]))
                     for start, end in zip(self._slots, self._slots[1:], strict=False))

    def _ties(self):
        """Yield the rows that are 0 where tied nodes have choices of the same label."""
        for first, *others in self.tied:
            for other in others:
                for label in dict.fromkeys((*self.labels[first], *self.labels[other])):
                    line = np.zeros(self._slots[-1])
                    for node, sign in (first, 1), (other, -1):
                        for choice, found in enumerate(self.labels[node]):
                            if found == label:
                                line[self._slots[node] + choice] = sign
                    yield line


def exact(value):
    """Return a number as a Fraction: a float as the decimal that it prints as."""
    value = value.item() if isinstance(value, np.generic) else value
    return Fraction(repr(value)) if isinstance(value, float) else Fraction(value)


def text(value):
    """Return a number for a message."""
    value = exact(value)
    return f"{int(value):,}" if value.denominator == 1 else f"{float(value):g}"


def _plain(value):
    return int(value) if value.denominator == 1 else value


def _scaled(rows):
    """Return integers of all nodes' choices as floats of moderate size, and their scale."""
    values = [value for row in rows for value in row]
    scale = min(1.0, _LARGEST / max(*values, 1))
    return np.array([float(value * Fraction(scale)) for value in values]), scale
