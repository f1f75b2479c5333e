import random

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.matrix.residual_reader import ResidualReader
from systola.sim.harness import collect, drive, run

CONFIG = AcceleratorConfig(rows=4, cols=4, lanes=2)
PLANE = 300


def simulate(addresses, rng=None):
    """Return the pairs read from a memory whose byte (addr, lane) is ``7*addr + lane``."""
    dut, pairs = ResidualReader(CONFIG), []

    async def producer(ctx):
        ctx.set(dut.plane, PLANE)
        await drive(ctx, dut.i, addresses, rng)

    async def memory(ctx):
        queue = []
        while True:
            ready = len(queue) < 4 and (rng is None or rng.random() < 0.7)
            ctx.set(dut.port.req.ready, ready)
            offered = bool(queue) and queue[0] is not None
            ctx.set(dut.port.rsp.valid, offered)
            if offered:
                ctx.set(dut.port.rsp.payload, [(7 * queue[0] + k) & 255 for k in range(4)])
            *_, valid, request, taken = await ctx.tick().sample(
                dut.port.req.valid, dut.port.req.payload, dut.port.rsp.ready)
            if offered and taken:
                queue.pop(0)
            if valid and ready:
                queue.append(request.addr)

    async def consumer(ctx):
        pairs.extend(await collect(ctx, dut.o, len(addresses), rng))

    cycles = run(dut, producer, consumer, background=[memory])
    return [[int(v) for v in pair] for pair in pairs], cycles


def expected(addr):
    raw = [((7 * addr + k) & 255) | ((7 * (addr + PLANE) + k) & 255) << 8 for k in range(4)]
    return [v - 65536 if v >= 32768 else v for v in raw]


@pytest.mark.parametrize("seed", range(6))
def test_pairs_the_planes_in_order(seed):
    rng = random.Random(seed)
    addresses = [rng.randrange(1000) for _ in range(50)]
    assert simulate(addresses, rng if seed else None)[0] == [expected(a) for a in addresses]


def test_one_pair_every_two_cycles():
    assert simulate(list(range(40)))[1] - simulate(list(range(20)))[1] == 40
