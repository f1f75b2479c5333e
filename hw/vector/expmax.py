"""Deferred Shiftmax: exponentials of a row from a table, and the factor that normalises them.

Of log2 attention the table has codes, and so have the rows; exponentials are what is added up.
"""

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import INT_BITS, LEVEL_BITS
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.levels import exponential
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.shapes import row_beat, table_write
from systola.hw.vector.byte_table import ByteTable
from systola.hw.vector.factor_divider import FactorDivider
from systola.hw.vector.row_maximum import RowMaximum

__all__ = ["ExpMax"]

_STEPS = 2
"""Quotient bits per cycle of the row's division."""


class ExpMax(wiring.Component):
    """Look up ``e = T[max - x]``; divide ``F = min(numerator // sum e, 2**mult_bits - 1)`` per row.

    Three stages work on successive rows at once: buffering for the maximum; the table and the sum
    over the kept lanes; the division. A long run of rows of B beats takes ``max(B, division)``
    cycles a row, ``division`` being an attribute (13 for 24 bits). A row's first beat is out
    `latency` (4) cycles after its last beat was in; its factor comes ``factor_latency`` cycles
    after its last beat is out, if the division is free. A sum of 0, which no table of exponentials
    gives, counts as the largest factor.

    Model: model/operators/deferred.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    mult_bits : int
        Bits of a factor, 8 to 24.
    levels : sequence of int
        What codes stand for (see `systola.hw.parts.levels`), none if the table has exponentials.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(8), lanes)))
        Rows of 1 to `max_row` codes.
    o : Out(stream.Signature(row_beat(unsigned(8), lanes)))
        The rows of exponentials; lanes that are not kept hold anything. Codes are in the low
        nibble, and 0 in lanes that are not kept.
    factor : Out(stream.Signature(unsigned(mult_bits)))
        The factor of each row, in order.
    numerator : In(unsigned(31))
        Must not change while rows are inside.
    w : In(stream.Signature(table_write()))
        Writes of table entries, always ready; no row must be inside.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    latency = 4

    def __init__(self, *, lanes, max_row, mult_bits, levels=()):
        check_integers(lanes=(lanes, 1, 1024), max_row=(max_row, 1, 1 << 20),
                       mult_bits=(mult_bits, 8, 24))
        self.lanes, self.max_row, self.mult_bits, self.levels = lanes, max_row, mult_bits, levels
        self.division = -(-mult_bits // _STEPS) + 1
        self.factor_latency = 2 + -(-(lanes - 1).bit_length() // 2) + self.division
        self._sum_bits = (255 * max_row).bit_length()
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(8), lanes))),
            "o": Out(stream.Signature(row_beat(unsigned(8), lanes))),
            "factor": Out(stream.Signature(unsigned(mult_bits))),
            "numerator": In(unsigned(INT_BITS)),
            "w": In(stream.Signature(table_write())),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = RowMaximum(lanes=self.lanes, max_row=self.max_row, slots=4)
        m.submodules.table = table = ByteTable(lanes=self.lanes, table=1)
        wiring.connect(m, wiring.flipped(self.i), rows.i)
        wiring.connect(m, wiring.flipped(self.w), table.w)
        advance, take = Signal(), Signal()
        total, divided = Signal(self._sum_bits, reset_less=True), Signal()
        ended = Signal()  # a row's last beat was taken, and its sum is not being divided yet
        pipe, beat = Pipeline(m, advance), rows.o.p
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready), table.en.eq(advance),
            rows.o.ready.eq(advance & ~(ended & beat.last)), take.eq(rows.o.valid & rows.o.ready),
        ]
        with m.If(divided):
            m.d.sync += ended.eq(0)
        with m.If(take & beat.last):
            m.d.sync += ended.eq(1)
        for k in range(self.lanes):
            m.d.comb += table.addr[k].eq(pipe.reg((beat.max - beat.x[k])[:8]))
        valid = pipe.delay(take, 2, reset_less=False)
        last, keep = pipe.delay(beat.last, 2), pipe.delay(beat.keep, 2)
        m.d.comb += [self.o.valid.eq(valid), self.o.p.last.eq(last), self.o.p.keep.eq(keep)]
        kept = [Mux(keep[k] | (k == 0), table.data[k], 0) for k in range(self.lanes)]
        if self.levels:
            codes = [entry[:LEVEL_BITS] for entry in kept]
            m.d.comb += [self.o.p.x[k].eq(code) for k, code in enumerate(codes)]
            kept = [exponential(m, self.levels, code) for code in codes]
        else:
            m.d.comb += [self.o.p.x[k].eq(table.data[k]) for k in range(self.lanes)]
        kept = [pipe.reg(exponent) for exponent in kept]
        beat_sum, cycles = pipe.add_up(kept)
        valid = pipe.delay(valid, 1 + cycles, reset_less=False) & advance
        last = pipe.delay(last, 1 + cycles)
        new_total = (total + beat_sum)[:self._sum_bits]
        clear = Signal(init=1)
        m.d.sync += clear.eq(0)
        with m.If(valid):
            m.d.sync += total.eq(new_total)
        with m.If(clear | (valid & last)):  # not a reset value: this way it takes no look-up table
            m.d.sync += total.eq(0)
        m.submodules.divider = divider = FactorDivider(
            sum_bits=self._sum_bits, factor_bits=self.mult_bits, steps=_STEPS)
        wiring.connect(m, divider.o, wiring.flipped(self.factor))
        m.d.comb += [divider.numerator.eq(self.numerator),
                     divided.eq(divider.i.valid & divider.i.ready)]
        with m.If(divided):
            m.d.sync += divider.i.valid.eq(0)
        with m.If(valid & last):
            m.d.sync += [divider.i.valid.eq(1), divider.i.p.eq(new_total)]
        return m
