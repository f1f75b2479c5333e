"""Reader of the VECTOR engine: words of a region to beats of rows."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw import shapes

__all__ = ["RowReader", "row_region"]


def row_region():
    """Return the payload that describes rows to read; ``wide`` means two planes of bytes."""
    return data.StructLayout({"base": 16, "stride": 16, "plane": 16, "rows": 16, "words": 16,
                              "lanes_last": 16, "wide": 1})


class RowReader(wiring.Component):
    """Read a region row by row and cut its words into beats of ``config.lanes`` elements.

    Elements are bytes (in the low half; the high half is no extension of them), or 16 bits from the
    low and the high byte plane, requested one after the other. One request a cycle and one beat a
    cycle, the next word being collected while one is cut; the first beat follows its (second) word
    by one cycle.

    Parameters
    ----------
    config : AcceleratorConfig
        Size of words and beats.

    Members
    -------
    i : In(stream.Signature(row_region()))
        Taken when the previous region's last beat has left. Counts are at least 1.
    src : Out(shapes.ReadPort(config))
        To the memory.
    o : Out(stream.Signature(row_beat(signed(16), config.lanes)))
        Rows.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(row_region())), "src": Out(shapes.ReadPort(config)),
            "o": Out(stream.Signature(shapes.row_beat(signed(16), config.lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        region = Signal(row_region(), reset_less=True)
        start, finish, busy = Signal(), Signal(), Signal()
        m.d.comb += [self.i.ready.eq(~busy), start.eq(self.i.valid & ~busy)]
        with m.If(finish):
            m.d.sync += busy.eq(0)
        with m.If(start):
            m.d.sync += [region.eq(self.i.p), busy.eq(1)]
        self._request(m, region, start)
        self._cut(m, region, start, finish)
        return m

    def _request(self, m, region, start):
        """Ask for every word of the region, the planes of a word one after the other."""
        req = self.src.req
        active, high = Signal(), Signal()
        row_addr, addr = Signal(16), Signal(16)  # of the row's first word, of this one
        rows, words = Signal(16), Signal(16)     # left, this one included
        m.d.comb += [req.valid.eq(active), req.p.addr.eq(addr + Mux(high, region.plane, 0))]
        with m.If(req.valid & req.ready):
            m.d.sync += high.eq(region.wide & ~high)
            with m.If(~region.wide | high):
                m.d.sync += [addr.eq(addr + 1), words.eq(words - 1)]
                with m.If(words == 1):
                    m.d.sync += [words.eq(region.words), rows.eq(rows - 1), active.eq(rows != 1),
                                 addr.eq(row_addr + region.stride),
                                 row_addr.eq(row_addr + region.stride)]
        with m.If(start):
            m.d.sync += [active.eq(1), high.eq(0), addr.eq(self.i.p.base),
                         row_addr.eq(self.i.p.base), rows.eq(self.i.p.rows),
                         words.eq(self.i.p.words)]

    def _cut(self, m, region, start, finish):
        """Turn the words that arrive into beats."""
        size, lanes, rsp = self.config.rows, self.config.lanes, self.src.rsp
        low, has_low = Signal.like(rsp.p, reset_less=True), Signal()
        word = Signal(16 * size, reset_less=True)
        left, full, row_end = Signal(range(size + 1)), Signal(), Signal()
        rows, words = Signal(16), Signal(16)  # yet to arrive
        take, word_end, load = Signal(), Signal(), Signal()
        m.d.comb += [
            self.o.valid.eq(full), self.o.p.last.eq(row_end & word_end),
            take.eq(full & self.o.ready), word_end.eq(left <= lanes),
            load.eq(~full | (take & word_end)),
            rsp.ready.eq(load | (region.wide & ~has_low)),
            finish.eq(take & self.o.p.last & (rows == 0)),
        ]
        for k in range(lanes):
            m.d.comb += [self.o.p.x[k].eq(word[16 * k:16 * k + 16]),
                         self.o.p.keep[k].eq(left > k)]
        with m.If(take):
            m.d.sync += [word.eq(word >> 16 * lanes), left.eq(left - lanes)]
            with m.If(word_end):
                m.d.sync += full.eq(0)
        with m.If(rsp.valid & rsp.ready):
            with m.If(region.wide & ~has_low):
                m.d.sync += [low.eq(rsp.p), has_low.eq(1)]
            with m.Else():
                m.d.sync += [
                    has_low.eq(0), full.eq(1), words.eq(words - 1), row_end.eq(words == 1),
                    left.eq(Mux(words == 1, region.lanes_last, size)),
                    word.eq(Cat(Cat(Mux(region.wide, low[k], rsp.p[k]), rsp.p[k])
                                for k in range(size))),
                ]
                with m.If(words == 1):
                    m.d.sync += [words.eq(region.words), rows.eq(rows - 1)]
        with m.If(start):
            m.d.sync += [rows.eq(self.i.p.rows), words.eq(self.i.p.words)]
