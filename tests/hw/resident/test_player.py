# amaranth: UnusedElaboratable=no
"""The player with block RAM and with memories that wait at random, against a list of bytes."""

import random

import pytest
from amaranth import Module
from amaranth.lib import wiring

from systola.hw.contract.config import PRESETS
from systola.hw.contract.player_registers import (
    PLAYER_MAGIC,
    PLAYER_REGISTERS,
    Target,
    played_crc,
)
from systola.hw.contract.regmap import MAGIC, REGISTERS
from systola.hw.host.axi import OKAY, SLVERR
from systola.hw.host.register_file import RegisterFile
from systola.hw.resident.block_memory import BlockMemory
from systola.hw.resident.player import Player
from systola.sim.harness import run

SIZE = 96
CONTROL = PLAYER_REGISTERS["PLAY_CONTROL"]


def control(target=None, *, stop=False):
    """Return the word that starts a play to `target`, or stops one."""
    word = stop << CONTROL.field("stop").lsb
    if target is not None:
        word |= 1 << CONTROL.field("start").lsb | target << CONTROL.field("target").lsb
    return word


class System(wiring.Component):
    """Player, memory, and an accelerator's registers; streams are the test's."""

    def __init__(self, bus_bytes, *, memory=True):
        super().__init__({})
        self.player = Player(bus_bytes=bus_bytes, size=SIZE)
        self.memory = BlockMemory(bus_bytes=bus_bytes, size=SIZE) if memory else None
        self.registers = RegisterFile(PRESETS["tiny"])

    def elaborate(self, platform):
        m = Module()
        m.submodules.player, m.submodules.registers = player, registers = (
            self.player, self.registers)
        wiring.connect(m, player.m_axil, registers.s_axil)
        if self.memory:
            m.submodules.memory = self.memory
            wiring.connect(m, player.memory, self.memory.port)
        return m


class Memory:
    """A memory behind a `MemoryPort` that takes, keeps and gives when it likes."""

    def __init__(self, port, bus_bytes, rng, *, errors=()):
        self.port, self.rng, self.errors = port, rng, set(errors)
        self.words = [rng.getrandbits(8 * bus_bytes) for _ in range(SIZE)]
        self.requests, self.given = [], []

    async def take(self, ctx):
        while True:
            ctx.set(self.port.read.ready, ready := self.rng.random() < 0.3)
            *_, valid, request = await ctx.tick().sample(self.port.read.valid,
                                                         self.port.read.p)
            if valid and ready:
                self.requests += range(request.address, request.address + request.beats)

    async def give(self, ctx):
        data = self.port.data
        while True:
            if not self.requests or self.rng.random() < 0.4:
                await ctx.tick()
                continue
            at = self.requests.pop(0)
            ctx.set(data.p, {"beat": self.words[at], "error": at in self.errors})
            ctx.set(data.valid, 1)
            ready = False
            while not ready:
                *_, ready = await ctx.tick().sample(data.ready)
            self.given.append(at)
            ctx.set(data.valid, 0)

    async def write(self, ctx):
        while True:
            ctx.set(self.port.write.ready, ready := self.rng.random() < 0.3)
            *_, valid, request = await ctx.tick().sample(self.port.write.valid,
                                                         self.port.write.p)
            if valid and ready:
                assert request.address not in self.requests, "written before it was read"
                self.words[request.address] = request.beat


async def access(ctx, port, offset, value=None):
    """Return (response, data) of one access."""
    if value is None:
        ctx.set(port.araddr, offset)
        ctx.set(port.arvalid, 1)
    else:
        ctx.set(port.awaddr, offset)
        ctx.set(port.wdata, value)
        ctx.set(port.wstrb, 15)
        ctx.set(port.awvalid, 1)
        ctx.set(port.wvalid, 1)
    ready = False
    while not ready:
        *_, read, write = await ctx.tick().sample(port.arready, port.awready)
        ready = read if value is None else write
    for name in "arvalid", "awvalid", "wvalid":
        ctx.set(getattr(port, name), 0)
    ctx.set(port.rready, 1)
    ctx.set(port.bready, 1)
    valid = False
    while not valid:
        *_, rvalid, bvalid, rresp, bresp, data = await ctx.tick().sample(
            port.rvalid, port.bvalid, port.rresp, port.bresp, port.rdata)
        valid = rvalid or bvalid
    return (bresp if bvalid else rresp), data


async def read(ctx, player, name):
    response, value = await access(ctx, player.host_axil, PLAYER_REGISTERS[name].offset)
    assert response == OKAY
    return value


async def write(ctx, player, name, value):
    response, _ = await access(ctx, player.host_axil, PLAYER_REGISTERS[name].offset, value)
    return response


async def play(ctx, player, address, beats, target):
    assert await write(ctx, player, "PLAY_ADDRESS", address) == OKAY
    assert await write(ctx, player, "PLAY_BEATS", beats) == OKAY
    return await write(ctx, player, "PLAY_CONTROL", control(target))


async def idle(ctx, player):
    """Wait for the end of a play; return the status."""
    while (status := await read(ctx, player, "PLAY_STATUS")) & 1:
        pass
    return status


async def put(ctx, player, address, beat):
    ctx.set(player.put.p, {"address": address, "beat": beat})
    ctx.set(player.put.valid, 1)
    ready = False
    while not ready:
        *_, ready = await ctx.tick().sample(player.put.ready)
    ctx.set(player.put.valid, 0)


def taker(stream, rng, taken, stall=0.5):
    """Return a testbench that takes from an AXI4-Stream into the list `taken`."""
    async def take(ctx):
        held = None
        while True:
            ctx.set(stream.tready, ready := rng.random() >= stall)
            *_, valid, beat, last = await ctx.tick().sample(stream.tvalid, stream.tdata,
                                                            stream.tlast)
            assert held in (None, (beat, last)), "beat changed while stalled"
            assert held is None or valid, "valid fell while stalled"
            held = (beat, last) if valid and not ready else None
            if valid and ready:
                taken.append((beat, last))
    return take


def to_bytes(words, bus_bytes):
    return b"".join(word.to_bytes(bus_bytes, "little") for word in words)


@pytest.mark.parametrize("bus_bytes", [1, 4, 16])
@pytest.mark.parametrize("target", Target)
def test_beats_of_block_ram_go_where_they_should_and_have_their_checksum(bus_bytes, target):
    rng = random.Random(bus_bytes)
    dut, words = System(bus_bytes), [rng.getrandbits(8 * bus_bytes) for _ in range(SIZE)]
    player, taken, results = dut.player, [], []
    address, beats = rng.randrange(20), rng.randrange(40, 70)

    async def host(ctx):
        assert await read(ctx, player, "PLAY_ID") == PLAYER_MAGIC
        assert await read(ctx, player, "PLAY_SIZE") == SIZE
        for at, word in enumerate(words):
            await put(ctx, player, at, word)
        assert await play(ctx, player, address, beats, target) == OKAY
        assert await idle(ctx, player) == 0
        played = words[address:address + beats]
        assert await read(ctx, player, "PLAY_CRC") == played_crc(to_bytes(played, bus_bytes),
                                                                 bus_bytes)
        assert [word for word, _ in taken] == (
            played if target is Target.ACCELERATOR else [])
        assert results == ([(word, at == beats - 1) for at, word in enumerate(played)]
                           if target is Target.HOST else [])
        # The accelerator's registers are where they were.
        assert await access(ctx, player.host_axil, REGISTERS["ID"].offset) == (OKAY, MAGIC)

    run(dut, host, background=[taker(player.m_axis, rng, taken),
                               taker(player.host_result, rng, results)])


def test_a_beat_goes_in_every_cycle():
    dut, cycles = System(4), []

    async def host(ctx):
        assert await play(ctx, dut.player, 0, SIZE, Target.ACCELERATOR) == OKAY
        await idle(ctx, dut.player)

    async def watch(ctx):
        cycle = 0
        ctx.set(dut.player.m_axis.tready, 1)
        while True:
            *_, valid = await ctx.tick().sample(dut.player.m_axis.tvalid)
            cycle += 1
            cycles.extend([cycle] * valid)

    run(dut, host, background=[watch])
    assert cycles == list(range(cycles[0], cycles[0] + SIZE))


@pytest.mark.parametrize("seed", range(6))
def test_inputs_of_the_next_run_wait_until_this_one_has_passed_them(seed):
    rng = random.Random(seed)
    dut, taken = System(4, memory=False), []
    player, memory = dut.player, Memory(dut.player.memory, 4, rng)
    runs = 3
    slots = sorted(rng.sample(range(10, 60), 12))
    inputs = [[rng.getrandbits(32) for _ in slots] for _ in range(runs)]
    expected = []

    async def host(ctx):
        for at, word in zip(slots, inputs[0], strict=True):
            await put(ctx, player, at, word)
        for number in range(runs):
            words = list(memory.words)
            for at, word in zip(slots, inputs[number], strict=True):
                words[at] = word
            expected.extend(words[5:80])
            assert await play(ctx, player, 5, 75, Target.ACCELERATOR) == OKAY
            if number + 1 < runs:
                for at, word in zip(slots, inputs[number + 1], strict=True):
                    await put(ctx, player, at, word)
            assert await idle(ctx, player) == 0
            assert await read(ctx, player, "PLAY_CRC") == played_crc(to_bytes(words[5:80], 4), 4)

    run(dut, host, background=[memory.take, memory.give, memory.write,
                               taker(player.m_axis, rng, taken)])
    assert [word for word, _ in taken] == expected


@pytest.mark.parametrize("where", ["register", "pin"])
def test_a_play_that_is_stopped_is_read_to_its_end_and_given_no_further(where):
    rng = random.Random(3)
    dut, taken = System(4, memory=False), []
    player, memory = dut.player, Memory(dut.player.memory, 4, rng)

    async def host(ctx):
        assert await play(ctx, player, 0, SIZE, Target.ACCELERATOR) == OKAY
        while len(taken) < 20:
            await ctx.tick()
        if where == "pin":
            ctx.set(player.stop, 1)
            await ctx.tick()
            ctx.set(player.stop, 0)
        else:
            assert await write(ctx, player, "PLAY_CONTROL", control(stop=True)) == OKAY
        count = len(taken)
        assert await write(ctx, player, "PLAY_CONTROL", control(Target.NOWHERE)) == SLVERR
        # The host's own stream goes on.
        ctx.set(player.host_send.tdata, 0xABCD)
        ctx.set(player.host_send.tvalid, 1)
        ready = False
        while not ready:
            *_, ready = await ctx.tick().sample(player.host_send.tready)
        ctx.set(player.host_send.tvalid, 0)
        assert await idle(ctx, player) == 0b100
        assert len(memory.given) == SIZE
        assert len(taken) <= count + 2 < SIZE
        assert taken[-1][0] == 0xABCD
        # The next play is as if nothing had been.
        assert await play(ctx, player, 3, 9, Target.NOWHERE) == OKAY
        assert await idle(ctx, player) == 0
        assert await read(ctx, player, "PLAY_CRC") == played_crc(to_bytes(memory.words[3:12], 4), 4)

    async def take(ctx):  # a play that is stopped takes an offered beat back
        while True:
            ctx.set(player.m_axis.tready, ready := rng.random() < 0.5)
            *_, valid, beat = await ctx.tick().sample(player.m_axis.tvalid, player.m_axis.tdata)
            if valid and ready:
                taken.append((beat, 0))

    run(dut, host, background=[memory.take, memory.give, memory.write, take])


@pytest.mark.parametrize("target", [Target.ACCELERATOR, Target.HOST])
def test_nothing_is_given_from_a_beat_on_that_the_memory_could_not_read(target):
    rng = random.Random(5)
    dut, taken = System(4, memory=False), []
    player, memory = dut.player, Memory(dut.player.memory, 4, rng, errors=[30])

    async def host(ctx):
        assert await play(ctx, player, 10, 50, target) == OKAY
        assert await idle(ctx, player) == 0b010
        assert await read(ctx, player, "PLAY_CRC") == played_crc(to_bytes(memory.words[10:30], 4),
                                                                 4)
        assert await play(ctx, player, 31, 5, Target.NOWHERE) == OKAY
        assert await idle(ctx, player) == 0

    port = player.m_axis if target is Target.ACCELERATOR else player.host_result
    run(dut, host, background=[memory.take, memory.give, memory.write, taker(port, rng, taken)])
    assert [word for word, _ in taken] == memory.words[10:30]


@pytest.mark.parametrize(("address", "beats", "fits"), [
    (0, SIZE, True), (SIZE - 1, 1, True), (0, 0, False), (0, SIZE + 1, False), (SIZE, 1, False),
    (1, SIZE, False), (2**32 - 1, 1, False), (2**32 - 2, 3, False), (0, 2**32 - 1, False)])
def test_a_play_must_lie_in_the_memory(address, beats, fits):
    dut = System(4)

    async def host(ctx):
        response = await play(ctx, dut.player, address, beats, Target.NOWHERE)
        assert response == (OKAY if fits else SLVERR)
        assert await read(ctx, dut.player, "PLAY_STATUS") == (1 if fits else 0) or beats == 1

    run(dut, host)


def test_registers_are_kept_while_busy_and_unknown_ones_are_refused():
    dut = System(4)
    player = dut.player

    async def host(ctx):
        for name, value in ("PLAY_ADDRESS", 7), ("PLAY_BEATS", 9):
            assert await write(ctx, player, name, value) == OKAY
            assert await read(ctx, player, name) == value
        for name in "PLAY_ID", "PLAY_SIZE", "PLAY_STATUS", "PLAY_CRC":
            assert await write(ctx, player, name, 1) == SLVERR
        assert await write(ctx, player, "PLAY_CONTROL", control(3)) == SLVERR
        assert await write(ctx, player, "PLAY_CONTROL", control(Target.ACCELERATOR)) == OKAY
        for name in "PLAY_ADDRESS", "PLAY_BEATS":
            assert await write(ctx, player, name, 1) == SLVERR
        end = max(register.offset for register in PLAYER_REGISTERS.values()) + 4
        assert await access(ctx, player.host_axil, end) == (SLVERR, 0)
        assert await access(ctx, player.host_axil, end, 1) == (SLVERR, 0)
        assert await write(ctx, player, "PLAY_CONTROL", control(stop=True)) == OKAY
        assert await idle(ctx, player) == 0b100

    run(dut, host)


@pytest.mark.parametrize(("options", "name"), [
    ({"bus_bytes": 3, "size": 4}, "bus_bytes"), ({"bus_bytes": 4, "size": 0}, "size"),
    ({"bus_bytes": 4, "size": 2**32}, "size"), ({"bus_bytes": True, "size": None}, "size")])
def test_parameters_are_checked(options, name):
    with pytest.raises(ValueError, match=name):
        Player(**options)
