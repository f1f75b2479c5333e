"""What is known of a network that its tensors do not say, and where each fact came from."""

import math

from systola.files.bounded import shown
from systola.files.tensors import ModelError

__all__ = ["Facts", "number", "pair", "per_channel", "whole"]


class Facts:
    """Facts by name with their origins; what had to be assumed is listed with its reason.

    Parameters
    ----------
    given : dict
        What the user says, by name; None is not said. It goes before everything else.
    hints : dict
        What a file of images says, by name. It goes before what would be assumed.
    called : dict of str to str
        Other names for origins, where a table is not from the file that usually has it.
    """

    def __init__(self, given=None, hints=None, called=None):
        self._given = {name: value for name, value in (given or {}).items() if value is not None}
        self._hints, self._called = hints or {}, called or {}
        self.values, self.origins, self.assumed, self._known = {}, {}, [], {}

    def find(self, name, *candidates, assume=None, check=None):
        """Return the first candidate that is there, and note where it came from.

        Parameters
        ----------
        name : str
        *candidates : (value, str)
            What each origin says, None if nothing.
        assume : (value, str), optional
            What to take if nobody says anything, and why.
        check : callable, optional
            Returns the value to use, or raises ``ValueError`` with what was expected.

        Raises
        ------
        ModelError
            If a value is not usable, or there is none.
        """
        said = [(self._given.get(name), "given"), self._known.get(name, (None, None)), *candidates,
                (self._hints.get(name), "data file")]
        value, origin = next(((value, origin) for value, origin in said if value is not None),
                             (None, None))
        if value is None and assume is not None:
            value, reason = assume
            origin = "assumed"
            self.assumed.append(f"{name} {_text(value)}: {reason}")
        if value is None:
            raise ModelError(f"{name} must be given (--{name.replace('_', '-')}): no file says it")
        if check is not None:
            try:
                value = check(value)
            except ValueError as error:
                raise ModelError(f"{name} must be {error}, not {shown(value)} "
                                 f"({self._called.get(origin, origin)})") from None
        self.note(name, value, origin)
        return value

    def know(self, name, value, origin):
        """Say a fact that goes before what files say of it, and behind what the user says."""
        self._known[name] = value, origin

    def is_given(self, name):
        """Tell whether the user says a fact."""
        return name in self._given

    def note(self, name, value, origin):
        """Note a fact that only one origin can say."""
        self.values[name], self.origins[name] = value, self._called.get(origin, origin)

    def meta(self):
        """Return values, origins and assumptions as plain data for the graph's ``meta``."""
        return {**self.values, "origins": dict(self.origins), "assumed": list(self.assumed)}


def _text(value):
    return ", ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)


def whole(low, high):
    """Return a check of an integer from `low` to `high`."""
    def check(value):
        if type(value) is str and value.isdecimal() and len(value) < 10:
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return value
    return check


def number(low, high):
    """Return a check of a number from `low` to `high`."""
    def check(value):
        try:
            value = float(value)
        except (TypeError, ValueError):
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return value
    return check


def per_channel(count, low, high, scale):
    """Return a check of one number a channel (or one for all `count`) from `low` to `high`."""
    def check(value):
        items = value.split(",") if isinstance(value, str) else (
            value if isinstance(value, list | tuple) else [value])
        try:
            items = [float(item) for item in items]
        except (TypeError, ValueError):
            items = []
        if len(items) == 1:
            items = items * count
        if len(items) != count or not all(low <= item <= high for item in items):
            raise ValueError(f"1 or {count} numbers from {low:g} to {high:g} ({scale})")
        return items
    return check


def pair(value):
    """Return an image size as [height, width]; raises ``ValueError``."""
    items = [value, value] if type(value) is int else value
    if not isinstance(items, list | tuple) or len(items) != 2 or not all(
            type(item) is int and 1 <= item < 2**16 for item in items):
        raise ValueError("a height and a width")
    return list(items)
