"""Activations as tables: every code's value of the real function, rounded to the nearest code."""

from math import erf, exp, sqrt, tanh

import numpy as np

from systola.model.operators.operations import Count, Operations

__all__ = ["OPERATIONS", "activation_table", "function_values"]

OPERATIONS = Operations(element=Count(look_up=1), row=Count(), why="a look-up")
"""Of one row of results: for each element, and once."""


def activation_table(function, source, target, bits, offset=0.0):
    """Return ``sat(rint((f(code * source) + offset) / target), bits)`` of codes -128..127, int8.

    The function is evaluated in float64, so an entry differs from the real value by at most half a
    code of the result, or by what saturates.

    Parameters
    ----------
    function : str
        One of `systola.model.graph.nodes.FUNCTIONS`.
    source, target : float
        Scales of the codes that are looked up and of the results, positive.
    bits : int
        Bits of the results, 2 to 8.
    offset : float
        Constant that is added to the function.

    Raises
    ------
    ValueError
        If `bits` or a scale is out of range.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"bits must be from 2 to 8, not {bits!r}")
    for name, scale in ("source", source), ("target", target):
        if not 0 < scale < float("inf"):
            raise ValueError(f"{name} must be finite and above 0, not {scale!r}")
    half = 1 << bits - 1
    real = function_values(function, source) + offset
    return np.clip(np.rint(real / float(target)), -half, half - 1).astype(np.int8)


def function_values(function, source):
    """Return a function of `systola.model.graph.nodes.FUNCTIONS` at ``code * source``.

    Codes are -128 to 127; float64 (256,).
    """
    return np.array([_FUNCTIONS[function](code * float(source)) for code in range(-128, 128)])


def _gelu(x):
    return x / 2 * (1 + erf(x / sqrt(2)))


def _gelu_tanh(x):
    return x / 2 * (1 + tanh(sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _quick_gelu(x):
    return x / (1 + exp(min(-1.702 * x, 700.0)))  # beyond, the result is 0 to every code


_FUNCTIONS = {"gelu": _gelu, "gelu_tanh": _gelu_tanh, "quick_gelu": _quick_gelu}
