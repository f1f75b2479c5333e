"""Codes of a layer norm by comparison of squares are the rounded quotients by a root."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from systola.model.operators.layernorm import normalised_trace
from systola.model.operators.norm_codes import (
    channel_norm_codes,
    fine_moments,
    norm_codes,
    norm_squares,
)


def rows(rng, channels):
    """Return rows of all spreads, one-hot, alternating, and of equal numbers."""
    made = [rng.integers(-2**15, 2**15, channels) >> shift for shift in range(16)]
    made += [np.eye(channels, dtype=int)[0], -2**15 + (2**16 - 1) * (np.arange(channels) % 2),
             np.full(channels, -2**15), np.zeros(channels, int),
             np.where(np.arange(channels) == 1, 2**15 - 1, -2**15)]
    return np.array(made)


def by_root(x, gain, bias, bits, fraction, epsilon):
    """Return the codes of one row by a root of 120 digits; None where they are too near a tie."""
    y, v = fine_moments(x, epsilon)
    with localcontext() as context:
        context.prec = 120
        sigma = (Decimal(int(v)) / len(x)).sqrt()
        codes = []
        for value, g, b in zip(y.tolist(), gain.tolist(), bias.tolist(), strict=True):
            exact = ((value / sigma if sigma else Decimal(0)) * g + b) / 2**fraction
            code = (exact + Decimal("0.5")).to_integral_value("ROUND_FLOOR")
            tie = abs(exact + Decimal("0.5") - (exact + Decimal("0.5")).to_integral_value())
            codes.append(None if sigma and tie < Decimal("1e-90") else
                         int(min(max(code, -2**(bits - 1)), 2**(bits - 1) - 1)))
    return codes


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("channels", "epsilon"), [(1, 0), (7, 3), (192, 0), (192, 2**40)])
def test_channels_equal_the_exact_quantizer(bits, channels, epsilon):
    """Gains of both signs and 0, biases beyond every code; no root and no division."""
    rng = np.random.default_rng(bits * channels)
    gain = rng.integers(-2**12, 2**12, channels) >> rng.integers(0, 12)
    bias = rng.integers(-2**13, 2**13, channels) >> rng.integers(0, 12, channels)
    for x in rows(rng, channels):
        found = channel_norm_codes(x, gain, bias, bits, 10, epsilon).tolist()
        expected = by_root(x, gain, bias, bits, 10, epsilon)
        assert all(e in (None, f) for f, e in zip(found, expected, strict=True))
        assert sum(e is not None for e in expected) > 0.9 * channels or len(set(x)) < 3


def test_ties_reach_the_level():
    """Eight of +-1 have deviation 1: with gain 1/2 a result lies halfway between two codes."""
    x = np.array([100, -100] * 8)
    gain, bias = np.full(16, 2), np.zeros(16, int)
    assert channel_norm_codes(x, gain, bias, 3, 2).tolist() == [1, 0] * 8
    assert channel_norm_codes(x, gain, bias - 1, 3, 2).tolist() == [0, -1] * 8


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("epsilon", [0, 12345])
def test_one_gain_equals_all_channels(bits, epsilon):
    """Where a square of thresholds needs no rounding, but for the side of ties and saturation."""
    rng = np.random.default_rng(bits)
    for channels, gain in (16, 4), (64, 2), (64, 8), (1024, 4):
        x = rows(rng, channels)
        # A step of 1 / gain deviations, in units of 2**-5 of a code.
        squares = norm_squares(1 / gain, channels, bits)
        edges = 2 * np.arange(1, 2**(bits - 1)) - 1
        assert (squares * (4 * gain**2 * channels) == edges**2 << 20).all()
        found = norm_codes(x, squares, epsilon)
        wide = channel_norm_codes(x, np.full(channels, 32 * gain), np.zeros(channels, int), bits,
                                  5, epsilon)
        below = -channel_norm_codes(x, np.full(channels, -32 * gain), np.zeros(channels, int), bits,
                                    5, epsilon)
        expected = np.where(np.abs(wide) < np.abs(below), wide, below)  # a tie: the one nearer 0
        expected = np.clip(expected, 1 - 2**(bits - 1), 2**(bits - 1) - 1)
        assert (found == expected).all()


def test_moments_are_those_of_the_normalised_layer_norm():
    x = rows(np.random.default_rng(2), 100)
    trace = normalised_trace(x, 77)
    y, v = fine_moments(x, 77)
    assert (v == trace.variance).all()
    assert (y == (x << 8) - trace.mean[:, None]).all()


def test_extremes_stay_in_63_bits():
    """The widest rows and the largest thresholds and epsilon, against Python's integers."""
    x = rows(np.random.default_rng(3), 1024)
    squares, epsilon = np.array([0, 1, 2**19, 2**20 - 1]), 2**56 - 1
    for eps in 0, epsilon:
        y, v = (a.astype(object) for a in fine_moments(x, eps))
        count = sum((y * y << 20 > int(a) * v[:, None]).astype(int) for a in squares)
        assert (norm_codes(x, squares, eps) == np.sign(y.astype(np.int64)) * count).all()


def test_squares_of_a_step():
    assert norm_squares(1.0, 16, 3).tolist() == [2**14, 9 * 2**14, 25 * 2**14]
    assert norm_squares(9.0, 16, 2).tolist() == [2**20 - 1]
