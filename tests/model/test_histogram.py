import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.model.quantization.histogram import Histogram


def histogram(*batches):
    found = Histogram()
    for batch in batches:
        found.update(np.asarray(batch, np.float32))
    return found


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(-20, 20), st.integers(1, 5))
def test_bins_hold_every_value_however_the_range_grows(seed, exponent, batches):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=200) * 2**exponent * 3.0**index for index in range(batches)]
    values = np.abs(np.concatenate(parts).astype(np.float32))
    found = histogram(*parts)
    assert found.peak == values.max()
    width = np.diff(found.centres)[0]
    for share in 0.1, 0.5, 0.9:
        bound = np.quantile(values, share)
        inside = found._counts[np.abs(found.centres) <= bound].sum()
        near = np.abs(values - bound) <= 2 * width
        assert abs(inside - (values <= bound).sum()) <= near.sum() + 1
    assert found._counts.sum() == len(values)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_least_error_is_found(bits, symmetric):
    values = np.random.default_rng(bits).laplace(size=50000)
    half = 1 << bits - 1

    def error(top):
        step = top / (half - 1)
        codes = np.clip(np.rint(values / step), symmetric - half, half - 1)
        return np.square(codes * step - values).sum()

    found = histogram(values).least_error(bits, symmetric=symmetric)
    others = np.abs(values).max() * np.linspace(0.1, 1, 200)
    assert error(found) <= 1.01 * min(map(error, others))
    assert found < np.abs(values).max() or bits == 8


def test_zeros_and_percentile():
    assert histogram(np.zeros(10), []).least_error(4) == 0
    assert histogram(np.zeros(10)).percentile() == 0
    values = np.concatenate([np.linspace(-1, 1, 99_995), [50.0] * 5])
    assert histogram(values).percentile() == pytest.approx(1, abs=0.05)
    assert histogram(values).peak == 50
    assert histogram([0.0, 0.0], [0.25]).centres.max() < 0.25
