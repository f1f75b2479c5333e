import random

import pytest
from amaranth.lib import data

from systola.hw.parts.register_slice import RegisterSlice
from systola.sim.harness import collect, drive, run

LAYOUT = data.StructLayout({"x": 5, "y": data.ArrayLayout(4, 2)})


def simulate(forward, values, producer_rng=None, consumer_rng=None):
    dut, got = RegisterSlice(LAYOUT, forward=forward), []

    async def producer(ctx):
        await drive(ctx, dut.i, values, producer_rng)

    async def consumer(ctx):
        got.extend(await collect(ctx, dut.o, len(values), consumer_rng))

    cycles = run(dut, producer, consumer)
    return cycles, [{"x": v.x, "y": list(v.y)} for v in got]


def payloads(rng, count):
    return [{"x": rng.randrange(32), "y": [rng.randrange(16), rng.randrange(16)]}
            for _ in range(count)]


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_everything_passes_in_order(forward, seed):
    rng = random.Random(seed)
    values = payloads(rng, 200)
    stalls = [rng if seed & 1 else None, rng if seed & 2 else None]
    assert simulate(forward, values, *stalls)[1] == values


@pytest.mark.parametrize(("forward", "latency"), [(True, 1), (False, 0)])
def test_latency_and_throughput(forward, latency):
    values = payloads(random.Random(0), 50)
    assert simulate(forward, values)[0] == 50 + latency


@pytest.mark.parametrize(("forward", "room"), [(True, 2), (False, 1)])
def test_ready_depends_on_registers_only(forward, room):
    dut = RegisterSlice(8, forward=forward)

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        taken = 0
        for _ in range(5):
            # The output's ready changes within the cycle, the input's does not.
            ctx.set(dut.o.ready, 1)
            high = ctx.get(dut.i.ready)
            ctx.set(dut.o.ready, 0)
            assert ctx.get(dut.i.ready) == high
            taken += high
            await ctx.tick()
        assert taken == room

    run(dut, bench)
