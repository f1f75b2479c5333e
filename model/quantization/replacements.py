"""What the quantizer needs of operators that are there to compare with: scales and constants.

They take the place of one that hardware has, by the setting that chooses that one.
"""

from math import log

import numpy as np

from systola.hw.contract.numbers import PEAK
from systola.model.graph.nodes import ALTERNATIVES, DEFERRED, Activation, Norm, Softmax
from systola.model.operators import log2, sqrt2
from systola.model.operators.ibert_exp import exp_constants

__all__ = ["REPLACED", "SharesSample", "check_operators", "octave_scale", "softmax_parameters"]

REPLACED = {"attention": Softmax, "gelu": Activation, "norm": Norm}
"""By the setting, the class of the nodes whose operator it chooses."""

_CODED = {"shiftmax_half_16", "shiftmax_sqrt2_17"}
_SAMPLE = 1 << 16
_OCTAVES = 7


def check_operators(operators):
    """Raise ``ValueError`` unless a dict names variants of `ALTERNATIVES` by their setting."""
    for name, variant in operators.items():
        known = ALTERNATIVES[REPLACED[name]] if name in REPLACED else {}
        if variant not in known:
            raise ValueError(f"operators must give {' or '.join(REPLACED)} a variant that only "
                             f"models have ({', '.join(known) or 'none of another setting'}), not "
                             f"{str({name: variant})[:80]}")


class SharesSample:
    """Attention of the float network on the first images, and the scales that codes of it get.

    Parameters
    ----------
    graph : Graph
        The float network.
    variant : str
        Of the softmax.
    """

    def __init__(self, graph, variant):
        self.variant = variant
        self._names = {node.name for node in graph.of(Softmax)} if variant in _CODED else ()
        self._deltas = {}

    def __call__(self, name, x):
        """Take in a tensor; of each softmax the first batch counts, evenly spaced numbers of it."""
        if name in self._names and name not in self._deltas:
            x = np.ravel(x)
            x = x[::-(-len(x) // _SAMPLE)]
            if self.variant == "shiftmax_half_16":
                self._deltas[name] = log2.best_delta(x, log2.decode(*log2.encode(x, "Half_16")),
                                                     "Half_16")
            else:
                self._deltas[name] = min(sqrt2.best_scale(x), 1.0)

    def delta(self, name):
        """Return the divisor (of Half_16) or the largest share (of Sqrt2_17) of a softmax."""
        return self._deltas[name]

    def scale(self, name, bits):
        """Return the real value of one code of the results of a softmax, float32."""
        if self.variant == "shiftmax_half_16":
            scale = 1 / self.delta(name)
        elif self.variant == "shiftmax_sqrt2_17":
            scale = self.delta(name) * 2.0**-sqrt2.FRACTION
        else:
            scale = {"log_int": 2.0**-15, "ita": 1 / 255, **dict.fromkeys(DEFERRED, 1 / PEAK)}.get(
                self.variant, 2.0 ** (1 - bits))
        return np.float32(scale)


def octave_scale(scale):
    """Return the finest ``ln 2 / 2**s`` that is `scale` or coarser, s from 7 to 0, float32.

    A softmax to base 2 needs it; scores beyond 127 octaves are cut.
    """
    fits = [s for s in range(_OCTAVES, 0, -1) if log(2) / 2**s >= scale]
    return np.float32(log(2) / 2 ** (fits[0] if fits else 0))


def softmax_parameters(node, variant, scale, unit, shares):
    """Return ``unit`` and ``constants`` of a softmax node whose scores have that scale, a dict.

    `unit` is a function that returns the code of 1, for the variants that have exponentials.
    """
    if variant in ("ibert", "log_int"):
        return {"constants": exp_constants(scale)}
    if variant == "ita":
        return {"unit": round(log(2) / float(scale))}
    if variant == "shiftmax_sqrt2_17":
        return {"unit": unit(), "constants": sqrt2.code_thresholds(shares.delta(node.name))}
    return {"unit": unit()}
