"""Memory for resident programs behind an AXI4 port: a system's own."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.host.axi import OKAY
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.memory_port import ADDRESS_BITS, MemoryPort

__all__ = ["BURST_MAX", "PAGE_BYTES", "AxiMemory", "ReadManager"]

BURST_MAX = 256
"""Most beats of a burst, by AXI4."""

PAGE_BYTES = 4096
"""A burst stays inside one of these, by AXI4."""

_INCREMENT = 1
_CACHE = 0b0011  # normal, not cacheable, bufferable
_PROTECTION = 0b000


class ReadManager(wiring.Signature):
    """The read channels of AXI4, as their manager has them; its identifier is always 0.

    Parameters
    ----------
    data_bytes, address_bits : int
        Bytes of a beat, and bits of a byte address.
    """

    def __init__(self, *, data_bytes, address_bits):
        super().__init__({
            "arid": Out(1), "araddr": Out(address_bits), "arlen": Out(8), "arsize": Out(3),
            "arburst": Out(2), "arcache": Out(4), "arprot": Out(3), "arvalid": Out(1),
            "arready": In(1), "rid": In(1), "rdata": In(8 * data_bytes), "rresp": In(2),
            "rlast": In(1), "rvalid": In(1),
            "rready": Out(1)})


class AxiMemory(wiring.Component):
    """Reads beats in bursts, several under way; only the system's processor writes.

    A burst is only asked for when there is room for all of it, so that ``rready`` never falls while
    beats are expected, and slow users do not block the system's bus. With `depth` at least twice
    `burst` and at least the beats that pass from a request to its answer plus `burst`, a beat goes
    by in every cycle; the first is there 3 cycles after the bus has given it. What does not answer
    OKAY, or ends its burst in the wrong place, is an error of its beat.

    Model: none: moves data

    Parameters
    ----------
    bus_bytes : int
        Bytes of a beat, a power of two up to 128, and of the bus.
    address_bits : int
        Bits of an address on the bus.
    burst : int
        Most beats of a burst, a power of two up to `BURST_MAX`.
    depth : int
        Beats that may be under way or wait.

    Members
    -------
    port : In(MemoryPort(bus_bytes=bus_bytes))
        Its user; ``write`` is never taken.
    bus : Out(ReadManager(...))
        AXI4.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, address_bits=32, burst=16, depth=64):
        check_integers(bus_bytes=(bus_bytes, 1, 128), address_bits=(address_bits, 12, 64),
                       burst=(burst, 1, min(BURST_MAX, PAGE_BYTES // bus_bytes)),
                       depth=(depth, 2 * burst, 4096))
        for name, value in ("bus_bytes", bus_bytes), ("burst", burst):
            if value & (value - 1):
                raise ValueError(f"{name} must be a power of two, not {value!r}")
        self.bus_bytes, self.address_bits = bus_bytes, address_bits
        self.burst, self.depth = burst, depth
        self.size = min(1 << address_bits - (bus_bytes.bit_length() - 1), 2**ADDRESS_BITS - 1)
        super().__init__({
            "port": In(MemoryPort(bus_bytes=bus_bytes)),
            "bus": Out(ReadManager(data_bytes=bus_bytes, address_bits=address_bits))})

    def elaborate(self, platform):
        m = Module()
        width = 8 * self.bus_bytes + 1
        m.submodules.beats = beats = SyncFIFOBuffered(width=width, depth=self.depth)
        # The lengths of the bursts under way, to see where each has to end.
        m.submodules.bursts = bursts = SyncFIFOBuffered(width=8, depth=self.depth)
        port, bus = self.port, self.bus
        # Beats of free room that no burst was asked for.
        room, given, asked = Signal(range(self.depth + 1), init=self.depth), Signal(), Signal()
        length = self._elaborate_requests(m, bursts, room, asked)
        m.d.comb += [
            given.eq(beats.r_en & beats.r_rdy),
            port.data.valid.eq(beats.r_rdy), beats.r_en.eq(port.data.ready),
            Cat(port.data.p.beat, port.data.p.error).eq(beats.r_data),
        ]
        m.d.sync += room.eq(room + given - Mux(asked, length, 0))
        position, last = Signal(8), Signal()
        m.d.comb += [
            bus.rready.eq(1), last.eq(position == bursts.r_data),
            beats.w_en.eq(bus.rvalid),
            beats.w_data.eq(Cat(bus.rdata, (bus.rresp != OKAY) | (bus.rlast != last))),
            bursts.r_en.eq(bus.rvalid & last),
        ]
        with m.If(bus.rvalid):
            m.d.sync += position.eq(Mux(last, 0, position + 1))
        return m

    def _elaborate_requests(self, m, bursts, room, asked):
        """Cut requests into bursts; returns the beats of the one that is `asked` for."""
        port, bus, burst = self.port, self.bus, self.burst
        shift = self.bus_bytes.bit_length() - 1
        address, left = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        length, there = Signal(range(burst + 1)), Signal(range(burst + 1))
        # Bursts end at multiples of their length, which are never inside a page.
        m.d.comb += [
            port.read.ready.eq(left == 0),
            there.eq(burst - address[:burst.bit_length() - 1] if burst > 1 else 1),
            bus.arsize.eq(shift), bus.arburst.eq(_INCREMENT), bus.arcache.eq(_CACHE),
            bus.arprot.eq(_PROTECTION),
        ]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(port.read.valid):
                    m.d.sync += [address.eq(port.read.p.address), left.eq(port.read.p.beats)]
                    m.next = "CUT"
            with m.State("CUT"):
                m.d.sync += length.eq(Mux(left < there, left, there))
                m.next = "ASK"
            with m.State("ASK"):
                with m.If((room >= length) & ~bus.arvalid & bursts.w_rdy):
                    m.d.comb += [asked.eq(1), bursts.w_en.eq(1), bursts.w_data.eq(length - 1)]
                    m.d.sync += [bus.arvalid.eq(1), bus.araddr.eq(address << shift),
                                 bus.arlen.eq(length - 1), address.eq(address + length),
                                 left.eq(left - length)]
                    m.next = "CUT"
                    with m.If(left == length):
                        m.next = "IDLE"
        return length
