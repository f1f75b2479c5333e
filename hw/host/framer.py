"""Frames to bytes of the line: header, payload and CRC, stuffed as ``contract/frame.py`` says."""

from enum import IntEnum

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from systola.hw.contract.frame import CRC_BYTES, ESCAPE, FLAG, FLIP, HEADER, HEADER_BYTES
from systola.hw.parts.shapes import frame_header

__all__ = ["Framer"]

_NAMES = [name for name, _, _ in HEADER]
_ACKNOWLEDGE = sum(size for _, size, _ in HEADER[:_NAMES.index("acknowledge")])


class _Part(IntEnum):
    """What the next byte of a frame belongs to."""

    OPEN = 0
    HEADER = 1
    PAYLOAD = 2
    CRC = 3
    CLOSE = 4


class Framer(wiring.Component):
    """Sends frames; the hardware of `systola.hw.contract.frame.Frame.encode`.

    At most a byte in 2 cycles, the first FLAG 1 cycle after `start`. Every frame has both its
    FLAGs, so that damage to one does not reach the next frame.

    Model: hw/contract/frame.py

    Members
    -------
    header : In(frame_header())
        Header of the frame. A field is taken as a whole when its first byte is, ``length`` with
        `start`; so fields may change meanwhile, but none is ever mixed from two values.
    start, ready : In(1), Out(1)
        In a cycle with both a frame begins.
    told : Out(1)
        High in the cycle in which ``acknowledge`` is taken.
    cut : In(1)
        Ends the frame under way at once; it is too short then, and so damaged.
    payload : In(stream of 8 bits)
        ``length`` bytes are taken.
    o : Out(stream of 8 bits)
        Bytes to the line.
    """

    def __init__(self):
        super().__init__({
            "header": In(frame_header()), "start": In(1), "ready": Out(1), "told": Out(1),
            "cut": In(1), "payload": In(stream.Signature(8)), "o": Out(stream.Signature(8)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = CRC32_ETHERNET().create()
        # A byte on its way out, whether it is a real FLAG, and whether its ESCAPE has gone.
        held, byte, plain, escaped = Signal(), Signal(8), Signal(), Signal()
        escape, counted, following = Signal(), Signal(), Signal(8)
        m.d.comb += [
            crc.data.eq(byte), crc.valid.eq(counted),
            escape.eq(~plain & ~escaped & ((byte == FLAG) | (byte == ESCAPE))),
            self.o.valid.eq(held),
            self.o.p.eq(Mux(escape, ESCAPE, byte ^ Mux(escaped, FLIP, 0))),
        ]
        with m.If(held & self.o.ready):
            m.d.sync += [escaped.eq(escape), held.eq(escape)]

        part, left, index = Signal(_Part), Signal(8), Signal(range(HEADER_BYTES))
        field_byte, keep_rest = self._field_byte(m, index, left)
        m.d.sync += counted.eq(0)
        with m.If(~held):
            m.d.sync += [plain.eq(0), byte.eq(following), held.eq(1), index.eq(index + 1)]
            with m.Switch(part):
                with m.Case(_Part.OPEN):
                    m.d.comb += [self.ready.eq(1), crc.start.eq(1)]
                    m.d.sync += [plain.eq(1), byte.eq(FLAG), held.eq(self.start), index.eq(0),
                                 left.eq(self.header.length)]
                    with m.If(self.start):
                        m.d.sync += part.eq(_Part.HEADER)
                with m.Case(_Part.HEADER):
                    m.d.comb += [following.eq(field_byte), self.told.eq(index == _ACKNOWLEDGE)]
                    m.d.sync += [counted.eq(1), keep_rest]
                    with m.If(index == HEADER_BYTES - 1):
                        m.d.sync += [part.eq(Mux(left == 0, _Part.CRC, _Part.PAYLOAD)),
                                     index.eq(0)]
                with m.Case(_Part.PAYLOAD):
                    m.d.comb += [self.payload.ready.eq(1), following.eq(self.payload.p)]
                    m.d.sync += [held.eq(self.payload.valid), counted.eq(self.payload.valid),
                                 index.eq(0)]
                    with m.If(self.payload.valid):
                        m.d.sync += left.eq(left - 1)
                        with m.If(left == 1):
                            m.d.sync += part.eq(_Part.CRC)
                with m.Case(_Part.CRC):
                    m.d.comb += following.eq(crc.crc.word_select(index[:2], 8))
                    with m.If(index == CRC_BYTES - 1):
                        m.d.sync += part.eq(_Part.CLOSE)
                with m.Default():
                    m.d.sync += [plain.eq(1), byte.eq(FLAG), part.eq(_Part.OPEN)]
        with m.If(self.cut):
            m.d.sync += part.eq(_Part.CLOSE)
        return m

    def _field_byte(self, m, index, left):
        """Return the header's byte `index`, and the statement that keeps the rest of its field."""
        widest = max(size for _, size, _ in HEADER)
        byte, kept, rest = Signal(8), Signal(8 * (widest - 1)), Signal(8 * (widest - 1))
        offset = 0
        with m.Switch(index):
            for name, size, _ in HEADER:
                field = left if name == "length" else self.header[name]
                with m.Case(offset):
                    m.d.comb += [byte.eq(field[:8]), rest.eq(field[8:])]
                offset += size
            with m.Default():
                m.d.comb += [byte.eq(kept[:8]), rest.eq(kept[8:])]
        return byte, kept.eq(rest)
