"""The device's end of the serial link: frames on the line, two reliable byte streams inside."""

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.contract.frame import (
    BUFFER,
    INFO,
    INFO_BYTES,
    LENGTH_MAX,
    LENGTH_MIN,
    MODULUS,
    VERSION,
    Kind,
)
from systola.hw.contract.regmap import MAGIC
from systola.hw.host.deframer import Deframer
from systola.hw.host.framer import Framer
from systola.hw.parts.arguments import check_least

__all__ = ["Channel"]


class Channel(wiring.Component):
    """Carries out the device's rules of ``hw/contract/frame.py``, whatever the inner streams do.

    A byte may come from the line in every cycle, and goes to it in every second one; to the inside
    one goes in 2 cycles, the first 3 cycles after the FLAG that ends its frame, and from there one
    comes a cycle. A frame begins when as many bytes wait as it may carry, or some do (or a report)
    and no other came for `patience` cycles; then sequence numbers never stand still for long, and
    short replies share a frame with the report on what they reply to.

    Model: sim/machine/device.py

    Parameters
    ----------
    bus_bytes, config_hash, memory : int
        What INFO tells of the accelerator, and of the memory for resident programs.
    buffer : int
        Bytes of each of the two buffers, a power of two up to half of the sequence numbers.
    patience : int
        Cycles to wait for more to send.

    Members
    -------
    rx, tx : In(stream of 8 bits, always ready), Out(stream of 8 bits)
        The line.
    o, i : Out(stream of 8 bits), In(stream of 8 bits)
        The streams from and to the host.
    reset : Out(1)
        High for 4 cycles, from a register, when a session begins: for what is behind the streams,
        which stand still from its first cycle to the fourth after its last.
    status : In(32)
        What INFO tells as STATUS.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, config_hash, memory=0, buffer=BUFFER, patience=64):
        check_least(buffer=(buffer, 16), patience=(patience, 1), memory=(memory, 0))
        if buffer & (buffer - 1) or buffer > MODULUS // 2:
            raise ValueError(f"buffer must be a power of two up to {MODULUS // 2}, not {buffer!r}")
        self.bus_bytes, self.config_hash, self.memory = bus_bytes, config_hash, memory
        self.buffer, self.patience = buffer, patience
        self._bits = buffer.bit_length()
        # Numbers of bytes. From the host: expected next, where the frame under way is, and the next
        # one for the inside. To the host: not acknowledged, next to send, next from the inside.
        number = range(MODULUS)
        self._expected, self._arriving, self._read = Signal(number), Signal(number), Signal(number)
        self._base, self._next, self._written = Signal(number), Signal(number), Signal(number)
        self._session, self._opened, self._in_order = Signal(16), Signal(), Signal()
        self._due, self._asked, self._again = Signal(), Signal(), Signal()
        self._is_info, self._still = Signal(), Signal(range(8))
        self._waited = Signal(range(self.patience + 1))
        # What the host wants under way, the most that a frame carries, and whether one may begin.
        self._wanted, self._piece = Signal(16, init=MODULUS - 1), Signal(8, init=LENGTH_MAX)
        self._may_begin = Signal()
        super().__init__({
            "rx": In(stream.Signature(8, always_ready=True)), "tx": Out(stream.Signature(8)),
            "o": Out(stream.Signature(8)), "i": In(stream.Signature(8)),
            "reset": Out(1), "status": In(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.deframer = deframer = Deframer()
        m.submodules.framer = framer = Framer()
        m.d.comb += [
            deframer.i.valid.eq(self.rx.valid), deframer.i.p.eq(self.rx.p),
            framer.cut.eq(self._opened), self.tx.valid.eq(framer.o.valid),
            self.tx.p.eq(framer.o.p), framer.o.ready.eq(self.tx.ready),
            self.reset.eq(self._still[-1]),
        ]
        with m.If(self._still != 0):
            m.d.sync += self._still.eq(self._still - 1)
        with m.If(framer.told & ~self._is_info):
            m.d.sync += self._due.eq(0)
        self._elaborate_sender(m, framer)
        self._elaborate_receiver(m, deframer)
        self._elaborate_frames(m, deframer)
        with m.If(self._opened):  # after everything: nothing of before has an effect
            m.d.sync += [number.eq(0) for number in (
                self._expected, self._arriving, self._read,
                self._base, self._next, self._written)]
            m.d.sync += [self._session.eq(deframer.header.session), self._still.eq(7),
                         self._wanted.eq(MODULUS - 1)]
        return m

    def _memory(self, m, name, write, read):
        """Add a buffer; return its write port and its read port, at bytes `write` and `read`."""
        # What is read in the cycle in which it is written is not used.
        m.submodules[name] = memory = Memory(shape=8, depth=self.buffer, init=[],
                                             attrs={"no_rw_check": 1})
        w, r = memory.write_port(), memory.read_port()
        m.d.comb += [w.addr.eq(write[:len(w.addr)]), r.addr.eq(read[:len(r.addr)])]
        return w, r

    def _elaborate_frames(self, m, deframer):
        """Act on a frame that has ended."""
        header, report = deframer.header, Signal()
        distance, kept, sent = Signal(16), Signal(self._bits), Signal(self._bits)
        m.d.comb += [
            distance.eq(header.acknowledge - self._base),
            kept.eq(self._written - self._base), sent.eq(self._next - self._base),
            report.eq(deframer.bad),
        ]
        # In registers, because the header is there long before the verdict.
        ours, known, ahead = Signal(), Signal(), Signal()
        m.d.sync += [
            ours.eq(header.session == self._session), known.eq(distance <= kept),
            # It may be ahead of what is sent again, or will be.
            ahead.eq((distance > sent) | self._again),
            self._in_order.eq((header.session == self._session)
                              & (header.sequence == self._expected)),
        ]
        with m.If(deframer.good):
            with m.If(header.kind == Kind.QUERY):
                m.d.sync += self._asked.eq(1)
            with m.If(header.kind == Kind.RESET):
                m.d.comb += [report.eq(1), self._opened.eq(~ours & (header.session != 0))]
            with m.If(header.kind.matches(Kind.DATA, Kind.RESEND)):
                m.d.comb += report.eq(~ours | (header.kind == Kind.RESEND) | (header.length != 0))
                with m.If(ours):
                    with m.If(header.window != 0):
                        m.d.sync += self._wanted.eq(header.window)
                    with m.If(header.kind == Kind.RESEND):
                        m.d.sync += self._again.eq(1)
                    with m.If(known):
                        m.d.sync += self._base.eq(header.acknowledge)
                        with m.If(ahead):
                            m.d.sync += self._again.eq(1)
        with m.If(report):
            m.d.sync += self._due.eq(1)
            with m.If(~self._due):
                m.d.sync += self._waited.eq(0)

    def _elaborate_receiver(self, m, deframer):
        """Keep payload that is right, and offer it inside."""
        read = self._read
        write_port, read_port = self._memory(m, "received", self._arriving, read)
        full, lost, accepted = Signal(), Signal(), Signal()
        m.d.comb += [
            full.eq((self._arriving - read)[:self._bits] == self.buffer),
            write_port.data.eq(deframer.payload.p),
            write_port.en.eq(deframer.payload.valid & ~full),
            accepted.eq(deframer.good & ~lost & self._in_order
                        & deframer.header.kind.matches(Kind.DATA, Kind.RESEND)),
        ]
        with m.If(deframer.payload.valid):
            m.d.sync += [self._arriving.eq(self._arriving + ~full), lost.eq(lost | full)]
        with m.If(deframer.good | deframer.bad):
            m.d.sync += [self._arriving.eq(self._expected), lost.eq(0)]
            with m.If(accepted):
                m.d.sync += [self._expected.eq(self._arriving), self._arriving.eq(self._arriving)]
        offered, moved = Signal(), Signal()
        m.d.comb += [self.o.valid.eq(offered), self.o.p.eq(read_port.data),
                     moved.eq(self.o.valid & self.o.ready)]
        m.d.sync += offered.eq((read != self._expected) & ~moved & ~self._opened)
        with m.If(moved):
            m.d.sync += read.eq(read + 1)
            with m.If((read + 1)[:(self.buffer // 2 - 1).bit_length()] == 0):
                m.d.sync += self._due.eq(1)  # the window has grown by half

    def _elaborate_sender(self, m, framer):
        """Keep what comes from inside until it is acknowledged, and begin frames."""
        write_port, read_port = self._memory(m, "kept", self._written, self._next)
        taken, waited, is_info = Signal(), self._waited, self._is_info
        m.d.comb += [
            self.i.ready.eq(((self._written - self._base)[:self._bits] != self.buffer)
                            & (self._still == 0)),
            taken.eq(self.i.valid & self.i.ready),
            write_port.en.eq(taken), write_port.data.eq(self.i.p),
        ]
        with m.If(taken):
            m.d.sync += [self._written.eq(self._written + 1), waited.eq(0)]
        with m.Elif(waited != self.patience):
            m.d.sync += waited.eq(waited + 1)

        wanted, piece, under_way = self._wanted, self._piece, Signal(self._bits)
        m.d.comb += under_way.eq(self._next - self._base)
        m.d.sync += [
            piece.eq(Mux(wanted >= 4 * LENGTH_MAX, LENGTH_MAX,
                         Mux(wanted < 4 * LENGTH_MIN, LENGTH_MIN, wanted >> 2))),
            self._may_begin.eq((under_way == 0) | (under_way + piece <= wanted))]
        unsent, many, begin = Signal(self._bits), Signal(), Signal()
        header, payload, place = framer.header, framer.payload, Signal(range(INFO_BYTES))
        m.d.comb += [
            unsent.eq(self._written - self._next), many.eq(unsent >= piece),
            begin.eq(Mux(self._may_begin, many | ((waited == self.patience) & (unsent != 0)), 0)
                     | ((waited == self.patience) & self._due)),
            framer.start.eq(~self._again & (self._asked | begin)),
            header.kind.eq(Mux(is_info, Kind.INFO, Kind.DATA)),
            header.session.eq(self._session), header.sequence.eq(self._next),
            header.acknowledge.eq(self._expected),
            header.window.eq(self.buffer - (self._expected - self._read)[:self._bits]),
            header.length.eq(Mux(self._asked, INFO_BYTES, Mux(
                self._may_begin, Mux(many, piece, unsent), 0))),
        ]
        with m.If(framer.ready):
            m.d.sync += place.eq(0)
            with m.If(self._again):
                m.d.sync += [self._next.eq(self._base), self._again.eq(0)]
            with m.Elif(framer.start):
                m.d.sync += [is_info.eq(self._asked), self._asked.eq(0)]
        # A byte is there one cycle after its address.
        fetched, moved, told = Signal(), Signal(), Signal(8)
        m.d.comb += [
            payload.valid.eq(fetched), moved.eq(payload.valid & payload.ready),
            payload.p.eq(Mux(is_info, told, read_port.data))]
        m.d.sync += [fetched.eq(~moved), told.eq(self._info().word_select(place, 8))]
        with m.If(moved):
            m.d.sync += [place.eq(place + 1), self._next.eq(self._next + ~is_info)]

    def _info(self):
        """Return the payload of INFO."""
        values = {"magic": MAGIC, "version": VERSION, "bus_bytes": self.bus_bytes,
                  "buffer": self.buffer, "config_hash": self.config_hash, "status": self.status,
                  "memory": self.memory}
        return Cat(value if name == "status" else Const(value, 8 * size)
                   for name, size, _ in INFO for value in [values[name]])
