"""Layer norm and quantizer to codes of few bits: squares compared with those of edges."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.latency import edge_cycles
from systola.hw.contract.numbers import (
    COMPARED_BITS,
    COMPARED_ROW,
    NORM_FRACTION,
    SQUARE_FRACTION,
    epsilon_bits,
)
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.pipeline import Pipeline, booth_row, up_down
from systola.hw.parts.shapes import row_beat
from systola.hw.parts.threshold_search import ThresholdSearch
from systola.hw.vector.fine_moments import FineMoments
from systola.hw.vector.row_sums import square, square_cycles

__all__ = ["ComparingNorm"]

_SLOTS = 4
"""Rows whose edges may lie in the memories; a power of two."""

_Y_BITS = 17 + NORM_FRACTION
"""Bits of an element less its row's mean."""

_SQUARE_BITS = 2 * _Y_BITS - 2

_DIGITS = SQUARE_FRACTION // 2 + 1
"""Booth digits of a share, which is unsigned: the last one is its highest bit."""

_TWICE = 0b011
"""Booth digit 2: its lowest bit is that of the digit before."""


class ComparingNorm(wiring.Component):
    """Count the edges between codes that an element of a row lies beyond, by their squares.

    ``code = sign(y) * #{k : y**2 > (2*k - 1)**2 * G}`` with ``y = x - mean`` and V of
    `systola.hw.vector.fine_moments.FineMoments`, ``G = floor(share * V / 2**q)``, q =
    `SQUARE_FRACTION`: with the share ``(step / 2)**2 / C`` that is ``y / sigma`` in units of the
    step, rounded, saturated to ``-top .. top``, ``top = 2**(bits-1) - 1`` of the row's bits. One
    gain serves all channels, and no bias: those of channels belong into the layer behind. Neither a
    root nor a division by it, no factor for an element and no rescaling of it; the division left is
    the mean's, by the number of channels. Source: Lin and Shah (2025).

    Throughput one beat a cycle and a row every `period` cycles: rows are received, summed up, given
    the squares of their edges (see `systola.hw.contract.latency.edge_cycles`; one adder makes them)
    and emitted at once, from one row memory. Latency from the last beat in to the first beat out:
    `latency` cycles.

    Model: model/operators/norm_codes.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    bits : int
        Most bits of a code, 2 to `COMPARED_BITS`.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(16), lanes)))
        Rows of 1 to `max_row` codes.
    epsilon : In(unsigned(epsilon_bits(max_row)))
        In units of ``2**(-2*f)``, f = `NORM_FRACTION`; constant while a row is inside.
    share : In(unsigned(q)), bits_used : In(range(bits + 1))
        In units of ``2**-q``; bits of the rows' codes, from 2. Both constant while a row is inside.
    o : Out(stream.Signature(row_beat(signed(bits), lanes)))
        The rows; lanes that are not kept hold anything.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, max_row, bits):
        check_integers(lanes=(lanes, 1, 1024), max_row=(max_row, 1, COMPARED_ROW),
                       bits=(bits, 2, COMPARED_BITS))
        self.lanes, self.bits, self.levels = lanes, bits, (1 << bits - 1) - 1
        self._moments = FineMoments(lanes=lanes, max_row=max_row)
        edges = edge_cycles(bits)
        self.period = max(self._moments.period, edges)
        self._before = 1 + square_cycles(_Y_BITS)
        self._cycles = self._before + ThresholdSearch.latency_for(bits - 1)
        self.latency = self._moments.latency + edges + self._cycles
        # While a row waits for its edges the following ones arrive.
        self.depth = 1 << (-(-max_row // lanes) + self.latency - 1).bit_length()
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))),
            "epsilon": In(epsilon_bits(max_row)), "share": In(SQUARE_FRACTION),
            "bits_used": In(range(bits + 1)),
            "o": Out(stream.Signature(row_beat(signed(bits), lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.moments = moments = self._moments
        m.submodules.rows = rows = SyncFIFOBuffered(width=self.i.p.shape().size, depth=self.depth)
        m.submodules.means = means = SyncFIFO(width=len(moments.o.p.mean), depth=_SLOTS)
        m.submodules.search = search = ThresholdSearch(
            lanes=self.lanes, bits=self.bits - 1, shape=unsigned(_SQUARE_BITS), sets=_SLOTS,
            shared=True)
        m.d.comb += [
            moments.i.payload.eq(self.i.payload), rows.w_data.eq(self.i.payload),
            moments.i.valid.eq(self.i.valid & rows.w_rdy),
            rows.w_en.eq(self.i.valid & moments.i.ready),
            self.i.ready.eq(rows.w_rdy & moments.i.ready), moments.epsilon.eq(self.epsilon),
        ]
        inside, begins, leaves = Signal(range(_SLOTS + 1)), Signal(), Signal()
        m.d.comb += leaves.eq(self.o.valid & self.o.ready & self.o.p.last)
        m.d.sync += inside.eq(up_down(inside, begins, leaves))
        self._edges(m, moments.o, inside != _SLOTS, begins, search.w, means)
        self._codes(m, data.View(self.i.p.shape(), rows.r_data), rows, means, search)
        return m

    def _edges(self, m, moments, room, begins, w, means):
        """Write the squares of the edges of each row through `w`, then the row's mean.

        A Booth row multiplies 4 V by the share, two bits of that a cycle, to G; from then on it
        adds 8 G, as twice 4 G: ``(2*k + 1)**2 - (2*k - 1)**2 = 8*k``. Sums saturate at what no
        square exceeds, and there they begin where the row's bits have no code more.
        """
        slot, level = Signal(range(_SLOTS)), Signal(self.bits - 1)
        v = Signal(signed(max(len(moments.p.v), _SQUARE_BITS) + 3), reset_less=True)
        total, product = Signal(signed(len(v) + 2), reset_less=True), Signal(signed(len(v) + 2))
        share = Cat(Const(0, 1), self.share, Const(0, 2))
        step = Signal(range(_DIGITS + 1))  # of the next digit, which is looked up a cycle before
        digit = Signal(3, reset_less=True)
        left = Signal(range(max(self.levels - 1, 2)), reset_less=True)  # additions to the next edge
        over = Signal()
        m.d.comb += [
            product.eq(booth_row(total, v, digit[0], digit[1], digit[2])),
            w.p.set.eq(slot), w.p.level.eq(level), w.p.data.eq(total),
            means.w_data.eq(moments.p.mean),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += begins.eq(moments.valid & room)
                m.d.sync += [total.eq(moments.p.v), level.eq(1), step.eq(1)]
                with m.If(begins):
                    m.next = "LOAD"
            with m.State("LOAD"):  # all comes from one register: no choice in front of the other
                m.d.sync += [v.eq(total << 2), total.eq(0), digit.eq(share[:3])]
                m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                m.d.sync += [total.eq(product >> 2), step.eq(step + 1),
                             digit.eq(share.bit_select(step << 1, 3))]
                with m.If(step == _DIGITS):
                    m.d.comb += over.eq(product[_SQUARE_BITS + 2:].any())
                    m.next = "WRITE" if self.levels == 1 else "AGAIN"
            with m.State("WRITE"):
                m.d.comb += w.valid.eq(1)
                with m.If(level == self.levels):
                    # There is an entry for each row inside.
                    m.d.comb += [means.w_en.eq(1), moments.ready.eq(1)]
                    m.d.sync += slot.eq(slot + 1)
                    m.next = "IDLE"
                if self.levels > 1:
                    with m.Elif(level != 1):
                        m.next = "ADD"
                    m.d.comb += over.eq(product[_SQUARE_BITS:].any() | (level == self._top))
                    m.d.sync += [total.eq(product), left.eq(level - 1), level.eq(level + 1)]
            if self.levels > 1:
                with m.State("AGAIN"):
                    m.d.sync += [v.eq(total << 2), digit.eq(_TWICE)]
                    m.next = "WRITE"
                with m.State("ADD"):
                    m.d.comb += over.eq(product[_SQUARE_BITS:].any())
                    m.d.sync += [total.eq(product), left.eq(left - 1)]
                    with m.If(left == 1):
                        m.next = "WRITE"
        with m.If(over):
            m.d.sync += total.eq((1 << _SQUARE_BITS) - 1)

    @property
    def _top(self):
        """The largest code of the row's bits."""
        return Cat(Const(1, 1), *(self.bits_used > k for k in range(2, self.bits)))

    def _codes(self, m, beat, rows, means, search):
        """Square what is left of elements without their mean, and search for their codes."""
        slot, valid, ends = Signal(range(_SLOTS)), Signal(), Signal()
        pipe = Pipeline(m, search.en)
        m.d.comb += [
            search.en.eq(~self.o.valid | self.o.ready), valid.eq(rows.r_rdy & means.r_rdy),
            rows.r_en.eq(valid & search.en), ends.eq(rows.r_en & beat.last), means.r_en.eq(ends),
            search.set.eq(pipe.delay(slot, self._before)),
            self.o.valid.eq(pipe.delay(valid, self._cycles, reset_less=False)),
            Cat(self.o.p.last, self.o.p.keep[1:]).eq(
                pipe.delay(Cat(beat.last, beat.keep[1:]), self._cycles)),
            self.o.p.keep[0].eq(1),
        ]
        with m.If(ends):
            m.d.sync += slot.eq(slot + 1)
        for k in range(self.lanes):
            mean = means.r_data.as_signed()
            y = pipe.reg(Cat(Const(0, NORM_FRACTION), beat.x[k]).as_signed() - mean,
                         signed(_Y_BITS))
            negative = pipe.delay(y[-1], self._cycles - 1)
            size = search.code[k]
            m.d.comb += [search.x[k].eq(square(pipe, y)),
                         self.o.p.x[k].eq(Mux(negative, -size, size))]
