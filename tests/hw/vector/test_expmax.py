# amaranth: UnusedElaboratable=no
"""Exponentials and row factors of deferred Shiftmax."""

import random

import numpy as np
import pytest

from systola.hw.vector.expmax import ExpMax
from systola.model.operators.deferred import deferred_softmax, exp_table, row_factors
from systola.sim.harness import collect, drive, run


def beats(row, lanes, rng):
    """Yield the beats of `row`; lanes beyond its end hold random codes."""
    for start in range(0, len(row), lanes):
        part = list(row[start:start + lanes])
        yield {"x": part + [rng.randrange(-128, 128) for _ in range(lanes - len(part))],
               "keep": (1 << len(part)) - 1, "last": start + lanes >= len(row)}


def simulate(rows, table, numerator, *, lanes, max_row=24, mult_bits=24, rng=None):
    """Return the cycles, the rows of exponentials, the factors and when each appeared."""
    dut = ExpMax(lanes=lanes, max_row=max_row, mult_bits=mult_bits)
    sent = [beat for row in rows for beat in beats(row, lanes, random.Random(1))]
    codes, factors, ends, times = [[]], [], [], []

    async def producer(ctx):
        ctx.set(dut.numerator, numerator)
        for addr in rng.sample(range(256), 256) if rng else range(256):
            # The GELU table's writes come through the same stream.
            await drive(ctx, dut.w, [{"addr": addr, "data": -1, "table": 0}] * (addr % 32 == 0))
            data = int(table[addr])
            await drive(ctx, dut.w, [{"addr": addr, "data": data - (data >> 7 << 8), "table": 1}])
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        for beat in await collect(ctx, dut.o, len(sent), rng):
            codes[-1] += [beat.x[k] for k in range(lanes) if beat.keep >> k & 1]
            if beat.last:
                codes.append([])

    async def factor(ctx):
        factors.extend(await collect(ctx, dut.factor, len(rows), rng))

    async def watch(ctx):
        cycle = 0
        while True:
            *_, valid, ready, last, full = await ctx.tick().sample(
                dut.o.valid, dut.o.ready, dut.o.p.last, dut.factor.valid)
            if valid and ready and last:
                ends.append(cycle)
            if full and rng is None:
                times.append(cycle)
            cycle += 1

    cycles = run(dut, producer, consumer, factor, background=[watch])
    assert codes.pop() == []
    return cycles, codes, factors, list(zip(ends, times, strict=False))


def model(rows, table, numerator, mult_bits=24):
    results = [deferred_softmax(np.array(row), table) for row in rows]
    return ([codes.tolist() for codes, _ in results],
            [int(row_factors(total, numerator, mult_bits)) for _, total in results])


def random_rows(rng, longest):
    """Return rows of every length and of several spreads, in random order."""
    return [[rng.randrange(rng.choice([-128, -20, 100, 127]), 128) for _ in range(length)]
            for length in rng.sample(range(1, longest + 1), longest)]


@pytest.mark.parametrize("seed", range(6))
def test_matches_model_for_every_row_length(seed):
    rng = random.Random(seed)
    mult_bits = rng.choice([24, 8, rng.randrange(8, 25)])
    rows, numerator = random_rows(rng, 24), rng.randrange(1 << mult_bits + 7)
    table = exp_table(-rng.choice([1, 3, 20, 100, 4095]))
    lanes = rng.randrange(1, 6)
    got = simulate(rows, table, numerator, lanes=lanes, mult_bits=mult_bits, rng=rng)
    assert got[1:3] == model(rows, table, numerator, mult_bits)


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
