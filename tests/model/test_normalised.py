"""Normalised attention: its definition, and its error against softmax in floating point."""

import numpy as np
import pytest

from systola.hw.contract.config import digit_count
from systola.hw.contract.numbers import FACTOR_BITS, INT_BITS, NORMALISED_PEAK
from systola.model.operators.deferred import exp_table, numerator_bits, row_factors
from systola.model.operators.matmul import digit_matmul, split_digits
from systola.model.operators.normalised import normalised_softmax, row_bound

KEYS = (2, 3, 5, 16, 17, 31, 64, 65, 197, 256, 577, 1000, 1024)


def depths(unit):
    """Return distances below the maximum at which a flat tail is worst, and others."""
    ties = [round(-unit * np.log((k + 0.5) / NORMALISED_PEAK)) for k in range(6)]
    steps = {d + near for d in [*ties, *range(0, 256, 37)] for near in (-1, 0, 1)}
    return sorted(d for d in steps if 0 <= d <= 255)


def rows(rng, keys, unit):
    """Return rows of scores: equal, nearly equal, one-hot, peaks and a flat tail, random."""
    half = min(unit // 2, 255)
    yield np.full(keys, int(rng.integers(-128, 128)))
    yield rng.integers(127 - half, 128, keys)
    yield np.where(np.arange(keys) == rng.integers(keys), 127, -128)
    for depth in depths(unit):
        for peaks in 1, 2, 3, keys // 2:
            yield np.where(np.arange(keys) < peaks, 127, 127 - depth)
    for deviation in 0.3, 1, 3:
        spread = rng.standard_normal(keys) * deviation * unit
        yield np.clip(np.rint(spread), -128, 127).astype(int)


def softmax(scores, unit):
    e = np.exp((scores - scores.max(axis=-1, keepdims=True)) / unit)
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("keys", KEYS)
def test_error_against_softmax(keys):
    """For every unit, on scores from all equal to one-hot: shares, A.V, sums and their bounds."""
    rng = np.random.default_rng(keys)
    v = rng.integers(-127, 128, (keys, 16))
    numerator, worst = 1 << INT_BITS - 1, 0
    for unit in range(1, 256):
        scores = np.stack(list(rows(rng, keys, unit)))
        codes, sums = normalised_softmax(scores, exp_table(-unit, 16))
        assert codes.min() >= 0
        assert codes.max() <= NORMALISED_PEAK
        assert sums.max() <= row_bound(keys)
        assert sums.min() > NORMALISED_PEAK - keys / 2
        factors = row_factors(sums, numerator, FACTOR_BITS)
        attention = codes * (factors / numerator)[:, None]
        assert np.abs(attention.sum(axis=-1) - 1).max() < 2**-14 * (1 + keys / 2**17) < 0.01
        exact = softmax(scores, unit)
        share = 0.75 * (keys - 1) / NORMALISED_PEAK
        off = np.abs(codes / sums[:, None] - exact).sum(axis=-1) / 2
        assert off.max() <= share + 1e-12
        error = np.abs((attention - exact) @ v)
        assert error.max() <= (2 * share + 2**-13) * 127
        rms = np.sqrt(np.mean(((attention - exact) @ v)**2, axis=-1)
                      / np.mean((exact @ v)**2, axis=-1))
        worst = max(worst, rms.max())
    assert worst < 0.03


@pytest.mark.parametrize("keys", [1, 2, 17, 300])
def test_definition_in_whole_numbers(keys):
    """The model's shift and rounding, row by row in Python's integers."""
    rng = np.random.default_rng(keys)
    for unit in 1, 20, 255, 4095:
        table = exp_table(-unit, 16)
        scores = rng.integers(-128, 128, (20, keys)) >> rng.integers(8, size=(20, 1))
        codes, sums = normalised_softmax(scores, table)
        for row, out, total in zip(scores, codes, sums, strict=True):
            e = [int(table[max(row) - x]) for x in row]
            s = 0
            while sum(e) > 2**(16 + s):
                s += 1
            expected = [int(x / 2**s + 0.5) for x in e]
            assert out.tolist() == expected
            assert total == sum(expected)


@pytest.mark.parametrize(("ones", "shift"), [
    (2, 0), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (512, 8), (513, 9), (1024, 9)])
def test_sums_at_the_powers_of_two(ones, shift):
    """Equal keys are at the power of two or above it, and end with the same or half the code."""
    codes, sums = normalised_softmax(np.zeros(ones), exp_table(-7, 16))
    assert (codes == NORMALISED_PEAK >> shift).all()
    assert sums == ones * NORMALISED_PEAK >> shift
    beside, _ = normalised_softmax(np.r_[np.zeros(ones), -30], exp_table(-7, 16))
    assert beside[0] == NORMALISED_PEAK >> shift + (ones == 1 << shift + 1)


def test_any_table():
    """No table makes codes or sums that the hardware has no bits for."""
    rng = np.random.default_rng(0)
    scores = rng.integers(-128, 128, (50, 40))
    for table in np.zeros(256, int), np.full(256, 65535), rng.integers(0, 65536, 256):
        codes, sums = normalised_softmax(scores, table)
        assert codes.max() <= NORMALISED_PEAK
        assert sums.max() <= row_bound(40)


@pytest.mark.parametrize("act_bits", range(2, 9))
def test_the_peak_is_a_number_of_digits(act_bits):
    """Its top digit is what packed products have room for: at most 2**(act_bits - 1)."""
    count = digit_count(16, act_bits)
    planes = split_digits(np.arange(NORMALISED_PEAK + 1), act_bits, count)
    assert (sum(plane << act_bits * k for k, plane in enumerate(planes))
            == np.arange(NORMALISED_PEAK + 1)).all()
    assert planes[-1].max() <= 1 << act_bits - 1
    rng = np.random.default_rng(act_bits)
    codes, _ = normalised_softmax(rng.integers(-9, 9, (5, 30)), exp_table(-2, 16))
    v = rng.integers(-127, 128, (30, 4))
    assert (digit_matmul(codes, v, digit_bits=act_bits, digits=count) == codes @ v).all()


@pytest.mark.parametrize("mult_bits", [10, 12, 16, 17, 24])
def test_row_factors_fit_their_bits(mult_bits):
    """The largest numerator by the least sum does not saturate, and the least factor is exact."""
    bits = min(mult_bits, FACTOR_BITS)
    top = numerator_bits(16, bits)
    least = NORMALISED_PEAK - 1024 // 2
    assert ((1 << top) - 1) // least < 1 << bits
    largest = row_bound(1024)
    factor = int(row_factors(largest, 1 << top - 1, bits))
    assert factor * largest >= (1 - 0.01) * (1 << top - 1)
