from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.hw.contract.numbers import MAX31, epsilon_bits
from systola.model.operators.layernorm import (
    layernorm,
    layernorm_requant,
    layernorm_trace,
    normalised_root,
    normalised_trace,
)
from systola.model.operators.requant import requantize

quick = settings(derandomize=True, deadline=None, max_examples=100)
rows = st.builds(lambda row, drop: [v >> drop for v in row],
                 st.lists(st.integers(-2**15, 2**15 - 1), min_size=1, max_size=50),
                 st.integers(0, 15))
STARTS = ["published", "leading_one"]


@quick
@given(rows, st.sampled_from(STARTS))
def test_equals_the_formula(x, start):
    mean = round(Fraction(sum(x), len(x)))
    variance = sum((v - mean) ** 2 for v in x)
    k = 1 << 16 if start == "published" else 1 << -(-variance.bit_length() // 2)
    iterates = []
    for _ in range(10):
        k = max((k + variance // k) >> 1, 1)
        iterates.append(k)
    trace = layernorm_trace(x, start)
    assert trace.mean == mean
    assert trace.variance == variance
    assert trace.iterates.tolist() == iterates
    assert trace.out.tolist() == [(v - mean) * (MAX31 // k) >> 1 for v in x]


@quick
@given(rows)
def test_the_leading_one_finds_every_root(x):
    trace = layernorm_trace(x, "leading_one")
    root = isqrt(int(trace.variance))
    assert int(trace.root) in {max(root, 1), root + int(trace.variance == root * root + 2 * root)}


def test_the_published_start_needs_a_root_of_200():
    def roots(start, scale):
        x = np.random.default_rng(scale).integers(-scale, scale + 1, (50, 64))
        trace = layernorm_trace(x, start)
        return trace.root / np.sqrt(trace.variance)
    assert np.abs(roots("published", 100) - 1).max() < 0.01  # a root of about 460
    assert roots("published", 5).min() > 1.2  # a root of about 25
    assert np.abs(roots("leading_one", 5) - 1).max() < 0.05


@quick
@given(rows, st.sampled_from(STARTS), st.integers(-1000, 1000))
def test_output_fits_32_bits_and_ignores_an_offset(x, start, offset):
    out = layernorm(x, start)
    assert (np.abs(out) <= 2**31 - 1).all()
    moved = np.array(x) + offset
    assert (layernorm(moved, start) == out).all() or round(Fraction(sum(x), len(x))) + offset \
        != round(Fraction(int(moved.sum()), len(x)))  # only a tie's parity may change the mean


@pytest.mark.parametrize("start", STARTS)
def test_constant_rows_give_the_bias(start):
    assert layernorm([[7, 7, 7], [0, 0, 0]], start).tolist() == [[0] * 3] * 2
    got = layernorm_requant([[-5, -5]], [300, -300], [1, 1], [1, 1], 8, start)
    assert got.tolist() == [[127, -128]]


@pytest.mark.parametrize("start", STARTS)
def test_extreme_rows(start):
    x = np.tile([-2**15, 2**15 - 1], 384)
    trace = layernorm_trace(x, start)
    assert trace.mean == 0  # -0.5, to even
    assert int(trace.root) in {isqrt(int(trace.variance)), isqrt(int(trace.variance)) + 1}


def test_requantized_per_channel():
    rng = np.random.default_rng(3)
    x, bias = rng.integers(-2**15, 2**15, (4, 6)), rng.integers(-2**33, 2**33, 6)
    mult, shift = rng.integers(-2**31, 2**31, 6), rng.integers(50, 60, 6)
    want = requantize(layernorm(x) + bias, mult, shift, 8)
    assert (layernorm_requant(x, bias, mult, shift) == want).all()
    assert len(np.unique(want)) > 4


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"^variant must be 'published', 'leading_one' or "
                                         r"'normalised', not 'x'$"):
        layernorm([1, 2], "x")


@quick
@given(rows, st.integers(0, 2**46))
def test_normalised_equals_the_formula(x, epsilon):
    mean = (Fraction(sum(x) << 8, len(x)) + Fraction(1, 2)).__floor__()
    y = [(v << 8) - mean for v in x]
    variance = sum(v * v for v in y) + epsilon
    trace = normalised_trace(x, epsilon)
    assert (trace.mean, trace.variance) == (mean, variance)
    if variance:
        shift = next(s for s in range(-8, 9) if 2**32 <= variance * Fraction(16) ** s < 2**36)
        factor = (2**33 - 1) // isqrt(int(variance * Fraction(16) ** shift))
        assert (trace.shift, trace.factor) == (shift, factor)
        assert trace.out.tolist() == [
            (v * Fraction(4) ** (shift + 1)).__floor__() * factor >> 5 for v in y]
    else:
        assert not trace.out.any()


def test_the_factor_is_as_accurate_for_every_number():
    rng = np.random.default_rng(1)
    v = np.concatenate([
        2 ** np.arange(62), 2 ** np.arange(1, 63) - 1, 2**62 + np.arange(3),
        np.square(2 ** np.arange(10, 31) - 1), rng.integers(1, 2**62, 2000) >> rng.integers(
            62, size=2000)])
    v = np.maximum(v, 1)
    shift, factor = normalised_root(v)
    relative = factor * 4.0**shift * np.sqrt(v.astype(float)) / 2**33 - 1
    assert -2**-15 < relative.min() < -2**-17
    assert 2**-18 < relative.max() < 2**-16
    assert (2**15 <= factor.min(), factor.max() < 2**17) == (True, True)
    assert [part.tolist() for part in normalised_root([0])] == [[0], [0]]


def whole_format():
    """Yield rows of 1 to 4096 codes: random of any spread, nearly constant, one-hot, extremes."""
    rng = np.random.default_rng(2)
    for channels in (1, 2, 3, 17, 64, 192, 768, 1024, 4096):
        one_hot = np.zeros(channels, np.int64)
        one_hot[channels // 2] = 1
        alternating = np.where(np.arange(channels) % 2, 2**15 - 1, -2**15)
        yield from (one_hot, -one_hot, one_hot + 12345, one_hot * (2**15 - 1),
                    one_hot * -2**15, one_hot * (2**16 - 1) - 2**15, alternating,
                    np.full(channels, -2**15), np.full(channels, 2**15 - 1))
        for spread in (0.3, 1, 2, 7, 100, 3000, 10000, 2**14):
            offset = rng.integers(-2**14, 2**14)
            yield np.clip(np.rint(rng.normal(offset, spread, channels)).astype(np.int64),
                          -2**15, 2**15 - 1)


@pytest.mark.parametrize("share", [0, 1e-9, 1e-3, 1, 1e3, "largest"])
def test_normalised_is_within_its_bound_over_the_whole_format(share):
    """The bound of docs/ARITHMETIC.md; `share` is that of epsilon of the sum of squares."""
    used = 0
    for x in whole_format():
        channels, most = len(x), (1 << epsilon_bits(len(x))) - 1
        spread = Fraction(int(x @ x)) - Fraction(int(x.sum()) ** 2, channels)
        epsilon = most if share == "largest" else min(round(share * float(spread) * 2**16), most)
        total = float(spread + Fraction(epsilon, 2**16))
        got = layernorm(x, "normalised", epsilon)
        assert np.abs(got).max() <= 2**30 * (1 + 2**-16)
        if not spread:
            assert not got.any()
            continue
        root = np.sqrt(total)
        exact = 2**30 * (x - float(Fraction(int(x.sum()), channels))) / root
        # The factor; rounding of the variance; of the mean; of what is multiplied, and of o.
        variance = channels / (8 * total * 2**16)
        bound = (2**-15 + variance) * np.abs(exact) + 2**21 / root + 2**12 + 1
        assert (np.abs(got - exact) <= bound).all()
        used = max(used, (np.abs(got - exact) / bound).max())
    assert used > 0.5  # the bound is not a wide one


def test_rows_of_less_than_a_code_are_right_to_a_few_percent():
    """Beside them, the published forms: a mean of whole codes, and a root of 64 or more."""
    for channels in (64, 192, 768):
        x = np.full(channels, 100)
        x[5:9] = 101
        exact = (x - x.mean()) / x.std()

        def error(variant, x=x, exact=exact):
            got = layernorm(x, variant) * np.sqrt(len(x)) / 2**30
            return np.sqrt(np.mean((got - exact) ** 2))

        assert error("normalised") < 0.03
        assert error("published") > 0.9
        assert error("leading_one") > 0.03


def test_an_epsilon_takes_its_part():
    x = np.random.default_rng(3).integers(-3, 4, 192)
    variance = x.var()
    for ratio in (0.01, 1, 100):
        epsilon = round(192 * ratio * variance * 2**16)
        got = layernorm(x, "normalised", epsilon) * np.sqrt(192) / 2**30
        exact = (x - x.mean()) / np.sqrt(variance * (1 + ratio))
        assert np.abs(got - exact).max() < 0.002
