# amaranth: UnusedElaboratable=no
"""Exponentials shifted to the row's sum, and row factors, of normalised softmax."""

import random

import numpy as np
import pytest

from systola.hw.vector.normalised_softmax import NormalisedSoftmax
from systola.model.operators.deferred import exp_table, row_factors
from systola.model.operators.normalised import normalised_softmax
from tests.hw.vector import exponentials
from tests.hw.vector.exponentials import random_rows, table_writes


def simulate(rows, table, numerator, *, lanes, max_row=24, factor_bits=17, rng=None):
    """Return the cycles, the rows, the factors, and when first and last beats and factors came."""
    dut = NormalisedSoftmax(lanes=lanes, max_row=max_row, factor_bits=factor_bits)
    return exponentials.simulate(dut, rows, table_writes(table, 2, rng), numerator, rng=rng,
                                 clear=True)


def model(rows, table, numerator, factor_bits=17):
    results = [normalised_softmax(np.array(row), table) for row in rows]
    return ([codes.tolist() for codes, _ in results],
            [int(row_factors(total, numerator, factor_bits)) for _, total in results])


@pytest.mark.parametrize("seed", range(6))
def test_matches_model_for_every_row_length(seed):
    rng = random.Random(seed)
    bits = rng.choice([17, 8, rng.randrange(8, 18)])
    rows, numerator = random_rows(rng, 24), rng.randrange(1 << bits + 14)
    table = exp_table(-rng.choice([1, 3, 20, 100, 4095]), 16)
    lanes = rng.randrange(1, 6)
    got = simulate(rows, table, numerator, lanes=lanes, factor_bits=bits, rng=rng)
    assert got[1:3] == model(rows, table, numerator, bits)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("max_row", [1, 2, 3, 17])
def test_extremes(lanes, max_row):
    """One key, the longest row, equal and one-hot rows: sums at the powers of two and beside."""
    rng = random.Random(max_row)
    rows = [[x] * count + rest for count in range(1, max_row + 1) for x in (-128, 0, 127)
            for rest in ([], [x - rng.randrange(128)] * (max_row - count))
            if count + len(rest) <= max_row and min([*rest, x]) >= -128]
    for numerator in 0, 2**31 - 1:
        got = simulate(rows, exp_table(-9, 16), numerator, lanes=lanes, max_row=max_row)
        assert got[1:3] == model(rows, exp_table(-9, 16), numerator)


@pytest.mark.slow
def test_long_rows():
    rng = random.Random(5)
    rows = [[7] * 1024, [0] * 1023, [127] + [-95] * 1023, [127, 127] + [-95] * 1022,
            [rng.randrange(-128, 128) for _ in range(1000)], [3], [5] * 513]
    for lanes, unit in (4, 20), (2, 255):
        got = simulate(rows, exp_table(-unit, 16), 2**30, lanes=lanes, max_row=1024)
        assert got[1:3] == model(rows, exp_table(-unit, 16), 2**30)


@pytest.mark.slow
@pytest.mark.parametrize("numerator", [0, 1, 2**31 - 1])
def test_any_table(numerator):
    rng = random.Random(numerator)
    rows = [[-128], [127], [127, -128], [127] * 24, *random_rows(rng, 24)]
    for table in np.zeros(256, int), np.full(256, 65535), np.array(
            [rng.randrange(65536) for _ in range(256)]):
        got = simulate(rows, table, numerator, lanes=3, factor_bits=10)
        assert got[1:3] == model(rows, table, numerator, 10)


@pytest.mark.parametrize("lanes", [1, 2, 4, 5])
def test_latencies(lanes):
    dut = NormalisedSoftmax(lanes=lanes, max_row=8, factor_bits=17)
    assert dut.division == 7
    for count in 1, 20:
        _, *_, times = simulate([[3] * lanes * count], exp_table(-9, 16), 9999, lanes=lanes,
                                max_row=20 * lanes)
        assert times["out"] == [times["in"][0] + dut.latency + count]
        assert times["end"] == [times["out"][0] + count - 1]
        assert times["factor"][0] == times["end"][0] + dut.factor_latency


@pytest.mark.slow
@pytest.mark.parametrize(("lanes", "count"), [
    (1, 1), (2, 2), (4, 5), (1, 6), (2, 7), (4, 7), (1, 8), (4, 13), (2, 40)])
def test_rows_overlap(lanes, count):
    cycles = [simulate([[3] * lanes * count] * rows, exp_table(-9, 16), 9999, lanes=lanes,
                       max_row=lanes * count)[0] for rows in (8, 24)]
    assert cycles[1] - cycles[0] == 16 * max(count, 7)


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 1024, not 0"),
    ({"max_row": 0}, "max_row must be an integer from 1 to 65536, not 0"),
    ({"factor_bits": 18}, "factor_bits must be an integer from 8 to 17, not 18"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        NormalisedSoftmax(**{"lanes": 2, "max_row": 8, "factor_bits": 17, **params})
