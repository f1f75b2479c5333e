# amaranth: UnusedElaboratable=no
"""Streams in registers: the window in pysim against a queue, and the driver over it to the RTL."""

import errno
import mmap
import os
import random

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.regmap import MAGIC, REGISTERS
from systola.hw.contract.stream_registers import (
    BASE,
    SIZE,
    SIZE_BITS,
    STREAM_MAGIC,
    STREAM_REGISTERS,
    beat_words,
)
from systola.hw.host import axi
from systola.hw.host.register_file import RegisterFile
from systola.hw.host.stream_window import StreamWindow
from systola.hw.mapped import MappedAccelerator
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.driver.errors import IdentityError, LinkError
from systola.sw_driver.driver.mapped import MappedTransport, Mapping

OKAY, SLVERR = 0, 2
COUNT = STREAM_REGISTERS["RECEIVE_COUNT"]


class Simulated:
    """A host on the AXI4-Lite port, word by word; the simulation runs only inside its calls.

    ``after`` coroutines run in the background. With `rng`, all handshakes wait at random.
    """

    def __init__(self, dut, *background, rng=None):
        self.dut, self.rng, self.cycles = dut, rng, 0
        self.sim = Simulator(dut)
        self.sim.add_clock(1e-8)
        self.request, self.answer = None, None
        self.sim.add_testbench(self._host, background=True)
        for testbench in background:
            self.sim.add_testbench(testbench, background=True)
        self.sim.add_testbench(self._clock)

    async def _clock(self, ctx):
        while True:
            await ctx.tick()
            self.cycles += 1

    def _wait(self):
        return self.rng is not None and self.rng.random() < 0.4

    async def _host(self, ctx):
        while True:
            if self.request is None:
                await ctx.tick()
                continue
            offset, value, strobes = self.request
            self.answer = await (self._read(ctx, offset) if value is None
                                 else self._write(ctx, offset, value, strobes))
            self.request = None

    async def _write(self, ctx, offset, value, strobes):
        dut, pending = self.dut, {"aw", "w"}
        for signal, level in ((dut.s_axil_awaddr, offset), (dut.s_axil_wdata, value),
                              (dut.s_axil_wstrb, strobes)):
            ctx.set(signal, level)
        offered = set()
        while pending:
            for channel in sorted(pending - offered):
                if not self._wait():
                    offered.add(channel)
                    ctx.set(getattr(dut, f"s_axil_{channel}valid"), 1)
            *_, aw, w = await ctx.tick().sample(dut.s_axil_awready, dut.s_axil_wready)
            for channel, ready in ("aw", aw), ("w", w):
                if ready and channel in pending & offered:
                    pending.discard(channel)
                    ctx.set(getattr(dut, f"s_axil_{channel}valid"), 0)
        return await self._answer(ctx, "b", dut.s_axil_bresp)

    async def _read(self, ctx, offset):
        dut, ready = self.dut, False
        ctx.set(dut.s_axil_araddr, offset)
        ctx.set(dut.s_axil_arvalid, 1)
        while not ready:
            *_, ready = await ctx.tick().sample(dut.s_axil_arready)
        ctx.set(dut.s_axil_arvalid, 0)
        return await self._answer(ctx, "r", dut.s_axil_rresp, dut.s_axil_rdata)

    async def _answer(self, ctx, channel, *values):
        dut, valid, held, ready = self.dut, False, None, False
        while not (valid and ready):
            ready = not self._wait()
            ctx.set(getattr(dut, f"s_axil_{channel}ready"), ready)
            *_, valid, first, second = await ctx.tick().sample(
                getattr(dut, f"s_axil_{channel}valid"), values[0], values[-1])
            assert held in (None, (first, second)), "answer changed while stalled"
            assert held is None or valid, "answer fell while stalled"
            held = (first, second) if valid else None
        ctx.set(getattr(dut, f"s_axil_{channel}ready"), 0)
        return (first, second) if len(values) == 2 else first

    def access(self, offset, value=None, strobes=15):
        """Return the response of a write, or (response, data) of a read, within 200 cycles."""
        self.request = offset, value, strobes
        end = self.cycles + 200
        while self.request is not None:
            assert self.cycles < end, "the bus hangs"
            self.sim.advance()
        return self.answer

    def read(self, offset):
        """Return a register."""
        response, data = self.access(offset)
        assert response == OKAY
        return data

    def write(self, offset, value):
        """Write a register."""
        assert self.access(offset, value) == OKAY

    def idle(self, cycles):
        """Let time pass."""
        end = self.cycles + cycles
        while self.cycles < end:
            self.sim.advance()

    def close(self):
        """Do nothing, like the end of a mapping."""


class Behind(wiring.Component):
    """A window with the registers of an accelerator, and its streams to drive."""

    def __init__(self, **options):
        self.window = StreamWindow(**options)
        stream = axi.Stream(self.window.bus_bytes)
        super().__init__(axi.ports(s_axil=In(axi.Lite(SIZE_BITS)), m_axis=Out(stream),
                                   s_axis=In(stream)) | {"reset": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.window = window = self.window
        m.submodules.registers = registers = RegisterFile(PRESETS["tiny"])
        for name in "s_axil", "m_axis", "s_axis":
            interface = getattr(window, name)
            wiring.connect(m, axi.bundle(self, name, interface.signature.flip()), interface)
        wiring.connect(m, window.m_axil, registers.s_axil)
        m.d.comb += self.reset.eq(window.reset)
        return m


class Streams:
    """What an accelerator would do: takes beats, offers frames."""

    def __init__(self, dut, rng=None, stall=0.4):
        self.dut, self.rng, self.stall = dut, rng, stall
        self.taken, self.offer, self.accept = [], [], True

    def _wait(self):
        return self.rng is not None and self.rng.random() < self.stall

    async def take(self, ctx):
        dut, held = self.dut, None
        while True:
            ready = self.accept and not self._wait()
            ctx.set(dut.m_axis_tready, ready)
            *_, valid, beat, reset = await ctx.tick().sample(dut.m_axis_tvalid, dut.m_axis_tdata,
                                                             dut.reset)
            assert held in (None, beat), "beat changed while stalled"
            assert held is None or valid, "valid fell while stalled"
            held = beat if valid and not ready and not reset else None
            if valid and ready:
                self.taken.append(beat)

    async def give(self, ctx):
        dut = self.dut
        while True:
            if not self.offer or self._wait():
                await ctx.tick()
                continue
            beat, last = self.offer[0]
            ctx.set(dut.s_axis_tdata, beat)
            ctx.set(dut.s_axis_tlast, last)
            ctx.set(dut.s_axis_tvalid, 1)
            ready = False
            while not ready:
                *_, ready = await ctx.tick().sample(dut.s_axis_tready)
            ctx.set(dut.s_axis_tvalid, 0)
            self.offer.pop(0)


def window(rng=None, **options):
    """Return a host and the streams of a window."""
    dut = Behind(**options)
    streams = Streams(dut, rng)
    return Simulated(dut, streams.take, streams.give, rng=rng), streams


def offset(name):
    return STREAM_REGISTERS[name].offset


def words_of(beat, bus_bytes):
    """Return the words of a beat."""
    return [beat >> 32 * k & 0xFFFFFFFF for k in range(beat_words(bus_bytes))]


@pytest.mark.parametrize(("bus_bytes", "depth", "seed"), [(2, 4, 1), (4, 5, 2), (8, 8, 3),
                                                          (32, 16, 4)])
def test_words_become_beats_and_beats_words(bus_bytes, depth, seed):
    rng = random.Random(seed)
    host, streams = window(rng, bus_bytes=bus_bytes, depth=depth)
    assert host.read(offset("STREAM_BEAT")) == bus_bytes
    beats = [rng.getrandbits(8 * bus_bytes) for _ in range(24)]
    frames = [[rng.getrandbits(8 * bus_bytes) for _ in range(rng.randint(1, 7))]
              for _ in range(5)]
    streams.offer = [(beat, k == len(frame) - 1) for frame in frames
                     for k, beat in enumerate(frame)]
    waiting = [word for beat in beats for word in words_of(beat, bus_bytes)]
    got, frame = [], []
    while waiting or len(got) < len(frames):
        for _ in range(min(host.read(offset("SEND_FREE")), len(waiting))):
            host.write(offset("SEND_DATA"), waiting.pop(0))
        count = host.read(COUNT.offset)
        words = COUNT.field("words").get(count)
        frame += [host.read(offset("RECEIVE_DATA")) for _ in range(words)]
        if COUNT.field("last").get(count):
            got.append(frame)
            frame = []
    host.idle(100)
    assert streams.taken == beats
    assert got == [[word for beat in frame for word in words_of(beat, bus_bytes)]
                   for frame in frames]
    assert host.read(offset("STREAM_STATUS")) == 0
    assert host.read(offset("SEND_FREE")) == depth


def test_fifos_fill_to_their_depth_and_not_beyond():
    host, streams = window(bus_bytes=8, depth=6)
    streams.accept = False
    host.idle(2)
    assert host.read(offset("SEND_FREE")) == 6
    for word in range(8):  # a beat of two waits outside the FIFO
        host.write(offset("SEND_DATA"), word)
        assert host.read(offset("SEND_FREE")) == min(6, 7 - word)
    assert host.read(offset("STREAM_STATUS")) == 0
    host.write(offset("SEND_DATA"), 99)
    assert host.read(offset("STREAM_STATUS")) == STREAM_REGISTERS["STREAM_STATUS"].field(
        "lost").mask
    streams.accept = True
    host.idle(30)
    assert streams.taken == [k | k + 1 << 32 for k in range(0, 8, 2)]
    host.write(offset("SEND_DATA"), 5)  # what was lost stays lost
    assert host.read(offset("STREAM_STATUS")) == STREAM_REGISTERS["STREAM_STATUS"].field(
        "lost").mask
    host.write(offset("STREAM_CONTROL"), 1)
    assert host.read(offset("STREAM_STATUS")) == 0
    streams.accept = False
    for word in range(5):
        host.write(offset("SEND_DATA"), word)
    host.write(offset("STREAM_CONTROL"), 1)
    assert host.read(offset("SEND_FREE")) == 6
    streams.accept = True
    host.idle(20)
    assert len(streams.taken) == 4


def test_reading_too_early_is_told_and_takes_nothing():
    host, streams = window(bus_bytes=4, depth=8)
    assert host.access(offset("RECEIVE_DATA")) == (OKAY, 0)
    assert host.read(offset("STREAM_STATUS")) == STREAM_REGISTERS["STREAM_STATUS"].field(
        "early").mask
    streams.offer = [(5, False), (6, True), (7, True)]
    host.idle(20)
    assert host.read(COUNT.offset) == 2 | COUNT.field("last").mask  # 7 is of another frame
    assert [host.read(offset("RECEIVE_DATA")) for _ in range(2)] == [5, 6]
    host.idle(20)
    assert host.read(COUNT.offset) == 1 | COUNT.field("last").mask
    assert host.read(offset("RECEIVE_DATA")) == 7
    assert host.read(COUNT.offset) == 0


def test_a_frame_ends_with_the_last_word_of_its_last_beat():
    host, streams = window(bus_bytes=32, depth=4)
    streams.offer = [(sum(k << 32 * k for k in range(8)), True)]
    for first, last in (0, False), (4, True):
        host.idle(20)
        assert host.read(COUNT.offset) == 4 | last * COUNT.field("last").mask
        words = [host.read(offset("RECEIVE_DATA")) for _ in range(4)]
        assert words == list(range(first, first + 4))


def test_words_read_without_looking_come_once():
    """At whatever moment of its way through the FIFO a word is read."""
    host, streams = window(bus_bytes=4, depth=4)
    streams.rng, streams.stall, got = random.Random(6), 0.85, []
    streams.offer = [(value, False) for value in range(1, 60)]
    while streams.offer or host.read(COUNT.offset):
        got += [host.read(offset("RECEIVE_DATA")) for _ in range(20)]
    assert [word for word in got if word] == list(range(1, 60))
    assert 0 in got


def test_reset_forgets_half_beats_words_and_flags():
    host, streams = window(bus_bytes=8, depth=8)
    for word in 1, 2, 3:
        host.write(offset("SEND_DATA"), word)
    streams.offer = [(4, True)]
    host.access(offset("RECEIVE_DATA"))
    host.idle(20)
    assert streams.taken == [1 | 2 << 32]
    assert host.access(offset("STREAM_CONTROL"), 0) == OKAY  # a zero does nothing
    assert host.access(offset("STREAM_CONTROL"), 1, strobes=14) == OKAY  # nor other bytes
    assert host.read(COUNT.offset) == 2 | COUNT.field("last").mask
    host.write(offset("STREAM_CONTROL"), 1)
    assert host.read(COUNT.offset) == 0
    assert host.read(offset("STREAM_STATUS")) == 0
    assert host.read(offset("SEND_FREE")) == 8
    for word in 6, 7:
        host.write(offset("SEND_DATA"), word)
    streams.offer = [(9, True)]
    host.idle(20)
    assert streams.taken[1:] == [6 | 7 << 32]
    assert host.read(COUNT.offset) == 2 | COUNT.field("last").mask


def test_reset_forgets_a_result_beat_on_its_way():
    host, streams = window(bus_bytes=8, depth=4)
    for last in True, False:
        streams.offer = [(k | k << 32, last and k == 2) for k in range(3)]
        host.idle(20)
        assert host.read(COUNT.offset) == 4  # and the third beat waits outside the FIFO
        host.write(offset("STREAM_CONTROL"), 1)
        host.idle(10)
        assert host.read(COUNT.offset) == 0
    streams.offer = [(5 | 6 << 32, True)]
    host.idle(20)
    assert host.read(COUNT.offset) == 2 | COUNT.field("last").mask
    assert [host.read(offset("RECEIVE_DATA")) for _ in range(2)] == [5, 6]


@pytest.mark.parametrize("seed", [None, 1])
def test_every_address_answers(seed):
    host, streams = window(seed and random.Random(seed), bus_bytes=4, depth=8)
    writable = [register.offset for group in (REGISTERS, STREAM_REGISTERS)
                for register in group.values() if register.writable]
    readable = {register.offset for group in (REGISTERS, STREAM_REGISTERS)
                for register in group.values()}
    rng = random.Random(5)
    places = [*range(0, BASE + 64, 4), SIZE - 4, *(rng.randrange(0, SIZE, 4) for _ in range(30))]
    rng.shuffle(places)
    for place in places:
        response, value = host.access(place)
        assert (response == OKAY) == (place in readable)
        assert response == OKAY or value == 0
        assert (host.access(place, 0) == OKAY) == (place in writable)
    control = REGISTERS["CONTROL"]
    host.write(control.offset, control.field("irq_enable").mask)
    host.access(control.offset, 0, strobes=14)
    assert host.read(control.offset) == control.field("irq_enable").mask
    assert host.read(REGISTERS["ID"].offset) == MAGIC
    assert host.read(offset("STREAM_ID")) == STREAM_MAGIC
    assert host.access(offset("SEND_DATA"), 7, strobes=7) == SLVERR
    host.idle(10)
    assert streams.taken == [0]


def test_write_and_read_take_turns():
    """Neither of two masters that never pause starves, and a word takes few cycles."""
    host, _ = window(bus_bytes=4, depth=8)
    dut, answers = host.dut, []

    async def both(ctx):
        for name in "awvalid", "wvalid", "arvalid", "bready", "rready":
            ctx.set(getattr(dut, f"s_axil_{name}"), 1)
        ctx.set(dut.s_axil_wstrb, 15)
        ctx.set(dut.s_axil_awaddr, offset("SEND_DATA"))
        ctx.set(dut.s_axil_araddr, offset("SEND_FREE"))
        for _ in range(60):
            *_, written, read = await ctx.tick().sample(dut.s_axil_bvalid, dut.s_axil_rvalid)
            answers.extend(["w"] * written + ["r"] * read)

    host.sim.add_testbench(both, background=True)
    host.idle(62)
    assert len(answers) >= 60 // 4
    assert "ww" not in "".join(answers)
    assert "rr" not in "".join(answers)


@pytest.mark.parametrize(("options", "message"), [
    ({"bus_bytes": 3}, "bus_bytes must be a power of two, not 3"),
    ({"bus_bytes": 0}, "bus_bytes must be an integer from 1 to 128, not 0"),
    ({"bus_bytes": 4, "depth": 3}, "depth must be an integer from 4 to 32768, not 3"),
])
def test_wrong_parameters(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        StreamWindow(**options)


# --- The driver over the window ---

def answering(**values):
    """Return registers in plain memory, with an accelerator's identity and `values`."""
    class Memory:
        def __init__(self):
            self.words = {offset("STREAM_ID"): STREAM_MAGIC, offset("STREAM_BEAT"): 4,
                          **{offset(name): value for name, value in values.items()}}
            self.closed = False

        def read(self, place):
            return self.words.get(place, 0)

        def write(self, place, value):
            self.words[place] = value

        def close(self):
            self.closed = True

    return Memory()


@pytest.mark.slow
def test_driver_runs_a_random_network_on_the_rtl():
    """Bit for bit, with registers, streams, results and a reset in between, over the bus alone."""
    rng = np.random.default_rng(4)
    config = AcceleratorConfig(rows=5, cols=1, lanes=1, token_depth=8, banks=1, bank_depth=512,
                               weight_fifo=8, stream_fifo=8, param_depth=64, max_row=16,
                               norm_roots=1, gelu="table")
    model = random_vit(rng, channels=4, heads=1, blocks=0, hidden=1, classes=3, tokens=5,
                       patch_dim=6, **config.model_settings)  # few instructions: pysim is slow
    codes = {name: values[0] for name, values in random_codes(rng, model, 1).items()}
    expected = forward(model, codes)["logits"]
    program = compile_network(model, config)
    host = Simulated(MappedAccelerator(config, depth=16))
    with Accelerator(MappedTransport(host), timeout=600) as accelerator:
        accelerator.load(program)
        assert accelerator.counters()["cycles"] == 0
        accelerator.transport.write_register(REGISTERS["CONTROL"].offset, 1)
        accelerator.transport.send(program.stream[:136])
        accelerator.reset()  # in the middle of a program
        results = accelerator.run(codes)
        np.testing.assert_array_equal(results["logits"], expected)
        assert accelerator.counters()["instructions"] == program.instructions
        with pytest.raises(IdentityError, match=r"^register STREAM_ID must read 0x6d737973, not "):
            MappedTransport(answering(STREAM_ID=0))


def test_frames_are_told_apart_and_beats_unpacked():
    host, streams = window(bus_bytes=2, depth=8)
    link = MappedTransport(host)
    streams.offer = [(k, k in (1, 29)) for k in range(30)]
    link.send(np.arange(40, dtype="<u2").tobytes())  # more than fits, with results in the way
    assert np.frombuffer(link.receive(9), "<u2").tolist() == [0, 1]
    assert np.frombuffer(link.receive(9), "<u2").tolist() == list(range(2, 30))
    with pytest.raises(TimeoutError, match=r"^no result frame within 0.01 s$"):
        link.receive(0.01)
    host.idle(30)
    assert streams.taken == list(range(40))
    with pytest.raises(ValueError, match=r"^data must be whole beats of 2 bytes, not 3 bytes$"):
        link.send(b"abc")


def test_dead_accelerator_and_lost_words_are_told():
    link = MappedTransport(answering(), stall=0.02)
    with pytest.raises(LinkError, match=r"^the accelerator has taken nothing for 0.02 s"):
        link.send(bytes(4))
    for status, what in (1, "lost"), (3, "lost and early"):
        link = MappedTransport(answering(SEND_FREE=9, STREAM_STATUS=status))
        with pytest.raises(LinkError, match=f"^stream words went {what}: does another process"):
            link.send(bytes(4))
    with pytest.raises(ValueError, match=r"^stall must be positive, not 0$"):
        MappedTransport(answering(), stall=0)


def test_mapping_reads_and_writes_words_of_a_file(tmp_path):
    path = tmp_path / "registers"
    page = bytearray(mmap.PAGESIZE + SIZE)
    page[mmap.PAGESIZE + 8:mmap.PAGESIZE + 12] = (0x12345678).to_bytes(4, "little")
    path.write_bytes(page)
    registers = Mapping(str(path), mmap.PAGESIZE)
    assert registers.read(8) == 0x12345678
    registers.write(SIZE - 4, 0xFFFFFFFF)
    for bad in -4, 2, SIZE:
        with pytest.raises(ValueError, match=r"^offset must be a multiple of 4 from 0 to 0xffc"):
            registers.read(bad)
    registers.close()
    registers.close()
    assert path.read_bytes()[-4:] == b"\xff" * 4
    with pytest.raises(ValueError, match=r"^the mapping is closed$"):
        registers.read(8)


def test_open_needs_an_accelerator_and_lets_go_without(tmp_path):
    path = tmp_path / "registers"
    path.write_bytes(bytes(SIZE))
    with pytest.raises(IdentityError, match=r"systola generate --mapped.* at this address\?$"):
        MappedTransport.open(str(path))
    path.write_bytes((STREAM_MAGIC).to_bytes(4, "little").rjust(BASE + 4, b"\0").ljust(
        SIZE, b"\0"))
    MappedTransport.open(str(path)).close()


@pytest.mark.parametrize(("base", "message"), [
    (mmap.PAGESIZE // 2, "base must be a multiple of the page size 0x[0-9a-f]+, not 0x[0-9a-f]+"),
    ("0", "base must be an integer, not '0'"),
    (mmap.PAGESIZE, ".*registers must have the 4096 bytes of the registers at 0x[0-9a-f]+; .*"),
])
def test_wrong_bases(tmp_path, base, message):
    path = tmp_path / "registers"
    path.write_bytes(bytes(SIZE))
    with pytest.raises(ValueError, match=f"^{message}$"):
        Mapping(str(path), base)


@pytest.mark.parametrize(("code", "message"), [
    (errno.ENOENT, "there is no such device"), (errno.EACCES, "permission denied: run as root"),
    (errno.EPERM, "the kernel does not permit it"), (errno.EIO, "Input/output error")])
@pytest.mark.parametrize("call", ["os.open", "mmap.mmap"])
def test_refusals_of_the_kernel_say_what_to_do(tmp_path, monkeypatch, call, code, message):
    path = tmp_path / "registers"
    path.write_bytes(bytes(SIZE))

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"systola.sw_driver.driver.mapped.{call}", refuse)
    with pytest.raises(OSError, match=message) as info:
        Mapping(str(path))
    assert (info.value.errno, info.value.filename) == (code, str(path))
