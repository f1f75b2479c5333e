"""Golden vector files, and the rows of a comparison with them."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from systola.files.npz import read_npz

__all__ = ["ARITHMETIC", "BOUNDED", "JUDGED", "MISSING", "OPAQUE", "SHOWN", "Golden", "GoldenError",
           "Report", "Row"]

JUDGED = "judged"
"""Must equal the stored value."""
ARITHMETIC = "by arithmetic"
"""Must equal what ARITHMETIC rules where the publication is wrong or does not saturate."""
BOUNDED = "judged to a bound"
"""Must be as near as the note says: the publication rounds in float32 where integers are exact."""
SHOWN = "shown"
"""Compared for information."""
MISSING = "not implemented"
"""The operator does not exist here."""
OPAQUE = "not exposed"
"""The engine under test has no such part, or computes this inside and does not show it."""

_OFFLINE = {"I-BERT", "calibrate", "constant", "dyadic", "log-int", "quantize"}
"""First words of operators that no engine but the models has."""


class GoldenError(ValueError):
    """A golden folder or file is unusable; the message names the file and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Outcome for one array.

    ``exact`` is the percentage of equal elements and ``largest`` the largest difference; both are
    None where nothing was compared. ``within`` says of an array that is judged to a bound whether
    it keeps it. ``failed`` is true for one that does not, and for a judged one that is not all
    equal.
    """

    file: str
    operator: str
    array: str
    status: str
    elements: int = 0
    exact: float | None = None
    largest: float | None = None
    note: str = ""
    within: bool | None = None

    @property
    def failed(self):
        """Whether this row makes the whole comparison fail."""
        if self.status == BOUNDED:
            return not self.within
        return self.status in {JUDGED, ARITHMETIC} and self.exact != 100.0


class Golden:
    """Arrays of one ``.npz`` file, read without pickle and checked as they are used.

    Raises
    ------
    GoldenError
        From every method, if the file is damaged or an array is missing or of the wrong kind.
    """

    def __init__(self, path):
        self.name = Path(path).name
        try:
            self._arrays = read_npz(path)
        except (OSError, ValueError) as error:
            raise GoldenError(f"{self.name} must be a complete .npz file of plain arrays: "
                              f"{getattr(error, 'strerror', None) or error}") from None

    def __contains__(self, name):
        return name in self._arrays

    def __iter__(self):
        return iter(self._arrays)

    def prefixes(self, suffix):
        """Return what precedes `suffix` in the names that end with it, in file order."""
        return [name.removesuffix(suffix) for name in self if name.endswith(suffix)]

    def ints(self, name):
        """Return the integer array `name` as int64."""
        return self._get(name, np.integer, "integers").astype(np.int64)

    def floats(self, name):
        """Return the floating-point array `name` as stored."""
        array = self._get(name, np.floating, "floating-point numbers")
        if not np.isfinite(array).all():
            raise GoldenError(f"{self.name} array {name!r} must be finite")
        return array

    def integer(self, name):
        """Return the single integer `name`."""
        return int(self._single(self.ints(name), name))

    def scale(self, name):
        """Return the single scale `name`, as stored."""
        return self._single(self.floats(name), name)

    def _get(self, name, kind, what):
        if name not in self:
            raise GoldenError(f"{self.name} must hold the array {name!r}, which is missing")
        array = self._arrays[name]
        if not np.issubdtype(array.dtype, kind):
            raise GoldenError(f"{self.name} array {name!r} must hold {what}, not {array.dtype}")
        return array

    def _single(self, array, name):
        if array.size != 1:
            raise GoldenError(f"{self.name} array {name!r} must be one number, "
                              f"not of shape {array.shape}")
        return array.reshape(())[()]


class Report:
    """Rows of one file, gathered by the checks."""

    def __init__(self, golden, engine):
        self.golden, self.engine, self.rows = golden, engine, []
        self.judged_only = getattr(engine, "judged_only", False)
        self.offline = getattr(engine, "offline", False)

    def trace(self, operator, *args):
        """Run `operator` and return an object with its ``out`` and whatever else it shows."""
        traced = getattr(self.engine, f"{operator}_trace", None)
        return traced(*args) if traced else SimpleNamespace(
            out=getattr(self.engine, operator)(*args))

    def compare(self, operator, array, got, expected, status=JUDGED, note="", bound=None):
        """Add the row of `got` against `expected`; None for an engine that does not show it.

        The `bound` of a row that is judged to one is the largest difference of every element,
        which broadcasts; a row that is all equal is then simply judged.
        """
        if got is None or (operator.split()[0] in _OFFLINE and not self.offline):
            self.rows.append(Row(file=self.golden.name, operator=operator, array=array,
                                 status=OPAQUE if status != MISSING else MISSING, note=note))
            return
        got, expected = np.asarray(got), np.asarray(expected)
        if got.shape != expected.shape:
            raise GoldenError(f"{self.golden.name} array {array!r} must be of shape {got.shape}, "
                              f"not {expected.shape}")
        equal, size = got == expected, got.size
        gap = np.abs(got - expected).max().item() if size else 0
        within = None
        if status == BOUNDED:
            within = bool((np.abs(got - expected) <= bound).all())
            if equal.all():
                status, note, within = JUDGED, "", None
        self.rows.append(Row(file=self.golden.name, operator=operator, array=array, status=status,
                             elements=size, exact=100.0 * equal.sum().item() / max(size, 1),
                             largest=gap, note=note, within=within))

    def stored(self, operator, array, got, status=JUDGED, note="", bound=None):
        """Compare `got` with the stored integer array, if the file has it."""
        if array in self.golden:
            self.compare(operator, array, got, self.golden.ints(array), status, note, bound)

    def missing(self, operator, array, note=""):
        """Add the row of an array whose operator does not exist."""
        self.compare(operator, array, None, None, MISSING, note)
