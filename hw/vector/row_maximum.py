"""Row buffer that repeats each row together with its maximum, known before the first beat."""

from amaranth import Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO, SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_least
from systola.hw.parts.shapes import row_beat

__all__ = ["RowMaximum"]


class RowMaximum(wiring.Component):
    """Delay each row until its maximum is known; send the row with the maximum on every beat.

    One beat per cycle in and out: a row streams in while the ones before it stream out. A row's
    first beat is on ``o`` 2 cycles after its last beat was taken, or directly after the row before.
    Holds two rows of `max_row`, or `slots` shorter ones. Longer rows never come out.

    Model: none: NumPy's max

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    in_bits : int
        Bits of an element, at least 2.
    slots : int
        Complete rows that may wait, at least 2.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(in_bits), lanes)))
        Rows; ``keep`` is a run of ones from lane 0.
    o : Out(stream.Signature(StructLayout))
        ``x``, ``keep``, ``last`` as they came, and ``max``: signed(in_bits), over the kept lanes.

    Raises
    ------
    ValueError
        If a parameter is not an integer of at least its minimum.
    """

    def __init__(self, *, lanes, max_row, in_bits=8, slots=8):
        check_least(lanes=(lanes, 1), max_row=(max_row, 1), in_bits=(in_bits, 2), slots=(slots, 2))
        self.lanes, self.in_bits, self.slots = lanes, in_bits, slots
        self.depth = max(2 * -(-max_row // lanes), 2 * slots)
        beat = row_beat(signed(in_bits), lanes)
        super().__init__({
            "i": In(stream.Signature(beat)),
            "o": Out(stream.Signature(data.StructLayout(
                {**beat.members, "max": signed(in_bits)}))),
        })

    def elaborate(self, platform):
        m = Module()
        # keep[0] is always set, so `last` takes its place: 9 bits per 8-bit lane, as in block RAM.
        m.submodules.beats = beats = SyncFIFOBuffered(
            width=self.lanes * (self.in_bits + 1), depth=self.depth)
        m.submodules.maxima = maxima = SyncFIFO(width=self.in_bits, depth=self.slots)
        rows = Signal(range(self.slots + 1))
        i_taken, o_taken = Signal(), Signal()
        stored = data.StructLayout({"x": self.i.p.x.shape(), "last": 1, "keep": self.lanes - 1})
        beat_in, beat_out = data.View(stored, beats.w_data), data.View(stored, beats.r_data)
        m.d.comb += [
            self.i.ready.eq(beats.w_rdy & (rows != self.slots)),
            i_taken.eq(self.i.valid & self.i.ready), o_taken.eq(self.o.valid & self.o.ready),
            beats.w_en.eq(i_taken), beat_in.x.eq(self.i.p.x),
            beat_in.last.eq(self.i.p.last), beat_in.keep.eq(self.i.p.keep[1:]),
            self.o.valid.eq(beats.r_rdy & maxima.r_rdy), beats.r_en.eq(o_taken),
            maxima.r_en.eq(o_taken & beat_out.last), self.o.p.x.eq(beat_out.x),
            self.o.p.last.eq(beat_out.last), self.o.p.max.eq(maxima.r_data),
            self.o.p.keep[0].eq(1), self.o.p.keep[1:].eq(beat_out.keep),
        ]
        m.d.sync += rows.eq(rows + (i_taken & self.i.p.last) - (o_taken & beat_out.last))
        self._maximum(m, i_taken, maxima)
        return m

    def _maximum(self, m, i_taken, maxima):
        """Reduce the lanes in one stage, the beats of a row in the next."""
        shape = signed(self.in_bits)
        lowest = Const(-(1 << self.in_bits - 1), shape)
        level = [self.i.p.x[0]] + [Mux(self.i.p.keep[k], self.i.p.x[k], lowest)
                                   for k in range(1, self.lanes)]
        while len(level) > 1:
            level = [Mux(a > b, a, b) for a, b in zip(level[::2], level[1::2], strict=False)
                     ] + level[len(level) & ~1:]
        beat_valid, beat_last = Signal(), Signal()
        beat_max = Signal(shape, reset_less=True)
        row_max, larger = Signal(shape, init=lowest.value), Signal(shape)
        m.d.sync += [beat_valid.eq(i_taken), beat_last.eq(self.i.p.last), beat_max.eq(level[0])]
        m.d.comb += [
            larger.eq(Mux(beat_max > row_max, beat_max, row_max)),
            maxima.w_data.eq(larger), maxima.w_en.eq(beat_valid & beat_last),
        ]
        with m.If(beat_valid):
            m.d.sync += row_max.eq(Mux(beat_last, lowest, larger))
