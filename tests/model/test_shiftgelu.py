from math import erf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.hw.contract.numbers import MAX31
from systola.model.operators.requant import dyadic, requantize
from systola.model.operators.shiftgelu import gelu_table, shiftgelu, shiftgelu_trace

quick = settings(derandomize=True, deadline=None, max_examples=100)
rows = st.lists(st.integers(-128, 127), min_size=1, max_size=40)
constants = st.sampled_from([-1, -3, -7, -19, -40, -100, -300])


def reference(x, x0, n=23, bits=8):
    """Evaluate the published formula in unbounded integers and saturate."""
    def ishift_exp(d):
        p = max(d + (d >> 1) - (d >> 4), n * x0)
        q = p // x0
        return ((p - x0 * q - 2 * x0) << n - q) // 2
    out = []
    for v in x:
        e = ishift_exp(v - max(x))
        factor = MAX31 // min(e + ishift_exp(-max(x)), MAX31)
        out.append(v * min(e * factor >> 32 - bits, 2 ** (bits - 1) - 1))
    return out


@quick
@given(rows, constants)
def test_equals_the_formula(x, x0):
    assert shiftgelu(x, x0).tolist() == reference(x, x0)


@quick
@given(rows, constants)
def test_sigmoid_range_and_product(x, x0):
    trace = shiftgelu_trace(x, x0)
    assert trace.expmax.shape == ()
    assert 1 <= trace.expmax <= MAX31
    assert (trace.sigmoid >= 0).all()
    assert (trace.sigmoid <= 127).all()
    assert (trace.out == np.array(x) * trace.sigmoid).all()


def test_rows_are_independent_and_the_maximum_matters():
    x = np.random.default_rng(0).integers(-128, 100, (2, 3, 9))
    trace = shiftgelu_trace(x, -19)
    assert trace.expmax.shape == (2, 3)
    for index in np.ndindex(2, 3):
        assert (trace.out[index] == shiftgelu(x[index], -19)).all()
    raised = x.copy()
    raised[..., 0] = 127
    assert (shiftgelu(raised, -19)[..., 1:] != trace.out[..., 1:]).any()


@quick
@given(constants, st.integers(2, 8), st.floats(1 / 4096, 1 / 32))
def test_table_is_the_formula_with_the_larger_of_x_and_zero(x0, bits, ratio):
    mult, shift = dyadic(ratio)
    table = gelu_table(x0, mult, shift, bits)
    assert table.shape == (256,)
    assert table.dtype == np.int8
    x = np.arange(-128, 128)
    rows = np.stack([x, 0 * x], axis=1)  # a row with a zero has max(x, 0) for its maximum
    assert (table == requantize(shiftgelu(rows, x0)[:, 0], mult, shift, bits)).all()


def test_table_approximates_gelu():
    scale = 4 / 127
    mult, shift = dyadic(1 / 128)  # back to the input's scale
    table = gelu_table(int(np.floor(-1 / (1.702 * scale))), mult, shift, 8)
    x = np.arange(-128, 128) * scale
    gelu = np.array([v / 2 * (1 + erf(v / sqrt(2))) for v in x])
    error = np.abs(table * scale - gelu).max()
    assert error < 0.18  # 4 % of the largest, lost in the truncated factor


@pytest.mark.parametrize("bits", [1, 9])
def test_table_refuses_other_widths(bits):
    with pytest.raises(ValueError, match=f"^bits must be from 2 to 8, not {bits}$"):
        gelu_table(-19, 1, 0, bits)
