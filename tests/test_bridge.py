# amaranth: UnusedElaboratable=no
"""The serial link bit by bit: UART, protocol, registers and streams."""

import random
import re
from itertools import pairwise

import pytest
from amaranth import Module, Signal
from amaranth.lib.wiring import Component, In, Out

from systola.hw.bridge import Bridge
from systola.hw.config import PRESETS
from systola.hw.csr import RegisterFile, axi_lite_ports
from systola.hw.link import COUNT_MAX, FOLLOWING, Command, Reply, Status, command_bytes
from systola.hw.regmap import MAGIC, REGISTERS
from systola.hw.uart import Receiver, Transmitter, baud_divisor
from systola.sim.harness import run

DIVISOR, BUS = 4, 3
CONTROL = REGISTERS["CONTROL"].offset


class Link(Component):
    """UART and bridge in front of the registers; streams come out, `values` go in."""

    rx: In(1, init=1)
    tx: Out(1, init=1)

    def __init__(self, window):
        self.window = window
        super().__init__()
        self.bridge = Bridge(bus_bytes=BUS, window=window, poll=50)
        self.registers = RegisterFile(PRESETS["tiny"])

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge, m.submodules.registers = bridge, registers = (
            self.bridge, self.registers)
        m.submodules.receiver = receiver = Receiver(DIVISOR)
        m.submodules.transmitter = transmitter = Transmitter(DIVISOR)
        for name, member in axi_lite_ports().items():
            inside, outside = getattr(registers, name), getattr(bridge, f"m_axil{name[6:]}")
            m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        m.d.comb += [
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx), bridge.broken.eq(receiver.broken),
            bridge.rx.payload.eq(receiver.o.payload), bridge.rx.valid.eq(receiver.o.valid),
            transmitter.i.payload.eq(bridge.tx.payload), transmitter.i.valid.eq(bridge.tx.valid),
            bridge.tx.ready.eq(transmitter.i.ready)]
        return m


async def wait(ctx, cycles):
    for _ in range(cycles):  # not tick().repeat(): left behind in the background, it warns
        await ctx.tick()


async def send_bits(ctx, wire, data, *, stop=1):
    for byte in data:
        for bit in (0, *((byte >> k) & 1 for k in range(8)), stop):
            ctx.set(wire, bit)
            await wait(ctx, DIVISOR)
    ctx.set(wire, 1)


def listen(wire, heard):
    """Return a background testbench that appends the bytes on `wire` to `heard`."""
    async def testbench(ctx):
        while True:
            while ctx.get(wire):
                await ctx.tick()
            await wait(ctx, DIVISOR // 2)
            bits = []
            for _ in range(9):
                await wait(ctx, DIVISOR)
                bits.append(ctx.get(wire))
            assert bits[8] == 1, "no stop bit"
            heard.append(sum(bit << k for k, bit in enumerate(bits[:8])))
    return testbench


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


async def until_quiet(ctx, heard, cycles=1200):
    """Wait until nothing was heard for a while."""
    before = -1
    while before != len(heard):
        before = len(heard)
        await wait(ctx, cycles)


@pytest.mark.parametrize("seed", range(2))
def test_registers_and_streams_lose_nothing(seed):
    rng = random.Random(seed)
    dut, heard, taken, actions = Link(window=40), [], [], []
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
    expected = [(Reply.SEND, b"\0"), (Reply.READ, b"\0" + MAGIC.to_bytes(4, "little")),
                (Reply.WRITE, b"\0"), (Reply.READ, b"\0\4\0\0\0"), (Reply.SEND, b"\0"),
                (Reply.WRITE, bytes([Status.REFUSED])),
                (Reply.READ, bytes([Status.REFUSED, 0, 0, 0, 0]))]

    async def host(ctx):
        ctx.set(dut.registers.values.STATUS, busy)
        pending = []  # bytes of commands without a reply
        for command, arguments in commands:
            data = command_bytes(command, **arguments)
            while sum(pending[len(split_complete(heard)):]) + len(data) > dut.window:
                await ctx.tick()
            pending.append(len(data))
            await send_bits(ctx, dut.rx, data)
        await until_quiet(ctx, heard)
        assert ctx.get(bridge.status) == busy

    async def take(ctx):  # never ready for long
        while True:
            ctx.set(bridge.m_axis_tready, ready := rng.random() < 0.02)
            *_, valid, data = await ctx.tick().sample(bridge.m_axis_tvalid, bridge.m_axis_tdata)
            if valid and ready:
                taken.append(data.to_bytes(BUS, "little"))

    async def give(ctx):
        for data, last in results:
            await wait(ctx, rng.randrange(1, 400))
            ctx.set(bridge.s_axis_tdata, int.from_bytes(data, "little"))
            ctx.set(bridge.s_axis_tlast, last)
            ctx.set(bridge.s_axis_tvalid, 1)
            ready = False
            while not ready:
                *_, ready = await ctx.tick().sample(bridge.s_axis_tready)
            ctx.set(bridge.s_axis_tvalid, 0)

    async def watch(ctx):
        async for *_, start in ctx.tick().sample(dut.registers.start):
            actions.extend([start] * start)

    run(dut, host, max_cycles=20_000, background=[take, give, watch, listen(dut.tx, heard)])
    replies, got = split(heard)
    assert replies == expected
    assert taken == beats
    assert got == [(Reply.LAST if last else Reply.BEAT, data) for data, last in results]
    assert actions == [1]


def split_complete(heard):
    """Return the replies that have come completely."""
    replies, index = [], 0
    while index < len(heard):
        tag = Reply(heard[index])
        index += 1 + FOLLOWING.get(tag, BUS)
        if tag in FOLLOWING and index <= len(heard):
            replies.append(tag)
    return replies


def talk(window, script):
    """Run `script(ctx, dut)` on a fresh link whose streams stand still; return the replies."""
    dut, heard = Link(window), []

    async def host(ctx):
        await script(ctx, dut)
        await until_quiet(ctx, heard, 400)

    run(dut, host, background=[listen(dut.tx, heard)])
    return split(heard)[0]


def test_unknown_bytes_and_broken_bytes_are_told_once():
    identity = command_bytes(Command.READ, address=0)

    async def script(ctx, dut):
        await send_bits(ctx, dut.rx, command_bytes(Command.NOP) * 5 + b"X" + identity)
        await send_bits(ctx, dut.rx, b"R", stop=0)
        await wait(ctx, 12 * DIVISOR)
        await send_bits(ctx, dut.rx, identity * 2)
        ctx.set(dut.rx, 0)  # shorter than half a bit: no byte
        await ctx.tick()
        ctx.set(dut.rx, 1)

    magic = MAGIC.to_bytes(4, "little")
    assert talk(40, script) == [(Reply.UNKNOWN, b"\0"), (Reply.READ, b"\0" + magic),
                                (Reply.READ, bytes([Status.LOST]) + magic),
                                (Reply.READ, b"\0" + magic)]


def test_a_host_that_exceeds_the_window_is_told():
    async def script(ctx, dut):
        await send_bits(ctx, dut.rx, command_bytes(Command.SEND, beats=[b"abc"] * 4))
        assert ctx.get(dut.bridge.m_axis_tvalid)
        ctx.set(dut.bridge.m_axis_tready, 1)
        await wait(ctx, 8)
        await send_bits(ctx, dut.rx, b"abc" * 4)  # for those that are gone

    assert talk(5, script)[0] == (Reply.SEND, bytes([Status.LOST]))


@pytest.mark.parametrize("divisor", [4, 7])
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
    assert {after - before for before, after in pairwise(times)} == {
        10 * divisor}


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Receiver(3), "divisor must be an integer of at least 4, not 3"),
    (lambda: Transmitter(2.5), "divisor must be an integer of at least 4, not 2.5"),
    (lambda: Bridge(bus_bytes=0), "bus_bytes must be an integer of at least 1, not 0"),
    (lambda: Bridge(bus_bytes=4, window=5), "window must be an integer of at least 6, not 5"),
    (lambda: baud_divisor(10e6, 3e6),
     ("baud must be a whole fraction of the clock within 2 %, at most 2.5e+06 of 1e+07 Hz, "
      "not 3000000.0")),
    (lambda: command_bytes(Command.SEND, beats=[]),
     "beats must be 1 to 256 byte strings of one length, not []"),
    (lambda: command_bytes(Command.READ, address=256), "address must be from 0 to 255, not 256"),
])
def test_unusable_values(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_divisors_and_the_longest_command():
    assert baud_divisor(50e6, 1e6) == 50
    assert baud_divisor(100e6, 115200) == 868
    assert command_bytes(Command.SEND, beats=[b"a"] * COUNT_MAX)[1] == 0
    assert command_bytes(Command.WRITE, address=1, data=2) == b"W\1\2\0\0\0"
