"""One bank of the scratchpad: a true dual-port memory."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.target import is_ecp5

__all__ = ["Bank"]


class Bank(wiring.Component):
    """Words of bytes with a read port A and a port B that reads or writes.

    Both outputs follow their inputs by one cycle and are zero if the port is not selected, so that
    the words of several banks can be joined by OR: block RAM has that reset built in. A read of a
    word in the cycle in which it is written gives the old word (on ECP5: anything; no program that
    waits for its data does that). On port B one address serves read and write, as block RAM needs
    it.

    Model: none: moves data

    Parameters
    ----------
    lanes : int
        Bytes in a word.
    depth : int
        Words, a power of two.

    Members
    -------
    a_addr, b_addr : In(range(depth))
        Words.
    a_read, b_read : In(1)
        The word is read, and on the output one cycle later.
    b_write : In(lanes)
        The bytes to write.
    b_data : In(ArrayLayout(8, lanes))
        What to write.
    a, b : Out(ArrayLayout(8, lanes))
        Words read, or zero.
    """

    def __init__(self, *, lanes, depth):
        self.lanes, self.depth = lanes, depth
        word = data.ArrayLayout(8, lanes)
        super().__init__({
            "a_addr": In(range(depth)), "b_addr": In(range(depth)), "a_read": In(1),
            "b_read": In(1), "b_write": In(lanes), "b_data": In(word), "a": Out(word),
            "b": Out(word),
        })

    def elaborate(self, platform):
        m = Module()
        ecp5 = is_ecp5(platform)
        m.submodules.memory = memory = Memory(
            shape=data.ArrayLayout(8, self.lanes), depth=self.depth, init=[],
            attrs={"no_rw_check": 1} if ecp5 else {})
        write = memory.write_port(granularity=1)
        m.d.comb += [write.addr.eq(self.b_addr), write.data.eq(self.b_data),
                     write.en.eq(self.b_write)]
        for addr, select, output in (self.a_addr, self.a_read, self.a), (
                self.b_addr, self.b_read, self.b):
            # Read without a clock, then a register with reset: the form that becomes block RAM.
            read = memory.read_port(domain="comb")
            m.d.comb += read.addr.eq(addr)
            # Without the reset of the domain: that would be logic between it and the memories.
            word = Signal.like(read.data.as_value(), reset_less=True)
            if ecp5 and output is self.b:
                # There the reset of a port blocks its writing.
                selected = Signal(reset_less=True)
                m.d.sync += [word.eq(read.data.as_value()), selected.eq(select)]
                m.d.comb += output.as_value().eq(Mux(selected, word, 0))
            else:
                m.d.sync += word.eq(Mux(select, read.data.as_value(), 0))
                m.d.comb += output.as_value().eq(word)
        return m
