# amaranth: UnusedElaboratable=no
"""Softmax codes by comparison, in hardware and model."""

import random

import numpy as np
import pytest

from systola.hw.vector.comparing_softmax import ComparingSoftmax
from systola.model.operators.deferred import exp_table
from systola.model.operators.softmax_codes import softmax_codes
from systola.sim.harness import collect, drive, run
from tests.hw.vector.exponentials import beats, random_rows, table_writes


def simulate(rows, table, step, *, lanes, bits, max_row=24, rng=None, wait=0):
    """Return the rows, and the cycles in which first beats came, last ones, and went in.

    Only the entries of `table` are written. Nothing is taken in the first `wait` cycles.
    """
    writes = [write for write in table_writes(np.resize(table, 256), 2, rng)
              if write["addr"] < len(table)]
    dut = ComparingSoftmax(lanes=lanes, max_row=max_row, bits=bits)
    sent = [beat for row in rows for beat in beats(row, lanes, random.Random(1))]
    codes, times = [[]], {"in": [], "out": [], "end": []}

    async def producer(ctx):
        ctx.set(dut.step, step)
        await drive(ctx, dut.w, writes)
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        for _ in range(wait):
            await ctx.tick()
        for beat in await collect(ctx, dut.o, len(sent), rng):
            kept = [beat.keep >> k & 1 for k in range(lanes)]
            codes[-1] += [beat.x[k] for k in range(lanes) if kept[k]]
            assert not any(beat.x[k] for k in range(lanes) if not kept[k])
            if beat.last:
                codes.append([])

    async def watch(ctx):
        cycle, first = 0, True
        while True:
            *_, taken, left, last = await ctx.tick().sample(
                dut.i.valid & dut.i.ready & dut.i.p.last, dut.o.valid & dut.o.ready, dut.o.p.last)
            if taken:
                times["in"].append(cycle)
            if left:
                times["out"] += [cycle] * first
                times["end"] += [cycle] * last
                first = last
            cycle += 1

    run(dut, producer, consumer, background=[watch])
    assert codes.pop() == []
    return codes, times


def model(rows, table, step, bits):
    return [softmax_codes(np.array(row), table, step, bits).tolist() for row in rows]


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("seed", range(2))
def test_matches_model_for_every_row_length(bits, seed):
    rng = random.Random(f"{bits} {seed}")
    rows, step = random_rows(rng, 24), rng.choice([1, 255, rng.randrange(1, 256)])
    table, lanes = exp_table(-rng.choice([1, 3, 20, 100, 4095]), 16), rng.randrange(1, 6)
    got, _ = simulate(rows, table, step, lanes=lanes, bits=bits, rng=rng)
    assert got == model(rows, table, step, bits)


@pytest.mark.parametrize(("lanes", "step"), [(1, 1), (3, 32), (1, 64), (3, 255)])
def test_extremes(lanes, step):
    """One key, the longest row, equal and one-hot rows; powers of two make ties."""
    rows = [[x] * count + rest for count in (1, 2, 4, 8, 17) for x in (-128, 0, 127)
            for rest in ([], [x - 100] * (17 - count)) if count + len(rest) <= 17
            and min([*rest, x]) >= -128]
    for bits in 2, 4:
        got, _ = simulate(rows, exp_table(-9, 16), step, lanes=lanes, bits=bits, max_row=17)
        assert got == model(rows, exp_table(-9, 16), step, bits)


@pytest.mark.parametrize("fill", [1, 65535])
def test_any_table(fill):
    rng = random.Random(fill)
    rows = [[-128], [127], [127] * 24, *random_rows(rng, 24)]
    for table in np.full(256, fill), np.array(
            [rng.randrange(1, 65536) for _ in range(256)]):
        got, _ = simulate(rows, table, 40, lanes=3, bits=3, rng=rng)
        assert got == model(rows, table, 40, 3)


def test_many_rows_wait_for_the_output():
    """More than there is room for thresholds of."""
    rng = random.Random(8)
    rows = [[rng.randrange(100, 128) for _ in range(rng.randrange(1, 5))] for _ in range(20)]
    got, _ = simulate(rows, exp_table(-20, 16), 30, lanes=1, bits=3, rng=None, wait=1200)
    assert got == model(rows, exp_table(-20, 16), 30, 3)


@pytest.mark.slow
def test_long_rows():
    rng = random.Random(5)
    rows = [[7] * 1024, [0] * 1023, [127] + [-95] * 1023, [3], [5] * 513,
            [rng.randrange(-128, 128) for _ in range(1000)]]
    for lanes, unit in (4, 20), (2, 255):
        got, _ = simulate(rows, exp_table(-unit, 16), 1, lanes=lanes, bits=4, max_row=1024)
        assert got == model(rows, exp_table(-unit, 16), 1, 4)


@pytest.mark.parametrize("lanes", [1, 2, 4, 5])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_latency(lanes, bits):
    dut = ComparingSoftmax(lanes=lanes, max_row=8, bits=bits)
    for count in 1, 20:
        _, times = simulate([[3] * lanes * count], [2**15], 9, lanes=lanes, bits=bits,
                            max_row=20 * lanes)
        assert times["out"] == [times["in"][0] + dut.latency + count]
        assert times["end"] == [times["out"][0] + count - 1]


@pytest.mark.parametrize(("bits", "period"), [(2, 13), (3, 17), (4, 25)])
@pytest.mark.parametrize("count", [1, 16, 30])
def test_rows_overlap(bits, period, count):
    assert ComparingSoftmax(lanes=1, max_row=8, bits=bits).period == period
    _, times = simulate([[3] * count] * 12, [2**15], 9, lanes=1, bits=bits, max_row=30)
    assert times["end"][-1] - times["end"][5] == 6 * max(count, period)


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 1024, not 0"),
    ({"max_row": 0}, "max_row must be an integer from 1 to 65536, not 0"),
    ({"bits": 1}, "bits must be an integer from 2 to 8, not 1"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ComparingSoftmax(**{"lanes": 2, "max_row": 8, "bits": 3, **params})
