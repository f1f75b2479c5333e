"""Rows that end early, with zeros up to a common length: keys without weight."""

from amaranth import Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.shapes import row_beat
from systola.hw.vector.row_reader import choose

__all__ = ["RowExtender"]


class RowExtender(wiring.Component):
    """Extend rows with zeros to ``words`` words, of which the last has ``lanes_last`` elements.

    Elements that are not kept become 0, too. One beat a cycle, latency 0: a row's own beats pass,
    then those that it lacks are sent while its successor waits. Rows must not be longer.

    Model: none: moves data

    Parameters
    ----------
    shape : shape-like
        An element.
    lanes : int
        Elements per beat.
    size : int
        Elements of a word, a multiple of `lanes`.
    max_words : int
        Most words of a row.

    Members
    -------
    i, o : In, Out(stream.Signature(row_beat(shape, lanes)))
        Rows; ``keep`` is a run of ones from lane 0.
    words, lanes_last : In(range(max_words + 1)), In(range(size + 1))
        From 1 on; constant while there are rows.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or `lanes` does not divide `size`.
    """

    def __init__(self, *, shape, lanes, size, max_words):
        check_positive(lanes=lanes, size=size, max_words=max_words)
        if size % lanes:
            raise ValueError(f"lanes must divide size ({size}), not {lanes!r}")
        self.lanes, self.size, self.max_words = lanes, size, max_words
        super().__init__({"i": In(stream.Signature(row_beat(shape, lanes))),
                          "o": Out(stream.Signature(row_beat(shape, lanes))),
                          "words": In(range(max_words + 1)), "lanes_last": In(range(size + 1))})

    def elaborate(self, platform):
        m = Module()
        lanes, groups = self.lanes, self.size // self.lanes
        beat, missing = self.i.p, Signal()  # the row has ended, and beats are still to come
        word, group = Signal(range(self.max_words + 1), init=1), Signal(range(groups))
        last_word, row_end = Signal(), Signal()
        left = Signal(range(self.size + 1))  # elements of the last word, from this beat's first on
        m.d.comb += [
            last_word.eq(word == self.words),
            left.eq(self.lanes_last - choose([Const(lanes * k) for k in range(groups)], group)),
            row_end.eq(last_word & (left <= lanes)),
            self.o.valid.eq(self.i.valid | missing), self.i.ready.eq(self.o.ready & ~missing),
            self.o.p.last.eq(row_end),
        ]
        for k in range(lanes):
            m.d.comb += [self.o.p.x[k].eq(Mux(beat.keep[k] & ~missing, beat.x[k], 0)),
                         self.o.p.keep[k].eq(~last_word | (left > k))]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [missing.eq((missing | beat.last) & ~row_end),
                         group.eq(group + 1)]
            with m.If(group == groups - 1):
                m.d.sync += [group.eq(0), word.eq(word + 1)]
            with m.If(row_end):
                m.d.sync += [group.eq(0), word.eq(1)]
        return m
