"""Adapters between row streams of different widths."""

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.shapes import row_beat

__all__ = ["Narrow", "Widen"]


def _check(wide, narrow):
    check_positive(wide=wide, narrow=narrow)
    if wide % narrow:
        raise ValueError(f"narrow must divide wide ({wide}), not {narrow!r}")


class Narrow(wiring.Component):
    """Send each beat of a row in groups of `narrow` elements, without those that are not kept.

    One group a cycle, latency 0: a beat stays on the input until its last group is taken.

    Model: none: moves data

    Parameters
    ----------
    shape : shape-like
        An element.
    wide, narrow : int
        Elements per beat at the input and at the output; `narrow` divides `wide`.

    Members
    -------
    i, o : In, Out(stream.Signature(row_beat(shape, wide))), the output with `narrow`
        Rows; ``keep`` is a run of ones from lane 0.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or `narrow` does not divide `wide`.
    """

    def __init__(self, *, shape, wide, narrow):
        _check(wide, narrow)
        self.wide, self.narrow = wide, narrow
        super().__init__({"i": In(stream.Signature(row_beat(shape, wide))),
                          "o": Out(stream.Signature(row_beat(shape, narrow)))})

    def elaborate(self, platform):
        m = Module()
        size, count = self.narrow, self.wide // self.narrow
        group, end = Signal(range(count)), Signal()
        # A group is a beat's last one if the next has nothing to keep.
        more = Cat(*(self.i.p.keep[size * k] for k in range(1, count)), 0)
        m.d.comb += [
            end.eq(~more.bit_select(group, 1)),
            self.o.valid.eq(self.i.valid), self.i.ready.eq(self.o.ready & end),
            self.o.p.last.eq(self.i.p.last & end),
            self.o.p.keep.eq(Array(self.i.p.keep[size * k:size * (k + 1)]
                                   for k in range(count))[group]),
        ]
        for lane in range(size):
            m.d.comb += self.o.p.x[lane].eq(
                Array(self.i.p.x[size * k + lane] for k in range(count))[group])
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += group.eq(Mux(end, 0, group + 1))
        return m


class Widen(wiring.Component):
    """Collect groups of elements to beats of `wide`; a row's last beat may hold fewer.

    One group a cycle; a beat is out a cycle after its last group was taken.

    Model: none: moves data

    Parameters
    ----------
    shape : shape-like
        An element.
    wide, narrow : int
        Elements per beat at the output and at the input; `narrow` divides `wide`.

    Members
    -------
    i, o : In, Out(stream.Signature(row_beat(shape, narrow))), the output with `wide`
        Rows; ``keep`` is a run of ones from lane 0. Lanes that are not kept hold anything.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or `narrow` does not divide `wide`.
    """

    def __init__(self, *, shape, wide, narrow):
        _check(wide, narrow)
        self.wide, self.narrow = wide, narrow
        super().__init__({"i": In(stream.Signature(row_beat(shape, narrow))),
                          "o": Out(stream.Signature(row_beat(shape, wide)))})

    def elaborate(self, platform):
        m = Module()
        size, count = self.narrow, self.wide // self.narrow
        group, end = Signal(range(count)), Signal()
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready),
                     end.eq(self.i.p.last | (group == count - 1))]
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [group.eq(Mux(end, 0, group + 1)), self.o.valid.eq(end),
                         self.o.p.last.eq(self.i.p.last)]
            for k in range(count):
                with m.If(group == k):
                    m.d.sync += [self.o.p.x[size * k + lane].eq(self.i.p.x[lane])
                                 for lane in range(size)]
                    m.d.sync += self.o.p.keep[size * k:].eq(self.i.p.keep)
        return m
