"""What the tests of both units of exponentials and row factors share."""

import random

from systola.sim.harness import collect, drive, run


def beats(row, lanes, rng):
    """Yield the beats of `row`; lanes beyond its end hold random codes."""
    for start in range(0, len(row), lanes):
        part = list(row[start:start + lanes])
        yield {"x": part + [rng.randrange(-128, 128) for _ in range(lanes - len(part))],
               "keep": (1 << len(part)) - 1, "last": start + lanes >= len(row)}


def table_writes(table, entry_bytes, rng):
    """Yield the bytes of the entries, and some of the GELU table, which shares the stream."""
    writes = [(addr, which) for addr in range(256) for which in range(1, entry_bytes + 1)]
    if rng:
        rng.shuffle(writes)
    for addr, which in writes:
        if addr % 32 == 0 and which == 1:
            yield {"addr": addr, "data": -1, "table": 0}
        byte = int(table[addr]) >> 8 * (which - 1) & 255
        yield {"addr": addr, "data": byte - (byte >> 7 << 8), "table": which}


def random_rows(rng, longest):
    """Return rows of every length and of several spreads, in random order."""
    return [[rng.randrange(rng.choice([-128, -20, 100, 127]), 128) for _ in range(length)]
            for length in rng.sample(range(1, longest + 1), longest)]


def simulate(dut, rows, writes, numerator, *, rng=None, clear=False):
    """Return the cycles, the rows, the factors, and when first and last beats and factors came.

    With `clear`, lanes that are not kept must be 0.
    """
    sent = [beat for row in rows for beat in beats(row, dut.lanes, random.Random(1))]
    codes, factors, times = [[]], [], {"in": [], "out": [], "end": [], "factor": []}

    async def producer(ctx):
        ctx.set(dut.numerator, numerator)
        await drive(ctx, dut.w, list(writes), rng)
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        for beat in await collect(ctx, dut.o, len(sent), rng):
            kept = [beat.keep >> k & 1 for k in range(dut.lanes)]
            codes[-1] += [beat.x[k] for k in range(dut.lanes) if kept[k]]
            assert not clear or not any(beat.x[k] for k in range(dut.lanes) if not kept[k])
            if beat.last:
                codes.append([])

    async def factor(ctx):
        factors.extend(await collect(ctx, dut.factor, len(rows), rng))

    async def watch(ctx):
        cycle, first = 0, True
        while True:
            *_, taken, valid, ready, last, full = await ctx.tick().sample(
                dut.i.valid & dut.i.ready & dut.i.p.last, dut.o.valid, dut.o.ready, dut.o.p.last,
                dut.factor.valid)
            if taken:
                times["in"].append(cycle)
            if valid and ready:
                times["out"] += [cycle] * first
                times["end"] += [cycle] * last
                first = last
            if full:
                times["factor"].append(cycle)
            cycle += 1

    cycles = run(dut, producer, consumer, factor, background=[watch])
    assert codes.pop() == []
    return cycles, codes, factors, times
