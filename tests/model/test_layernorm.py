from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.hw.contract.numbers import MAX31
from systola.model.operators.layernorm import layernorm, layernorm_requant, layernorm_trace
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


def test_unknown_start():
    with pytest.raises(ValueError, match=r"^start must be 'published' or 'leading_one', not 'x'$"):
        layernorm([1, 2], "x")
