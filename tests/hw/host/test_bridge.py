# amaranth: UnusedElaboratable=no
"""Commands of the serial link to registers and streams, and the UART bit by bit."""

import random
import re
from fractions import Fraction
from itertools import pairwise

import pytest
from amaranth import Module, Signal
from amaranth.lib.wiring import Component, connect

from systola.hw.contract.config import PRESETS
from systola.hw.contract.link import COUNT_MAX, FOLLOWING, Command, Reply, Status, command_bytes
from systola.hw.contract.regmap import MAGIC, REGISTERS
from systola.hw.host.bridge import Bridge
from systola.hw.host.register_file import RegisterFile
from systola.hw.host.uart import Receiver, Transmitter, baud_divisor
from systola.sim.harness import collect, drive, run

BUS = 3
CONTROL = REGISTERS["CONTROL"].offset


class Link(Component):
    """A bridge in front of the registers; streams come out, `values` go in."""

    def __init__(self):
        super().__init__({})
        self.bridge = Bridge(bus_bytes=BUS, poll=50)
        self.registers = RegisterFile(PRESETS["tiny"])

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge, m.submodules.registers = bridge, registers = (
            self.bridge, self.registers)
        connect(m, bridge.m_axil, registers.s_axil)
        return m


async def wait(ctx, cycles):
    for _ in range(cycles):  # not tick().repeat(): left behind in the background, it warns
        await ctx.tick()


def split(heard):
    """Return replies and result beats, each a list of (tag, bytes)."""
    replies, beats, heard = [], [], list(heard)
    while heard:
        tag = Reply(heard.pop(0))
        count = FOLLOWING.get(tag, BUS)
        body, heard = bytes(heard[:count]), heard[count:]
        assert len(body) == count
        (replies if tag in FOLLOWING else beats).append((tag, body))
    return replies, beats


@pytest.mark.parametrize("seed", range(4))
def test_registers_and_streams_lose_nothing(seed):
    rng = random.Random(seed)
    dut, taken, actions, heard = Link(), [], [], []
    bridge = dut.bridge
    beats = [rng.randbytes(BUS) for _ in range(12)]
    results = [(rng.randbytes(BUS), rng.randrange(2)) for _ in range(9)]
    busy = rng.randrange(8)
    commands = [(Command.SEND, {"beats": beats[:5]}),
                (Command.READ, {"address": REGISTERS["ID"].offset}),
                (Command.WRITE, {"address": CONTROL, "data": 0b101}),
                (Command.READ, {"address": CONTROL}),
                (Command.SEND, {"beats": beats[5:12]}),
                (Command.WRITE, {"address": 0, "data": 1 << 31 | 1}),
                (Command.READ, {"address": 4 * len(REGISTERS)})]
    sent = b"".join(command_bytes(command, **arguments) for command, arguments in commands)
    sent = sent[:-2] + b"X" + sent[-2:]
    expected = [(Reply.SEND, b"\0"), (Reply.READ, b"\0" + MAGIC.to_bytes(4, "little")),
                (Reply.WRITE, b"\0"), (Reply.READ, b"\0\4\0\0\0"), (Reply.SEND, b"\0"),
                (Reply.WRITE, bytes([Status.REFUSED])), (Reply.UNKNOWN, b"\0"),
                (Reply.READ, bytes([Status.REFUSED, 0, 0, 0, 0]))]
    count = sum(1 + len(body) for _, body in expected) + (1 + BUS) * len(results)

    async def host(ctx):
        ctx.set(dut.registers.values.STATUS, busy)
        await drive(ctx, bridge.rx, sent, rng)

    async def listen(ctx):
        heard.extend(await collect(ctx, bridge.tx, count, rng))
        await wait(ctx, 100)
        assert ctx.get(bridge.status) == busy
        assert not ctx.get(bridge.tx.valid)

    async def take(ctx):  # never ready for long
        while True:
            ctx.set(bridge.m_axis.tready, ready := rng.random() < 0.02)
            *_, valid, data = await ctx.tick().sample(bridge.m_axis.tvalid, bridge.m_axis.tdata)
            if valid and ready:
                taken.append(data.to_bytes(BUS, "little"))

    async def give(ctx):
        for data, last in results:
            await wait(ctx, rng.randrange(1, 100))
            ctx.set(bridge.s_axis.tdata, int.from_bytes(data, "little"))
            ctx.set(bridge.s_axis.tlast, last)
            ctx.set(bridge.s_axis.tvalid, 1)
            ready = False
            while not ready:
                *_, ready = await ctx.tick().sample(bridge.s_axis.tready)
            ctx.set(bridge.s_axis.tvalid, 0)

    async def watch(ctx):
        async for *_, start in ctx.tick().sample(dut.registers.start):
            actions.extend([start] * start)

    run(dut, host, listen, background=[take, give, watch])
    replies, got = split(heard)
    assert replies == expected
    assert taken == beats
    assert got == [(Reply.LAST if last else Reply.BEAT, data) for data, last in results]
    assert actions == [1]


def test_three_megabaud_of_fifty_megahertz_are_heard_by_a_host_with_its_own_clock():
    """A host 2 % off hears every bit in its middle half."""
    divisor, dut, edges = baud_divisor(50e6, 3e6), Transmitter(baud_divisor(50e6, 3e6)), []

    async def feed(ctx):
        await drive(ctx, dut.i, [0x55] * 40)
        await wait(ctx, 200)

    async def watch(ctx):
        cycle, before = 0, 1
        async for *_, level in ctx.tick().sample(dut.tx):
            cycle += 1
            if level != before:
                edges.append(cycle)
            before = level

    run(dut, feed, background=[watch])
    starts = edges[::10]
    assert len(starts) == 40
    for index, start in enumerate(starts):
        byte = edges[10 * index:10 * index + 10]
        assert all(abs(edge - start - k * divisor) < 1.01 for k, edge in enumerate(byte))


@pytest.mark.parametrize("divisor", [4, 7, baud_divisor(50e6, 3e6), Fraction(4 * 16 + 15, 16)])
def test_a_byte_takes_ten_bits_and_every_value_arrives(divisor):
    class Loop(Component):
        def __init__(self):
            super().__init__({})
            self.transmitter, self.receiver = Transmitter(divisor), Receiver(divisor)

        def elaborate(self, platform):
            m = Module()
            m.submodules += [self.transmitter, self.receiver]
            m.d.comb += self.receiver.rx.eq(self.transmitter.tx)
            m.d.sync += Signal().eq(1)
            return m

    dut, got, times = Loop(), [], []
    sent = list(range(0, 256, 5))

    async def feed(ctx):
        for byte in sent:
            ctx.set(dut.transmitter.i.payload, byte)
            ctx.set(dut.transmitter.i.valid, 1)
            await ctx.tick().until(dut.transmitter.i.ready)
        ctx.set(dut.transmitter.i.valid, 0)
        while len(got) < len(sent):
            await ctx.tick()

    async def watch(ctx):
        cycle = 0
        async for *_, valid, byte in ctx.tick().sample(dut.receiver.o.valid,
                                                       dut.receiver.o.payload):
            cycle += 1
            if valid:
                got.append(byte)
                times.append(cycle)

    run(dut, feed, background=[watch])
    assert got == sent
    assert all(abs(after - before - 10 * divisor) < 1 for before, after in pairwise(times))
    assert abs(times[-1] - times[0] - 10 * divisor * (len(sent) - 1)) < 1


def test_uart_drops_bytes_without_a_stop_bit_and_ignores_short_pulses():
    divisor, heard = 6, []
    dut = Receiver(divisor)

    async def line(ctx):
        for byte, stop in (b"A", 1), (b"\xf5", 0), (b"\0", 1):
            for bit in (0, *((byte[0] >> k) & 1 for k in range(8)), stop, 1, 1):
                ctx.set(dut.rx, bit)
                await wait(ctx, divisor)
            ctx.set(dut.rx, 0)
            await wait(ctx, divisor // 2 - 1)
            ctx.set(dut.rx, 1)
            await wait(ctx, 11 * divisor)

    async def watch(ctx):
        async for *_, valid, byte in ctx.tick().sample(dut.o.valid, dut.o.payload):
            heard.extend([byte] * valid)

    run(dut, line, background=[watch])
    assert heard == [0x41, 0]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Receiver(3), "divisor must be a multiple of 1/16 of at least 4, not 3"),
    (lambda: Transmitter(4.5), "divisor must be a multiple of 1/16 of at least 4, not 4.5"),
    (lambda: Transmitter(Fraction(41, 10)),
     "divisor must be a multiple of 1/16 of at least 4, not Fraction(41, 10)"),
    (lambda: Bridge(bus_bytes=0), "bus_bytes must be an integer of at least 1, not 0"),
    (lambda: Bridge(bus_bytes=4, poll=0.5), "poll must be an integer of at least 1, not 0.5"),
    (lambda: baud_divisor(10e6, 3e6),
     "baud must be at most 2.5e+06 with a clock of 1e+07 Hz, not 3000000.0"),
    (lambda: command_bytes(Command.SEND, beats=[]),
     "beats must be 1 to 256 byte strings of one length, not []"),
    (lambda: command_bytes(Command.READ, address=256), "address must be from 0 to 255, not 256"),
])
def test_unusable_values(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_divisors_and_the_longest_command():
    assert baud_divisor(50e6, 1e6) == 50
    assert baud_divisor(100e6, 115200) == Fraction(13889, 16)
    for megahertz in range(45, 101):
        assert abs(megahertz / baud_divisor(megahertz * 1e6, 3e6) / 3 - 1) < 0.0025
    assert command_bytes(Command.SEND, beats=[b"a"] * COUNT_MAX)[1] == 0
    assert command_bytes(Command.WRITE, address=1, data=2) == b"W\1\2\0\0\0"


@pytest.mark.parametrize("seed", range(3))
def test_beats_for_the_memory_go_where_they_belong_or_nowhere(seed):
    rng = random.Random(seed)
    size, put, heard = 300, {}, []
    bridge = Bridge(bus_bytes=BUS, poll=50, memory=size)
    beats = [rng.randbytes(BUS) for _ in range(256)]
    commands = [(5, beats[:3], True), (size - 1, beats[3:4], True), (size - 256, beats, True),
                (size - 255, beats, False), (size, beats[:1], False), (size - 3, beats[4:8], False),
                (2**32 - 1, beats[:2], False), (0, beats[8:9], True)]
    sent = b"".join(command_bytes(Command.PUT, address=address, beats=part)
                    for address, part, _ in commands) + b"R\0"
    expected = {}
    for address, part, is_good in commands:
        expected |= {address + k: beat for k, beat in enumerate(part)} if is_good else {}

    async def host(ctx):
        await drive(ctx, bridge.rx, sent, rng if seed else None, idle=0.1)

    async def listen(ctx):
        heard.extend(await collect(ctx, bridge.tx, 2 * len(commands) + 6, rng))

    async def take(ctx):
        while True:
            ctx.set(bridge.put.ready, ready := rng.random() < 0.4)
            *_, valid, request = await ctx.tick().sample(bridge.put.valid, bridge.put.p)
            if valid and ready:
                put[request.address] = request.beat.to_bytes(BUS, "little")

    async def registers(ctx):
        ctx.set(bridge.m_axil.arready, 1)
        ctx.set(bridge.m_axil.rvalid, 1)
        while True:
            await ctx.tick()

    async def none(ctx):
        while True:
            *_, valid = await ctx.tick().sample(bridge.m_axis.tvalid)
            assert not valid

    run(bridge, host, listen, background=[take, registers, none], max_cycles=20_000)
    assert put == expected
    assert bytes(heard) == b"".join(
        bytes([Reply.PUT, 0 if is_good else Status.REFUSED])
        for _, _, is_good in commands) + b"r\0\0\0\0\0"


def test_a_board_without_memory_knows_no_put():
    bridge, heard = Bridge(bus_bytes=BUS), []

    async def host(ctx):
        await drive(ctx, bridge.rx, b"P")

    async def listen(ctx):
        heard.extend(await collect(ctx, bridge.tx, 2))

    run(bridge, host, listen)
    assert bytes(heard) == bytes([Reply.UNKNOWN, 0])
