"""Division of a numerator by the sum of a row: the factor that normalises the row after A.V."""

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import INT_BITS
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.divider import Divider

__all__ = ["FactorDivider"]


class FactorDivider(wiring.Component):
    """Divide ``F = min(numerator // sum, 2**factor_bits - 1)``; a sum of 0 gives the largest.

    Latency and cycles between two divisions are `division`.

    Model: model/operators/deferred.py

    Parameters
    ----------
    sum_bits, factor_bits : int
        Bits of a sum and of a factor.
    steps : int
        Quotient bits per cycle.

    Members
    -------
    i : In(stream.Signature(unsigned(sum_bits)))
        Sums.
    o : Out(stream.Signature(unsigned(factor_bits)))
        Factors.
    numerator : In(unsigned(31))
        Must not change while sums are inside.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, sum_bits, factor_bits, steps):
        check_integers(sum_bits=(sum_bits, 1, 64), factor_bits=(factor_bits, 1, INT_BITS),
                       steps=(steps, 1, INT_BITS))
        self.sum_bits, self.factor_bits, self.steps = sum_bits, factor_bits, steps
        self.division = -(-factor_bits // steps) + 1
        super().__init__({"i": In(stream.Signature(unsigned(sum_bits))),
                          "o": Out(stream.Signature(unsigned(factor_bits))),
                          "numerator": In(unsigned(INT_BITS))})

    def elaborate(self, platform):
        m = Module()
        bits = self.factor_bits
        m.submodules.divider = divider = Divider(
            width=INT_BITS, den_width=self.sum_bits, steps=self.steps, quot_bits=bits)
        over = Signal()  # the quotient has more bits: the divider's is none
        m.d.comb += [
            divider.i.valid.eq(self.i.valid), self.i.ready.eq(divider.i.ready),
            divider.i.p.num.eq(self.numerator), divider.i.p.den.eq(self.i.p),
            self.o.valid.eq(divider.o.valid), divider.o.ready.eq(self.o.ready),
            self.o.p.eq(Cat(bit | over for bit in divider.o.p.quot)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += over.eq((self.numerator >> bits) >= self.i.p)
        return m
