"""A memory for resident programs is written and read, all of it: a board's test of itself."""

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from systola.hw.parts.arguments import check_integers, check_positive
from systola.hw.parts.memory_port import ADDRESS_BITS, MemoryPort

__all__ = ["MemoryChecker", "checked_beat"]

_SPREAD = 0x9E3779B1  # of 32 bits and odd: what differs in the address differs in many of them


def checked_beat(address, bus_bytes):
    """Return what `MemoryChecker` writes to an address; those of 4 bytes or more all differ."""
    words = (address ^ _SPREAD * (k + 1) & 0xFFFF_FFFF for k in range(-(-bus_bytes // 4)))
    return sum(word << 32 * k for k, word in enumerate(words)) & (1 << 8 * bus_bytes) - 1


class MemoryChecker(wiring.Component):
    """Writes something else to every beat, then reads everything in one request; once.

    Model: tests/hw/resident/test_memory_checker.py

    Parameters
    ----------
    bus_bytes : int
        Bytes of a beat.
    size : int
        Beats, from address 0 on.

    Members
    -------
    port : Out(MemoryPort(bus_bytes=bus_bytes))
        The memory.
    done : Out(1)
        Everything was read.
    wrong : Out(1)
        Something was not what had been written, or an error; stays.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, size):
        check_positive(bus_bytes=bus_bytes)
        check_integers(size=(size, 2, (1 << ADDRESS_BITS) - 1))
        self.bus_bytes, self.size = bus_bytes, size
        super().__init__({"port": Out(MemoryPort(bus_bytes=bus_bytes)), "done": Out(1),
                          "wrong": Out(1)})

    def elaborate(self, platform):
        m = Module()
        port, address, last = self.port, Signal(range(self.size)), Signal()
        expected = Cat(address ^ Const(_SPREAD * (k + 1) & 0xFFFF_FFFF, 32)
                       for k in range(-(-self.bus_bytes // 4)))[:8 * self.bus_bytes]
        m.d.comb += [
            last.eq(address == self.size - 1), port.write.p.address.eq(address),
            port.write.p.beat.eq(expected), port.read.p.beats.eq(self.size),
        ]
        with m.FSM():
            with m.State("WRITE"):
                m.d.comb += port.write.valid.eq(1)
                with m.If(port.write.ready):
                    m.d.sync += address.eq(address + 1)
                    with m.If(last):
                        m.d.sync += address.eq(0)
                        m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += port.read.valid.eq(1)
                with m.If(port.read.ready):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += port.data.ready.eq(1)
                with m.If(port.data.valid):
                    m.d.sync += address.eq(address + 1)
                    with m.If((port.data.p.beat != expected) | port.data.p.error):
                        m.d.sync += self.wrong.eq(1)
                    with m.If(last):
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
        return m
