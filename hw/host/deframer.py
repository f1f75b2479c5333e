"""Received bytes to frames: unstuffed, measured and checked as `contract.frame.Frame` says."""

from enum import IntEnum

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from systola.hw.contract.frame import CRC_BYTES, ESCAPE, FLAG, FLIP, HEADER_BYTES, Kind
from systola.hw.parts.shapes import frame_header

__all__ = ["Deframer"]


class _Part(IntEnum):
    """What the next byte of a frame belongs to."""

    HEADER = 0
    PAYLOAD = 1
    CRC = 2
    END = 3  # nothing: only FLAG may follow
    EXCESS = 4


class Deframer(wiring.Component):
    """Finds frames in received bytes; the hardware of `systola.hw.contract.frame.FrameReader`.

    Payload comes while it is received, before anybody knows whether it is right: who takes it must
    be able to forget it. At most one byte a cycle (a UART has one in 40 or more); a byte of payload
    comes in the cycle of the byte of the line, the verdict one cycle after the FLAG.

    Model: hw/contract/frame.py

    Members
    -------
    i : In(stream of 8 bits, always ready)
        Bytes from the line.
    header : Out(frame_header())
        Header of the frame, complete from the first byte of payload to one cycle after the FLAG.
    payload : Out(stream of 8 bits, always ready)
        Bytes of payload, of frames that may be damaged or shorter than their header says.
    good : Out(1)
        High for one cycle: the frame has ended, and is one that `Frame.decode` accepts.
    bad : Out(1)
        The same for a frame that it refuses; neither is high for an empty frame.
    """

    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(8, always_ready=True)),
            "header": Out(frame_header()),
            "payload": Out(stream.Signature(8, always_ready=True)),
            "good": Out(1), "bad": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = CRC32_ETHERNET().create()
        part, left = Signal(_Part), Signal(8, init=HEADER_BYTES - 1)
        begun, escaped = Signal(), Signal()
        flag, escape, take, byte = Signal(), Signal(), Signal(), Signal(8)
        m.d.comb += [
            flag.eq(self.i.valid & (self.i.p == FLAG)),
            escape.eq(self.i.valid & (self.i.p == ESCAPE) & ~escaped),
            take.eq(self.i.valid & ~flag & ~escape),
            byte.eq(self.i.p ^ Mux(escaped, FLIP, 0)),
            crc.start.eq(flag), crc.valid.eq(take), crc.data.eq(byte),
            self.payload.valid.eq(take & (part == _Part.PAYLOAD)), self.payload.p.eq(byte),
        ]
        m.d.sync += [self.good.eq(0), self.bad.eq(0)]
        with m.If(self.i.valid):
            m.d.sync += [escaped.eq(escape), begun.eq(1)]
        with m.If(take):
            m.d.sync += left.eq(left - 1)
            with m.Switch(part):
                with m.Case(_Part.HEADER):
                    m.d.sync += self.header.as_value().eq(Cat(self.header, byte)[8:])
                    with m.If(left == 0):  # this byte is the last of the header, the length
                        m.d.sync += [part.eq(_Part.PAYLOAD), left.eq(byte - 1)]
                        with m.If(byte == 0):
                            m.d.sync += [part.eq(_Part.CRC), left.eq(CRC_BYTES - 1)]
                with m.Case(_Part.PAYLOAD):
                    with m.If(left == 0):
                        m.d.sync += [part.eq(_Part.CRC), left.eq(CRC_BYTES - 1)]
                with m.Case(_Part.CRC):
                    with m.If(left == 0):
                        m.d.sync += part.eq(_Part.END)
                with m.Default():
                    m.d.sync += part.eq(_Part.EXCESS)
        with m.If(flag):
            right = Signal()
            m.d.comb += right.eq((part == _Part.END) & ~escaped & crc.match_detected
                                 & self.header.kind.matches(*Kind))
            m.d.sync += [self.good.eq(right), self.bad.eq(begun & ~right), begun.eq(0),
                         part.eq(_Part.HEADER), left.eq(HEADER_BYTES - 1)]
        return m
