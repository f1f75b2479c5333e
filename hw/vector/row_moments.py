"""Mean and variance of rows in one pass over the data."""

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.divider import Divider
from systola.hw.parts.shapes import row_beat
from systola.hw.vector.row_sums import RowSums

__all__ = ["RowMoments"]


class RowMoments(wiring.Component):
    """Compute ``mean = rne(sum x / C)`` and ``v = sum (x - mean)**2`` of each row, exactly.

    Rounds half to even. With q and r the quotient and remainder of ``T = sum x`` by C, and u what
    the rounding adds to q, ``v = sum x**2 - q*(T + r) + u*(C - 2*r)``, so the row is not needed a
    second time and one serial product is enough. Codes are taken as ``x + 2**15``, which changes
    the mean alone. Throughput one beat a cycle, and one row every `period` cycles (the division and
    the product, while the next row is summed). Latency from the last beat `latency` cycles.

    Model: model/operators/layernorm.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    steps : int
        Quotient bits per cycle.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(16), lanes)))
        Rows of 1 to `max_row` codes, C of them by ``keep``.
    o : Out(stream.Signature(StructLayout))
        ``mean``: signed(16), ``v``: unsigned(v_bits), for each row.

    Raises
    ------
    ValueError
        If `lanes` or `max_row` is not a positive integer.
    """

    def __init__(self, *, lanes, max_row, steps=1):
        check_positive(lanes=lanes, max_row=max_row)
        self.lanes, self.max_row, self.count_bits = lanes, max_row, max_row.bit_length()
        self.v_bits = (max_row << 30).bit_length()  # C * 2**30 bounds the variance of 16-bit codes
        self.steps = steps
        self.period = -(-16 // steps) + 19
        self.latency = RowSums.latency_for(lanes) + self.period
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))),
            "o": Out(stream.Signature(data.StructLayout(
                {"mean": signed(16), "v": unsigned(self.v_bits)}))),
        })

    def elaborate(self, platform):
        """Divide for the mean, then multiply bit by bit for the variance."""
        m = Module()
        m.submodules.sums = sums = RowSums(lanes=self.lanes, max_row=self.max_row)
        wiring.connect(m, wiring.flipped(self.i), sums.i)
        row = sums.o.p
        m.submodules.divider = divider = Divider(
            width=16 + self.count_bits, den_width=self.count_bits, steps=self.steps, quot_bits=16)
        held = Signal.like(row, reset_less=True)
        quot, rem = divider.o.p.quot, divider.o.p.rem
        less = Signal(signed(self.count_bits + 2))             # C - 2*r
        up, step = Signal(), Signal(4)
        factor = Signal(17 + self.count_bits, reset_less=True)  # T + r
        high = Signal(signed(18 + self.count_bits), reset_less=True)
        low, carry = Signal(16, reset_less=True), Signal()
        mean = Signal(16, reset_less=True)
        partial, bit = Signal(signed(len(high) + 1)), Signal(2)
        m.d.comb += [
            divider.i.p.num.eq(row.total), divider.i.p.den.eq(row.count),
            less.eq(held.count - (rem << 1)),
            up.eq((less < 0) | ((less == 0) & quot[0])),  # a tie rounds up if odd
            # The product, and the squares less it, leave bit by bit from the lowest one.
            partial.eq(high - Mux(quot.bit_select(step, 1), factor, 0)),
            bit.eq(partial[0] + held.squares.bit_select(step, 1) + carry),
        ]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [sums.o.ready.eq(1), divider.i.valid.eq(sums.o.valid)]
                m.d.sync += held.eq(row)
                with m.If(sums.o.valid):
                    m.next = "DIVIDE"
            with m.State("DIVIDE"):
                m.d.sync += [factor.eq(held.total + rem), high.eq(Mux(up, less, 0)),
                             mean.eq(quot + up), carry.eq(0), step.eq(0)]
                with m.If(divider.o.valid):
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [high.eq(partial >> 1), carry.eq(bit[1]), low.eq(Cat(low[1:], bit[0])),
                             step.eq(step + 1)]
                with m.If(step == 15):
                    m.next = "FINISH"
            with m.State("FINISH"):
                with m.If(~self.o.valid | self.o.ready):
                    m.d.comb += divider.o.ready.eq(1)
                    m.d.sync += [self.o.p.mean.eq(mean ^ 0x8000), self.o.valid.eq(1), self.o.p.v.eq(
                        Cat(low, held.squares[16:] + high + carry))]
                    m.next = "IDLE"
        return m
