"""Limits of a design space, ``dsp <= 96`` or ``rows * cols <= 128``: parsed, never evaluated."""

import math
import operator
import re
from dataclasses import dataclass

from systola.files.bounded import shown

__all__ = ["Limit"]

_SIGNS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
          "==": operator.eq}
_NAME = r"[a-z][a-z0-9_]*"
_FORM = re.compile(rf"\s*({_NAME}(?:\s*\*\s*{_NAME})*)\s*(<=|>=|==|<|>)\s*"
                   r"(-?\d{1,15}(?:\.\d{1,12})?)\s*")


@dataclass(frozen=True)
class Limit:
    """A product of figures or fields, and the number that it is compared with.

    Attributes
    ----------
    names : tuple of str
        What is multiplied.
    sign : str
        ``<=``, ``>=``, ``<``, ``>`` or ``==``.
    number : float
    """

    names: tuple
    sign: str
    number: float

    @classmethod
    def parse(cls, text, known):
        """Return the limit that `text` is; ``ValueError`` names what is wrong.

        `known` are the names that it may have.
        """
        match = _FORM.fullmatch(text) if isinstance(text, str) and len(text) <= 200 else None
        if match is None:
            raise ValueError(f"a limit must be like 'dsp <= 96' or 'rows * cols <= 128', not "
                             f"{shown(text)}")
        names = tuple(name.strip() for name in match[1].split("*"))
        for name in names:
            if name not in known:
                raise ValueError(f"a limit must be of {', '.join(known)}, not {shown(name)}")
        return cls(names, match[2], float(match[3]))

    def __str__(self):
        return f"{' * '.join(self.names)} {self.sign} {self.number:g}"

    def holds(self, values):
        """Tell whether `values`, a dictionary with all of `names`, are within the limit."""
        return _SIGNS[self.sign](math.prod(values[name] for name in self.names), self.number)

    def may_hold(self, low, high):
        """Tell whether any positive values between two dictionaries, `low` and `high`, hold it."""
        ends = [math.prod(values[name] for name in self.names) for values in (low, high)]
        if self.sign == "==":
            return ends[0] <= self.number <= ends[1]
        return any(_SIGNS[self.sign](end, self.number) for end in ends)
