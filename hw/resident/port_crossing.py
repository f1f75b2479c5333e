"""A memory for resident programs in another clock domain than its user."""

from amaranth import Module
from amaranth.lib import data, wiring
from amaranth.lib.fifo import AsyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_integers
from systola.hw.parts.memory_port import ADDRESS_BITS, MemoryPort, played_beat

__all__ = ["PortCrossing"]


class PortCrossing(wiring.Component):
    """Takes requests in domain ``sync`` and passes them to a memory in domain ``memory``.

    Reads and writes go through one queue, so that they stay in order, a read before a write that
    comes in the same cycle. Each takes some cycles of both clocks. Both domains are reset together.

    Model: none: moves data

    Parameters
    ----------
    bus_bytes : int
        Bytes of a beat.
    depth : int
        Beats that wait for the user, and requests that wait for the memory: a power of two. With 8
        or more, a beat a cycle of the slower clock is sustained.

    Members
    -------
    port : In(MemoryPort(bus_bytes=bus_bytes))
        The user.
    memory : Out(MemoryPort(bus_bytes=bus_bytes))
        The memory.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, depth=8):
        check_integers(bus_bytes=(bus_bytes, 1, 1 << 16), depth=(depth, 4, 1 << 16))
        if depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 4, not {depth!r}")
        self.bus_bytes, self.depth = bus_bytes, depth
        super().__init__({"port": In(MemoryPort(bus_bytes=bus_bytes)),
                          "memory": Out(MemoryPort(bus_bytes=bus_bytes))})

    def elaborate(self, platform):
        m = Module()
        request = data.StructLayout({"write": 1, "address": ADDRESS_BITS,
                                     "content": max(ADDRESS_BITS, 8 * self.bus_bytes)})
        m.submodules.requests = requests = AsyncFIFO(
            width=request.size, depth=self.depth, w_domain="sync", r_domain="memory")
        m.submodules.beats = beats = AsyncFIFO(
            width=played_beat(self.bus_bytes).size, depth=self.depth, w_domain="memory",
            r_domain="sync")
        given, taken = data.View(request, requests.w_data), data.View(request, requests.r_data)
        read, write = self.port.read, self.port.write
        m.d.comb += [
            read.ready.eq(requests.w_rdy), write.ready.eq(requests.w_rdy & ~read.valid),
            requests.w_en.eq(requests.w_rdy & (read.valid | write.valid)),
            given.write.eq(~read.valid), given.address.eq(write.p.address),
            given.content.eq(write.p.beat),
        ]
        with m.If(read.valid):
            m.d.comb += [given.address.eq(read.p.address), given.content.eq(read.p.beats)]
        read, write = self.memory.read, self.memory.write
        m.d.comb += [
            read.valid.eq(requests.r_rdy & ~taken.write), read.p.address.eq(taken.address),
            read.p.beats.eq(taken.content),
            write.valid.eq(requests.r_rdy & taken.write), write.p.address.eq(taken.address),
            write.p.beat.eq(taken.content),
            requests.r_en.eq((read.valid & read.ready) | (write.valid & write.ready)),
            beats.w_data.eq(self.memory.data.p), beats.w_en.eq(self.memory.data.valid),
            self.memory.data.ready.eq(beats.w_rdy),
            self.port.data.p.eq(beats.r_data), self.port.data.valid.eq(beats.r_rdy),
            beats.r_en.eq(self.port.data.ready),
        ]
        return m
