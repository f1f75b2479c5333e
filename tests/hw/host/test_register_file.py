"""The AXI4-Lite register file against the register map, under every order of its handshakes."""

import random

import pytest

from systola.hw.contract.config import PRESETS
from systola.hw.contract.regmap import MAGIC, REGISTERS, VERSION
from systola.hw.host.register_file import RegisterFile
from systola.sim.harness import run

CONFIG = PRESETS["tiny"]


async def write(ctx, dut, offset, value, *, strobes=15, late=0, patience=0):
    """Write one word; `late` > 0 delays the data, < 0 the address. Returns the response."""
    ctx.set(dut.s_axil.awaddr, offset)
    ctx.set(dut.s_axil.wdata, value)
    ctx.set(dut.s_axil.wstrb, strobes)
    waiting = {"aw": max(-late, 0), "w": max(late, 0)}
    while waiting:
        for channel, delay in waiting.items():
            ctx.set(getattr(dut.s_axil, f"{channel}valid"), delay <= 0)
        *_, aw, w = await ctx.tick().sample(dut.s_axil.awready, dut.s_axil.wready)
        for channel, ready in ("aw", aw), ("w", w):
            if channel in waiting:
                if waiting[channel] <= 0 and ready:
                    ctx.set(getattr(dut.s_axil, f"{channel}valid"), 0)
                    del waiting[channel]
                else:
                    waiting[channel] -= 1
    for _ in range(patience):
        await ctx.tick()
    ctx.set(dut.s_axil.bready, 1)
    *_, response = await ctx.tick().sample(dut.s_axil.bresp).until(dut.s_axil.bvalid)
    ctx.set(dut.s_axil.bready, 0)
    return response


async def read(ctx, dut, offset, *, patience=0):
    """Read one word; returns (value, response)."""
    ctx.set(dut.s_axil.araddr, offset)
    ctx.set(dut.s_axil.arvalid, 1)
    await ctx.tick().until(dut.s_axil.arready)
    ctx.set(dut.s_axil.arvalid, 0)
    for _ in range(patience):
        await ctx.tick()
    ctx.set(dut.s_axil.rready, 1)
    *_, value, response = await ctx.tick().sample(dut.s_axil.rdata, dut.s_axil.rresp).until(
        dut.s_axil.rvalid)
    ctx.set(dut.s_axil.rready, 0)
    return value, response


@pytest.mark.parametrize("seed", range(4))
def test_every_register_reads_what_the_hardware_provides(seed):
    rng = random.Random(seed)
    dut = RegisterFile(CONFIG)
    provided = {name: rng.randrange(1 << 32) for name in dut.values.shape().members}
    expected = provided | {"ID": MAGIC, "VERSION": VERSION, "CONTROL": 0,
                           "HASH_LOW": CONFIG.hash % (1 << 32), "HASH_HIGH": CONFIG.hash >> 32}

    async def bench(ctx):
        ctx.set(dut.values, provided)
        for name in rng.sample(sorted(REGISTERS), len(REGISTERS)):
            answer = await read(ctx, dut, REGISTERS[name].offset, patience=rng.randrange(3))
            assert answer == (expected[name], 0), name
        assert await read(ctx, dut, 4 * len(REGISTERS)) == (0, 2)

    run(dut, bench)


@pytest.mark.parametrize("late", range(-3, 4))
def test_control_acts_once_whatever_the_order_of_address_and_data(late):
    dut, pulses = RegisterFile(CONFIG), {"start": 0, "reset": 0}

    async def count(ctx):
        async for *_, start, reset in ctx.tick().sample(dut.start, dut.reset):
            pulses["start"] += start
            pulses["reset"] += reset

    async def bench(ctx):
        control = REGISTERS["CONTROL"].offset
        assert await write(ctx, dut, control, 0b101, late=late, patience=abs(late)) == 0
        assert await read(ctx, dut, control) == (0b100, 0)
        assert await write(ctx, dut, control, 0b010, late=late) == 0
        assert await read(ctx, dut, control) == (0, 0)
        assert await write(ctx, dut, control, 0b111, strobes=0b1110, late=late) == 0
        assert await write(ctx, dut, REGISTERS["ID"].offset, 7, late=late) == 2
        assert await read(ctx, dut, REGISTERS["ID"].offset) == (MAGIC, 0)

    run(dut, bench, background=[count])
    assert pulses == {"start": 1, "reset": 1}
