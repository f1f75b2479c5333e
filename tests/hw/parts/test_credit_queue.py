# amaranth: UnusedElaboratable=no
"""The response queue of memory ports against a list."""

import random

import pytest

from systola.hw.parts.credit_queue import CreditQueue
from systola.sim.harness import run


@pytest.mark.parametrize("depth", [2, 3, 4, 7])
@pytest.mark.parametrize("seed", range(2))
def test_matches_a_list_in_every_cycle(depth, seed):
    rng, dut = random.Random(f"{depth} {seed}"), CreditQueue(shape=8, depth=depth)
    under_way, entries, seen = 0, [], set()

    async def bench(ctx):
        nonlocal under_way
        for cycle in range(600):
            busy = (0.9, 0.1, 0.5)[cycle // 20 % 3]
            room = under_way + len(entries) < depth
            assert (ctx.get(dut.room), ctx.get(dut.o.valid)) == (room, bool(entries))
            assert not entries or ctx.get(dut.o.p) == entries[0]
            seen.add((under_way, len(entries)))
            take = int(room and rng.random() < busy)
            push = int(under_way > 0 and rng.random() < 0.7)
            ready, value = int(rng.random() > busy), rng.randrange(256)
            for port, level in ((dut.take, take), (dut.push, push), (dut.o.ready, ready),
                                (dut.data, value)):
                ctx.set(port, level)
            assert ctx.get(dut.room) == room  # whatever the other side does in the same cycle
            if entries and ready:
                entries.pop(0)
            under_way += take - push
            if push:
                entries.append(value)
            await ctx.tick()

    run(dut, bench)
    assert {a + b for a, b in seen} == set(range(depth + 1))
    assert {(0, 0), (0, depth), (1, depth - 1)} <= seen
