
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.hw.contract.numbers import MAX31
from systola.model.operators.shiftgelu import shiftgelu, shiftgelu_trace

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
