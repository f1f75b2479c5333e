"""Mean and variance of rows in one pass over the data."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.divider import Divider
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.shapes import row_beat

__all__ = ["RowMoments", "square", "square_cycles"]

_ROWS = 3
"""Adders of a square between registers."""


def square_cycles(bits):
    """Return the latency of `square` of a signed number."""
    return -(-bits // (2 * _ROWS))


def square(pipe, x):
    """Return ``x * x`` of signed `x`, ``square_cycles(len(x))`` later; never a DSP slice.

    Booth digits d from the lowest on: with ``x = 4*h + d``, ``x*x = 16*h*h + (8*h*d + d*d)``, and
    h is the higher bits plus one if d is negative, so that ``8*h*d + d*d`` is ``8*|d|`` times the
    higher bits, inverted if d is negative, plus ``d*d``: rows of shrinking length.
    """
    bits, below = len(x), Cat(Const(0, 1), x, x[-1])
    count, low_bits, total = -(-bits // 2), [], None
    for k in range(count):
        low, mid, high = below[2 * k], below[2 * k + 1], below[2 * k + 2]
        rest = below[2 * k + 3:bits + 1] if 2 * k + 2 < bits else below[bits]
        once, twice = pipe.node(low ^ mid), pipe.node(Mux(high, ~mid & ~low, mid & low))
        rest = Cat(rest, rest[-1]).as_signed() ^ high.as_signed()
        term = (rest & once.as_signed()
                | Cat(Const(0, 1), rest)[:len(rest)].as_signed() & twice.as_signed())
        row = Cat(once, Const(0, 1), twice, term).as_signed()
        if total is None:
            total = row
        else:
            low_bits.append(total[:4])
            total = pipe.node(total[4:].as_signed() + row)
        if k % _ROWS == _ROWS - 1 or k == count - 1:
            low_bits, total, below = [pipe.reg(Cat(low_bits))], pipe.reg(total), pipe.reg(below)
    return Cat(low_bits, total)[:2 * bits]


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
        self.lanes, self.count_bits = lanes, max_row.bit_length()
        self.v_bits = (max_row << 30).bit_length()  # C * 2**30 bounds the variance of 16-bit codes
        self.steps = steps
        self.period = -(-16 // steps) + 19
        self._sum_cycles = 1 + square_cycles(17) + -(-(lanes - 1).bit_length() // 2)
        self.latency = self._sum_cycles + 1 + self.period
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))),
            "o": Out(stream.Signature(data.StructLayout(
                {"mean": signed(16), "v": unsigned(self.v_bits)}))),
        })

    def elaborate(self, platform):
        m = Module()
        row = Signal(data.StructLayout({"total": unsigned(16 + self.count_bits),
                                        "squares": unsigned(32 + self.count_bits),
                                        "count": unsigned(self.count_bits)}), reset_less=True)
        row_valid, row_taken = Signal(), Signal()
        self._add_up(m, row, row_valid, row_taken)
        self._combine(m, row, row_valid, row_taken)
        return m

    def _add_up(self, m, row, row_valid, row_taken):
        """Sum x, x**2 and the kept lanes of each row into `row`."""
        pipe, beat, waits = Pipeline(m), self.i.p, Signal()
        take = self.i.valid & self.i.ready
        # No row ends before the sums of the one before are taken: beats never wait inside.
        m.d.comb += self.i.ready.eq(~(waits & beat.last))
        with m.If(row_taken):
            m.d.sync += [waits.eq(0), row_valid.eq(0)]
        with m.If(take & beat.last):
            m.d.sync += waits.eq(1)
        codes = [beat.x[k] ^ 0x8000 for k in range(self.lanes)]
        x = [pipe.reg(code if k == 0 else Mux(beat.keep[k], code, 0), unsigned(16))
             for k, code in enumerate(codes)]
        squares, cycles = pipe.add_up([square(pipe, Cat(code, Const(0, 1)).as_signed())
                                       for code in x])
        cycles += square_cycles(17) + 1
        assert cycles == self._sum_cycles
        total, early = pipe.add_up(x)
        clear = Signal(init=1)
        m.d.sync += clear.eq(0)
        count = 1 if self.lanes == 1 else pipe.delay(
            1 + sum(beat.keep[k] for k in range(1, self.lanes)), early + 1)
        for values, at in ({"total": total, "count": count}, early + 1), (
                {"squares": squares}, cycles):
            valid = pipe.delay(take, at, reset_less=False)
            last = pipe.delay(beat.last, at)
            for name, value in values.items():
                so_far, new = Signal.like(row[name], reset_less=True), Signal.like(row[name])
                m.d.comb += new.eq(so_far + value)
                with m.If(valid):
                    m.d.sync += so_far.eq(new)
                with m.If(clear | (valid & last)):  # no reset value: so it takes no look-up table
                    m.d.sync += so_far.eq(0)
                with m.If(valid & last):
                    m.d.sync += row[name].eq(new)
        with m.If(valid & last):  # of the squares, the later ones
            m.d.sync += row_valid.eq(1)

    def _combine(self, m, row, row_valid, row_taken):
        """Divide for the mean, then multiply bit by bit for the variance."""
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
                m.d.comb += [row_taken.eq(row_valid), divider.i.valid.eq(row_valid)]
                m.d.sync += held.eq(row)
                with m.If(row_valid):
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
