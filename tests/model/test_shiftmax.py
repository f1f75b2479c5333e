from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.hw.contract.numbers import MAX31
from systola.model.operators.shiftmax import shift_exp, shiftmax, shiftmax_trace

quick = settings(derandomize=True, deadline=None, max_examples=100)
rows = st.lists(st.integers(-128, 127), min_size=1, max_size=60)
constants = st.sampled_from([-1, -2, -7, -13, -20, -50, -333, -4095])


def reference(x, x0, n, bits):
    """Evaluate the published formula element by element in unbounded integers."""
    def ishift_exp(d):
        p = max(d + (d >> 1) - (d >> 4), n * x0)
        q = p // x0
        r = p - x0 * q
        return ((r - 2 * x0) << n - q) // 2
    e = [ishift_exp(v - max(x)) for v in x]
    factor = MAX31 // min(sum(e), MAX31)
    return [min(v * factor >> 32 - bits, 2 ** (bits - 1) - 1) for v in e]


@quick
@given(rows, constants, st.integers(1, 20), st.integers(2, 16))
def test_equals_the_formula(x, x0, n, bits):
    assert shiftmax(x, x0, n, bits).tolist() == reference(x, x0, n, bits)


@quick
@given(rows, constants, st.sampled_from([8, 16]))
def test_probabilities(x, x0, bits):
    x = np.array(x)
    y = shiftmax(x, x0, 15, bits)
    assert (y >= 0).all()
    assert (y < 2 ** (bits - 1)).all()
    assert (y[x == x.max()] == y.max()).all()
    assert (shiftmax(np.clip(x, -100, 100) + 27, x0, 15, bits)
            == shiftmax(np.clip(x, -100, 100), x0, 15, bits)).all()
    if shiftmax_trace(x, x0, 15, bits).total < MAX31:
        assert y.sum() <= 2 ** (bits - 1)


@quick
@given(st.integers(-60000, -1), constants, st.integers(1, 31))
def test_exponential_range_and_order(x, x0, n):
    value = int(shift_exp(x, x0, n))
    assert -x0 <= value <= int(shift_exp(0, x0, n)) == -x0 << n
    assert value >= int(shift_exp(x - 1, x0, n)) * 0.9  # not monotonic at octaves, but nearly


def test_exponential_approximates():
    x = np.arange(-100, 1)
    got = shift_exp(x, -20, 15) / (20 * 2.0**15)
    want = [exp(v / 20) for v in x]
    assert np.abs(got - want).max() < 0.06


def test_positive_arguments_saturate():
    assert shift_exp(0, -20, 23) == 20 << 23
    assert shift_exp(20, -20, 23) > 20 << 23
    for x in (200, 128, 40_000):
        assert shift_exp(x, -3, 23) == MAX31
    assert shift_exp(1 << 20, -1, 31) == MAX31  # would be a shift of 1.5 million


def test_hand_written_rows():
    assert shiftmax([5], -20).tolist() == [32760]
    assert shiftmax([7] * 197, -20).tolist() == [160] * 197
    assert shiftmax([7] * 197, -20, bits=8).tolist() == [0] * 197
    assert shiftmax([-128, 127], -20).tolist()[0] == 0


def test_a_clamped_sum_saturates_the_output():
    trace = shiftmax_trace([0, 0, 0], -(1 << 17))
    assert trace.total == MAX31
    assert trace.factor == 1
    assert trace.out.tolist() == [32767] * 3


def test_rows_are_independent():
    x = np.random.default_rng(0).integers(-128, 128, (2, 3, 9))
    trace = shiftmax_trace(x, -17)
    assert trace.out.shape == trace.exp.shape == x.shape
    assert trace.factor.shape == trace.total.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert (trace.out[index] == shiftmax(x[index], -17)).all()


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"x0": 0}, "x0 must be from -16777216 to -1, not 0"),
    ({"x0": -20, "n": 32}, "n must be from 1 to 31, not 32"),
    ({"x0": -20, "bits": 17}, "bits must be from 2 to 16, not 17"),
])
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        shiftmax([1, 2], **kwargs)
