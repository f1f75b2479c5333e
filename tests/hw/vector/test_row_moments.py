# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest

from systola.hw.vector.row_moments import RowMoments
from systola.model.operators.layernorm import layernorm_trace
from systola.sim.harness import collect, drive, run


def beats(row, lanes, rng=None):
    """Cut a row into beats; lanes that do not count hold anything."""
    for k in range(0, len(row), lanes):
        x = [int(v) for v in row[k:k + lanes]]
        fill = [rng.randrange(-2**15, 2**15) if rng else 0 for _ in range(lanes - len(x))]
        yield {"x": x + fill, "keep": (1 << len(x)) - 1, "last": int(k + lanes >= len(row))}


def rows(rng, max_row):
    """Edges (one-hot, alternating, constant, single, longest) and random rows."""
    low, high = -2**15, 2**15 - 1
    made = [[low], [high], [0], [low, high], [low, high] * (max_row // 2), [high] * max_row,
            [low] * max_row, [low] * (max_row - 1) + [high], [high] * (max_row - 1) + [low],
            [0] * (max_row - 1) + [1], [1, 2], [-1, -2], [0, 1], [0, -1], [-3, -2], [1, 1, 0, 0]]
    for _ in range(12):
        scale, offset = 2**rng.randrange(1, 15), rng.randrange(-2**14, 2**14)
        made.append([offset + rng.randrange(-scale, scale)
                     for _ in range(rng.randint(1, max_row))])
    rng.shuffle(made)
    return [row for row in made if 1 <= len(row) <= max_row]


@pytest.mark.parametrize(("lanes", "max_row", "steps"),
                         [(1, 9, 2), (2, 64, 2), (3, 40, 1), (4, 50, 4), (5, 20, 2), (1, 1, 1)])
def test_matches_model(lanes, max_row, steps):
    rng = random.Random(f"{lanes} {max_row}")
    made = rows(rng, max_row)
    dut, got = RowMoments(lanes=lanes, max_row=max_row, steps=steps), []

    async def producer(ctx):
        await drive(ctx, dut.i, [b for row in made for b in beats(row, lanes, rng)], rng, idle=0.2)

    async def consumer(ctx):
        got.extend((p.mean, p.v) for p in await collect(ctx, dut.o, len(made), rng))

    run(dut, producer, consumer, max_cycles=20_000)
    traces = [layernorm_trace(np.array(row)) for row in made]
    assert got == [(int(t.mean), int(t.variance)) for t in traces]


def check_times(dut, lanes, count):
    """Check when the results of five rows of `count` come, without stalls."""
    row, done = list(range(count)), []

    async def producer(ctx):
        await drive(ctx, dut.i, [b for _ in range(5) for b in beats(row, lanes)])

    async def consumer(ctx):
        await collect(ctx, dut.o, 5, cycles=done)

    run(dut, producer, consumer)
    length = -(-count // lanes)
    first, step = length + dut.latency, max(length, dut.period)
    assert done == [first + k * step for k in range(5)]


@pytest.mark.parametrize(("lanes", "count", "levels"), [(1, 30, 0), (4, 17, 1), (5, 3, 2),
                                                        (17, 40, 3)])
def test_latency_and_period(lanes, count, levels):
    dut = RowMoments(lanes=lanes, max_row=64)
    assert (dut.period, dut.latency) == (35, 4 + levels + 1 + 35)
    check_times(dut, lanes, count)


def test_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^max_row must be a positive integer, not 0$"):
        RowMoments(lanes=1, max_row=0)
