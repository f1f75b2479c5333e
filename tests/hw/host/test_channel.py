# amaranth: UnusedElaboratable=no
"""The device's end of the serial link: reliable streams, sessions, reports, whatever happens."""

import random
import re

import pytest

from systola.hw.contract.frame import (
    FLAG,
    INFO,
    LENGTH_MAX,
    MODULUS,
    VERSION,
    Frame,
    FrameReader,
    Kind,
    piece,
)
from systola.hw.contract.regmap import MAGIC
from systola.hw.host.channel import Channel
from systola.sim.harness import run
from systola.sim.soak.line_faults import BROKEN, Faults

BUFFER, PATIENCE = 64, 8
HASH = 0x7E7D_0123_4567_89AB
QUIET = 40
"""Cycles after which an answer has begun, or there is none."""


class Bench:
    """A channel; the line to it, what came from it, and what is behind it.

    ``takes`` and ``gives`` are the chances that the inside does so in a cycle, ``slow`` that the
    line takes no byte; ``gap`` the cycles from one byte to the device to the next. Hooks may change
    bytes of the line. The inside is reset with the channel's ``reset``, one cycle later.
    """

    def __init__(self, seed=0, *, buffer=BUFFER, faults=lambda data: list(data), gap=1):
        self.rng = random.Random(seed)
        self.dut = Channel(bus_bytes=16, config_hash=HASH, memory=1234, buffer=buffer,
                           patience=PATIENCE)
        self.faults, self.gap = faults, gap
        self.takes, self.gives, self.slow = 1.0, 1.0, 0.0
        self.line, self.frames, self.reader = [], [], FrameReader()
        self.taken, self.supply, self.at_reset = bytearray(), bytearray(), b""
        self.resets, self.cycle, self.heard = [], 0, 0

    def run(self, script, max_cycles=60_000):
        async def host(ctx):
            self.ctx = ctx
            await script(self)

        return run(self.dut, host, max_cycles=max_cycles,
                   background=[self._to, self._from, self._inside])

    async def _to(self, ctx):
        dut = self.dut
        while True:
            byte = self.line.pop(0) if self.line else None
            for valid in (byte is not None, *(False,) * (self.gap - 1)):
                ctx.set(dut.rx.valid, valid)
                ctx.set(dut.rx.p, byte or 0)
                await ctx.tick()

    async def _from(self, ctx):
        dut, held = self.dut, None
        while True:
            ctx.set(dut.tx.ready, ready := self.rng.random() >= self.slow)
            *_, valid, byte, reset = await ctx.tick().sample(dut.tx.valid, dut.tx.p, dut.reset)
            assert held is None or (valid and byte == held), "changed while stalled"
            held = byte if valid and not ready else None
            if valid and ready:
                self.frames += self.reader.feed(self.faults([byte]))
            self.cycle += 1
            self.heard = self.cycle if valid else self.heard
            self.resets += [self.cycle] * reset

    async def _inside(self, ctx):
        dut, offered, reset = self.dut, False, False
        while True:
            if reset:
                self.taken.clear()
                self.supply[:], offered = self.at_reset, False
            take = self.rng.random() < self.takes
            offered = offered or (bool(self.supply) and self.rng.random() < self.gives)
            ctx.set(dut.o.ready, take)
            ctx.set(dut.i.valid, offered)
            ctx.set(dut.i.p, self.supply[0] if offered else 0)
            *_, came, byte, went, following = await ctx.tick().sample(
                dut.o.valid, dut.o.p, dut.i.ready, dut.reset)
            assert not (reset and ((came and take) or (went and offered)))
            reset = following
            self.taken += bytes([byte] * (came and take))
            if went and offered:
                del self.supply[0]
                offered, self.heard = False, self.cycle

    async def wait(self, cycles):
        for _ in range(cycles):
            await self.ctx.tick()

    async def send(self, frame=None, data=b"", **fields):
        """Send `data`, and `frame` or that of `fields`; wait until the line is idle."""
        if fields:
            frame = Frame(**fields)
        self.line += self.faults(data + (frame.encode() if frame else b""))
        while self.line:
            await self.ctx.tick()

    async def answers(self, *arguments, **fields):
        """Send; return the frames that come until nothing does."""
        del self.frames[:]
        await self.send(*arguments, **fields)
        self.heard = self.cycle
        while self.cycle < self.heard + QUIET:
            await self.ctx.tick()
        found, self.frames = self.frames, []
        return found

    def preset(self, number):
        """Let both streams stand at `number`; both must be empty."""
        for signal in (self.dut._expected, self.dut._arriving, self.dut._read,
                       self.dut._base, self.dut._next, self.dut._written):
            self.ctx.set(signal, number % MODULUS)


def report(session=5, sequence=0, acknowledge=0, window=BUFFER, payload=b""):
    return Frame(kind=Kind.DATA, session=session, sequence=sequence % MODULUS,
                 acknowledge=acknowledge % MODULUS, window=window, payload=payload)


def check(script, **options):
    """Run `script` on a bench that has opened session 5."""
    async def whole(bench):
        assert await bench.answers(kind=Kind.RESET, session=5) == [report()]
        await script(bench)
        assert not bench.reader.damaged

    bench = Bench(**options)
    bench.run(whole)
    return bench


def info(status):
    values = {"magic": MAGIC, "version": VERSION, "bus_bytes": 16, "buffer": BUFFER,
              "config_hash": HASH, "status": status, "memory": 1234}
    return b"".join(values[name].to_bytes(size, "little") for name, size, _ in INFO)


def test_what_is_reported():
    async def script(bench):
        data, five = Kind.DATA, {"session": 5}
        assert await bench.answers(kind=data, payload=b"abc", **five) == [report(acknowledge=3)]
        now = report(acknowledge=3)
        for frame, answers in (
                (Frame(kind=data, **five), []),  # tells that something arrived, no more
                (Frame(kind=data, sequence=3, acknowledge=0, window=9, **five), []),
                (Frame(kind=Kind.RESEND, **five), [now]),
                (Frame(kind=data, payload=b"abc", **five), [now]),  # again
                (Frame(kind=data, sequence=2, payload=b"abc", **five), [now]),
                (Frame(kind=data, sequence=4, payload=b"abc", **five), [now]),
                (Frame(kind=data, session=6, sequence=3, payload=b"x"), [now]),
                (Frame(kind=data, session=0), [now]),
                (Frame(kind=Kind.RESEND, session=6), [now]),
                (Frame(kind=Kind.RESET, session=5), [now]),  # its own: no effect
                (Frame(kind=Kind.RESET, session=0), [now]),
                (Frame(kind=Kind.INFO, session=6, payload=b"x"), []),
                (Frame(kind=Kind.INFO, sequence=3, payload=b"x", **five), [])):
            assert await bench.answers(frame) == answers
        for garbage in b"x\x7e", b"\x7d\x7e", b"x\x7ey\x7e", bytes(600) + b"\x7e":
            assert await bench.answers(data=garbage) == [now]
        assert await bench.answers(data=bytes([FLAG]) * 4) == []
        told = Frame(kind=Kind.INFO, session=5, acknowledge=3, window=BUFFER,
                     payload=info(0x7E7D0102))
        bench.ctx.set(bench.dut.status, 0x7E7D0102)
        assert await bench.answers(kind=Kind.QUERY, session=1234) == [told]
        bench.line += b"x"  # the next FLAG ends the damage
        assert await bench.answers(kind=Kind.QUERY) == [now, told]
        assert await bench.answers(
            data=Frame(kind=Kind.QUERY).encode() + b"x\x7e") == [told, now]
        assert await bench.answers(kind=data, sequence=3, payload=b"d", **five) == [
            report(acknowledge=4)]
        assert bench.taken == b"abcd"
        assert len(bench.resets) == 4

    check(script)


def test_questions_are_answered_while_everything_is_blocked():
    async def script(bench):
        bench.takes, bench.supply = 0.0, bytearray(range(200))
        got = await bench.answers(kind=Kind.DATA, session=5, payload=bytes(BUFFER))
        # The device sends what its buffer holds, then waits to be told that it arrived.
        assert b"".join(frame.payload for frame in got) == bytes(range(BUFFER))
        assert [(frame.acknowledge, frame.window) for frame in got[-1:]] == [(BUFFER, 0)]
        head = Frame(kind=Kind.INFO, session=5, sequence=BUFFER, acknowledge=BUFFER,
                     payload=info(0))
        for _ in range(3):
            assert await bench.answers(kind=Kind.QUERY) == [head]
        full = report(sequence=BUFFER, acknowledge=BUFFER, window=0)
        assert await bench.answers(kind=Kind.DATA, session=5, sequence=BUFFER,
                                   payload=b"x") == [full]
        assert await bench.answers(kind=Kind.RESET, session=5) == [full]
        assert await bench.answers(kind=Kind.RESET, session=9) == [report(session=9)]
        bench.takes = 1.0
        await bench.send(kind=Kind.DATA, session=9, payload=b"new")
        await bench.wait(20)
        assert bench.taken == b"new"

    check(script)


def test_a_window_that_opens_again_is_told():
    async def script(bench):
        bench.takes = 0.0
        await bench.answers(kind=Kind.DATA, session=5, payload=bytes(range(8, BUFFER)))
        # What does not fit is dropped as a whole.
        assert await bench.answers(kind=Kind.DATA, session=5, sequence=BUFFER - 8,
                                   payload=bytes(9)) == [report(acknowledge=BUFFER - 8, window=8)]
        assert await bench.answers(kind=Kind.DATA, session=5, sequence=BUFFER - 8,
                                   payload=b"eightful") == [report(acknowledge=BUFFER, window=0)]
        while len(bench.taken) < BUFFER // 2 - 1:
            bench.takes = 1.0
            await bench.ctx.tick()
        bench.takes = 0.0
        assert await bench.answers() == []
        bench.takes = 1.0
        got = await bench.answers()
        assert got[0].window >= BUFFER // 2
        assert got[-1] == report(acknowledge=BUFFER)
        assert bench.taken == bytes(range(8, BUFFER)) + b"eightful"
        # More than any buffer.
        assert await bench.answers(kind=Kind.DATA, session=5, sequence=BUFFER,
                                   payload=bytes(LENGTH_MAX)) == [report(acknowledge=BUFFER)]
        assert len(bench.taken) == BUFFER

    check(script)


@pytest.mark.parametrize("start", [0, BUFFER - 5, MODULUS - 20])
def test_everything_from_the_acknowledged_byte_on_is_repeated(start):
    async def script(bench):
        bench.preset(start)
        text = bytes(range(40))
        bench.supply += text
        assert await bench.answers() == [report(sequence=start, acknowledge=start, payload=text)]
        base = 0
        for offset in (0, 3, 3, 20, 39, 40):
            # Neither what was acknowledged nor what was never sent.
            for wrong in (base - 1, len(text) + 1, base + MODULUS // 2) if offset == 20 else ():
                assert await bench.answers(
                    kind=Kind.RESEND, session=5, acknowledge=(start + wrong) % MODULUS) == [
                        report(sequence=start + base, acknowledge=start, payload=text[base:])]
            assert await bench.answers(
                kind=Kind.RESEND, session=5, acknowledge=(start + offset) % MODULUS) == [
                    report(sequence=start + offset, acknowledge=start, payload=text[offset:])]
            base = offset

    check(script)


def test_what_is_acknowledged_meanwhile_is_not_repeated():
    async def script(bench):
        text = bench.rng.randbytes(900)
        bench.supply += text
        assert len(await bench.answers()) == 4
        line = b"".join(Frame(kind=kind, session=5, acknowledge=number).encode()
                        for kind, number in ((Kind.RESEND, 100), (Kind.DATA, 900)))
        got = await bench.answers(data=line)
        assert [frame.sequence for frame in got[1:]] == []
        bench.supply += b"more"
        assert await bench.answers() == [report(sequence=900, payload=b"more", window=1024)]

    async def opened(bench):
        await bench.answers(kind=Kind.RESET, session=5)
        await script(bench)

    Bench(buffer=1024).run(opened)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_session_begins_with_nothing_of_the_one_before(seed):
    """Whatever the device sends or receives just then."""
    async def script(bench):
        session, old = 5, bytes(range(100, 120))
        for delay in range(seed, 130, 9):
            bench.supply += old
            bench.line += Frame(kind=Kind.DATA, session=session, payload=b"old " * 4).encode()
            await bench.wait(delay)
            bench.line.clear()  # the host is killed
            before, session = session, session + 0xFF
            assert not bench.reader.damaged
            got = await bench.answers(kind=Kind.RESET, session=session)
            bench.reader.damaged = 0  # what was sent then was cut short
            assert got[-1] == report(session)
            assert {frame.session for frame in got} <= {before, session}
            assert all(frame == report(session) for frame in got if frame.session == session)
            bench.supply += b"new"
            got = await bench.answers(kind=Kind.DATA, session=session, payload=b"text")
            assert b"".join(frame.payload for frame in got) == b"new"
            assert {(frame.session, frame.acknowledge) for frame in got} == {(session, 4)}
            assert bench.taken == b"text"

    bench = check(script, seed=seed)
    assert len(bench.resets) == 4 * (1 + len(range(seed, 130, 9)))


def test_a_byte_that_waits_is_not_offered_in_the_next_session():
    async def script(bench):
        bench.takes = 0.0
        await bench.answers(kind=Kind.DATA, session=5, payload=b"old text")
        assert bench.ctx.get(bench.dut.o.valid)
        bench.line += Frame(kind=Kind.RESET, session=6).encode()
        while not bench.ctx.get(bench.dut._opened):
            await bench.ctx.tick()
        await bench.ctx.tick()
        bench.takes = 1.0
        assert await bench.answers() == [report(session=6)]
        await bench.send(kind=Kind.DATA, session=6, payload=b"new")
        await bench.wait(20)
        assert bench.taken == b"new"

    check(script)


def test_a_byte_in_every_cycle_and_two_cycles_for_each_to_the_line():
    async def script(bench):
        text = bench.rng.randbytes(3 * BUFFER)
        line = b"".join(Frame(kind=Kind.DATA, session=5, sequence=at,
                              payload=text[at:at + 16]).encode() for at in range(0, len(text), 16))
        bench.supply += text
        bench.line += line
        start = bench.cycle
        while bench.taken != text:
            await bench.ctx.tick()
        assert bench.cycle - start < len(line) + 40
        assert not bench.line
        await bench.wait(PATIENCE + 2 * (BUFFER + 30))  # a frame of what the buffer holds
        got = b"".join(frame.payload for frame in bench.frames)
        assert got == text[:BUFFER]

    check(script)


async def converse(bench, out, into, until):
    """Exchange streams over the line with a simple host: `out` goes, as much of `into` comes."""
    rng, base, limit, expected, session, idle = bench.rng, 0, 0, 0, 0, 10_000
    inbox, following = bytearray(), 0
    while base < len(out) or len(inbox) < until or len(bench.taken) < len(out):
        await bench.ctx.tick()
        idle += 1
        for frame in bench.frames:
            if frame.kind is not Kind.DATA or frame.session != 7:
                continue
            session = 7
            moved = (frame.acknowledge - base) % MODULUS
            if moved <= following - base:
                idle = 0 if moved else idle
                base, limit = base + moved, base + moved + frame.window
            if frame.payload and frame.sequence == expected % MODULUS:
                inbox += frame.payload
                expected += len(frame.payload)
                idle = 0
        bench.frames.clear()
        if bench.line:
            continue
        fields = {"session": 7, "sequence": following % MODULUS,
                  "acknowledge": expected % MODULUS}
        if session != 7:
            if idle > 300:
                idle = 0
                bench.line += bench.faults(Frame(kind=Kind.RESET, session=7).encode())
        elif idle > 250:
            idle, following = 0, base
            bench.line += bench.faults(Frame(**{**fields, "sequence": base % MODULUS},
                                             kind=Kind.RESEND).encode())
        elif following < min(limit, len(out)):
            end = min(limit, len(out), following + rng.randrange(1, 40))
            bench.line += bench.faults(Frame(**fields, kind=Kind.DATA,
                                             payload=out[following:end]).encode())
            following = end
        elif rng.random() < 0.02:  # acknowledges, or is none of the device's business
            bench.line += bench.faults(rng.choice([
                Frame(**fields, kind=Kind.DATA), Frame(**fields, kind=Kind.DATA),
                Frame(kind=Kind.QUERY, session=rng.randrange(9)), Frame(kind=Kind.RESET, session=7),
                Frame(**{**fields, "session": 6}, kind=Kind.DATA, payload=b"foreign"),
                Frame(**{**fields, "acknowledge": expected + MODULUS // 2}, kind=Kind.DATA),
                Frame(kind=Kind.INFO, session=7, payload=b"from the host"),
            ]).encode() + bytes([FLAG]) * rng.randrange(3))
        if rng.random() < 0.002:  # long spells of anything
            bench.takes, bench.gives = rng.choice([0.0, 0.05, 1.0]), rng.choice([0.0, 0.05, 1.0])
            bench.slow = rng.choice([0.0, 0.5, 0.9])
        if idle == 249:
            bench.takes = bench.gives = 1.0
    assert inbox == into[:len(inbox)]
    return bytes(inbox)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "rate"), [(0, 0.0), (1, 0.01), (2, 0.015)])
def test_streams_survive_damage_of_every_kind(seed, rate):
    faults = Faults(random.Random(seed), rate)
    bench = Bench(seed, gap=1 + 2 * (seed % 2), faults=lambda data: [
        byte for byte in faults.apply(data) if not byte & BROKEN])
    out, into = bench.rng.randbytes(180), bench.rng.randbytes(180)
    found = []

    async def script(bench):
        found.append(await converse(bench, out, into, len(into)))

    bench.at_reset = into
    bench.run(script)
    assert bench.taken == out
    assert found == [into]
    assert (sum(faults.counts.values()) > 5) == (rate > 0)


def test_bytes_are_offered_3_cycles_after_their_frame_and_every_2_cycles():
    async def script(bench):
        dut, trace = bench.dut, []
        bench.line += Frame(kind=Kind.DATA, session=5, payload=b"abcd").encode()
        while len(trace) < 50:
            *_, flag, byte, valid = await bench.ctx.tick().sample(
                dut.rx.valid, dut.rx.p, dut.o.valid)
            trace.append("F" if flag and byte == FLAG else "o" if valid else ".")
        assert "".join(trace).strip(".").partition("F")[2].lstrip(".") == "F..o.o.o.o"
        await bench.answers()

    check(script)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"buffer": 8}, "buffer must be an integer of at least 16, not 8"),
    ({"buffer": 96}, "buffer must be a power of two up to 32768, not 96"),
    ({"buffer": 65536}, "buffer must be a power of two up to 32768, not 65536"),
    ({"patience": 0}, "patience must be an integer of at least 1, not 0"),
])
def test_unusable_parameters(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Channel(bus_bytes=4, config_hash=1, **arguments)


@pytest.mark.parametrize("wanted", [1, 32, 100, 200, 600, 1020, 2000])
def test_frames_are_as_long_and_as_many_as_the_host_wants(wanted):
    async def script(bench):
        bench.supply = bytearray(range(256)) * 8
        got = await bench.answers(kind=Kind.RESEND, session=5, window=wanted)
        frames = [frame for frame in got if frame.payload]
        most = piece(wanted)
        under_way = sum(len(frame.payload) for frame in frames)
        assert max(len(frame.payload) for frame in frames) <= most
        assert wanted - most < under_way <= max(wanted, most)
        # Every acknowledgement lets as many follow; those of a window of 0 change nothing.
        data = b"".join(frame.payload for frame in frames)
        while len(data) < 1500:
            got = await bench.answers(kind=Kind.DATA, session=5, acknowledge=len(data))
            payloads = [frame.payload for frame in got]
            assert max(map(len, payloads)) <= most
            assert 0 < sum(map(len, payloads)) <= max(wanted, most)
            data += b"".join(payloads)
        assert data == (bytes(range(256)) * 8)[:len(data)]
        # A new session begins without.
        bench.at_reset = bytes(600)
        got = await bench.answers(kind=Kind.RESET, session=6)
        assert max(len(frame.payload) for frame in got) == LENGTH_MAX

    async def whole(bench):
        assert await bench.answers(kind=Kind.RESET, session=5) == [report(window=2048)]
        await script(bench)

    Bench(buffer=2048).run(whole)
