# amaranth: UnusedElaboratable=no
"""Means over rows, against the model."""

import random

import numpy as np
import pytest

from systola.hw.vector.row_mean import RowMean
from systola.model.operators.requant import requantize
from systola.model.operators.row_mean import row_mean
from systola.sim.harness import collect, drive, run

LOW, HIGH = -2**15, 2**15 - 1


def beats(row, lanes, rng):
    """Yield the beats of `row`; lanes beyond its end hold anything."""
    for start in range(0, len(row), lanes):
        part = [int(v) for v in row[start:start + lanes]]
        yield {"x": part + [rng.randrange(LOW, HIGH + 1) for _ in range(lanes - len(part))],
               "keep": (1 << len(part)) - 1, "last": int(start + lanes >= len(row))}


def simulate(dut, groups, rng=None, **options):
    """Return the results for groups (tensors, mult, shift, bits), and the cycles of their beats.

    The tensors of a group, of equally many rows, follow each other without a gap.
    """
    got, ends, fill = [[]], [], random.Random(1)

    async def producer(ctx):
        due = 1
        for tensors, mult, shift, bits in groups:
            for name, value in (("rows", len(tensors[0])), ("mult", mult), ("shift", shift),
                                ("bits", bits)):
                ctx.set(getattr(dut, name), value)
            await drive(ctx, dut.i, [beat for rows in tensors for row in rows
                                     for beat in beats(row, dut.lanes, fill)], rng)
            due += len(tensors)
            while len(got) < due:
                await ctx.tick()

    async def consumer(ctx):
        count = sum(-(-len(rows[0]) // dut.lanes) for tensors, *_ in groups for rows in tensors)
        for _ in range(count):
            [p] = await collect(ctx, dut.o, 1, rng)
            got[-1] += [x for k, x in enumerate(p.x) if p.keep >> k & 1]
            if p.last:
                got.append([])

    async def watch(ctx):
        cycle = 0
        while True:
            *_, valid, ready = await ctx.tick().sample(dut.o.valid, dut.o.ready)
            if valid and ready:
                ends.append(cycle)
            cycle += 1

    run(dut, producer, consumer, background=[watch], **options)
    assert got.pop() == []
    return got, ends


def model(groups):
    return [row_mean(np.array(rows), mult, shift, bits).tolist()
            for tensors, mult, shift, bits in groups for rows in tensors]


def random_group(rng, max_row, mult_bits):
    """Return a group with results across the range, or with ties, or saturated."""
    rows, columns = rng.choice([1, 2, 3, rng.randint(1, 12)]), rng.randint(1, max_row)
    scale = 2**rng.randrange(1, 16)
    tensors = [[[rng.randrange(-scale, scale) for _ in range(columns)] for _ in range(rows)]
               for _ in range(rng.randint(1, 4))]
    if rng.random() < 0.4:
        mult = 1 << rng.randrange(mult_bits)
        shift = min(mult.bit_length() - 1 + rng.randrange(4), 63)
    else:
        mult, shift = rng.randrange(1, 1 << mult_bits), rng.randrange(mult_bits + 8)
    return tensors, mult, shift, rng.choice([2, 8, 9, 16, rng.randint(2, 16)])


SIZES = [(1, 7, 12), (2, 9, 24), (3, 3, 16), (4, 21, 12), (4, 4, 31), (5, 12, 8), (1, 1, 24)]


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize(("lanes", "max_row", "mult_bits"), SIZES)
def test_matches_model(lanes, max_row, mult_bits, stalls):
    rng = random.Random(f"{lanes} {max_row} {stalls}")
    dut = RowMean(lanes=lanes, max_row=max_row, mult_bits=mult_bits)
    groups = [random_group(rng, max_row, mult_bits) for _ in range(16)]
    got, _ = simulate(dut, groups, rng if stalls else None)
    assert got == model(groups)


def test_every_number_of_elements():
    """The addresses of the sums, and rows of one beat, whose sums are still under way."""
    rng = random.Random(3)
    groups = [([[[rng.randrange(LOW, HIGH + 1) for _ in range(columns)] for _ in range(5)]] * 2,
               801, 12, 16) for columns in range(1, 13)]
    got, _ = simulate(RowMean(lanes=3, max_row=12, mult_bits=12), groups)
    assert got == model(groups)


@pytest.mark.slow
def test_largest_sums():
    """As many rows as an instruction can name: one sum is a tie, and nothing beside it would be."""
    dut, rows, got = RowMean(lanes=2, max_row=2, mult_bits=12), 2**16 - 1, []

    async def bench(ctx):
        for name, value in ("rows", rows), ("mult", 1), ("shift", 16), ("bits", 16):
            ctx.set(getattr(dut, name), value)
        ctx.set(dut.i.p, {"x": [LOW, HIGH], "keep": 3, "last": 1})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().repeat(rows)
        ctx.set(dut.i.valid, 0)
        got.extend(await collect(ctx, dut.o, 1))

    run(dut, bench, max_cycles=rows + 20)
    expected = row_mean(np.full((rows, 2), [LOW, HIGH]), 1, 16, 16).tolist()
    assert list(got[0].x) == expected == [-32768, 32767]
    assert requantize(LOW * rows + 1, 1, 16, 16) == -32767


@pytest.mark.parametrize(("mult_bits", "slots"), [(12, 1), (16, 1), (24, 2)])
@pytest.mark.parametrize(("lanes", "columns"), [(1, 9), (2, 9), (4, 3), (4, 12)])
def test_latency_and_throughput(lanes, columns, mult_bits, slots):
    """A beat a cycle goes in; elements come out one by one, or in pairs of two cycles each."""
    dut = RowMean(lanes=lanes, max_row=12, mult_bits=mult_bits)
    assert (dut.slots, dut.latency) == (slots, 11 if slots == 1 else 13)
    rows = 6
    groups = [([[[1] * columns] * rows] * 2, 1, 0, 8)]
    _, ends = simulate(dut, groups)
    length = -(-columns // lanes)
    entries = [k if slots == 1 else 2 * k - k % 2 for k in range(columns)]
    last_of = [min(first + lanes, columns) - 1 for first in range(0, columns, lanes)]
    first = [(rows - 1) * length + dut.latency + entries[k] for k in last_of]
    assert ends[:length] == first
    # The next tensor follows when the last element has entered.
    assert ends[length] > ends[length - 1] + (rows - 1) * length


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 64, not 0"),
    ({"max_row": 65537}, "max_row must be an integer from 1 to 65536, not 65537"),
    ({"mult_bits": 1}, "mult_bits must be an integer from 2 to 31, not 1"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        RowMean(**{"lanes": 2, "max_row": 8, "mult_bits": 24, **params})
