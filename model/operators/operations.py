"""What an operator costs in arithmetic, as data beside its definition."""

import dataclasses
from dataclasses import dataclass

__all__ = ["Count", "Operations"]


@dataclass(frozen=True, kw_only=True)
class Count:
    """Operations on two numbers, by kind.

    A comparison, a maximum and a clamp are each an addition, as is adding up an element; a shift
    by a constant is one too, since that costs nothing in hardware but a step in software.
    """

    add: int = 0
    multiply: int = 0
    shift: int = 0
    divide: int = 0
    look_up: int = 0

    def __str__(self):
        """Return the kinds there are: ``4 add, 1 divide``."""
        return ", ".join(f"{count} {name.replace('_', ' ')}"
                         for name, count in dataclasses.asdict(self).items() if count) or "0"


@dataclass(frozen=True, kw_only=True)
class Operations:
    """What a row of an operator costs: for every ``element`` of it, and once a ``row``.

    ``why`` says in words what was counted.
    """

    element: Count
    row: Count
    why: str
