# amaranth: UnusedElaboratable=no
import random

import pytest

from systola.hw.vector.row_sums import RowSums
from systola.sim.harness import collect, drive, run
from tests.hw.vector.test_row_moments import beats, rows


@pytest.mark.parametrize("first_bits", [0, 40])
@pytest.mark.parametrize(("lanes", "max_row"), [(1, 9), (3, 40), (4, 50), (5, 20)])
def test_sums(lanes, max_row, first_bits):
    rng = random.Random(f"{lanes} {first_bits}")
    made = rows(rng, max_row)
    first = rng.getrandbits(first_bits) if first_bits else 0
    dut, got = RowSums(lanes=lanes, max_row=max_row, first_bits=first_bits), []

    async def producer(ctx):
        if first_bits:
            ctx.set(dut.first, first)
        await drive(ctx, dut.i, [b for row in made for b in beats(row, lanes, rng)], rng, idle=0.2)

    async def consumer(ctx):
        got.extend((p.total, p.squares, p.count) for p in await collect(
            ctx, dut.o, len(made), rng))

    run(dut, producer, consumer, max_cycles=20_000)
    shifted = [[x + 2**15 for x in row] for row in made]
    assert got == [(sum(row), (first + sum(x * x for x in row)) % 2**(32 + dut.count_bits),
                    len(row)) for row in shifted]


@pytest.mark.parametrize(("lanes", "levels"), [(1, 0), (4, 1), (5, 2), (17, 3)])
def test_latency(lanes, levels):
    dut, done = RowSums(lanes=lanes, max_row=64), []
    assert dut.latency == 1 + 3 + levels + 1

    async def producer(ctx):
        await drive(ctx, dut.i, [b for _ in range(3) for b in beats(list(range(60)), lanes)])

    async def consumer(ctx):
        await collect(ctx, dut.o, 3, cycles=done)

    run(dut, producer, consumer)
    length = -(-60 // lanes)
    # Rows without a gap, unless they are shorter than what is inside.
    step = max(length, dut.latency + 1)
    assert done == [length + dut.latency + k * step for k in range(3)]


def test_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^lanes must be a positive integer, not 0$"):
        RowSums(lanes=0, max_row=4)
