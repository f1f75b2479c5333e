"""What an operator costs in arithmetic, as data beside its definition."""

import dataclasses
from dataclasses import dataclass

__all__ = ["RESCALING", "Count", "Operations"]


@dataclass(frozen=True, kw_only=True)
class Count:
    """Operations on two numbers, by kind.

    A comparison, a maximum, a magnitude and a clamp are an addition each; a division by a constant
    is a product and a shift; finding a leading one is a shift.
    """

    add: int = 0
    multiply: int = 0
    shift: int = 0
    divide: int = 0
    look_up: int = 0

    def __add__(self, other):
        """Return the count of both."""
        return Count(**{name: count + getattr(other, name)
                        for name, count in dataclasses.asdict(self).items()})

    def __str__(self):
        """Return the kinds there are: ``4 add, 1 divide``."""
        return ", ".join(f"{count} {name.replace('_', ' ')}"
                         for name, count in dataclasses.asdict(self).items() if count) or "none"


RESCALING = Count(add=2, multiply=1, shift=1)
"""Of a result to codes: product, shift with rounding, clamp."""


@dataclass(frozen=True, kw_only=True)
class Operations:
    """What a row of an operator costs: for every ``element`` of it, and once a ``row``.

    ``why`` says in words what was counted.
    """

    element: Count
    row: Count
    why: str

    def to_dict(self):
        """Return it as plain data."""
        return dataclasses.asdict(self)
