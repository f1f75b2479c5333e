import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.model.quantization.grid import UniformGrid
from systola.model.quantization.rounding import fit, round_columns, row_scales


def problem(seed, rows=400, inputs=24, outputs=10):
    """Return correlated inputs, weights and outputs with a constant."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs)) @ rng.normal(size=(inputs, inputs))
    x += rng.normal(size=inputs)
    weight = rng.normal(size=(outputs, inputs))
    return x, weight, x @ weight.T + rng.normal(size=outputs)


def error(x, y, weight):
    """Return the squared error of outputs, each less its mean: a bias is free."""
    off = x @ weight.T - y
    return np.square(off - off.mean(axis=0)).sum()


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_rounding_spreads_its_error(seed, bits):
    x, weight, y = problem(seed)
    _, moments = fit(x, y, weight)
    grid = UniformGrid(bits)
    scales = row_scales(weight, np.zeros(len(weight)), grid, moments)
    codes = round_columns(weight, scales, grid, moments)
    top = (1 << bits - 1) - 1
    assert np.abs(codes).max() <= top
    nearest = np.clip(np.rint(weight / scales[:, None]), -top, top)
    assert error(x, y, codes * scales[:, None]) < error(x, y, nearest * scales[:, None])


def test_a_fit_makes_up_for_errors_before():
    x, weight, y = problem(1)
    same, _ = fit(x, y, weight)
    np.testing.assert_allclose(same, weight, atol=1e-2)
    noisy = x + np.random.default_rng(2).normal(size=x.shape) * x.std() * 0.3
    fitted, moments = fit(noisy, y, weight)
    assert error(noisy, y, fitted) < 0.95 * error(noisy, y, weight)
    np.testing.assert_allclose(moments.y_mean, y.mean(axis=0))


def test_scales_are_not_below_the_least_and_cut_little_at_eight_bits():
    x, weight, y = problem(3)
    _, moments = fit(x, y, weight)
    four, eight = UniformGrid(4), UniformGrid(8)
    assert (row_scales(weight, np.full(10, 0.5), four, moments) >= 0.5).all()
    np.testing.assert_allclose(row_scales(weight, np.zeros(10), eight, moments),
                               np.abs(weight).max(axis=1) / 127, rtol=1e-6)
    dead = row_scales(0 * weight, np.full(10, 1e-6), eight, moments)
    assert (round_columns(0 * weight, dead, eight, moments) == 0).all()


@pytest.mark.parametrize("inputs", [1, 64, 65, 130])
def test_blocks_do_not_show(inputs):
    x, weight, y = problem(4, inputs=inputs)
    _, moments = fit(x, y, weight)
    grid = UniformGrid(4)
    scales = row_scales(weight, np.zeros(10), grid, moments)
    codes = round_columns(weight, scales, grid, moments)
    nearest = np.clip(np.rint(weight / scales[:, None]), -7, 7)
    assert error(x, y, codes * scales[:, None]) <= error(x, y, nearest * scales[:, None])
