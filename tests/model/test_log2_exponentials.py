"""Log2 attention: codes of exponentials, how far they are off, and how they are packed."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from systola.hw.contract.numbers import LEVEL_BITS, LEVELS, PEAK
from systola.model.operators.deferred import deferred_softmax
from systola.model.operators.log2_exponentials import (
    decoded,
    leveled_table,
    nearest_codes,
    packed,
    unpacked,
)

UNITS = (1, 2, 3, 7, 13, 20, 47, 128, 255, 1000, 4095)


@pytest.mark.parametrize("scheme", LEVELS)
def test_levels_are_those_of_the_publications(scheme):
    """``2**L + f * 2**(L - 1)`` of BitLog2; of RepQ-ViT powers of the root of 2, rounded."""
    levels = LEVELS[scheme]
    powers = {1 << octave for octave in range(8)}
    halves = {3 << octave - 1 for octave in range(1, 7)}
    roots = {round(2 ** (7 - half / 2)) for half in range(15)}
    assert set(levels) == {0} | {"single_16": powers, "half_16": powers | halves,
                                 "sqrt2_16": roots}[scheme]
    assert list(levels) == sorted(levels)
    assert levels[-1] == PEAK
    assert len(levels) <= 1 << LEVEL_BITS


@pytest.mark.parametrize("scheme", LEVELS)
def test_codes_are_those_of_the_nearest_level(scheme):
    levels = np.array(LEVELS[scheme])
    for unit in UNITS:
        exact = PEAK * np.exp(-np.arange(256) / unit)
        codes = nearest_codes(-unit, scheme)
        assert codes.dtype == np.uint8
        assert codes.tolist() == np.abs(exact[:, None] - levels).argmin(axis=1).tolist()
        assert codes[0] == len(levels) - 1
        assert (np.diff(codes.astype(int)) <= 0).all()
        assert leveled_table(-unit, scheme).tolist() == levels[codes].tolist()


def test_float64_cannot_be_off():
    """No exponential of any table is as near to the middle of two levels as its own error."""
    d = np.arange(1, 256)
    for levels in LEVELS.values():
        middles = (np.array(levels[1:]) + levels[:-1]) / 2
        margin = min(np.abs(PEAK * np.exp(d / -a)[:, None] - middles).min()
                     for a in range(1, 4096))
        assert margin > 1e-9 > 1000 * PEAK * 2.0**-52


@pytest.mark.parametrize("scheme", LEVELS)
@pytest.mark.parametrize("keys", [2, 17, 64, 197])
def test_share_of_a_row_that_is_elsewhere_has_a_bound(scheme, keys):
    """``(sqrt k - 1) / (sqrt k + 1)``, k the largest step from 2 up, and ``(N - 1) / 256``."""
    levels = np.array(LEVELS[scheme], float)
    steps = [high / low for low, high in pairwise(levels) if low >= 2]
    root = max(steps) ** 0.5
    bound = (root - 1) / (root + 1)
    rng = np.random.default_rng(keys)
    worst = 0
    for unit in UNITS:
        spread = rng.integers(1, 256, (200, 1))
        scores = (127 - rng.random((200, keys)) * spread).astype(int)
        codes, sums = deferred_softmax(scores, leveled_table(-unit, scheme))
        exact = np.exp((scores - scores.max(axis=1, keepdims=True)) / unit)
        exact /= exact.sum(axis=1, keepdims=True)
        elsewhere = np.abs(codes / sums[:, None] - exact).sum(axis=1) / 2
        worst = max(worst, elsewhere.max())
        assert elsewhere.max() <= bound + (keys - 1) / (2 * PEAK)
    assert worst > bound / 3  # it says something


@given(st.integers(1, 70), st.integers(1, 24), st.integers(1, 4), st.data())
def test_packing_halves_the_words_and_can_be_undone(keys, lanes, rows, draw):
    codes = np.array(draw.draw(st.lists(st.lists(st.integers(0, 15), min_size=keys, max_size=keys),
                                        min_size=rows, max_size=rows)))
    whole = packed(codes, lanes)
    words = -(-keys // lanes)
    assert whole.dtype == np.uint8
    assert whole.shape == (rows, -(-words // 2) * lanes)
    back = unpacked(whole, lanes)
    assert back[:, :keys].tolist() == codes.tolist()
    assert not back[:, keys:].any()


def test_packed_words_are_pairs_of_nibbles():
    assert packed([1, 2, 3, 4, 5], 2).tolist() == [1 | 3 << 4, 2 | 4 << 4, 5, 0]


def test_codes_beyond_the_levels_are_the_last_one():
    assert decoded(np.arange(16), LEVELS["single_16"]).tolist() == [
        0, 1, 2, 4, 8, 16, 32, 64, *[128] * 8]


@pytest.mark.parametrize("x0", [0, -(1 << 24) - 1])
def test_constants_out_of_range(x0):
    with pytest.raises(ValueError, match=rf"^x0 must be from -16777216 to -1, not {x0}$"):
        nearest_codes(x0, "half_16")
