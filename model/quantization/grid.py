"""What weights are rounded to, in units of their scale: uniform codes, or values of a codebook."""

import numpy as np

__all__ = ["CodebookGrid", "UniformGrid"]

_CUTS = np.linspace(1, 0.4, 25)
_CODEBOOK_CUTS = np.linspace(1.4, 0.4, 41)  # both in steps of 1/40

_HALVES = 2 * 127


class UniformGrid:
    """Integers from ``-(2**(bits-1) - 1)`` to ``2**(bits-1) - 1``.

    Parameters
    ----------
    bits : int
        Of a code, 2 to 8.

    Attributes
    ----------
    top : int
        The largest.
    shrinks : array
        Which shares of a row's largest weight `top` is tried to stand for; of 8 bits only the
        whole, since their steps cost less than what is cut.
    """

    def __init__(self, bits):
        self.top = (1 << bits - 1) - 1
        self.shrinks = _CUTS if bits < 8 else _CUTS[:1]

    def nearest(self, x):
        """Return the integer nearest to each number, ties to the even one, float64."""
        return np.clip(np.rint(x), -self.top, self.top)


class CodebookGrid:
    """Values of a codebook.

    Parameters
    ----------
    values : int array (n,)
        From -127 to 127 in ascending order.

    Attributes
    ----------
    top : int
        The largest magnitude.
    shrinks : array
        As of `UniformGrid`, and more than the whole: where values are an octave apart, a row may be
        better off with its largest weight below `top`.
    """

    def __init__(self, values):
        self.values = np.asarray(values, np.int64)
        self.top, self.shrinks = int(np.abs(self.values).max()), _CODEBOOK_CUTS
        # Values meet at multiples of a half: a table of halves is three times as fast as a search.
        between = self.values[1:] + self.values[:-1]
        table = np.searchsorted(between, np.arange(-_HALVES, _HALVES + 1))
        self._halves = self.values[table].astype(np.float64)

    def nearest(self, x):
        """Return the value nearest to each number, of two the lower one, float64."""
        halves = np.ceil(np.clip(2 * np.asarray(x), -_HALVES, _HALVES)) + _HALVES
        return self._halves[halves.astype(np.intp)]
