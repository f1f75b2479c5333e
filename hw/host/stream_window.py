"""Both streams in AXI4-Lite registers, beside those of the accelerator."""

from amaranth import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.stream_registers import (
    BASE,
    SIZE_BITS,
    STREAM_MAGIC,
    STREAM_REGISTERS,
    WORD_BYTES,
    beat_words,
)
from systola.hw.host.axi import Lite, Stream
from systola.hw.host.register_window import RegisterWindow
from systola.hw.parts.arguments import check_integers

__all__ = ["DEPTH_MAX", "StreamWindow"]

DEPTH_MAX = 32768
"""Most words of a FIFO, so that the registers can tell their number."""


class StreamWindow(wiring.Component):
    """Registers of ``hw/contract/stream_registers.py``, beside those of another subordinate.

    One access at a time, a write and a read in turn if both wait. A register answers 2 cycles
    after address (and data) are there, RECEIVE_DATA up to 2 later; others as the subordinate does.
    A beat of n words goes by in n + 1 cycles. Results of a frame wait until those of the one before
    were read, so that RECEIVE_COUNT always speaks of one frame.

    Model: none: moves data

    Parameters
    ----------
    bus_bytes : int
        Bytes of a beat, a power of two.
    depth : int
        Words of each of the two FIFOs, 4 to `DEPTH_MAX`.

    Members
    -------
    s_axil : In(axi.Lite(SIZE_BITS))
        From the host.
    m_axil : Out(axi.Lite())
        To the accelerator's registers.
    m_axis, s_axis : Out(axi.Stream(bus_bytes)), In(axi.Stream(bus_bytes))
        To the accelerator's input, from its output. No TLAST is sent.
    reset : Out(1)
        High for a cycle when the host asks for a reset; no access is under way then.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, depth=512):
        check_integers(bus_bytes=(bus_bytes, 1, 128), depth=(depth, 4, DEPTH_MAX))
        if bus_bytes & (bus_bytes - 1):
            raise ValueError(f"bus_bytes must be a power of two, not {bus_bytes!r}")
        self.bus_bytes, self.depth, self.words = bus_bytes, depth, beat_words(bus_bytes)
        super().__init__({
            "s_axil": In(Lite(SIZE_BITS)), "m_axil": Out(Lite()),
            "m_axis": Out(Stream(bus_bytes)), "s_axis": In(Stream(bus_bytes)), "reset": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        fifo = SyncFIFOBuffered(width=8 * WORD_BYTES, depth=self.depth)
        m.submodules.outgoing = outgoing = ResetInserter(self.reset)(fifo)
        fifo = SyncFIFOBuffered(width=8 * WORD_BYTES, depth=self.depth)
        m.submodules.incoming = incoming = ResetInserter(self.reset)(fifo)
        self._elaborate_send(m, outgoing)
        ended = self._elaborate_receive(m, incoming)
        m.submodules.window = window = RegisterWindow(base=BASE, address_bits=SIZE_BITS)
        wiring.connect(m, wiring.flipped(self.s_axil), window.s_axil)
        wiring.connect(m, window.m_axil, wiring.flipped(self.m_axil))
        self._elaborate_access(m, window.access, outgoing, incoming, ended)
        return m

    def _elaborate_send(self, m, fifo):
        """Put words together to beats; the last word of a beat goes on at once."""
        shift, count = Signal(8 * WORD_BYTES * self.words), Signal(range(self.words + 1))
        full = Signal()
        m.d.comb += [full.eq(count == self.words), self.m_axis.tvalid.eq(full),
                     self.m_axis.tdata.eq(shift[:8 * self.bus_bytes]), fifo.r_en.eq(~full)]
        with m.If(full & self.m_axis.tready):
            m.d.sync += count.eq(0)
        with m.If(fifo.r_en & fifo.r_rdy):
            m.d.sync += [shift.eq(Cat(shift, fifo.r_data)[8 * WORD_BYTES:]), count.eq(count + 1)]
        with m.If(self.reset):
            m.d.sync += count.eq(0)

    def _elaborate_receive(self, m, fifo):
        """Take beats apart; returns whether the FIFO holds the end of a frame."""
        shift, left = Signal(8 * WORD_BYTES * self.words), Signal(range(self.words + 1))
        last, ended = Signal(), Signal()
        m.d.comb += [self.s_axis.tready.eq((left == 0) & ~ended),
                     fifo.w_data.eq(shift[:8 * WORD_BYTES]), fifo.w_en.eq(left != 0)]
        with m.If(self.s_axis.tready & self.s_axis.tvalid):
            m.d.sync += [shift.eq(self.s_axis.tdata), left.eq(self.words),
                         last.eq(self.s_axis.tlast)]
        with m.If(fifo.w_en & fifo.w_rdy):
            m.d.sync += [shift.eq(shift >> 8 * WORD_BYTES), left.eq(left - 1)]
            with m.If((left == 1) & last):
                m.d.sync += ended.eq(1)
        with m.If(ended & (fifo.level == 0)):
            m.d.sync += ended.eq(0)
        with m.If(self.reset):
            m.d.sync += left.eq(0)
        return ended

    def _elaborate_access(self, m, access, outgoing, incoming, ended):
        """Answer accesses to the registers of this unit."""
        lost, early = Signal(), Signal()
        values = {"STREAM_ID": STREAM_MAGIC, "STREAM_BEAT": self.bus_bytes, "STREAM_CONTROL": 0,
                  "STREAM_STATUS": Cat(lost, early), "SEND_DATA": 0,
                  "SEND_FREE": self.depth - outgoing.level, "RECEIVE_DATA": incoming.r_data,
                  "RECEIVE_COUNT": incoming.level
                  | ended << STREAM_REGISTERS["RECEIVE_COUNT"].field("last").lsb}
        m.d.comb += [outgoing.w_data.eq(access.data), access.done.eq(access.valid),
                     access.error.eq(1)]
        with m.If(access.valid & access.write):
            self._write(m, access, outgoing, lost, early)
        with m.Elif(access.valid):
            self._read(m, access, values, incoming, early)

    def _write(self, m, access, outgoing, lost, early):
        with m.If(access.address[2:] == STREAM_REGISTERS["SEND_DATA"].offset >> 2):
            with m.If(access.strobes.all()):
                m.d.comb += [outgoing.w_en.eq(1), access.error.eq(0)]
                m.d.sync += lost.eq(lost | ~outgoing.w_rdy)
        with m.If(access.address[2:] == STREAM_REGISTERS["STREAM_CONTROL"].offset >> 2):
            m.d.comb += access.error.eq(0)
            with m.If(access.strobes[0] & access.data[0]):
                m.d.comb += self.reset.eq(1)
                m.d.sync += [lost.eq(0), early.eq(0)]

    def _read(self, m, access, values, incoming, early):
        with m.Switch(access.address[2:]):
            for name, register in STREAM_REGISTERS.items():
                with m.Case(register.offset >> 2):
                    m.d.comb += [access.value.eq(values[name]), access.error.eq(0)]
                    if name == "RECEIVE_DATA":
                        m.d.comb += incoming.r_en.eq(1)
                        with m.If(incoming.level == 0):
                            m.d.comb += access.value.eq(0)
                            m.d.sync += early.eq(1)
                        with m.Elif(~incoming.r_rdy):  # on its way through the FIFO
                            m.d.comb += access.done.eq(0)
