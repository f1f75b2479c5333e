# amaranth: UnusedElaboratable=no
"""Boards: PLL dividers, the top behind its pins, and the files each platform prepares."""

import re
from dataclasses import replace

import pytest
from amaranth import Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import Component

from systola.boards.board import BOARDS, find_board
from systola.boards.pll import ECP5_PLL, XC7_PLL, PllPlan, pll_instance
from systola.boards.top import LEDS, BoardTop
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS
from systola.hw.contract.frame import BUFFER, INFO, VERSION, Frame, FrameReader, Kind
from systola.hw.contract.link import Command, Reply, command_bytes
from systola.hw.contract.regmap import MAGIC, REGISTERS
from systola.hw.host import axi
from systola.hw.host.register_file import RegisterFile
from systola.hw.linked import LinkedAccelerator
from systola.hw.resident.block_memory import BlockMemory
from systola.sim.harness import run

TINY = PRESETS["tiny"]


class Loopback(Component):
    """The accelerator's ports: real registers, and every beat comes back, odd ones with TLAST."""

    def __init__(self, status=0):
        self.status = status
        super().__init__(dict(Accelerator(TINY).signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterFile(TINY)
        wiring.connect(m, axi.bundle(self, "s_axil", axi.Lite()), registers.s_axil)
        m.d.comb += [
            registers.values.STATUS.eq(self.status), self.s_axis_tready.eq(self.m_axis_tready),
            self.m_axis_tdata.eq(self.s_axis_tdata), self.m_axis_tvalid.eq(self.s_axis_tvalid),
            self.m_axis_tlast.eq(self.s_axis_tdata[0])]
        return m


@pytest.mark.parametrize(("pll", "source"), [(XC7_PLL, 100.0), (ECP5_PLL, 25.0)])
def test_every_plan_is_within_the_limits_and_near_its_frequency(pll, source):
    for target in 10, 12.5, 25, 30, 33.3, 40, 45, 48, 50, 55, 60, 62, 66.6, 70, 75, 80, 90, 100:
        plan = pll.plan(source, target)
        assert abs(plan.output / target - 1) <= 0.01
        for value, (low, high) in ((plan.vco, pll.vco), (plan.output, pll.output),
                                   (source / plan.divide, pll.detector),
                                   (plan.divide, pll.divide), (plan.multiply, pll.multiply),
                                   (plan.output_divide, pll.output_divide)):
            assert low <= value <= high
    assert pll.plan(source, 50) == pll.plan(source, 50.0)
    assert PllPlan(source, 2, 12, 3).output == source * 2


@pytest.mark.parametrize(("pll", "target", "message"), [
    (XC7_PLL, 5, "frequency must be from 6.25 to 464 MHz, not 5"),
    (ECP5_PLL, 401, "frequency must be from 3.125 to 400 MHz, not 401"),
    (replace(ECP5_PLL, divide=(1, 1)), 294,
     "frequency must be one that the PLL makes of 25 MHz within 1 %, not 294 MHz; nearest is 300"),
])
def test_frequencies_that_the_pll_cannot_make(pll, target, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pll.plan(25.0, target)


def test_unknown_boards_and_families():
    with pytest.raises(ValueError, match=r"^board must be one of arty_s7_50, ulx3s_85f, "
                                         r"not 'nexys'$"):
        find_board("nexys")
    with pytest.raises(ValueError, match=r"^family must be 'xc7' or 'ecp5', not 'ice40'$"):
        pll_instance("ice40", None, source=0, output=0, feedback=0, locked=0)


@pytest.mark.parametrize("name", BOARDS)
def test_boards_as_data(name):
    board = find_board(name)
    assert (board.name, board.config in PRESETS) == (name, True)
    assert board.config in board.presets
    assert set(board.presets) <= set(PRESETS)
    top = BoardTop(board, TINY, accelerator=Loopback())
    assert top.plan.output == pytest.approx(board.clock_mhz)
    assert abs(top.plan.output * 1e6 / top.divisor / board.baud - 1) < 0.02
    with pytest.raises(ValueError, match=r"^baud must be at most 6.25e\+06 with a clock"):
        BoardTop(replace(board, baud=9_000_000), TINY, mhz=25, accelerator=Loopback())
    fast = BoardTop(board, TINY, baud=3_000_000, accelerator=Loopback(),
                    memory=BlockMemory(bus_bytes=TINY.bus_bytes, size=1000))
    assert fast.link["memory_bytes"] == 1000 * TINY.bus_bytes
    assert abs(fast.link["baud"] / 3e6 - 1) < 0.003


class Pins:
    """A platform of simulated pins."""

    def __init__(self):
        self.ports = {}

    def request(self, name, number=0, *, dir):
        def port(direction, part=""):
            return self.ports.setdefault(f"{name}{number}{part}", io.SimulationPort(direction, 1))

        if name == "uart":
            return type("Uart", (), {"rx": port("i", "rx"), "tx": port("o", "tx")})
        if name == "esp32":
            return type("Esp32", (), {"gpio0": port("o", "gpio0")})
        return port("o" if name == "led" else "i")


class Simulated(BoardTop):
    """The top without PLL: the simulator drives the clock."""

    def __init__(self, *arguments, pins, **options):
        self.pins = pins
        super().__init__(*arguments, **options)

    def elaborate(self, platform):
        return super().elaborate(self.pins)

    def _elaborate_clock(self, m, platform, others):
        pass


async def send_bits(ctx, wire, data, divisor, *, broken=None):
    """Send bytes; number `broken` has no stop bit in its time."""
    for index, byte in enumerate(data):
        stop = (0, 1) if index == broken else (1,)
        for bit in (0, *((byte >> k) & 1 for k in range(8)), *stop):
            ctx.set(wire, bit)
            for _ in range(divisor):
                await ctx.tick()


async def listen(ctx, wire, divisor, frames):
    """Append the frames on `wire` to `frames`."""
    reader = FrameReader()
    while True:
        while ctx.get(wire):
            await ctx.tick()
        byte = 0
        for k in range(10 * divisor - 1):
            if k % divisor == divisor // 2 and 0 < k // divisor < 9:
                byte |= ctx.get(wire) << (k // divisor - 1)
            await ctx.tick()
        frames.extend(reader.feed([byte]))
        assert not reader.damaged


def test_uart_bytes_without_a_stop_bit_damage_their_frame():
    dut, frames = LinkedAccelerator(TINY, divisor=4, accelerator=Loopback(), buffer=64), []

    async def host(ctx):
        ctx.set(dut.rx, 1)
        for number, kind, broken in (1, Kind.RESET, 3), (2, Kind.RESET, None), (3, Kind.QUERY, 5):
            line = Frame(kind=kind, session=number).encode()
            await send_bits(ctx, dut.rx, line, 4, broken=broken)
            while len(frames) < number:
                await ctx.tick()

    async def line(ctx):
        await listen(ctx, dut.tx, 4, frames)

    run(dut, host, background=[line])
    assert frames == [Frame(kind=Kind.DATA, session=session, window=64) for session in (0, 2, 2)]


def test_commands_through_the_pins():
    board = replace(find_board("ulx3s_85f"), baud=5_000_000)
    pins = Pins()
    top = Simulated(board, TINY, mhz=25, pins=pins, accelerator=Loopback(status=0b101))
    beats = [bytes(range(k, k + TINY.bus_bytes)) for k in (10, 21)]
    control = REGISTERS["CONTROL"]
    enable = command_bytes(Command.WRITE, address=control.offset,
                           data=control.field("irq_enable").mask)
    identity = command_bytes(Command.READ, address=REGISTERS["ID"].offset)
    send = command_bytes(Command.SEND, beats=beats)
    sent = send + command_bytes(Command.READ, address=control.offset) + identity
    expected = (bytes([Reply.BEAT]) + beats[0] + bytes([Reply.LAST]) + beats[1]
                + bytes([Reply.SEND, 0, Reply.READ, 0, 0, 0, 0, 0, Reply.READ, 0])
                + MAGIC.to_bytes(4, "little"))
    frames = []

    async def host(ctx):
        rx = pins.ports["uart0rx"].i
        ctx.set(rx, 1)
        for _ in range(1100):  # the bridge reads STATUS meanwhile
            await ctx.tick()
        for frame in (Frame(kind=Kind.QUERY), Frame(kind=Kind.RESET, session=6),
                      # A register is written, then the host is killed in the midst of a command.
                      Frame(kind=Kind.DATA, session=6, payload=enable + send[:-3]),
                      Frame(kind=Kind.RESET, session=7),
                      Frame(kind=Kind.DATA, session=7, payload=sent)):
            before = len(frames)
            await send_bits(ctx, rx, frame.encode(), top.divisor)
            while len(frames) == before:  # opening a session would cut the answer short
                await ctx.tick()
        while sum(len(frame.payload) for frame in frames if frame.session == 7) < len(expected):
            await ctx.tick()
        lit = {name: ctx.get(pins.ports[f"led{number}"].o) for number, name in enumerate(LEDS)}
        assert lit == {"busy": 1, "done": 0, "error": 1, "heartbeat": 0}
        assert ctx.get(pins.ports["esp320gpio0"].o) == 1

    async def line(ctx):
        await listen(ctx, pins.ports["uart0tx"].o, top.divisor, frames)

    run(top, host, max_cycles=20_000, background=[line])
    info = {"magic": MAGIC, "version": VERSION, "bus_bytes": TINY.bus_bytes, "buffer": BUFFER,
            "config_hash": TINY.hash, "status": 0b101, "memory": 0}
    assert frames[0] == Frame(kind=Kind.INFO, window=BUFFER, payload=b"".join(
        info[name].to_bytes(size, "little") for name, size, _ in INFO))
    assert [frame.session for frame in frames] == sorted(frame.session for frame in frames)
    payload = {session: b"".join(frame.payload for frame in frames if frame.session == session)
               for session in (6, 7)}
    assert payload == {6: bytes([Reply.WRITE, 0, Reply.BEAT]) + beats[0], 7: expected}
    assert frames[-1].acknowledge == len(sent)


@pytest.mark.parametrize(("name", "suffix", "expected"), [
    ("arty_s7_50", "xdc", ['LOC R2 [get_ports "clk100_0__io"]', 'LOC V12 [get_ports "uart_0__rx',
                           'IOSTANDARD SSTL135 [get_ports "clk100_0__io"]']),
    ("ulx3s_85f", "lpf", ['COMP "uart_0__rx__io" SITE "M1"', 'COMP "esp32_0__gpio0__io" SITE "L2"',
                          'FREQUENCY PORT "clk25_0__io" 25000000.0 HZ']),
])
def test_platforms_build_with_this_flow(name, suffix, expected):
    board = find_board(name)
    top = BoardTop(board, TINY, accelerator=Loopback())
    files = board.platform(top.plan.output).build(top, name, do_build=False).files
    constraints, script = files[f"{name}.{suffix}"], files[f"build_{name}.sh"]
    for line in expected:
        assert line in constraints
    assert len(re.findall(r"LOC |LOCATE ", constraints)) == (8 if suffix == "xdc" else 9)
    assert f"read_rtlil {name}.il" in files["run.ys"]
    assert "PLLE2_ADV" in files[f"{name}.il"] or "EHXPLLL" in files[f"{name}.il"]
    commands = [line.split()[0] for line in script.splitlines() if line.startswith('"$')]
    assert commands == (['"$YOSYS"', '"$NEXTPNR_XILINX"', '"$FASM2FRAMES"', '"$XC7FRAMES2BIT"']
                        if suffix == "xdc" else ['"$YOSYS"', '"$NEXTPNR_ECP5"', '"$ECPPACK"'])
    if suffix == "xdc":
        assert "-nobram" not in files["run.ys"]
        assert "--freq 50 " in script
        assert "$DB_DIR/spartan7/xc7s50csga324-1/part.yaml" in script
    else:
        assert "--85k --package CABGA381 --speed 6" in script
