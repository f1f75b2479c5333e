"""Error of the attention operators against float softmax, on random scores."""

import numpy as np

from systola.hw.contract.numbers import LEVEL_BITS, LEVELS
from systola.model.graph.float_forward import softmax
from systola.model.operators import log2
from systola.model.operators.deferred import deferred_softmax, exp_table, row_factors
from systola.model.operators.log2_exponentials import leveled_table
from systola.model.operators.normalised import normalised_softmax
from systola.model.operators.shiftmax import shiftmax
from systola.model.quantization.scales import exact_exponential
from systola.model.quantization.uniform import exp_constant, scale_for
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["DEVIATIONS", "OPERATORS", "attention_error"]

DEVIATIONS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the random scores: from nearly flat attention to one key a row."""

_SAMPLE = 64
"""Rows from which the divisor of codes of shares is found."""

_NUMERATOR, _SHIFT, _MULT_BITS = (1 << 31) - 1, 31, 24


def _shiftmax(scores, x0, bits):
    return shiftmax(scores, x0, bits=bits) * 2.0 ** (1 - bits)


def _divided(operator, table=exp_table):
    """Return the attention of exponentials, divided by their sum."""
    def attention(scores, x0, bits):
        codes, sums = operator(scores, table(x0, bits))
        return codes * (row_factors(sums, _NUMERATOR, _MULT_BITS) * 2.0**-_SHIFT)[..., None]

    return attention


def _coded(scheme, shares):
    """Return the attention of BitLog2's codes of `shares`, a function of scores and x0."""
    def attention(scores, x0, bits):
        real = shares(scores, x0)
        sample = real[:_SAMPLE]
        delta = log2.best_delta(sample, log2.decode(*log2.encode(sample, scheme)), scheme)
        return log2.decode(*log2.encode(real, scheme)) / delta

    return attention


def _normalised_shares(scores, x0):
    return np.minimum(_divided(normalised_softmax)(scores, x0, 16), 1)


OPERATORS = {
    "Shiftmax, 8 bits": (_shiftmax, 8),
    "Shiftmax, 16 bits": (_shiftmax, 16),
    "deferred, 8 bits": (_divided(deferred_softmax), 8),
    "normalised, 16 bits": (_divided(normalised_softmax), 16),
    **{f"{scheme.capitalize()}, {LEVEL_BITS} bits": (
        _divided(deferred_softmax, lambda x0, bits, scheme=scheme: leveled_table(x0, scheme)),
        LEVEL_BITS) for scheme in LEVELS},
    **{f"{scheme} codes of shares, {name}": (_coded(scheme, shares), LEVEL_BITS)
       for scheme in ("Single_16", "Half_16")
       for name, shares in (("Shiftmax", lambda scores, x0: _shiftmax(scores, x0, 16)),
                            ("normalised", _normalised_shares))},
}
"""Function of (scores, x0, bits) to real attention, and its bits, by name."""


def attention_error(*, tokens=197, head_dim=64, rows=788, deviations=DEVIATIONS, seed=0):
    """Return the relative RMS error of A.V of every operator in `OPERATORS`.

    Scores and values are Gaussian and quantized to 8 bits at scales that cover their range (that of
    the scores as the quantizer widens it), and A.V is taken before its own requantization. The
    error is divided by the RMS of the exact A.V.

    Parameters
    ----------
    tokens, head_dim : int
        Keys of a row, and channels of the values.
    rows : int
        Rows of scores for each deviation.
    deviations : sequence of float
        Standard deviations of the scores.
    seed : int
        Equal seeds give equal figures.

    Returns
    -------
    dict of str to list of dict
        By operator, for each deviation: ``deviation``; ``operator``, the error against float
        softmax of the same 8-bit codes; ``total``, against that of the scores and values before
        their quantization; ``row_sum``, the mean sum of a row of attention.
    """
    rng = np.random.default_rng(seed)
    report = {name: [] for name in OPERATORS}
    for deviation in deviations:
        scores = rng.standard_normal((rows, tokens)) * deviation
        v = rng.standard_normal((tokens, head_dim))
        scale = exact_exponential(scale_for(scores.min(), scores.max(), 8), 1.0)
        codes, x0 = to_codes(scores, scale, 8), exp_constant(scale)
        v_scale = scale_for(v.min(), v.max(), 8)
        v_real = to_codes(v, v_scale, 8) * float(v_scale)
        total, same_codes = softmax(scores) @ v, softmax(codes * float(scale)) @ v_real
        for name, (operator, bits) in OPERATORS.items():
            attention = operator(codes, x0, bits)
            got = attention @ v_real
            report[name].append({"deviation": float(deviation),
                                 "operator": _relative(got, same_codes),
                                 "total": _relative(got, total),
                                 "row_sum": float(attention.sum(axis=-1).mean())})
    return report


def _relative(got, reference):
    return float(np.sqrt(np.mean((got - reference) ** 2) / np.mean(reference**2)))
