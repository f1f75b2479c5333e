"""Mean with fractional bits, and variance, of rows in one pass over the data."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import NORM_FRACTION, epsilon_bits
from systola.hw.parts.arguments import check_positive
from systola.hw.parts.divider import Divider
from systola.hw.parts.pipeline import booth_row
from systola.hw.parts.shapes import row_beat
from systola.hw.vector.row_sums import RowSums

__all__ = ["FineMoments"]

_QUOT_BITS = 16 + NORM_FRACTION
_STEPS = 2
"""Quotient bits per cycle."""

_DIGITS = _QUOT_BITS // 2 + 1
"""Booth digits of a mean, which is unsigned: the last one is its highest bit."""


class FineMoments(wiring.Component):
    """Compute ``mean = floor(sum X / C + 1/2)`` and ``v = sum (X - mean)**2 + epsilon`` of rows.

    X are codes with f = `NORM_FRACTION` fractional bits, and so is the mean; the variance is exact
    for it. With q and r the quotient and remainder of ``T = sum X`` by C, and u what the rounding
    adds to q, ``v = sum X**2 - q*(T + r) + u*(C - 2*r) + epsilon``. Codes are taken as
    ``x + 2**15``, which changes the mean alone. The sums, the division (two bits a cycle) and the
    product (a Booth digit a cycle, which leaves two bits) work on three rows at once: throughput
    one beat a cycle, and one row every `period` cycles. Latency from the last beat `latency`
    cycles.

    Model: model/operators/layernorm.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(16), lanes)))
        Rows of 1 to `max_row` codes, C of them by ``keep``.
    epsilon : In(unsigned(epsilon_bits(max_row)))
        In units of ``2**(-2*f)``; constant while a row is inside.
    o : Out(stream.Signature(StructLayout))
        ``mean``: signed(16 + f), ``v``: unsigned(v_bits), for each row.

    Raises
    ------
    ValueError
        If `lanes` or `max_row` is not a positive integer.
    """

    def __init__(self, *, lanes, max_row):
        check_positive(lanes=lanes, max_row=max_row)
        self.lanes, self.max_row, bits = lanes, max_row, epsilon_bits(max_row)
        self.v_bits, division = bits + 1, -(-_QUOT_BITS // _STEPS)
        self.period = max(_DIGITS + 2, division + 1)
        self.latency = RowSums.latency_for(lanes) + division + _DIGITS + 3
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))), "epsilon": In(bits),
            "o": Out(stream.Signature(data.StructLayout(
                {"mean": signed(_QUOT_BITS), "v": unsigned(self.v_bits)}))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.sums = sums = RowSums(
            lanes=self.lanes, max_row=self.max_row,
            first_bits=len(self.epsilon) - 2 * NORM_FRACTION)
        m.submodules.divider = divider = Divider(
            width=_QUOT_BITS + sums.count_bits, den_width=sums.count_bits, steps=_STEPS,
            quot_bits=_QUOT_BITS)
        wiring.connect(m, wiring.flipped(self.i), sums.i)
        row = Signal.like(sums.o.p, reset_less=True)  # the one that is divided
        m.d.comb += [
            sums.first.eq(self.epsilon[2 * NORM_FRACTION:]),
            divider.i.p.num.eq(sums.o.p.total << NORM_FRACTION),
            divider.i.p.den.eq(sums.o.p.count), divider.i.valid.eq(sums.o.valid),
            sums.o.ready.eq(divider.i.ready),
        ]
        with m.If(divider.i.ready):
            m.d.sync += row.eq(sums.o.p)
        self._multiply(m, row, divider.o)
        return m

    def _multiply(self, m, row, divided):
        """Take the product, digit by digit from the lowest one, off the squares."""
        quot, rem = divided.p.quot, divided.p.rem
        less = Signal(signed(len(row.count) + 2))  # C - 2*r
        m.d.comb += less.eq(row.count - (rem << 1))
        factor = Signal(signed(_QUOT_BITS + len(row.count) + 1), reset_less=True)  # T + r
        high, low = Signal.like(factor), Signal(2 * _DIGITS, reset_less=True)
        mean, up, carry = Signal(_QUOT_BITS, reset_less=True), Signal(), Signal()
        squares = Signal.like(row.squares, reset_less=True)
        step = Signal(range(_DIGITS + 1))  # of the next digit, which is looked up a cycle before
        digit, low_squares = Signal(3, reset_less=True), Signal(2, reset_less=True)
        total, pair = Signal(signed(len(high) + 2)), Signal(3)
        negative = Cat(Const(1, 1), ~mean, Const(3, 2))  # the complement and one, as digits
        fine = Cat(self.epsilon[:2 * NORM_FRACTION], squares)
        m.d.comb += [total.eq(booth_row(high, factor, digit[0], digit[1], digit[2])),
                     pair.eq(total[:2] + low_squares + carry)]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += divided.ready.eq(1)
                m.d.sync += [
                    factor.eq((row.total << NORM_FRACTION) + rem), mean.eq(quot), up.eq(less <= 0),
                    high.eq(Mux(less <= 0, less, 0)), squares.eq(row.squares), carry.eq(0),
                    digit.eq(Cat(Const(1, 1), ~quot[:2])), low_squares.eq(fine[:2]), step.eq(1)]
                with m.If(divided.valid):
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [high.eq(total >> 2), carry.eq(pair[2]), step.eq(step + 1),
                             low.eq(Cat(low[2:], pair[:2])),
                             digit.eq(negative.bit_select(step << 1, 3)),
                             low_squares.eq(fine.bit_select(step << 1, 2))]
                with m.If(step == _DIGITS):
                    m.next = "FINISH"
            with m.State("FINISH"):
                with m.If(~self.o.valid | self.o.ready):
                    m.d.sync += [
                        self.o.valid.eq(1), self.o.p.mean.eq((mean + up) ^ 1 << _QUOT_BITS - 1),
                        self.o.p.v.eq(Cat(low, fine[2 * _DIGITS:] + high + carry))]
                    m.next = "IDLE"
