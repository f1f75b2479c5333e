"""Bits for every linear node: the least loss of all that limits of cost allow."""

from dataclasses import dataclass
from fractions import Fraction

from systola.model.allocation.choice_problem import AllocationError, ChoiceProblem, exact, text
from systola.model.allocation.measures import COSTS

__all__ = ["Allocation", "Limit", "allocate", "check_limits"]

_ROUNDS = 100


@dataclass(frozen=True)
class Limit:
    """The most that a cost may be.

    Parameters
    ----------
    value : Fraction
        A number, or a share between the least and the most that the same bits everywhere cost.
    is_share : bool
        Which of both.
    """

    value: Fraction
    is_share: bool

    @classmethod
    def parse(cls, name, value):
        """Return the limit of cost `name` that a text is: a share from 0 to 1, or a larger number.

        Raises
        ------
        ValueError
            If it is neither, or `name` is none of `COSTS`.
        """
        if name not in COSTS:
            raise ValueError(f"a limit must be of {', '.join(COSTS)}, not of {name[:40]!r}")
        try:
            number = Fraction(value) if "/" not in value else None
        except ValueError:
            number = None
        if number is None or number < 0 or (number > 1 and number.denominator != 1):
            raise ValueError(f"limit of {name} must be a share from 0 to 1 or a whole number above "
                             f"1, not {value[:40]!r}")
        return cls(number, number <= 1)

    def of(self, cost):
        """Return the limit of a `NodeCost` as a number: an int where it is one."""
        if not self.is_share:
            return int(self.value)
        low, high = exact(cost.low), exact(cost.high)
        limit = low + self.value * (high - low)
        return int(limit) if limit.denominator == 1 else limit


@dataclass(frozen=True)
class Allocation:
    """Which node has which bits.

    Attributes
    ----------
    chosen : tuple of int
        For each node of `NodePrecisions` the index of its precision.
    loss : float
        Sum of the nodes' losses.
    costs : dict of str to dict
        By limited cost: ``limit``, ``cost``, and ``least`` and ``most``, those of the same bits
        everywhere.
    """

    chosen: tuple
    loss: float
    costs: dict

    def precisions(self, nodes):
        """Return each node's precision as text by name."""
        return {name: str(nodes.precisions[index])
                for name, index in zip(nodes.nodes, self.chosen, strict=True)}


def check_limits(nodes, costs, limits):
    """Raise `AllocationError` if limits cannot be kept, before losses are known."""
    allocate(nodes, [[0] * len(nodes.precisions)] * len(nodes.nodes), costs, limits)


def allocate(nodes, losses, costs, limits):
    """Return the `Allocation` of least loss within limits.

    Where a cost's entries only add up to an estimate, its ``measure`` says whether the limit is
    kept; if not, the estimate's limit is lowered by what is too much, and all is solved again.

    Parameters
    ----------
    nodes : NodePrecisions
        The nodes and choices.
    losses : list of list of float
        By node and choice, see `systola.model.allocation.sensitivity.sensitivities`.
    costs : dict of str to NodeCost
        By name, at least those that are limited.
    limits : dict of str to Limit
        What is limited.

    Raises
    ------
    AllocationError
        If there is none; the message says what would do.
    """
    problem = ChoiceProblem(losses=losses, costs={name: costs[name].rows for name in limits},
                            labels=nodes.labels, tied=nodes.tied)
    wanted = {name: limit.of(costs[name]) for name, limit in limits.items()}
    estimates = dict(wanted)
    for _ in range(_ROUNDS):
        try:
            found = problem.solve(estimates)
        except AllocationError as error:
            if estimates == wanted:
                raise
            raise AllocationError(_measured_refusal(costs, wanted, estimates)) from error
        true = {name: costs[name].measure(found.choices) if costs[name].measure
                else found.costs[name] for name in limits}
        over = {name: true[name] - limit for name, limit in wanted.items() if true[name] > limit}
        if not over:
            return Allocation(found.choices, found.loss, {
                name: {"limit": wanted[name], "cost": true[name], "least": costs[name].low,
                       "most": costs[name].high} for name in limits})
        for name, excess in over.items():
            estimates[name] = found.costs[name] - excess
    raise AllocationError(_measured_refusal(costs, wanted, estimates))


def _measured_refusal(costs, wanted, estimates):
    """Return what to say when estimates led to nothing that keeps the limits when measured."""
    return "; ".join(
        f"{name}: nothing that was tried keeps {text(wanted[name])} when measured; "
        f"{text(costs[name].low)} would do, with the same bits everywhere"
        for name in wanted if estimates[name] != wanted[name])
