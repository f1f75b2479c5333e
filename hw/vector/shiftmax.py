"""Shiftmax of I-ViT: the integer softmax of a row."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import INT_BITS, MAX31
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.divider import Divider
from systola.hw.parts.pipeline import Pipeline, delay, saturate
from systola.hw.parts.shapes import row_beat
from systola.hw.vector.row_maximum import RowMaximum
from systola.hw.vector.shiftexp import ShiftExp

__all__ = ["Shiftmax"]

_STEPS = 2
"""Radix-4 digits per stage of the product."""


class Shiftmax(wiring.Component):
    """Softmax of rows of codes, bit for bit as I-ViT's Shiftmax in exact integers.

    ``e = ShiftExp(x - max)``, ``D = min(sum e, 2**31 - 1)``, ``F = (2**31 - 1) // D``, ``o = min((e
    * F) >> (32 - out_bits), 2**(out_bits-1) - 1)``.

    Four stages work on successive rows at once: buffering for the maximum; exponentials, kept in a
    second buffer, and their sum; the division; the product. A long run of rows of B beats takes
    ``max(B, division)`` cycles a row, where ``division`` is an attribute (17 cycles for n = 15). A
    row's first beat is out ``latency + B`` cycles after its last beat was in (attribute; 35 for 4
    lanes, 12 bits of the unit). No multiplier: the product adds radix-4 digits of the mantissa.

    Model: model/operators/shiftmax.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    unit_bits, in_bits : int
        Bits of the unit and of a code.
    out_bits : int
        Output bits, 2 to 16; the results are below ``2**(out_bits-1)``.
    n : int
        Octaves of ShiftExp.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(in_bits), lanes)))
        Rows of 1 to `max_row` codes.
    o : Out(stream.Signature(row_beat(unsigned(out_bits), lanes)))
        The rows in units of ``2**-(out_bits-1)``; lanes that are not kept hold anything.
    unit : In(unsigned(unit_bits))
        The unit, at least 1; must not change while rows are inside.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, max_row, unit_bits, in_bits=8, out_bits=16, n=15):
        check_integers(lanes=(lanes, 1, 1024), max_row=(max_row, 1, 1 << 20), n=(n, 1, 30),
                       unit_bits=(unit_bits, 1, 24), in_bits=(in_bits, 2, 16),
                       out_bits=(out_bits, 2, 16))
        self.lanes, self.max_row, self.unit_bits = lanes, max_row, unit_bits
        self.in_bits, self.out_bits, self.n = in_bits, out_bits, n
        self.division = 32 - n
        self._digits = -(-(unit_bits + 1) // 2)
        self._product_latency = -(-self._digits // _STEPS) + 2
        # Row maximum 2, difference, sum, factor: one each.
        self.latency = (6 + ShiftExp.latency_for(n) + (lanes - 1).bit_length() + self.division
                        + self._product_latency)
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(in_bits), lanes))),
            "o": Out(stream.Signature(row_beat(unsigned(out_bits), lanes))),
            "unit": In(unsigned(unit_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = RowMaximum(
            lanes=self.lanes, max_row=self.max_row, in_bits=self.in_bits, slots=4)
        m.submodules.exp = exp = ShiftExp(
            lanes=self.lanes, x_bits=self.in_bits + 1, unit_bits=self.unit_bits, n=self.n)
        m.submodules.divider = divider = Divider(
            width=INT_BITS, den_width=INT_BITS, quot_bits=INT_BITS - self.n)
        wiring.connect(m, wiring.flipped(self.i), rows.i)
        held = data.StructLayout({"mant": exp.mant.shape(), "shift": exp.shift.shape(),
                                  "last": 1, "keep": self.lanes - 1})
        beats = -(-self.max_row // self.lanes)
        m.submodules.exponentials = exponentials = SyncFIFOBuffered(
            width=held.size, depth=beats + max(beats, 32))  # 32: a row on its way to its factor
        self._exponentials(m, held, rows.o, exp, exponentials, divider.i)
        self._products(m, held, exponentials, divider.o)
        return m

    def _exponentials(self, m, held, rows, exp, exponentials, division):
        """Turn beats into exponentials in the buffer, and rows into sums for the division."""
        take, waiting = Signal(), Signal()  # `waiting`: a row ended and its sum is not divided yet
        inside = 2 + exp.latency            # beats that may be on their way to the buffer
        m.d.comb += [
            rows.ready.eq((exponentials.w_level <= exponentials.depth - inside)
                          & ~(waiting & rows.p.last)),
            take.eq(rows.valid & rows.ready), exp.unit.eq(self.unit), division.p.num.eq(MAX31),
        ]
        with m.If(division.valid & division.ready):
            m.d.sync += [waiting.eq(0), division.valid.eq(0)]
        with m.If(take & rows.p.last):
            m.d.sync += waiting.eq(1)
        difference = Signal.like(exp.x, reset_less=True)
        m.d.sync += [difference[k].eq(rows.p.x[k] - rows.p.max) for k in range(self.lanes)]
        m.d.comb += exp.x.eq(difference)
        valid = delay(m, take, 1 + exp.latency, reset=True)
        tail = delay(m, Cat(rows.p.last, rows.p.keep[1:]), 1 + exp.latency)
        stored = data.View(held, exponentials.w_data)
        m.d.comb += [exponentials.w_en.eq(valid), stored.mant.eq(exp.mant),
                     stored.shift.eq(exp.shift), Cat(stored.last, stored.keep).eq(tail)]
        level = []
        for k in range(self.lanes):
            # The shift in two stages, each a four-way choice; lanes that are not kept add zero.
            near = delay(m, exp.mant[k] << exp.shift[k][:2], 1)
            value = (near << Cat(Const(0, 2), delay(m, exp.shift[k][2:], 1)))
            value = value[1:len(exp.mant[k]) + self.n]
            keep = delay(m, tail[k], 1) if k else Const(1)
            level.append(delay(m, Mux(keep, saturate(value, INT_BITS), 0), 1))
        valid, last = delay(m, valid, 2, reset=True), delay(m, tail[0], 2)
        while len(level) > 1:
            pairs = [saturate(a + b, INT_BITS)
                     for a, b in zip(level[::2], level[1::2], strict=False)]
            level = [delay(m, value, 1) for value in pairs + level[len(level) & ~1:]]
            valid, last = delay(m, valid, 1, reset=True), delay(m, last, 1)
        self._add_up(m, level[0], valid, last, division)

    def _add_up(self, m, value, valid, last, division):
        """Sum the beats of a row, at most 2**31 - 1, and ask for the division by the sum."""
        total, new_total = Signal(INT_BITS, reset_less=True), Signal(INT_BITS + 1)
        den = Signal(INT_BITS, reset_less=True)
        over, clear = Signal(), Signal(init=1)  # `over`: the sum did not fit, until the row's end
        m.d.comb += [new_total.eq(total + value), division.p.den.eq(den)]
        m.d.sync += clear.eq(0)
        with m.If(valid):
            m.d.sync += [total.eq(new_total), over.eq(~last & (over | new_total[-1]))]
        with m.If(clear | (valid & last)):  # not a reset value: this way it takes no look-up table
            m.d.sync += total.eq(0)
        with m.If(valid & last):  # no row ends before the sum of the one before is divided
            m.d.sync += [den.eq(Mux(over | new_total[-1], MAX31, new_total)),
                         division.valid.eq(1)]

    def _products(self, m, held, exponentials, quot):
        """Multiply each row of exponentials by its factor."""
        advance, active, take, finish = Signal(), Signal(), Signal(), Signal()
        factor = Signal.like(quot.p.quot, reset_less=True)
        triple = Signal(len(factor) + 2, reset_less=True)
        pipe = Pipeline(m, advance)
        stored = data.View(held, exponentials.r_data)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready), take.eq(active & exponentials.r_rdy),
            exponentials.r_en.eq(take & advance), finish.eq(exponentials.r_en & stored.last),
            quot.ready.eq(~active | finish),
        ]
        with m.If(quot.ready):
            m.d.sync += [active.eq(quot.valid), factor.eq(quot.p.quot),
                         triple.eq(quot.p.quot + (quot.p.quot << 1))]
        product = [None] * self.lanes
        for stage in range(0, self._digits, _STEPS):
            for k in range(self.lanes):
                mant = pipe.delay(stored.mant[k], stage // _STEPS)
                for digit in range(stage, min(stage + _STEPS, self._digits)):
                    product[k] = _add_digit(product[k], mant, digit, factor, triple)
                product[k] = pipe.reg(product[k])
            factor, triple = pipe.reg(factor), pipe.reg(triple)
        for k in range(self.lanes):
            shift = pipe.delay(stored.shift[k], self._product_latency - 2)
            near = pipe.reg(product[k] << shift[:2])
            result = near << Cat(Const(0, 2), pipe.reg(shift[2:]))
            # Below 2**32 unless the sum was clamped; then the factor is 1, the product a mantissa.
            result = result[33 - self.out_bits:max(32, 2 * self._digits + self.n)]
            m.d.comb += self.o.p.x[k].eq(pipe.reg(saturate(result, self.out_bits - 1)))
        tail = pipe.delay(Cat(stored.last, 1, stored.keep), self._product_latency)
        m.d.comb += [self.o.valid.eq(pipe.delay(take, self._product_latency, reset_less=False)),
                     self.o.p.last.eq(tail[0]), self.o.p.keep.eq(tail[1:])]


def _add_digit(product, mant, digit, factor, triple):
    """Add ``mant[2*digit:][:2] * factor << 2*digit``; one adder row, its mux in the same LUTs."""
    low, twice = mant[2 * digit], mant[2 * digit + 1:2 * digit + 2].any()
    multiple = Mux(twice, Mux(low, triple, factor << 1), Mux(low, factor, 0))
    if 2 * digit + 1 == len(mant):
        multiple = Mux(low, factor, 0)
    if product is None:
        return multiple
    high = product[2 * digit:]
    if 2 * digit + 1 == len(mant):
        # A single bit. Less the inverse, or Yosys puts the masked factor on the carry chain's side,
        # which takes another look-up table a bit; the lowest position takes the one back.
        width = max(len(high), len(factor)) + 1
        inverse = Cat(Const(1, 1), ~Cat(multiple, Const(0, width - len(multiple))))
        return Cat(product[:2 * digit], (Cat(Const(0, 1), high, Const(0, width - len(high)))
                                         - inverse)[1:width + 1])
    return Cat(product[:2 * digit], high + multiple)
