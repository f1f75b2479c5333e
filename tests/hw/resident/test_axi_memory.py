# amaranth: UnusedElaboratable=no
"""The AXI4 read manager alone and behind a player, against a bus that does all that AXI4 allows."""

import random

import pytest
from amaranth import Module
from amaranth.lib import wiring

from systola.hw.contract.config import PRESETS
from systola.hw.contract.player_registers import Target, played_crc
from systola.hw.host.axi import OKAY, SLVERR
from systola.hw.host.register_file import RegisterFile
from systola.hw.resident.axi_memory import PAGE_BYTES, AxiMemory
from systola.hw.resident.player import Player
from systola.sim.harness import collect, drive, run
from tests.hw.resident.test_player import control, idle, play, read, to_bytes, write


class Bus:
    """A subordinate that takes requests early and answers in order, when it likes.

    ``errors`` are addresses (in beats) that answer SLVERR; with `cut`, bursts end a beat early.
    """

    def __init__(self, port, bus_bytes, rng, *, quick=False, errors=(), cut=False):
        self.port, self.bus_bytes, self.rng, self.quick = port, bus_bytes, rng, quick
        self.errors, self.cut = set(errors), cut
        self.bursts, self.lengths, self.most = [], [], 0

    def word(self, address):
        """Return what lies at a beat: the same at every call."""
        return random.Random(address).getrandbits(8 * self.bus_bytes)

    async def take(self, ctx):
        port, held = self.port, None
        while True:
            ctx.set(port.arready, ready := self.quick or self.rng.random() < 0.3)
            *_, valid, address, length, size, burst = await ctx.tick().sample(
                port.arvalid, port.araddr, port.arlen, port.arsize, port.arburst)
            assert held in (None, (address, length)), "request changed while stalled"
            assert held is None or valid, "valid fell while stalled"
            held = (address, length) if valid and not ready else None
            if valid and ready:
                assert (1 << size, burst) == (self.bus_bytes, 1)
                assert address % self.bus_bytes == 0
                end = address + (length + 1) * self.bus_bytes - 1
                assert address // PAGE_BYTES == end // PAGE_BYTES, "a burst leaves its page"
                self.bursts.append((address // self.bus_bytes, length + 1))
                self.lengths.append(length + 1)
                self.most = max(self.most, len(self.bursts))

    async def give(self, ctx):
        port = self.port
        while True:
            if not self.bursts:
                await ctx.tick()
                continue
            address, beats = self.bursts[0]
            for beat in range(beats):
                while not self.quick and self.rng.random() < 0.3:
                    await ctx.tick()
                ctx.set(port.rdata, self.word(address + beat))
                ctx.set(port.rresp, SLVERR if address + beat in self.errors else OKAY)
                ctx.set(port.rlast, beat == beats - 1 - self.cut)
                ctx.set(port.rvalid, 1)
                *_, ready = await ctx.tick().sample(port.rready)
                assert ready, "the bus is blocked"
                ctx.set(port.rvalid, 0)
            self.bursts.pop(0)


@pytest.mark.parametrize("seed", range(6))
def test_beats_come_in_order_in_bursts_within_pages(seed):
    rng = random.Random(seed)
    bus_bytes, burst = rng.choice([(4, 16), (16, 8), (32, 128), (8, 1), (64, 64)])
    dut = AxiMemory(bus_bytes=bus_bytes, burst=burst, depth=max(2 * burst, 32), address_bits=40)
    bus = Bus(dut.bus, bus_bytes, rng)
    requests = [(rng.randrange(5000), rng.randrange(1, 90)) for _ in range(6)]
    requests[0] = dut.size - 40, 40
    wanted = [bus.word(address + beat) for address, beats in requests for beat in range(beats)]
    got = []

    async def ask(ctx):
        await drive(ctx, dut.port.read, [{"address": address, "beats": beats}
                                         for address, beats in requests], rng)

    async def listen(ctx):
        got.extend(await collect(ctx, dut.port.data, len(wanted), rng))

    run(dut, ask, listen, background=[bus.take, bus.give])
    assert [beat.beat for beat in got] == wanted
    assert not any(beat.error for beat in got)
    assert sum(bus.lengths) == len(wanted)
    assert max(bus.lengths) <= burst


def test_a_beat_comes_in_every_cycle():
    dut, cycles = AxiMemory(bus_bytes=8), []
    bus = Bus(dut.bus, 8, random.Random(0), quick=True)

    async def ask(ctx):
        await drive(ctx, dut.port.read, [{"address": 8, "beats": 200}])

    async def listen(ctx):
        await collect(ctx, dut.port.data, 200, cycles=cycles)

    run(dut, ask, listen, background=[bus.take, bus.give])
    assert cycles[-1] - cycles[0] == 199


def test_bursts_wait_for_room_and_several_are_under_way():
    dut = AxiMemory(bus_bytes=4, burst=8, depth=32)
    bus = Bus(dut.bus, 4, random.Random(0), quick=True)

    async def ask(ctx):
        await drive(ctx, dut.port.read, [{"address": 0, "beats": 100}])
        for _ in range(200):
            await ctx.tick()
        assert sum(bus.lengths) == 32  # nobody took a beat

    run(dut, ask, background=[bus.take])
    assert bus.most == 4


@pytest.mark.parametrize("cut", [False, True])
def test_errors_are_of_their_beats(cut):
    dut, got = AxiMemory(bus_bytes=4, burst=8), []
    bus = Bus(dut.bus, 4, random.Random(0), errors=[] if cut else [3, 17], cut=cut)

    async def ask(ctx):
        await drive(ctx, dut.port.read, [{"address": 0, "beats": 24}])

    async def listen(ctx):
        got.extend(await collect(ctx, dut.port.data, 24))

    run(dut, ask, listen, background=[bus.take, bus.give])
    assert [at for at, beat in enumerate(got) if beat.error] == (
        [6, 7, 14, 15, 22, 23] if cut else [3, 17])


class System(wiring.Component):
    """A player that reads over AXI4."""

    def __init__(self, bus_bytes, **options):
        super().__init__({})
        self.memory = AxiMemory(bus_bytes=bus_bytes, **options)
        self.player = Player(bus_bytes=bus_bytes, size=self.memory.size)
        self.registers = RegisterFile(PRESETS["tiny"])

    def elaborate(self, platform):
        m = Module()
        m.submodules.player, m.submodules.memory = player, memory = self.player, self.memory
        m.submodules.registers = self.registers
        wiring.connect(m, player.m_axil, self.registers.s_axil)
        wiring.connect(m, player.memory, memory.port)
        return m


@pytest.mark.parametrize("seed", range(10))
def test_a_hundred_plays_are_right_or_end_in_an_error(seed):
    """Random latencies; one play in four meets an error of the bus, one in four is stopped."""
    rng = random.Random(seed)
    bus_bytes = rng.choice([4, 8, 32])
    dut = System(bus_bytes, burst=rng.choice([1, 4, 16]), depth=32)
    player, taken, kinds = dut.player, [], []
    bus = Bus(dut.memory.bus, bus_bytes, rng)

    async def host(ctx):
        for _ in range(100):
            address, beats = rng.randrange(4000), rng.randrange(1, 60)
            kind = rng.choice(["right", "right", "error", "stopped"])
            words = [bus.word(address + beat) for beat in range(beats)]
            bad = rng.randrange(beats)
            bus.errors = {address + bad} if kind == "error" else set()
            taken.clear()
            target = rng.choice([Target.ACCELERATOR, Target.NOWHERE])
            assert await play(ctx, player, address, beats, target) == OKAY
            if kind == "stopped":
                for _ in range(rng.randrange(40)):
                    await ctx.tick()
                assert await write(ctx, player, "PLAY_CONTROL", control(stop=True)) == OKAY
            status = await idle(ctx, player)
            got = [word for word, _ in taken]
            given = words if target is Target.NOWHERE else got
            if kind == "error":
                assert status == 0b010
                given = words[:bad]
            elif kind == "right":
                assert status == 0
                given = words
            else:
                assert status in (0, 0b100)  # or it was over
            assert got == (given if target is Target.ACCELERATOR else [])
            assert given == words[:len(given)]
            if given and (kind != "stopped" or target is Target.ACCELERATOR):
                assert await read(ctx, player, "PLAY_CRC") == played_crc(
                    to_bytes(given, bus_bytes), bus_bytes)
            kinds.append((kind, status))

    async def take(ctx):  # a play that is stopped takes an offered beat back
        while True:
            ctx.set(player.m_axis.tready, ready := rng.random() < 0.6)
            *_, valid, beat = await ctx.tick().sample(player.m_axis.tvalid, player.m_axis.tdata)
            if valid and ready:
                taken.append((beat, 0))

    run(dut, host, background=[bus.take, bus.give, take], max_cycles=100_000)
    assert {kind for kind, _ in kinds} == {"right", "error", "stopped"}
    assert ("stopped", 0b100) in kinds


@pytest.mark.parametrize(("options", "message"), [
    ({"bus_bytes": 24}, "bus_bytes must be a power of two, not 24"),
    ({"bus_bytes": 4, "burst": 12}, "burst must be a power of two, not 12"),
    ({"bus_bytes": 32, "burst": 256}, "burst must be an integer from 1 to 128, not 256"),
    ({"bus_bytes": 4, "burst": 16, "depth": 31}, "depth must be an integer from 32 to 4096"),
    ({"bus_bytes": 4, "address_bits": 65}, "address_bits must be an integer from 12 to 64")])
def test_parameters_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        AxiMemory(**options)


def test_the_bus_does_not_wait_for_one_that_takes_nothing():
    dut = System(4, burst=4, depth=16)
    bus = Bus(dut.memory.bus, 4, random.Random(1), quick=True)

    async def host(ctx):
        assert await play(ctx, dut.player, 0, 40, Target.ACCELERATOR) == OKAY
        for _ in range(200):
            await ctx.tick()
        assert sum(bus.lengths) == 16
        assert not bus.bursts  # all that was asked for was given
        assert await write(ctx, dut.player, "PLAY_CONTROL", control(stop=True)) == OKAY
        assert await idle(ctx, dut.player) == 0b100
        assert sum(bus.lengths) == 40

    run(dut, host, background=[bus.take, bus.give])
