"""Codes of a layer norm by comparison of squares are the rounded quotients by a root."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from systola.model.operators.layernorm import normalised_trace
from systola.model.operators.norm_codes import (
    channel_norm_codes,
    fine_moments,
    norm_codes,
    norm_share,
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
    """But for the side of ties, saturation, and what is rounded off the square of the first edge.

    That is less than 1, so only for elements whose square is within (2 k - 1)**2 of an edge's.
    """
    rng = np.random.default_rng(bits)
    judged = 0
    for channels, gain in (16, 4), (64, 2), (64, 8), (1024, 4):
        x = rows(rng, channels)
        # A step of 1 / gain deviations, in units of 2**-5 of a code.
        share = norm_share(1 / gain, channels)
        assert share * 4 * gain**2 * channels == 2**32
        found = norm_codes(x, share, bits, epsilon)
        wide = channel_norm_codes(x, np.full(channels, 32 * gain), np.zeros(channels, int), bits,
                                  5, epsilon)
        below = -channel_norm_codes(x, np.full(channels, -32 * gain), np.zeros(channels, int), bits,
                                    5, epsilon)
        expected = np.where(np.abs(wide) < np.abs(below), wide, below)  # a tie: the one nearer 0
        expected = np.clip(expected, 1 - 2**(bits - 1), 2**(bits - 1) - 1)
        y, v = fine_moments(x, epsilon)
        edges = np.array([(2 * k - 1) ** 2 for k in range(1, 2 ** (bits - 1))])
        near = (np.abs((y * y)[..., None] - edges * (v / (4 * gain**2 * channels))[:, None, None])
                <= edges).any(axis=-1)
        assert (found == expected)[~near].all()
        assert (np.abs(found - expected) <= 1)[near & (v > 4 * gain**2 * channels)[:, None]].all()
        judged += (~near).mean() / 4
    assert judged > 0.6


def test_moments_are_those_of_the_normalised_layer_norm():
    x = rows(np.random.default_rng(2), 100)
    trace = normalised_trace(x, 77)
    y, v = fine_moments(x, 77)
    assert (v == trace.variance).all()
    assert (y == (x << 8) - trace.mean[:, None]).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_extremes_stay_in_63_bits(bits):
    """The widest rows and the largest shares and epsilon, against Python's integers."""
    x = rows(np.random.default_rng(3), 1024)
    for eps in 0, 2**56 - 1:
        y, v = (a.astype(object) for a in fine_moments(x, eps))
        for share in 0, 1, 2**20, 2**31, 2**32 - 1:
            edge = (share * v >> 32)[:, None]
            count = sum((y * y > (2 * k - 1) ** 2 * edge).astype(int)
                        for k in range(1, 2 ** (bits - 1)))
            assert (norm_codes(x, share, bits, eps) == np.sign(y.astype(np.int64)) * count).all()


def test_share_of_a_step():
    assert norm_share(1.0, 16) == 2**26
    assert norm_share(0.35, 192) == round(0.35**2 / 768 * 2**32)
    assert norm_share(9.0, 16) == 2**32 - 1
