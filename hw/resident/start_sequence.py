"""What has to be written into registers before a memory works, written without a processor."""

from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_integers, check_positive

__all__ = ["CsrBus", "StartSequence"]


class CsrBus(wiring.Signature):
    """LiteX' bus of registers, as its master has it.

    A word is written in a cycle with ``we``; what ``adr`` shows in one cycle is on ``dat_r`` in the
    next one. ``re`` says that it is looked at, for registers that a reading changes.

    Parameters
    ----------
    address_bits : int
        Bits of an address, which counts registers of 32 bits.
    """

    def __init__(self, *, address_bits):
        self.address_bits = address_bits
        super().__init__({"adr": Out(address_bits), "re": Out(1), "we": Out(1), "dat_w": Out(32),
                          "dat_r": In(32)})


class StartSequence(wiring.Component):
    """Carries out `steps` once after a reset, each a word for a register and a pause after it.

    A step takes two cycles and its pause.

    Model: none: plays a list

    Parameters
    ----------
    steps : sequence of (address, value, pause)
        In this order; at least one.
    address_bits : int
        Bits of an address.

    Members
    -------
    csr : Out(CsrBus(address_bits=address_bits))
        The registers.
    done : Out(1)
        The last pause is over.

    Raises
    ------
    ValueError
        If a parameter or a number in a step is out of range; the message names it.
    """

    def __init__(self, steps, *, address_bits):
        check_positive(address_bits=address_bits)
        self.steps = [tuple(step) for step in steps]
        if not self.steps:
            raise ValueError("steps must be at least one, not []")
        for address, value, pause in self.steps:
            check_integers(address=(address, 0, (1 << address_bits) - 1),
                           value=(value, 0, (1 << 32) - 1), pause=(pause, 0, (1 << 32) - 1))
        super().__init__({"csr": Out(CsrBus(address_bits=address_bits)), "done": Out(1)})

    def elaborate(self, platform):
        m = Module()
        addresses, values, pauses = zip(*self.steps, strict=True)
        step = data.StructLayout({"address": range(max(addresses) + 1),
                                  "value": range(max(values) + 1),
                                  "pause": range(max(pauses) + 1), "last": 1})
        m.submodules.steps = steps = Memory(shape=step, depth=len(self.steps), init=[
            {"address": address, "value": value, "pause": pause, "last": k == len(self.steps) - 1}
            for k, (address, value, pause) in enumerate(self.steps)])
        read, place = steps.read_port(), Signal(range(len(self.steps)))
        left, last = Signal(range(max(pauses) + 1)), Signal()
        m.d.comb += [read.addr.eq(place), self.csr.adr.eq(read.data.address),
                     self.csr.dat_w.eq(read.data.value)]
        with m.FSM():
            with m.State("FETCH"):
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.csr.we.eq(1)
                m.d.sync += [left.eq(read.data.pause), last.eq(read.data.last),
                             place.eq(place + 1)]
                with m.If(read.data.pause != 0):
                    m.next = "PAUSE"
                with m.Elif(read.data.last):
                    m.next = "DONE"
                with m.Else():
                    m.next = "FETCH"
            with m.State("PAUSE"):
                m.d.sync += left.eq(left - 1)
                with m.If(left == 1):
                    m.next = "FETCH"
                    with m.If(last):
                        m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
        return m
