"""Serial divider of unsigned numbers."""

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.pipeline import node

__all__ = ["Divider"]


class Divider(wiring.Component):
    """Divide serially: ``quot = floor(num / den)``, ``rem = num - quot*den``.

    Latency ``cycles + 1`` with ``cycles = ceil(quot_bits / steps)``, throughput one division every
    ``cycles + 1`` cycles. Non-restoring: a step adds or subtracts, and what did not fit is made up
    for in the next one, so that a quotient bit takes one adder.

    Model: none: Python's // and %

    Parameters
    ----------
    width, den_width : int
        Bits of the numerator and of the denominator, both unsigned.
    steps : int
        Quotient bits per cycle: one adder of `den_width` bits each, one after another.
    quot_bits : int, optional
        Bits of the quotient, `width` by default. With fewer, the caller guarantees that it fits
        (``num >> quot_bits < den``), and the division is as much faster.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``num``: unsigned(width), ``den``: unsigned(den_width), at least 1.
    o : Out(stream.Signature(StructLayout))
        ``quot``: unsigned(quot_bits), ``rem``: unsigned(den_width).

    Raises
    ------
    ValueError
        If a parameter is not a positive integer, or `quot_bits` exceeds `width`.
    """

    def __init__(self, *, width, den_width, steps=1, quot_bits=None):
        quot_bits = width if quot_bits is None else quot_bits
        check_positive(width=width, den_width=den_width, steps=steps, quot_bits=quot_bits)
        if quot_bits > width:
            raise ValueError(f"quot_bits must be at most width ({width}), not {quot_bits!r}")
        self.steps, self.cycles = steps, -(-quot_bits // steps)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"num": unsigned(width), "den": unsigned(den_width)}))),
            "o": Out(stream.Signature(data.StructLayout(
                {"quot": unsigned(quot_bits), "rem": unsigned(den_width)}))),
        })

    def elaborate(self, platform):
        m = Module()
        low = self.cycles * self.steps
        den = Signal.like(self.i.p.den, reset_less=True)
        trial = Signal(len(den) + 1, reset_less=True)  # the remainder, or it less the denominator
        work = Signal(low, reset_less=True)  # numerator bits to come above quotient bits found
        left, idle = Signal(range(self.cycles + 1)), Signal(init=1)  # `idle`: none is left
        m.d.comb += [
            self.o.p.quot.eq(work), self.o.p.rem.eq(trial + Mux(trial[-1], den, 0)),
            self.i.ready.eq(idle & (~self.o.valid | self.o.ready)),
        ]
        after, quot = trial, []
        for bit in reversed(list(work[low - self.steps:])):
            after = _step(m, after, den, bit)
            quot.insert(0, ~after[-1])
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [den.eq(self.i.p.den), trial.eq(self.i.p.num >> low),
                         work.eq(self.i.p.num), left.eq(self.cycles), idle.eq(0),
                         self.o.valid.eq(0)]
        with m.Elif(~idle):
            m.d.sync += [trial.eq(after), work.eq(Cat(quot, work)), left.eq(left - 1),
                         idle.eq(left == 1), self.o.valid.eq(left == 1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


def _step(m, trial, den, bit):
    """Return ``2*trial + bit``, less `den`, or plus `den` if `trial` is negative.

    From -den to den - 1 on entry and on exit. One carry chain: the lowest position makes the carry
    that turns an inverted `den` into a negative one.
    """
    subtract = node(m, ~trial[-1])
    total = (Cat(Const(1, 1), bit, trial[:-1])
             + Cat(subtract, den ^ subtract.replicate(len(den)), subtract))
    return node(m, total[1:len(trial) + 1])
