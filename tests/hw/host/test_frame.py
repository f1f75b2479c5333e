# amaranth: UnusedElaboratable=no
"""Frames on the serial link: bytes to frames and back, against `hw/contract/frame.py`."""

import random
import re
import zlib

import pytest

from systola.hw.contract.frame import (
    CRC_BYTES,
    ESCAPE,
    FLAG,
    FLIP,
    HEADER,
    HEADER_BYTES,
    LENGTH_MAX,
    Frame,
    FrameReader,
    Kind,
)
from systola.hw.host.deframer import Deframer
from systola.hw.host.framer import Framer
from systola.sim.harness import collect, drive, run
from systola.sim.soak.line_faults import BROKEN, Faults

HOSTILE = bytes([FLAG, ESCAPE, FLAG ^ FLIP, ESCAPE ^ FLIP, 0, 255])
NAMES = [name for name, _, _ in HEADER]


def random_frame(rng, longest=20):
    """Return a frame of which half is what stuffing is about."""
    def number():
        return rng.choice([0, 0x7E7D, 0x7D7E, 0xFFFF, rng.randrange(1 << 16)])

    payload = bytes(rng.choice(HOSTILE) if rng.random() < 0.5 else rng.randrange(256)
                    for _ in range(rng.randrange(longest + 1)))
    return Frame(kind=rng.choice(list(Kind)), session=number(), sequence=number(),
                 acknowledge=number(), window=number(), payload=payload)


def stuffed(body):
    """Return any `body` as a frame on the line, its CRC made right."""
    body += zlib.crc32(body).to_bytes(CRC_BYTES, "little")
    return bytes([FLAG, *(part for byte in body for part in (
        (ESCAPE, byte ^ FLIP) if byte in {FLAG, ESCAPE} else (byte,))), FLAG])


def read(data):
    """Return the frames of `data`, None for each that is damaged."""
    reader, found = FrameReader(), []
    for byte in data:
        damaged = reader.damaged
        frames = reader.feed(bytes([byte]))
        found += [None] * (reader.damaged - damaged) + frames
    return found


def test_frames_as_bytes():
    frame = Frame(kind=Kind.DATA, session=1, sequence=0x7E, acknowledge=3, window=4, payload=b"}")
    line = frame.encode()
    assert line == stuffed(b"\1" b"\1\0" b"\x7e\0" b"\3\0" b"\4\0" b"\1" b"}")
    assert line[:12] == b"\x7e\1\1\0\x7d\x5e\0\3\0\4\0\1"
    assert read(line) == [frame]
    with pytest.raises(ValueError, match=re.escape("sequence must be from 0 to 65535, not 65536")):
        Frame(kind=Kind.DATA, sequence=1 << 16).encode()
    with pytest.raises(ValueError, match=r"^length must be from 0 to 255, not 256$"):
        Frame(kind=Kind.DATA, payload=bytes(256)).encode()


@pytest.mark.parametrize("seed", range(4))
def test_reader_finds_frames_however_they_are_cut(seed):
    rng = random.Random(seed)
    frames = [random_frame(rng, LENGTH_MAX) for _ in range(40)]
    data = b"".join(frame.encode() + bytes([FLAG]) * rng.randrange(3) for frame in frames)
    reader, got = FrameReader(), []
    while data:
        size = rng.randrange(1, 400)
        got += reader.feed(data[:size])
        data = data[size:]
    assert (got, reader.damaged) == (frames, 0)


def deframe(data, gaps=lambda: 0):
    """Return what the hardware finds in `data` as `read` does."""
    dut, found, payload = Deframer(), [], bytearray()

    async def line(ctx):
        for byte in data:
            for valid in (1, *(0,) * gaps()):
                ctx.set(dut.i.p, byte)
                ctx.set(dut.i.valid, valid)
                await ctx.tick()
        ctx.set(dut.i.valid, 0)
        for _ in range(3):
            await ctx.tick()

    async def watch(ctx):
        async for *_, valid, byte, good, bad, header in ctx.tick().sample(
                dut.payload.valid, dut.payload.p, dut.good, dut.bad, dut.header.as_value()):
            assert not (good and bad)
            if good:
                # Of the header and as much payload: what is then right, is all right.
                body = header.to_bytes(HEADER_BYTES, "little") + payload
                found.append(Frame.decode(stuffed(body)[1:-1]))
            if good or bad:
                payload.clear()
                found.extend([None] * bad)
            if valid:
                payload.append(byte)

    run(dut, line, max_cycles=100_000, background=[watch])
    return found


@pytest.mark.parametrize("seed", range(4))
def test_deframer_agrees_about_damaged_bytes(seed):
    """At a byte a cycle for half of the seeds."""
    rng = random.Random(seed)
    data = b"".join(random_frame(rng).encode() + bytes([FLAG]) * rng.choice([0, 0, 1])
                    for _ in range(40))
    faults = Faults(rng, 0.02)
    damaged = [byte for byte in faults.apply(data) if not byte & BROKEN]
    expected = read(damaged)
    assert deframe(damaged, (lambda: rng.choice([0, 0, 3])) if seed % 2 else lambda: 0) == expected
    assert len(faults.counts) >= 5
    assert 10 < sum(frame is not None for frame in expected) < 40


def test_deframer_agrees_about_every_kind_of_wrong_frame():
    rng = random.Random(1)
    whole = Frame(kind=Kind.DATA, session=5, payload=bytes(range(30))).encode()
    body = bytearray(Frame(kind=Kind.RESEND, payload=b"abc").encode()[1:-1 - CRC_BYTES])
    pieces = [
        b"", bytes([FLAG]) * 3, bytes([ESCAPE, FLAG]), bytes([ESCAPE, ESCAPE, FLAG]),
        bytes([FLAG, ESCAPE, FLAG, FLAG]), whole[:-1] + bytes([ESCAPE, FLAG]),  # ESCAPE at the end
        whole[:-1] * 2 + bytes([FLAG]),  # one FLAG ends a frame and begins the next
        whole[1:-1], whole[:1], whole[:-3] + whole[-1:], whole[:20] + whole,
        *(stuffed(bytes([kind]) + body[1:]) for kind in (0, *Kind, 6, 0x81, 255)),
        *(stuffed(bytes(body[:HEADER_BYTES - 1]) + bytes([length]) + b"abc")
          for length in (0, 1, 2, 3, 4, 7, 255)),
        *(stuffed(bytes(body[:size])) for size in (0, 1, 2, HEADER_BYTES - 1, HEADER_BYTES)),
        stuffed(bytes(body[:HEADER_BYTES - 1]) + b"\xff" + bytes(255)),
        stuffed(bytes(body[:HEADER_BYTES - 1]) + b"\xff" + bytes(256)),
        stuffed(bytes(body[:HEADER_BYTES - 1]) + b"\x03abc" + bytes(512)),
        bytes(700) + bytes([FLAG]), rng.randbytes(300) + bytes([FLAG]), whole]
    data = []
    for piece in pieces:
        data += piece + Frame(kind=Kind.QUERY).encode()
    expected = read(data)
    assert deframe(data) == expected
    assert {frame.kind for frame in expected if frame} == set(Kind)
    assert sum(frame is None for frame in expected) > 20


async def begin(ctx, dut, frame):
    """Begin `frame` as soon as the one before has ended."""
    ready = False
    while not ready:
        *_, ready = await ctx.tick().sample(dut.ready)
    for name in NAMES:
        value = len(frame.payload) if name == "length" else getattr(frame, name)
        ctx.set(dut.header[name], value)
    ctx.set(dut.start, 1)
    await ctx.tick()
    ctx.set(dut.start, 0)


@pytest.mark.parametrize("seed", range(3))
def test_framer_sends_what_encode_returns(seed):
    rng = random.Random(seed)
    dut, heard, rest = Framer(), [], rng if seed else None
    frames = [random_frame(rng, 40) for _ in range(15)] + [
        Frame(kind=Kind.DATA, payload=rng.randbytes(LENGTH_MAX))]
    expected = b"".join(frame.encode() for frame in frames)

    async def feed(ctx):
        for frame in frames:
            await begin(ctx, dut, frame)
            await drive(ctx, dut.payload, frame.payload, rest)

    async def line(ctx):
        heard.extend(await collect(ctx, dut.o, len(expected), rest))

    cycles = run(dut, feed, line)
    assert bytes(heard) == expected
    if not rest:  # 2 cycles a byte, an ESCAPE in 1, and 1 that this test needs to begin a frame
        escapes = sum(frame.encode().count(ESCAPE) for frame in frames)
        assert cycles == 2 * len(expected) - escapes + len(frames)


def test_framer_mixes_no_field_from_two_values_and_tells_when_it_takes_acknowledge():
    rng = random.Random(3)
    dut, heard, told, shown = Framer(), [], [], {name: set() for name in NAMES}
    count = 20

    async def feed(ctx):
        ctx.set(dut.header.kind, Kind.DATA)
        for _ in range(count):
            ctx.set(dut.start, 1)
            ready = False
            while not ready:  # fields change all the time, both bytes of them
                for name in "session", "sequence", "acknowledge", "window":
                    value = rng.choice([0x0101, 0x7E7D, 0x1234, 0xFFFF, 0])
                    shown[name].add(value)
                    ctx.set(dut.header[name], value)
                *_, ready, is_told, value = await ctx.tick().sample(
                    dut.ready, dut.told, dut.header.acknowledge)
                told.extend([value] * is_told)
        ctx.set(dut.start, 0)

    async def line(ctx):
        reader = FrameReader()
        while len(heard) < count - 1:
            ctx.set(dut.o.ready, ready := rng.random() < 0.4)
            *_, valid, byte = await ctx.tick().sample(dut.o.valid, dut.o.p)
            if valid and ready:
                heard.extend(reader.feed([byte]))
        assert not reader.damaged

    run(dut, feed, line, max_cycles=20_000)
    for name, values in shown.items():
        assert name in {"kind", "length"} or {getattr(frame, name) for frame in heard} <= values
    assert [frame.acknowledge for frame in heard] == told[:len(heard)]


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_cut_short_is_damaged_and_the_next_one_is_not(seed):
    rng = random.Random(seed)
    dut, heard = Framer(), bytearray()
    frame = Frame(kind=Kind.DATA, session=0x7E01, payload=HOSTILE * 2)
    after = Frame(kind=Kind.INFO, session=7, payload=b"next")
    places = range(seed, 2 * len(frame.encode()) + 4, 3)

    async def feed(ctx):
        for cycles in places:
            await begin(ctx, dut, frame)
            ctx.set(dut.payload.valid, 1)
            for _ in range(cycles):
                ctx.set(dut.payload.p, rng.choice(HOSTILE))
                await ctx.tick()
            ctx.set(dut.cut, 1)
            await ctx.tick()
            ctx.set(dut.cut, 0)
            ctx.set(dut.payload.valid, 0)
            await begin(ctx, dut, after)
            await drive(ctx, dut.payload, after.payload)
        for _ in range(20):
            await ctx.tick()

    async def line(ctx):
        ctx.set(dut.o.ready, 1)
        async for *_, valid, byte in ctx.tick().sample(dut.o.valid, dut.o.p):
            heard.extend([byte] * valid)

    run(dut, feed, background=[line])
    found = read(heard)
    assert found.count(after) == len(places)
    assert None in found
    # What was not cut before its end is whole.
    assert all(item is None or item == after or len(item.payload) == len(frame.payload)
               for item in found)
