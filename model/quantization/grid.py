"""What weights are rounded to, in units of their scale: uniform codes, or values of a codebook."""

import numpy as np

__all__ = ["CodebookGrid", "UniformGrid"]

_CUTS = np.linspace(1, 0.4, 25)
_CODEBOOK_CUTS = np.linspace(1.4, 0.4, 41)


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
        """Return the integer nearest to each number, ties to the even one."""
        return np.clip(np.rint(x), -self.top, self.top)


class CodebookGrid:
    """Values of a codebook.

    Parameters
    ----------
    values : int array (n,)
        In ascending order, not all 0.

    Attributes
    ----------
    top : int
        The largest magnitude.
    shrinks : array
        As of `UniformGrid`, and more than the whole: where values are an octave apart, a row's
        largest weight may better lie between the largest two.
    """

    def __init__(self, values):
        self.values = np.asarray(values, np.int64)
        self.top, self.shrinks = int(np.abs(self.values).max()), _CODEBOOK_CUTS
        self._between = (self.values[1:] + self.values[:-1]) / 2

    def nearest(self, x):
        """Return the value nearest to each number, of two the lower one."""
        return self.values[np.searchsorted(self._between, x)]
