"""Normalised softmax: 16-bit exponentials shifted to the row's sum, and a factor for the rest."""

from amaranth import Cat, Const, Module, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import FACTOR_BITS, INT_BITS, NORMALISED_PEAK
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.credit_queue import CreditQueue
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.shapes import row_beat, table_write
from systola.hw.vector.byte_table import ByteTable
from systola.hw.vector.factor_divider import FactorDivider
from systola.hw.vector.row_exponentials import EXP_BITS, LOOKUP, add_up_rows, write_exponentials
from systola.hw.vector.row_maximum import RowMaximum

__all__ = ["NormalisedSoftmax"]

_STEPS = 3
"""Quotient bits per cycle of a row's division: short rows wait for it."""



class NormalisedSoftmax(wiring.Component):
    """Look up ``e = T[max - x]``, shift a row by its sum, divide by the sum of what comes out.

    ``a = round(e / 2**s)``, ties upwards, with the least s for which ``sum e <= 2**(16 + s)``; ``F
    = min(numerator // sum a, 2**factor_bits - 1)``. No multiplier.

    Four stages work on successive rows at once: buffering for the maximum; the table, whose
    exponentials are kept in a second buffer, and their sum; the shift; the division. A long run of
    rows of B beats takes ``max(B, division)`` cycles a row, `division` being an attribute (7 for 17
    bits). A row's first beat is out ``latency + B`` cycles after its last beat was in; its factor
    comes ``factor_latency`` cycles after its last beat is out, if the division is free.

    Model: model/operators/normalised.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    factor_bits : int
        Bits of a factor, 8 to 17.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(8), lanes)))
        Rows of 1 to `max_row` codes.
    o : Out(stream.Signature(row_beat(unsigned(16), lanes)))
        The rows, from 0 to 32768; lanes that are not kept hold 0.
    factor : Out(stream.Signature(unsigned(factor_bits)))
        The factor of each row, in order.
    numerator : In(unsigned(31))
        Must not change while rows are inside.
    w : In(stream.Signature(table_write()))
        Writes of table entries, always ready; no row must be inside. Table 1 has the low bytes,
        table 2 the high ones; entries above 32768 count as 32768.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, max_row, factor_bits):
        check_integers(lanes=(lanes, 1, 1024), max_row=(max_row, 1, 1 << 16),
                       factor_bits=(factor_bits, 8, FACTOR_BITS))
        self.lanes, self.max_row, self.factor_bits = lanes, max_row, factor_bits
        levels = -(-(lanes - 1).bit_length() // 2)
        self.division = -(-factor_bits // _STEPS) + 1
        # Row maximum 2, lookup, sum, the queue of shifts 2, three of the shift.
        self.latency = 2 + LOOKUP + levels + 5
        self.factor_latency = 2 + levels + self.division
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(8), lanes))),
            "o": Out(stream.Signature(row_beat(unsigned(EXP_BITS), lanes))),
            "factor": Out(stream.Signature(unsigned(factor_bits))),
            "numerator": In(unsigned(INT_BITS)),
            "w": In(stream.Signature(table_write())),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = RowMaximum(lanes=self.lanes, max_row=self.max_row, slots=4)
        m.submodules.table = table = ByteTable(lanes=self.lanes, table=1, entry_bytes=2)
        wiring.connect(m, wiring.flipped(self.i), rows.i)
        wiring.connect(m, wiring.flipped(self.w), table.w)
        held = data.StructLayout({"e": data.ArrayLayout(unsigned(EXP_BITS), self.lanes), "last": 1,
                                  "keep": self.lanes - 1})
        beats = -(-self.max_row // self.lanes)
        m.submodules.exponentials = exponentials = SyncFIFOBuffered(
            width=held.size, depth=beats + max(beats, 32))  # 32: a row on its way to its shift
        sum_bits = (self.max_row * NORMALISED_PEAK - 1).bit_length()
        m.submodules.shifts = shifts = CreditQueue(shape=range(max(sum_bits - EXP_BITS, 0) + 1))
        m.submodules.sums = sums = CreditQueue(
            shape=range(2 * NORMALISED_PEAK + self.max_row // 2 + 1))
        m.submodules.divider = divider = FactorDivider(
            sum_bits=len(sums.o.p), factor_bits=self.factor_bits, steps=_STEPS)
        wiring.connect(m, sums.o, divider.i)
        wiring.connect(m, divider.o, wiring.flipped(self.factor))
        m.d.comb += divider.numerator.eq(self.numerator)
        total, ended = write_exponentials(
            m, data.View(held, exponentials.w_data), rows.o, table, exponentials, shifts,
            start=-1, bits=sum_bits)
        # The sum is less one: its higher bits are as many as the shift.
        for bit, high in enumerate(total[EXP_BITS:]):
            with m.If(high):
                m.d.comb += shifts.data.eq(bit + 1)
        m.d.comb += shifts.push.eq(ended)
        self._shift(m, data.View(held, exponentials.r_data), exponentials, shifts.o, sums)
        return m

    def _shift(self, m, stored, exponentials, shifts, sums):
        """Shift each row of exponentials and round; send its sum to the division."""
        advance, active, take, finish = Signal(), Signal(), Signal(), Signal()
        shift = Signal(4, reset_less=True)
        pipe = Pipeline(m, advance)
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            take.eq(active & exponentials.r_rdy & (sums.room | ~stored.last)),
            exponentials.r_en.eq(take & advance), finish.eq(exponentials.r_en & stored.last),
            shifts.ready.eq(~active | finish), sums.take.eq(finish),
        ]
        with m.If(shifts.ready):
            m.d.sync += [active.eq(shifts.valid), shift.eq(shifts.p)]
        far = pipe.reg(shift[2:])
        for k in range(self.lanes):
            # In two stages, each a four-way choice; the lowest bit is for rounding.
            near = pipe.reg(Cat(Const(0, 1), stored.e[k]) >> shift[:2])
            doubled = pipe.reg(near >> Cat(Const(0, 2), far))
            m.d.comb += self.o.p.x[k].eq(pipe.reg((doubled[1:] + doubled[0])[:EXP_BITS]))
        tail = pipe.delay(Cat(stored.last, 1, stored.keep), 3)
        m.d.comb += [self.o.valid.eq(pipe.delay(take, 3, reset_less=False)),
                     self.o.p.last.eq(tail[0]), self.o.p.keep.eq(tail[1:])]
        total, ended = add_up_rows(m, pipe, self.o.p.x, self.o.valid, tail[0], start=0,
                                   bits=len(sums.data))
        m.d.comb += [sums.data.eq(total), sums.push.eq(ended)]
