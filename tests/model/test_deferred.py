from decimal import Decimal, localcontext

import numpy as np
import pytest

from systola.hw.contract.numbers import NORMALISED_PEAK, PEAK
from systola.model.operators.deferred import (
    deferred_context,
    deferred_softmax,
    exp_table,
    row_factors,
)


def test_float64_cannot_be_off():
    """No entry of any table is near a tie, so every evaluation of exp rounds to the same code."""
    d = np.arange(256)
    for peak in PEAK, NORMALISED_PEAK:
        margin = 1.0
        for a in range(1, 4096):
            real = peak * np.exp(d / -a)
            margin = min(margin, np.abs(real - np.floor(real) - 0.5).min())
        error = peak * 2.0**-52  # of float64: the quotient's and exp's own few ulp
        assert margin > 1e-7 > 1000 * error


@pytest.mark.parametrize("a", [1, 2, 13, 20, 30, 127, 4095])
@pytest.mark.parametrize(("bits", "peak"), [(8, PEAK), (16, NORMALISED_PEAK)])
def test_entries_are_correctly_rounded(a, bits, peak):
    with localcontext() as context:
        context.prec = 40
        exact = [int((peak * (Decimal(-d) / a).exp()).to_integral_value()) for d in range(256)]
    table = exp_table(-a, bits)
    assert table.itemsize == bits // 8
    assert table.tolist() == exact
    assert table[0] == peak
    assert (np.diff(table.astype(int)) <= 0).all()


@pytest.mark.parametrize("shape", [(1,), (197,), (3, 5, 9)])
def test_codes_and_sums(shape):
    rng = np.random.default_rng(len(shape))
    scores = rng.integers(-128, 128, shape)
    codes, sums = deferred_softmax(scores, exp_table(-20))
    flat = zip(scores.reshape(-1, shape[-1]), codes.reshape(-1, shape[-1]), sums.ravel(),
               strict=True)
    for row, out, total in flat:
        assert out.tolist() == [round(128 * np.exp((int(x) - int(row.max())) / 20)) for x in row]
        assert out.max() == PEAK
        assert total == out.sum()


def test_row_factors_saturate():
    assert row_factors([128, 129, 25216], 2**31 - 1, 24).tolist() == [
        (2**31 - 1) // 128, (2**31 - 1) // 129, (2**31 - 1) // 25216]
    assert row_factors([0, 1, 2, 3], 600, 8).tolist() == [255, 255, 255, 200]
    assert row_factors([0, 1, 2], 100, 8).tolist() == [255, 100, 50]


@pytest.mark.parametrize("tokens", [1, 5, 197])
def test_context_is_the_weighted_mean(tokens):
    """At the scale of V, outputs are within half a step of the mean by the codes."""
    rng = np.random.default_rng(tokens)
    codes, sums = deferred_softmax(rng.integers(-128, 128, (2, tokens, tokens)), exp_table(-25))
    v = rng.integers(-127, 128, (2, tokens, 6))
    got = deferred_context(codes, row_factors(sums, 2**30, 24), v, 30, 8)
    mean = codes @ v / sums[..., None]
    assert np.abs(got - mean).max() < 0.51
    doubled = deferred_context(codes, row_factors(sums, 2**30, 24), v, 29, 8)
    assert doubled.min() >= -128
    assert doubled.max() <= 127
    assert np.abs(doubled - np.clip(2 * mean, -128, 127)).max() < 0.52


def test_constants_out_of_range():
    for x0 in 0, -(1 << 24) - 1:
        with pytest.raises(ValueError, match=rf"^x0 must be from -16777216 to -1, not {x0}$"):
            exp_table(x0)
