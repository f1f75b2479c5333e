"""Normalised softmax: 16-bit exponentials shifted to the row's sum, and a factor for the rest."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
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
from systola.hw.vector.row_maximum import RowMaximum

__all__ = ["NormalisedSoftmax"]

_STEPS = 3
"""Quotient bits per cycle of a row's division: short rows wait for it."""

_BITS = NORMALISED_PEAK.bit_length()
_LOOKUP = 3
"""Cycles from a beat's codes to its exponentials: address, table, and those of kept lanes."""


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
        self.latency = 2 + _LOOKUP + levels + 5
        self.factor_latency = 2 + levels + self.division
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(8), lanes))),
            "o": Out(stream.Signature(row_beat(unsigned(_BITS), lanes))),
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
        held = data.StructLayout({"e": data.ArrayLayout(unsigned(_BITS), self.lanes), "last": 1,
                                  "keep": self.lanes - 1})
        beats = -(-self.max_row // self.lanes)
        m.submodules.exponentials = exponentials = SyncFIFOBuffered(
            width=held.size, depth=beats + max(beats, 32))  # 32: a row on its way to its shift
        sum_bits = (self.max_row * NORMALISED_PEAK - 1).bit_length()
        m.submodules.shifts = shifts = CreditQueue(shape=range(max(sum_bits - _BITS, 0) + 1))
        m.submodules.sums = sums = CreditQueue(
            shape=range(2 * NORMALISED_PEAK + self.max_row // 2 + 1))
        m.submodules.divider = divider = FactorDivider(
            sum_bits=len(sums.o.p), factor_bits=self.factor_bits, steps=_STEPS)
        wiring.connect(m, sums.o, divider.i)
        wiring.connect(m, divider.o, wiring.flipped(self.factor))
        m.d.comb += divider.numerator.eq(self.numerator)
        total, ended = self._exponentials(m, data.View(held, exponentials.w_data), rows.o, table,
                                          exponentials, shifts, sum_bits)
        for bit, high in enumerate(total[_BITS:]):  # it is less one: these are as many as the shift
            with m.If(high):
                m.d.comb += shifts.data.eq(bit + 1)
        m.d.comb += shifts.push.eq(ended)
        self._shift(m, data.View(held, exponentials.r_data), exponentials, shifts.o, sums)
        return m

    def _exponentials(self, m, stored, rows, table, exponentials, shifts, sum_bits):
        """Turn beats into exponentials in the buffer; return a row's sum less one, and its end."""
        take, space, beat = Signal(), Signal(), rows.p
        # Early, as the level is a sum: beats of this cycle and the lookup's are not in it yet.
        m.d.sync += space.eq(exponentials.w_level < exponentials.depth - _LOOKUP - 1)
        m.d.comb += [
            rows.ready.eq(space & (shifts.room | ~beat.last)),
            take.eq(rows.valid & rows.ready), shifts.take.eq(take & beat.last), table.en.eq(1),
        ]
        pipe = Pipeline(m)
        for k in range(self.lanes):
            m.d.comb += table.addr[k].eq(pipe.reg((beat.max - beat.x[k])[:8]))
            keep, top = pipe.delay(beat.keep[k], 2) if k else Const(1), table.data[k][-1]
            below = table.data[k][:-1] & (keep & ~top).replicate(_BITS - 1)
            m.d.comb += stored.e[k].eq(pipe.reg(Cat(below, top & keep)))
        valid = pipe.delay(take, _LOOKUP, reset_less=False)
        last = pipe.delay(beat.last, _LOOKUP)
        m.d.comb += [exponentials.w_en.eq(valid), stored.last.eq(last),
                     stored.keep.eq(pipe.delay(beat.keep[1:], _LOOKUP))]
        return self._add_up(m, pipe, stored.e, valid, last, -1, sum_bits)

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
            m.d.comb += self.o.p.x[k].eq(pipe.reg((doubled[1:] + doubled[0])[:_BITS]))
        tail = pipe.delay(Cat(stored.last, 1, stored.keep), 3)
        m.d.comb += [self.o.valid.eq(pipe.delay(take, 3, reset_less=False)),
                     self.o.p.last.eq(tail[0]), self.o.p.keep.eq(tail[1:])]
        total, ended = self._add_up(m, pipe, self.o.p.x, self.o.valid, tail[0], 0,
                                    len(sums.data))
        m.d.comb += [sums.data.eq(total), sums.push.eq(ended)]

    @staticmethod
    def _add_up(m, pipe, values, valid, last, start, bits):
        """Return the sum of each row's beats from `start` on, and the cycle in which it is one."""
        beat, cycles = pipe.add_up(list(values))
        step = Signal()
        m.d.comb += step.eq(pipe.delay(valid, cycles, reset_less=False) & pipe.advance)
        last = pipe.delay(last, cycles)
        total, first, ended = Signal(bits, reset_less=True), Signal(init=1), Signal()
        with m.If(step):
            m.d.sync += [total.eq(Mux(first, start, total) + beat), first.eq(last)]
        m.d.sync += ended.eq(step & last)
        return total, ended
