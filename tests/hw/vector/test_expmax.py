# amaranth: UnusedElaboratable=no
"""Exponentials and row factors of deferred Shiftmax."""

import random

import numpy as np
import pytest

from systola.hw.contract.numbers import LEVELS
from systola.hw.vector.expmax import ExpMax
from systola.model.operators.deferred import deferred_softmax, exp_table, row_factors
from systola.model.operators.log2_exponentials import decoded, leveled_table, nearest_codes
from tests.hw.vector import exponentials
from tests.hw.vector.exponentials import random_rows, table_writes


def simulate(rows, table, numerator, *, lanes, max_row=24, mult_bits=24, levels=(), rng=None):
    """Return the cycles, the rows, the factors, and when rows ended and factors came."""
    dut = ExpMax(lanes=lanes, max_row=max_row, mult_bits=mult_bits, levels=levels)
    *got, times = exponentials.simulate(dut, rows, table_writes(table, 1, rng), numerator, rng=rng,
                                        clear=bool(levels))
    return *got, list(zip(times["end"], times["factor"], strict=False))


def model(rows, table, numerator, mult_bits=24):
    results = [deferred_softmax(np.array(row), table) for row in rows]
    return ([codes.tolist() for codes, _ in results],
            [int(row_factors(total, numerator, mult_bits)) for _, total in results])


@pytest.mark.parametrize("seed", range(6))
def test_matches_model_for_every_row_length(seed):
    rng = random.Random(seed)
    mult_bits = rng.choice([24, 8, rng.randrange(8, 25)])
    rows, numerator = random_rows(rng, 24), rng.randrange(1 << mult_bits + 7)
    table = exp_table(-rng.choice([1, 3, 20, 100, 4095]))
    lanes = rng.randrange(1, 6)
    got = simulate(rows, table, numerator, lanes=lanes, mult_bits=mult_bits, rng=rng)
    assert got[1:3] == model(rows, table, numerator, mult_bits)


@pytest.mark.parametrize("scheme", LEVELS)
def test_codes_leave_and_exponentials_add_up(scheme):
    rng, levels = random.Random(scheme), LEVELS[scheme]
    rows, unit = random_rows(rng, 24), rng.choice([1, 3, 20, 100])
    got = simulate(rows, nearest_codes(-unit, scheme), 2**30 - 1, lanes=rng.randrange(1, 5),
                   levels=levels, rng=rng)
    exponents, factors = model(rows, leveled_table(-unit, scheme), 2**30 - 1)
    assert [[levels[code] for code in row] for row in got[1]] == exponents
    assert got[2] == factors


def test_codes_have_four_bits_and_count_as_the_last_level_beyond():
    table = np.arange(256)
    got = simulate([[127, 127 - k] for k in range(256)], table, 2**30 - 1, lanes=1,
                   levels=LEVELS["single_16"])
    assert got[1] == [[0, k % 16] for k in range(256)]
    sums = decoded(table % 16, LEVELS["single_16"])
    assert got[2] == row_factors(sums, 2**30 - 1, 24).tolist()


@pytest.mark.parametrize("numerator", [0, 1, 255 * 24, 2**31 - 1])
def test_factors_saturate_with_any_table(numerator):
    rng = random.Random(numerator)
    rows = [[-128], [127], [127, -128], [127] * 24, *random_rows(rng, 24)]
    for table in np.zeros(256, int), np.full(256, 255), np.array(
            [rng.randrange(256) for _ in range(256)]):
        got = simulate(rows, table, numerator, lanes=3, mult_bits=10)
        assert got[1:3] == model(rows, table, numerator, 10)


@pytest.mark.parametrize("lanes", [1, 2, 4, 5])
def test_latencies(lanes):
    dut = ExpMax(lanes=lanes, max_row=8, mult_bits=24)
    assert (dut.latency, dut.division) == (4, 13)
    for count in 1, 20:
        cycles, *_, times = simulate([[3] * lanes * count], [128] * 256, 9999, lanes=lanes,
                                     max_row=20 * lanes)
        sent = 256 + 8 + count
        ((end, factor),) = times[:1]
        assert end == sent - 1 + dut.latency + count - 1
        assert factor == end + dut.factor_latency
        assert cycles == factor + 1


@pytest.mark.parametrize("count", [1, 12, 13, 40])
def test_rows_overlap(count):
    cycles = [simulate([[3] * 2 * count] * rows, [128] * 256, 9999, lanes=2, max_row=2 * count)[0]
              for rows in (4, 12)]
    assert cycles[1] - cycles[0] == 8 * max(count, 13)


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 1024, not 0"),
    ({"max_row": 0}, "max_row must be an integer from 1 to 1048576, not 0"),
    ({"mult_bits": 25}, "mult_bits must be an integer from 8 to 24, not 25"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ExpMax(**{"lanes": 2, "max_row": 8, "mult_bits": 24, **params})
