# amaranth: UnusedElaboratable=no
"""Row factor memory: what was written comes back, in order, one a cycle."""

import random

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.memory.row_factors import RowFactors
from systola.sim.harness import collect, drive, run

CONFIG = AcceleratorConfig(rows=4, cols=4, lanes=2, token_depth=8, attention="deferred")


def simulate(writes, reads, rng=None):
    """Write and read at the same time; check every factor against the writes before its request."""
    dut, memory, expected, got = RowFactors(CONFIG), {}, [], []

    async def write(ctx):
        await drive(ctx, dut.w, [{"addr": addr, "factor": factor} for addr, factor in writes], rng)

    async def request(ctx):
        await drive(ctx, dut.r.req, reads, rng)

    async def respond(ctx):
        got.extend(await collect(ctx, dut.r.rsp, len(reads), rng))

    async def watch(ctx):
        async for _, _, valid, entry, asked, ready, addr in ctx.tick().sample(
                dut.w.valid, dut.w.payload, dut.r.req.valid, dut.r.req.ready, dut.r.req.payload):
            if asked and ready:
                expected.append({memory.get(addr, 0)})
                if valid and entry.addr == addr:
                    expected[-1].add(entry.factor)  # of the same cycle: either
            if valid:
                memory[entry.addr] = entry.factor

    cycles = run(dut, write, request, respond, background=[watch])
    assert all(factor in choice for factor, choice in zip(got, expected, strict=True))
    return cycles


@pytest.mark.parametrize("seed", range(4))
def test_reads_what_was_written(seed):
    rng = random.Random(seed)
    depth, top = CONFIG.factor_depth, 2**CONFIG.mult_bits - 1
    writes = [(rng.randrange(depth), rng.choice([0, top, rng.randrange(top)])) for _ in range(60)]
    simulate(writes, [rng.randrange(depth) for _ in range(60)], rng if seed else None)


def test_latency_and_throughput():
    assert CONFIG.factor_depth == 16
    assert simulate([], [0]) == 3 + 1
    assert simulate([(k, k) for k in range(16)], list(range(16)) * 4) == 64 + 3


def test_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^attention must be one that is divided after A.V, "
                                         r"not 'published'$"):
        RowFactors(AcceleratorConfig(attention="published"))
