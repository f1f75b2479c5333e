"""The bus ports in pysim: counters, interrupt, a refusal that drains, reset, and another run."""

import random

from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS
from systola.hw.contract.isa import INSTRUCTION_BYTES, Engine, Error, Opcode, encode
from systola.hw.contract.regmap import REGISTERS
from systola.sim.harness import run

CONFIG = PRESETS["tiny"]
SIZE = CONFIG.bus_bytes
BUSY, DONE, ERROR = (REGISTERS["STATUS"].field(name).mask for name in ("busy", "done", "error"))
START, RESET, IRQ = (REGISTERS["CONTROL"].field(name).mask
                     for name in ("start", "reset", "irq_enable"))


def frame(*parts):
    """Return the beats of instructions and data as integers."""
    data = b"".join(parts)
    return [int.from_bytes(data[k:k + SIZE], "little") for k in range(0, len(data), SIZE)]


def copy_program(words, base=3):
    """Return a program that loads `words`, stores them, and its result beats (data, last)."""
    region = {"base": base, "stride": 1, "rows": len(words), "words": 1}
    stream = frame(encode(Opcode.BEGIN, config_hash=CONFIG.hash),
                   encode(Opcode.LOAD, beats=len(words), **region))
    stream += words + frame(encode(Opcode.STORE, **region), encode(Opcode.END))
    return stream, [(word, k == len(words) - 1) for k, word in enumerate(words)]


class Bus:
    """Host side of the ports."""

    def __init__(self, dut, rng):
        self.dut, self.rng, self.results = dut, rng, []

    async def write(self, ctx, name, value):
        dut = self.dut
        for signal, level in (dut.s_axil_awaddr, REGISTERS[name].offset), (
                dut.s_axil_wdata, value), (dut.s_axil_wstrb, 15), (dut.s_axil_awvalid, 1), (
                dut.s_axil_wvalid, 1), (dut.s_axil_bready, 1):
            ctx.set(signal, level)
        await ctx.tick().until(dut.s_axil_awready & dut.s_axil_wready)
        ctx.set(dut.s_axil_awvalid, 0)
        ctx.set(dut.s_axil_wvalid, 0)
        await ctx.tick().until(dut.s_axil_bvalid)

    async def read(self, ctx, name):
        dut = self.dut
        ctx.set(dut.s_axil_araddr, REGISTERS[name].offset)
        ctx.set(dut.s_axil_arvalid, 1)
        ctx.set(dut.s_axil_rready, 1)
        await ctx.tick().until(dut.s_axil_arready)
        ctx.set(dut.s_axil_arvalid, 0)
        *_, value = await ctx.tick().sample(dut.s_axil_rdata).until(dut.s_axil_rvalid)
        return value

    async def send(self, ctx, beats):
        for beat in beats:
            while self.rng.random() < 0.3:
                await ctx.tick()
            ctx.set(self.dut.s_axis_tdata, beat)
            ctx.set(self.dut.s_axis_tvalid, 1)
            await ctx.tick().until(self.dut.s_axis_tready)
            ctx.set(self.dut.s_axis_tvalid, 0)

    async def receive(self, ctx):
        dut = self.dut
        while True:
            ready = self.rng.random() < 0.6
            ctx.set(dut.m_axis_tready, ready)
            *_, valid, word, last = await ctx.tick().sample(
                dut.m_axis_tvalid, dut.m_axis_tdata, dut.m_axis_tlast)
            if valid and ready:
                self.results.append((word, bool(last)))

    async def until(self, ctx, mask):
        while not await self.read(ctx, "STATUS") & mask:
            pass


def words(rng, count):
    return [rng.randrange(1 << 8 * SIZE) for _ in range(count)]


def simulate(seed, script):
    """Run ``script(ctx, bus, rng)`` on a fresh accelerator with stalls on its streams."""
    rng = random.Random(seed)
    bus = Bus(Accelerator(CONFIG), rng)

    async def bench(ctx):
        await script(ctx, bus, rng)

    run(bus.dut, bench, background=[bus.receive])


def test_program_counters_and_interrupt():
    async def script(ctx, bus, rng):
        assert await bus.read(ctx, "HASH_LOW") == CONFIG.hash % (1 << 32)
        assert await bus.read(ctx, "HASH_HIGH") == CONFIG.hash >> 32
        for _ in range(2):  # counters and done start afresh
            stream, expected = copy_program(words(rng, 20))
            bus.results.clear()
            await bus.write(ctx, "CONTROL", START)
            assert await bus.read(ctx, "STATUS") == BUSY
            await bus.send(ctx, stream)
            await bus.until(ctx, DONE)
            assert bus.results == expected
            assert await bus.read(ctx, "STATUS") == DONE
            assert await bus.read(ctx, "INSTRUCTIONS") == 4
            cycles = await bus.read(ctx, "CYCLES")
            assert len(stream) < cycles < 4 * len(stream) + 100
            assert 40 <= await bus.read(ctx, "LOAD_BUSY") < cycles
            assert await bus.read(ctx, "MATRIX_IDLE") == cycles
            parts = [await bus.read(ctx, f"LOAD_{part}")
                     for part in ("BUSY", "WAIT_MATRIX", "WAIT_VECTOR", "IDLE")]
            assert sum(parts) == cycles
            assert parts[1:3] == [0, 0]
            assert await bus.read(ctx, "ARRAY_ACTIVE") == 0
            assert 0 < await bus.read(ctx, "STREAM_STALL") < cycles
            assert 0 < await bus.read(ctx, "RESULT_STALL") < cycles
            assert not ctx.get(bus.dut.irq)
            await bus.write(ctx, "CONTROL", IRQ)
            assert ctx.get(bus.dut.irq)
            await bus.write(ctx, "CONTROL", 0)

    simulate(0, script)


def test_refusal_drains_then_reset_runs_again():
    async def script(ctx, bus, rng):
        stream, _ = copy_program(words(rng, 4), base=CONFIG.scratchpad_words - 2)
        await bus.write(ctx, "CONTROL", START | IRQ)
        await bus.send(ctx, stream + words(rng, 50))  # does not hang
        assert await bus.read(ctx, "STATUS") == ERROR
        assert ctx.get(bus.dut.irq)
        assert await bus.read(ctx, "ERROR") == Error.SCRATCHPAD_RANGE
        assert await bus.read(ctx, "ERROR_INDEX") == 1
        assert await bus.read(ctx, "ERROR_WORD") == stream[INSTRUCTION_BYTES // SIZE]
        await bus.write(ctx, "CONTROL", START)  # refused too, until reset
        assert await bus.read(ctx, "STATUS") == ERROR
        await bus.write(ctx, "CONTROL", RESET)
        for name in "STATUS", "ERROR", "CYCLES", "INSTRUCTIONS":
            assert await bus.read(ctx, name) == 0
        assert not bus.results
        stream, expected = copy_program(words(rng, 9))
        await bus.write(ctx, "CONTROL", START)
        await bus.send(ctx, stream)
        await bus.until(ctx, DONE)
        assert bus.results == expected

    simulate(1, script)


def test_reset_frees_an_engine_that_waits_for_a_token_forever():
    async def script(ctx, bus, rng):
        stuck = encode(Opcode.STORE, base=0, stride=1, rows=1, words=1, wait=1 << Engine.MATRIX)
        await bus.write(ctx, "CONTROL", START)
        await bus.send(ctx, frame(encode(Opcode.BEGIN, config_hash=CONFIG.hash), stuck,
                                  encode(Opcode.END)))
        for _ in range(50):
            await ctx.tick()
        assert await bus.read(ctx, "STATUS") == BUSY
        assert await bus.read(ctx, "LOAD_WAIT_MATRIX") > 40
        await bus.write(ctx, "CONTROL", RESET)
        assert await bus.read(ctx, "STATUS") == 0
        stream, expected = copy_program(words(rng, 5))
        await bus.write(ctx, "CONTROL", START)
        await bus.send(ctx, stream)
        await bus.until(ctx, DONE)
        assert bus.results == expected

    simulate(2, script)
