"""Memory for resident programs in the FPGA's own block RAM."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.credit_queue import CreditQueue
from systola.hw.parts.memory_port import MemoryPort

__all__ = ["BlockMemory"]


class BlockMemory(wiring.Component):
    """`size` beats behind a `MemoryPort`.

    The first beat is there 3 cycles after the request, from then on one a cycle; a request is taken
    in the cycle after the last read of the one before. A write is taken at once.

    Model: none: moves data

    Parameters
    ----------
    bus_bytes, size : int
        Bytes of a beat, and beats.

    Members
    -------
    port : In(MemoryPort(bus_bytes=bus_bytes))
        Its user.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, size):
        check_positive(bus_bytes=bus_bytes, size=size)
        self.bus_bytes, self.size = bus_bytes, size
        super().__init__({"port": In(MemoryPort(bus_bytes=bus_bytes))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=8 * self.bus_bytes, depth=self.size, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.submodules.queue = queue = CreditQueue(shape=8 * self.bus_bytes, depth=4)
        port, left, moves = self.port, Signal(range(self.size + 1)), Signal()
        m.d.comb += [
            write.addr.eq(port.write.p.address), write.data.eq(port.write.p.beat),
            write.en.eq(port.write.valid), port.write.ready.eq(1),
            port.read.ready.eq(left == 0),
            moves.eq((left != 0) & queue.room), queue.take.eq(moves), read.en.eq(1),
            queue.data.eq(read.data), port.data.valid.eq(queue.o.valid),
            port.data.p.beat.eq(queue.o.p), queue.o.ready.eq(port.data.ready),
        ]
        m.d.sync += queue.push.eq(moves)
        with m.If(moves):
            m.d.sync += [read.addr.eq(read.addr + 1), left.eq(left - 1)]
        with m.If(port.read.valid & port.read.ready):
            m.d.sync += [read.addr.eq(port.read.p.address), left.eq(port.read.p.beats)]
        return m
