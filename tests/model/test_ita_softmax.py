import numpy as np
import pytest

from systola.model.operators.ita_softmax import SUM_BITS, ita_softmax, octave_shift

KEYS = 1, 2, 15, 16, 17, 64, 197, 1024


def definition(row, s, block):
    """Return the softmax key by key, in Python's integers."""
    def octaves(below):
        return (below >> s) + (below >> s - 1 & 1 if s else 0)

    top, total = max(row[:block]), 0
    for start in range(0, len(row), block):
        new = max(top, *row[start:start + block])
        total >>= octaves(new - top)
        total = min(total + sum(256 >> octaves(new - x) for x in row[start:start + block]),
                    2**SUM_BITS - 1)
        top = new
    return [65280 // total >> octaves(top - x) for x in row]


def rows(keys):
    rng = np.random.default_rng(keys)
    return np.array([np.zeros(keys), np.full(keys, -128), np.r_[127, np.full(keys - 1, -128)],
                     np.r_[np.full(keys - 1, -128), 127], np.linspace(-128, 127, keys),
                     np.linspace(127, -128, keys),
                     *(np.clip(np.rint(rng.standard_normal(keys) * spread), -128, 127)
                       for spread in (1, 8, 40, 90))]).astype(np.int64)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("s", range(8))
def test_softmax_is_its_definition(keys, s):
    x = rows(keys)
    for block in 16, 5:
        got = ita_softmax(x, s, block)
        assert got.min() >= 0
        assert got.max() <= 255
        assert got.tolist() == [definition(row, s, block) for row in x.tolist()]


def test_powers_of_two_are_its_weakness():
    """A step of half an octave makes no difference, the next one all of it."""
    assert ita_softmax([[0, 0]]).tolist() == [[127, 127]]
    assert octave_shift([0, 15, 16, 47, 48], 5).tolist() == [0, 0, 1, 1, 2]
    assert ita_softmax([[0, -16], [0, -15]], 5).tolist() == [[170, 85], [127, 127]]


def test_a_late_maximum_costs_a_bit():
    """A sum that is shifted down loses what is below its last bit: 255 keys of nearly nothing."""
    early = ita_softmax(np.r_[0, np.full(255, -9)][None], 0)
    late = ita_softmax(np.r_[np.full(255, -9), 0][None], 0)
    assert early.max() == 255  # 256 >> 9 is 0: nothing is added
    assert late.max() < 255    # as the maximum of its block, each of them gave 256


def test_sum_saturates():
    row = np.r_[np.zeros(4096, int), 10]  # a late maximum brings back what saturated before
    assert ita_softmax(row[None]).tolist() == [definition(row.tolist(), 0, 16)]
    assert ita_softmax(row[None]).max() == 65280 // ((2**SUM_BITS - 1 >> 10) + 256)


def test_long_flat_rows_are_zero_everywhere():
    """A share of less than 1/255 has no code: from 256 equal keys on all of a row is lost."""
    assert ita_softmax(np.zeros((1, 197), int)).sum() == 197
    assert ita_softmax(np.zeros((1, 256), int)).sum() == 0


@pytest.mark.parametrize(("options", "message"), [
    ({"softmax_shift": 8}, "softmax_shift must be from 0 to 7, not 8"),
    ({"block": 0}, "block must be at least 1, not 0")])
def test_refusals(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ita_softmax([[1, 2]], **options)
