"""Softmax codes of few bits: exponentials compared with multiples of their sum."""

from amaranth import Cat, Module, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import NORMALISED_PEAK, SHARE_FRACTION
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.credit_queue import CreditQueue
from systola.hw.parts.pipeline import Pipeline, add_with_carry, saturate, up_down
from systola.hw.parts.shapes import row_beat, table_write
from systola.hw.parts.threshold_search import ThresholdSearch
from systola.hw.vector.byte_table import ByteTable
from systola.hw.vector.row_exponentials import EXP_BITS, LOOKUP, write_exponentials
from systola.hw.vector.row_maximum import RowMaximum

__all__ = ["ComparingSoftmax"]

_SLOTS = 4
"""Rows whose thresholds may lie in the memories; a power of two."""


class ComparingSoftmax(wiring.Component):
    """Look up ``e = T[max - x]`` and count the multiples of the row's sum D that it reaches.

    ``code = #{k from 1 to 2**bits - 1 : e * 2**(f + 1) >= (2 * k - 1) * step * D}`` with f =
    `SHARE_FRACTION`: the share ``e / D`` in units of ``step / 2**f``, rounded. No division and no
    multiplier: the sum takes the step in f additions, each threshold is the one before and twice
    that, and a code takes a comparison for each of its bits. Source: Lin and Shah (2025).

    Four stages work on successive rows at once: buffering for the maximum; the table, whose
    exponentials are kept in a second buffer, and their sum; the thresholds; the search. A long run
    of rows of B beats takes ``max(B, period)`` cycles a row, `period` being an attribute (``f + 1 +
    2**bits``). A row's first beat is out ``latency + B`` cycles after its last beat was in.

    Model: model/operators/softmax_codes.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    bits : int
        Bits of a code, 2 to 8.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(8), lanes)))
        Rows of 1 to `max_row` codes.
    o : Out(stream.Signature(row_beat(unsigned(bits), lanes)))
        The rows in units of ``step / 2**f``; lanes that are not kept hold 0.
    step : In(unsigned(f))
        At least 1; must not change while rows are inside.
    w : In(stream.Signature(table_write()))
        Writes of table entries, as for `NormalisedSoftmax`.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, max_row, bits):
        check_integers(lanes=(lanes, 1, 1024), max_row=(max_row, 1, 1 << 16), bits=(bits, 2, 8))
        self.lanes, self.max_row, self.bits = lanes, max_row, bits
        self.period = SHARE_FRACTION + 1 + (1 << bits)
        # Row maximum 2, lookup, sum and its queue, the thresholds, the search.
        self.latency = (2 + LOOKUP + -(-(lanes - 1).bit_length() // 2) + 1 + self.period
                        + ThresholdSearch.latency_for(bits))
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(8), lanes))),
            "o": Out(stream.Signature(row_beat(unsigned(bits), lanes))),
            "step": In(unsigned(SHARE_FRACTION)),
            "w": In(stream.Signature(table_write())),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = RowMaximum(lanes=self.lanes, max_row=self.max_row, slots=4)
        m.submodules.table = table = ByteTable(lanes=self.lanes, table=1, entry_bytes=2)
        m.submodules.search = search = ThresholdSearch(
            lanes=self.lanes, bits=self.bits, shape=unsigned(EXP_BITS), sets=_SLOTS, shared=True)
        wiring.connect(m, wiring.flipped(self.i), rows.i)
        wiring.connect(m, wiring.flipped(self.w), table.w)
        held = data.StructLayout({"e": data.ArrayLayout(unsigned(EXP_BITS), self.lanes), "last": 1,
                                  "keep": self.lanes - 1})
        beats = -(-self.max_row // self.lanes)
        m.submodules.exponentials = exponentials = SyncFIFOBuffered(
            width=held.size, depth=beats + max(beats, 32 + self.period))  # a row on its way
        m.submodules.sums = sums = CreditQueue(shape=range(self.max_row * NORMALISED_PEAK + 1))
        total, ended = write_exponentials(
            m, data.View(held, exponentials.w_data), rows.o, table, exponentials, sums,
            start=0, bits=len(sums.data))
        m.d.comb += [sums.data.eq(total), sums.push.eq(ended)]
        inside, made = Signal(range(_SLOTS + 1)), Signal(range(_SLOTS + 1))
        begins, complete = self._thresholds(m, sums.o, inside != _SLOTS, search.w)
        ends, leaves = self._codes(m, data.View(held, exponentials.r_data), exponentials, made != 0,
                                   search)
        m.d.sync += [inside.eq(up_down(inside, begins, leaves)),
                     made.eq(up_down(made, complete, ends))]
        return m

    def _thresholds(self, m, sums, room, w):
        """Write a row's thresholds through `w`; return when one begins, and when it is done.

        ``e * 2**(f + 1) >= T`` holds for the e above ``(T - 1) >> (f + 1)``. Added up is -T, whose
        complement is T - 1: the step times the sum, and then twice that for each further level.
        """
        slot, level = Signal(range(_SLOTS)), Signal(self.bits)
        step, left = Signal(SHARE_FRACTION, reset_less=True), Signal(range(SHARE_FRACTION))
        addend = Signal(signed(len(sums.p) + SHARE_FRACTION + 2), reset_less=True)
        edge = Signal(signed(len(addend) + self.bits), reset_less=True)
        begins, complete, less, use = Signal(), Signal(), Signal(), Signal()
        # One adder: less the sum, shifted, where the step has a bit; plus what is negative by then.
        term = (addend & use.replicate(len(addend)).as_signed()) ^ less.replicate(
            len(addend)).as_signed()
        total = add_with_carry(edge, term, less, len(edge))
        m.d.comb += [w.p.set.eq(slot), w.p.level.eq(level), use.eq(~less | step[0]),
                     w.p.data.eq(saturate((~edge).as_unsigned()[SHARE_FRACTION + 1:], EXP_BITS))]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [sums.ready.eq(room), begins.eq(sums.valid & room)]
                m.d.sync += [addend.eq(sums.p), edge.eq(0), step.eq(self.step),
                             left.eq(SHARE_FRACTION - 1)]
                with m.If(begins):
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.comb += less.eq(1)
                m.d.sync += [edge.eq(total), addend.eq(addend << 1), step.eq(step >> 1),
                             left.eq(left - 1)]
                with m.If(left == 0):
                    m.next = "DOUBLE"
            with m.State("DOUBLE"):
                m.d.sync += [addend.eq(edge << 1), level.eq(1)]
                m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [w.valid.eq(1), complete.eq(level.all())]
                m.d.sync += [edge.eq(total), level.eq(level + 1)]
                with m.If(complete):
                    m.d.sync += slot.eq(slot + 1)
                    m.next = "IDLE"
        return begins, complete

    def _codes(self, m, stored, exponentials, made, search):
        """Search for the codes of rows; return when a row has entered, and when it has left."""
        slot, take, ends, leaves = Signal(range(_SLOTS)), Signal(), Signal(), Signal()
        pipe = Pipeline(m, search.en)
        m.d.comb += [
            search.en.eq(~self.o.valid | self.o.ready), take.eq(made & exponentials.r_rdy),
            exponentials.r_en.eq(take & search.en), ends.eq(exponentials.r_en & stored.last),
            leaves.eq(self.o.valid & self.o.ready & self.o.p.last),
            search.x.eq(stored.e), search.set.eq(slot), self.o.p.x.eq(search.code),
        ]
        with m.If(ends):
            m.d.sync += slot.eq(slot + 1)
        tail = pipe.delay(Cat(stored.last, 1, stored.keep), search.latency)
        m.d.comb += [self.o.valid.eq(pipe.delay(take, search.latency, reset_less=False)),
                     self.o.p.last.eq(tail[0]), self.o.p.keep.eq(tail[1:])]
        return ends, leaves
