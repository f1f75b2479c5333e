"""The mean over rows, against rational arithmetic and hand-written facts."""

from fractions import Fraction

import numpy as np
import pytest

from systola.model.operators.requant import dyadic
from systola.model.operators.row_mean import row_mean


@pytest.mark.parametrize("bits", [2, 8, 9, 16])
def test_is_the_rounded_scaled_sum(bits):
    rng = np.random.default_rng(bits)
    for _ in range(200):
        rows, columns = rng.integers(1, 30, 2)
        x = rng.integers(-2**15, 2**15, (rows, columns)) >> rng.integers(16)
        mult, shift = int(rng.integers(1, 2**int(rng.integers(1, 25)))), int(rng.integers(64))
        half = 1 << bits - 1
        expected = [max(-half, min(half - 1, round(Fraction(sum(column) * mult, 1 << shift))))
                    for column in x.T.tolist()]  # `round` rounds half to even
        assert row_mean(x, mult, shift, bits).tolist() == expected


def test_ties_and_saturation():
    assert row_mean([[1], [2]], 1, 1, 8).tolist() == [2]  # 1.5
    assert row_mean([[2], [3]], 1, 1, 8).tolist() == [2]  # 2.5
    assert row_mean([[-2], [-3]], 1, 1, 8).tolist() == [-2]
    assert row_mean([[200, -200]], 1, 0, 8).tolist() == [127, -128]


def test_mean_of_equal_rows_is_the_row():
    """With the multiplier of one by the rows, to the precision of 12 bits."""
    row = np.arange(-127, 128)
    for rows in 1, 2, 3, 49, 196, 197:
        mult, shift = dyadic(1 / rows, 12)
        assert row_mean(np.tile(row, (rows, 1)), mult, shift, 8).tolist() == row.tolist()


def test_most_rows():
    assert row_mean(np.full((65535, 1), -2**15), 1, 0, 16).tolist() == [-2**15]
    assert row_mean(np.full((65535, 1), -2**15), 1, 17, 16).tolist() == [-16384]  # -16383.75
