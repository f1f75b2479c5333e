"""Mean over rows: sums of columns, rescaled to codes."""

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.contract.config import requant_slots
from systola.hw.contract.numbers import INT_BITS
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.requant import Requantizer
from systola.hw.parts.shapes import row_beat
from systola.hw.vector.lanes import Narrow, Widen

__all__ = ["RowMean"]

_OUT_BITS = 16
_ROW_BITS = 16
"""Bits of the number of rows, as in an instruction."""

_SUM_BITS = 32
"""Bits of the sum of ``2**_ROW_BITS - 1`` numbers of 16 bits."""


class RowMean(wiring.Component):
    """Add up `rows` rows to ``y[c] = sat(rne(sum x[t, c] * mult, shift), bits)``, one row.

    Sums are exact, rne rounds half to even. All rows are of equal length. A beat a cycle is added
    to the sums, in a memory of a beat's sums an entry; the last row's new sums are not stored but
    leave, element after element, through a requantizer of one lane: its beats take a cycle for each
    of their elements, or two (`slots`). The first element is in a beat of results `latency` cycles
    after the last row's first beat was offered, the others follow as they enter. The next rows may
    follow at once.

    Model: model/operators/row_mean.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    mult_bits : int
        Bits of the multiplier, 2 to 31.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(16), lanes)))
        Rows of 1 to `max_row` elements.
    rows : In(unsigned(16))
        How many make up one row of results, at least 1.
    mult, shift, bits : In(unsigned(mult_bits)), In(unsigned(6)), In(unsigned(5))
        Multiplier, right shift, and bits of the results, 2 to 16. They must not change, nor `rows`,
        from a row's first beat to its results' last one.
    o : Out(stream.Signature(row_beat(signed(16), lanes)))
        Rows of results; lanes that are not kept hold anything.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, max_row, mult_bits):
        check_integers(lanes=(lanes, 1, 64), max_row=(max_row, 1, 65536),
                       mult_bits=(mult_bits, 2, INT_BITS))
        self.lanes, self.depth = lanes, -(-max_row // lanes)
        self.slots = requant_slots(mult_bits, mult_bits, long=False)
        self._requantizer = Requantizer(
            lanes=1, in_bits=_SUM_BITS, mult_bits=mult_bits, code_mult_bits=mult_bits, bias_bits=2,
            out_bits=_OUT_BITS, residual=False, symmetric=False, tag=1)
        self.latency = 2 + self._requantizer.latency(long=False)
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))),
            "rows": In(_ROW_BITS), "mult": In(mult_bits), "shift": In(6), "bits": In(5),
            "o": Out(stream.Signature(row_beat(signed(_OUT_BITS), lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        sums = data.ArrayLayout(signed(_SUM_BITS), self.lanes)
        m.submodules.memory = memory = Memory(shape=sums, depth=self.depth, init=[])
        m.submodules.narrow = narrow = Narrow(shape=signed(_SUM_BITS), wide=self.lanes, narrow=1)
        write, read = memory.write_port(), memory.read_port()
        row, index = Signal(_ROW_BITS, init=1), Signal(range(self.depth))  # of the next beat
        # The beat whose sums the memory shows, and whether its row is the first or the last.
        beat, place, full = Signal.like(self.i.p, reset_less=True), Signal.like(index), Signal()
        first, final = Signal(), Signal()
        # A row of one beat follows another: its sums are only on their way to the memory.
        again, newest = Signal(), Signal(sums, reset_less=True)
        new, take = Signal(sums), Signal()
        m.d.comb += [
            self.i.ready.eq(~(full & final) | narrow.i.ready),
            take.eq(self.i.valid & self.i.ready), read.en.eq(take), read.addr.eq(index),
            write.en.eq(full & ~final), write.addr.eq(place), write.data.eq(new),
            narrow.i.valid.eq(full & final), narrow.i.p.x.eq(new),
            narrow.i.p.keep.eq(beat.keep), narrow.i.p.last.eq(beat.last),
        ]
        for k in range(self.lanes):
            old = Mux(again, newest[k], read.data[k])
            m.d.comb += new[k].eq(Mux(first, 0, old) + beat.x[k])
        with m.If(self.i.ready):
            m.d.sync += full.eq(self.i.valid)
        with m.If(take):
            m.d.sync += [beat.eq(self.i.p), place.eq(index), first.eq(row == 1),
                         final.eq(row == self.rows), again.eq(beat.last & (place == 0)),
                         index.eq(Mux(self.i.p.last, 0, index + 1))]
            with m.If(self.i.p.last):
                m.d.sync += row.eq(Mux(row == self.rows, 1, row + 1))
        with m.If(write.en):
            m.d.sync += newest.eq(new)
        self._rescale(m, narrow.o)
        return m

    def _rescale(self, m, source):
        """Requantize sums one by one, and collect the results to beats."""
        m.submodules.requantizer = unit = self._requantizer
        m.submodules.widen = widen = Widen(shape=signed(_OUT_BITS), wide=self.lanes, narrow=1)
        wiring.connect(m, widen.o, wiring.flipped(self.o))
        m.d.comb += [
            unit.i.valid.eq(source.valid), source.ready.eq(unit.i.ready),
            unit.i.p.z[0].eq(source.p.x[0]), unit.i.p.tag.eq(source.p.last),
            unit.i.p.p[0].mult.eq(self.mult), unit.i.p.p[0].shift.eq(self.shift),
            unit.i.p.bits.eq(self.bits),
            widen.i.valid.eq(unit.o.valid), unit.o.ready.eq(widen.i.ready),
            widen.i.p.x[0].eq(unit.o.p.y[0]), widen.i.p.last.eq(unit.o.p.tag),
            widen.i.p.keep.eq(1),
        ]
