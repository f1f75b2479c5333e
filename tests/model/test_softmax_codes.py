"""Codes of a softmax by comparison are its shares, divided and rounded."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from systola.model.evaluation import attention_error
from systola.model.operators.deferred import exp_table
from systola.model.operators.softmax_codes import softmax_codes, softmax_step


def by_division(scores, table, step, bits):
    """Return the codes of one row as the rounded quotients that they stand for."""
    e = [min(int(table[max(scores) - x]), 32768) for x in scores]
    return [min(floor(Fraction(v * 256, sum(e) * step) + Fraction(1, 2)), 2**bits - 1) for v in e]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_rounded_division(bits, seed):
    """Every step, rows of 1 to 300 keys: flat, one-hot, peaks over tails, random ones."""
    rng = np.random.default_rng(seed)
    for step in [*range(1, 256, 7), 255]:
        table = exp_table(-int(rng.choice([1, 5, 20, 255])), 16)
        keys = int(rng.integers(1, 300))
        row = rng.integers(-128, 128, keys) >> int(rng.integers(0, 8))
        row[:rng.integers(0, 3)] = 127
        for scores in row, np.full(keys, -3), np.where(np.arange(keys) == 0, 100, -100):
            assert softmax_codes(scores, table, step, bits).tolist() == by_division(
                scores.tolist(), table, step, bits)


def test_ties_go_upwards():
    """Of n equal keys each has a share of 1/n: with step 2 * 256/n that is half a code."""
    table = exp_table(-20, 16)
    for keys in 4, 8, 16, 32, 64:
        step = 2 * 256 // keys
        assert (softmax_codes(np.zeros(keys, int), table, step, 3) == 1).all()
        assert (softmax_codes(np.zeros(keys, int), table, step + 1, 3) == 0).all()


def test_extremes():
    table = exp_table(-20, 16)
    assert softmax_codes([5], table, 1, 4).tolist() == [15]
    assert softmax_codes([5], table, 17, 4).tolist() == [15]
    assert softmax_codes([5], table, 255, 4).tolist() == [1]
    assert softmax_codes([127, -128], np.full(256, 65535), 85, 2).tolist() == [2, 2]
    assert softmax_codes(np.zeros(2**16, int), table, 1, 4).max() == 0


def test_step_of_a_largest_share():
    assert softmax_step(1.0, 2) == 85
    assert softmax_step(1.0, 4) == 17
    assert softmax_step(0.001, 4) == 1
    assert softmax_codes([5, -120], exp_table(-9, 16), softmax_step(1.0, 3), 3).tolist() == [7, 0]


@pytest.mark.parametrize(("bits", "errors"), [
    (2, [0.22, 0.45, 0.46, 0.26, 0.18]), (3, [0.19, 0.31, 0.33, 0.15, 0.09]),
    (4, [0.19, 0.21, 0.23, 0.09, 0.05])])
def test_error_of_attention(bits, errors, monkeypatch):
    """What docs/ARITHMETIC.md says, to the tolerance of 40 rows."""
    def attention(scores, x0, _):
        table, found = exp_table(x0, 16), []
        exact = table[scores.max(axis=-1, keepdims=True) - scores].astype(float)
        exact /= exact.sum(axis=-1, keepdims=True)
        for step in [*range(1, 18), *range(18, 90, 4)]:
            shares = softmax_codes(scores, table, step, bits) * (step / 256)
            found.append((((shares - exact)**2).sum(), step, shares))
        return min(found, key=lambda entry: entry[:2])[2]

    monkeypatch.setattr(attention_error, "OPERATORS", {"codes": (attention, bits)})
    found = attention_error.attention_error(rows=40)["codes"]
    assert [entry["operator"] for entry in found] == pytest.approx(errors, abs=0.04)


@pytest.mark.parametrize(("step", "bits", "message"), [
    (0, 4, "step must be from 1 to 255, not 0"), (9, 1, "bits must be from 2 to 8, not 1")])
def test_errors_name_the_parameter(step, bits, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        softmax_codes([1], np.ones(256, int), step, bits)
