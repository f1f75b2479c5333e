"""Bit-exact model of I-BERT's exponential, a polynomial of second degree for each octave.

No unit of the hardware computes it: it is here for ablations, as are its two softmaxes
(`systola.model.operators.ibert_softmax`, `systola.model.operators.log_int_softmax`).
"""

import numpy as np

__all__ = ["OCTAVES", "check_constants", "exp_constants", "ibert_exp", "ibert_polynomial"]

OCTAVES = 30
"""``n``: octaves below the row maximum; everything further down counts as that far."""

_LN2, _LINEAR, _CONSTANT = -0.6931, 2.70732, 2.79211
"""Of ``0.35815147 x**2 + 0.96963238 x + 1`` on -ln 2 to 0, divided by its first coefficient."""

_MOST = 1 << 31


def exp_constants(scale):
    """Return the constants ``(x0, b, c)`` of scores of that scale, three ints; offline.

    ``x0 = floor(-0.6931 / scale)`` is an octave, ``b = floor(2.70732 / scale)`` and
    ``c = floor(2.79211 / scale**2)`` are the polynomial, all in float64.

    Raises
    ------
    ValueError
        If `scale` is not finite and above 0, or the constants leave what `check_constants` says.
    """
    scale = float(scale)
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be finite and above 0, not {scale!r}")
    constants = tuple(int(np.floor(value)) for value in (
        _LN2 / scale, _LINEAR / scale, _CONSTANT / (scale * scale)))
    check_constants(constants)
    return constants


def check_constants(constants):
    """Raise ``ValueError`` unless `constants` are x0, b and c for which the polynomial is sound.

    ``x0 < 0``, ``b >= -x0`` and ``1 <= c < 2**31``: then the polynomial is at most c, in the
    octave of the row maximum, and 0 or more where ``c >= b * b / 4``, which the published
    coefficients have; below 0 it saturates.
    """
    try:
        x0, b, c = (int(value) for value in constants)
    except (TypeError, ValueError):
        x0, b, c = 0, 0, 0
    if not (-_MOST < x0 < 0 and -x0 <= b < _MOST and 1 <= c < _MOST):
        raise ValueError(f"constants must be x0 below 0, b from -x0 and c from 1, all within 31 "
                         f"bits, not {constants!r}: the scale of the scores is from about 4e-5 "
                         f"to 1.67")


def ibert_polynomial(x, constants):
    """Return ``(z, q)`` with ``z / 2**q / c`` about ``exp(x * scale)``, int64 of the shape of `x`.

    ``x = max(x, 30 * x0); q = x // x0; r = x - x0 * q; z = max(r * (r + b) + c, 0)``. z is from 0
    to c, q from 0 to `OCTAVES`.

    Parameters
    ----------
    x : int array
        Codes, the row maximum already subtracted: 0 or below.
    constants : tuple of int
        From `exp_constants`.
    """
    check_constants(constants)
    x0, b, c = (int(value) for value in constants)
    x = np.asarray(x, np.int64)
    if x.size and x.max() > 0:
        raise ValueError(f"x must be 0 or below, not {x.max().item()}")
    x = np.maximum(x, OCTAVES * x0)
    q = x // x0
    r = x - x0 * q  # x0 < r <= 0, so r * (r + b) is 0 or below, within 62 bits
    return np.maximum(r * (r + b) + c, 0), q


def ibert_exp(x, constants):
    """Return the exponential ``z << 30 - q`` of `ibert_polynomial`, int64 of the shape of `x`.

    It is ``c * 2**30`` for the row maximum: 40 to 45 bits for scores of 8 bits, at most 61.
    """
    z, q = ibert_polynomial(x, constants)
    return z << OCTAVES - q
