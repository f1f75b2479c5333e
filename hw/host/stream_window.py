"""Both streams in AXI4-Lite registers, beside those of the accelerator."""

from amaranth import Cat, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.regmap import ADDRESS_BITS
from systola.hw.contract.stream_registers import (
    SIZE_BITS,
    STREAM_MAGIC,
    STREAM_REGISTERS,
    WORD_BYTES,
    beat_words,
)
from systola.hw.host.axi import OKAY, SLVERR, Lite, Stream
from systola.hw.parts.arguments import check_integers

__all__ = ["DEPTH_MAX", "StreamWindow"]

DEPTH_MAX = 32768
"""Most words of a FIFO, so that the registers can tell their number."""


class StreamWindow(wiring.Component):
    """Registers of ``hw/contract/stream_registers.py``; what lies below them is passed on.

    It goes to another subordinate.

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
        self._elaborate_bus(m, outgoing, incoming, ended)
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

    def _elaborate_bus(self, m, outgoing, incoming, ended):
        address, word, strobes = Signal(SIZE_BITS), Signal(32), Signal(WORD_BYTES)
        lost, early, prefer_read = Signal(), Signal(), Signal()
        write, read = Signal(), Signal()
        values = {"STREAM_ID": STREAM_MAGIC, "STREAM_BEAT": self.bus_bytes, "STREAM_CONTROL": 0,
                  "STREAM_STATUS": Cat(lost, early), "SEND_DATA": 0,
                  "SEND_FREE": self.depth - outgoing.level, "RECEIVE_DATA": incoming.r_data,
                  "RECEIVE_COUNT": incoming.level
                  | ended << STREAM_REGISTERS["RECEIVE_COUNT"].field("last").lsb}
        m.d.comb += [
            write.eq(self.s_axil.awvalid & self.s_axil.wvalid
                     & ~(prefer_read & self.s_axil.arvalid)),
            read.eq(self.s_axil.arvalid & ~write),
            outgoing.w_data.eq(word),
            self.m_axil.awaddr.eq(address), self.m_axil.araddr.eq(address),
            self.m_axil.wdata.eq(word), self.m_axil.wstrb.eq(strobes),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.s_axil.awready.eq(write), self.s_axil.wready.eq(write),
                             self.s_axil.arready.eq(read)]
                with m.If(write):
                    m.d.sync += [address.eq(self.s_axil.awaddr), word.eq(self.s_axil.wdata),
                                 strobes.eq(self.s_axil.wstrb), prefer_read.eq(1)]
                    m.next = "WRITE"
                    with m.If(self.s_axil.awaddr[ADDRESS_BITS:] == 0):
                        m.d.sync += [self.m_axil.awvalid.eq(1), self.m_axil.wvalid.eq(1)]
                        m.next = "PASS_WRITE"
                with m.Elif(read):
                    m.d.sync += [address.eq(self.s_axil.araddr), prefer_read.eq(0)]
                    m.next = "READ"
                    with m.If(self.s_axil.araddr[ADDRESS_BITS:] == 0):
                        m.d.sync += self.m_axil.arvalid.eq(1)
                        m.next = "PASS_READ"
            with m.State("WRITE"):
                self._write(m, address, word, strobes, outgoing, lost, early)
            with m.State("READ"):
                self._read(m, address, values, incoming, early)
            with m.State("PASS_WRITE"):
                self._pass_write(m)
            with m.State("PASS_READ"):
                self._pass_read(m)
            with m.State("ANSWER"):
                with m.If(Cat(self.s_axil.bvalid & self.s_axil.bready,
                              self.s_axil.rvalid & self.s_axil.rready).any()):
                    m.d.sync += [self.s_axil.bvalid.eq(0), self.s_axil.rvalid.eq(0)]
                    m.next = "IDLE"

    def _write(self, m, address, word, strobes, outgoing, lost, early):
        """Write a register of this unit."""
        m.d.sync += [self.s_axil.bvalid.eq(1), self.s_axil.bresp.eq(SLVERR)]
        m.next = "ANSWER"
        with m.If(address[2:] == STREAM_REGISTERS["SEND_DATA"].offset >> 2):
            with m.If(strobes.all()):
                m.d.comb += outgoing.w_en.eq(1)
                m.d.sync += [self.s_axil.bresp.eq(OKAY), lost.eq(lost | ~outgoing.w_rdy)]
        with m.If(address[2:] == STREAM_REGISTERS["STREAM_CONTROL"].offset >> 2):
            m.d.sync += self.s_axil.bresp.eq(OKAY)
            with m.If(strobes[0] & word[0]):
                m.d.comb += self.reset.eq(1)
                m.d.sync += [lost.eq(0), early.eq(0)]

    def _read(self, m, address, values, incoming, early):
        """Read a register of this unit."""
        m.d.sync += [self.s_axil.rvalid.eq(1), self.s_axil.rdata.eq(0),
                     self.s_axil.rresp.eq(SLVERR)]
        m.next = "ANSWER"
        with m.Switch(address[2:]):
            for name, register in STREAM_REGISTERS.items():
                with m.Case(register.offset >> 2):
                    m.d.sync += [self.s_axil.rdata.eq(values[name]),
                                 self.s_axil.rresp.eq(OKAY)]
                    if name == "RECEIVE_DATA":
                        m.d.comb += incoming.r_en.eq(1)
                        with m.If(incoming.level == 0):
                            m.d.sync += [self.s_axil.rdata.eq(0), early.eq(1)]
                        with m.Elif(~incoming.r_rdy):  # on its way through the FIFO
                            m.d.sync += self.s_axil.rvalid.eq(0)
                            m.next = "READ"

    def _pass_write(self, m):
        """Let the other subordinate write, and answer as it does."""
        m.d.comb += self.m_axil.bready.eq(1)
        for channel in "aw", "w":
            with m.If(getattr(self.m_axil, f"{channel}ready")):
                m.d.sync += getattr(self.m_axil, f"{channel}valid").eq(0)
        with m.If(self.m_axil.bvalid):
            m.d.sync += [self.s_axil.bvalid.eq(1), self.s_axil.bresp.eq(self.m_axil.bresp)]
            m.next = "ANSWER"

    def _pass_read(self, m):
        """Let the other subordinate read, and answer as it does."""
        m.d.comb += self.m_axil.rready.eq(1)
        with m.If(self.m_axil.arready):
            m.d.sync += self.m_axil.arvalid.eq(0)
        with m.If(self.m_axil.rvalid):
            m.d.sync += [self.s_axil.rvalid.eq(1), self.s_axil.rdata.eq(self.m_axil.rdata),
                         self.s_axil.rresp.eq(self.m_axil.rresp)]
            m.next = "ANSWER"
