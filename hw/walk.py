"""Order in which the LOAD engine visits the words of a region."""

from enum import IntEnum

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.transpose import block_tag

__all__ = ["ChannelTile", "RegionWalker", "Walk", "walk_item", "walk_region"]


class Walk(IntEnum):
    """Orders of `RegionWalker`."""

    ROWS = 0       # row after row, word after word
    COLUMNS = 1    # FETCH: C rows of a tile, for each word, for each tile of C rows
    TRANSPOSE = 2  # FETCH TRANSPOSE: blocks of R rows of a word for the `Transposer`


def walk_region():
    """Return the payload that starts a walk; counts are at least 1."""
    return data.StructLayout({"base": 16, "stride": 16, "rows": 16, "words": 16,
                              "lanes_last": 16, "walk": 2})


def walk_item(config):
    """Return one step: the address, or a zero word; whether the word is its row's last.

    ``block_end`` and ``tag`` are for the `Transposer`. ``final`` marks the last step of a walk.
    """
    return data.StructLayout({"addr": unsigned(16), "zero": 1, "row_end": 1, "block_end": 1,
                              "tag": block_tag(config.rows), "final": 1})


class ChannelTile(wiring.Component):
    """Position of a tile of C channels in rows of words: which lanes of which one or two words.

    All outputs but ``word`` follow ``part`` and the position combinationally.

    Parameters
    ----------
    config : AcceleratorConfig
        R and C.

    Members
    -------
    words, lanes_last : In(16)
        Size of a row.
    clear, advance : In(1)
        Go to the first tile, or on by C channels.
    part : In(1)
        Ask for the second word.
    word, next_word : Out(16)
        First word of this tile and of the next.
    two, last : Out(1)
        The tile has a second word; it is the last tile.
    first, count, pad : Out
        Lanes of the word asked for, and the columns that are missing after the tile's last word.
    """

    def __init__(self, config):
        self.config = config
        lane = range(config.rows)
        super().__init__({
            "words": In(16), "lanes_last": In(16), "clear": In(1), "advance": In(1),
            "part": In(1), "word": Out(16), "next_word": Out(16), "two": Out(1), "last": Out(1),
            "first": Out(lane), "count": Out(range(config.rows + 1)),
            "pad": Out(range(config.rows + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        rows, cols = self.config.rows, self.config.cols
        lane, count = Signal(range(rows)), range(rows + 1)
        here, missing, there = Signal(count), Signal(count), Signal(count)  # columns of the tile
        left, left_next = Signal(count), Signal(count)  # valid lanes from `lane` and in the next
        after = Signal(range(rows + cols))
        row_end, next_end = Signal(), Signal()
        m.d.comb += [
            row_end.eq(self.word == self.words - 1), next_end.eq(self.word + 2 == self.words),
            left.eq(Mux(row_end, self.lanes_last, rows) - lane),
            left_next.eq(Mux(next_end, self.lanes_last, rows)),
            here.eq(Mux(left < cols, left, cols)), missing.eq(cols - here),
            self.two.eq((missing != 0) & ~row_end),
            there.eq(Mux(left_next < missing, left_next, missing)),
            self.last.eq(Mux(self.two, next_end & (left_next <= missing),
                             row_end & (left <= cols))),
            self.first.eq(Mux(self.part, 0, lane)), self.count.eq(Mux(self.part, there, here)),
            self.pad.eq(Mux(self.part, missing - there, Mux(self.two, 0, missing))),
            after.eq(lane + cols), self.next_word.eq(self.word + (after >= rows)),
        ]
        with m.If(self.advance):
            m.d.sync += [self.word.eq(self.next_word),
                         lane.eq(Mux(after >= rows, after - rows, after))]
        with m.If(self.clear):
            m.d.sync += [self.word.eq(0), lane.eq(0)]
        return m


class RegionWalker(wiring.Component):
    """Turn a region into the sequence of its words, one a cycle, without a multiplier.

    The three orders share one nest of loops: rows of a tile innermost, then words of the row
    (COLUMNS, ROWS) or the two words that a tile of C channels may touch (TRANSPOSE), then tiles
    of rows, and for TRANSPOSE tiles of channels outermost.

    Parameters
    ----------
    config : AcceleratorConfig
        R and C.

    Members
    -------
    i : In(stream.Signature(walk_region()))
        Taken when the previous walk has ended; the first step follows in the next cycle.
    o : Out(stream.Signature(walk_item(config)))
        Steps.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({"i": In(stream.Signature(walk_region())),
                          "o": Out(stream.Signature(walk_item(config)))})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        region, busy = Signal(walk_region()), Signal()
        inner = Signal(range(config.rows))          # row in the tile
        word, row = Signal(16), Signal(17)          # beyond the region in a tile's zero rows
        address = Signal(16)                        # of this row's word 0
        tile_row, tile_address = Signal(17), Signal(16)
        part = Signal()                             # second word of a tile of channels

        transpose = region.walk == Walk.TRANSPOSE
        limit = Mux(transpose, config.rows - 1, Mux(region.walk == Walk.ROWS, 0, config.cols - 1))
        m.submodules.tile = tile = ChannelTile(config)
        m.d.comb += [tile.words.eq(region.words), tile.lanes_last.eq(region.lanes_last),
                     tile.part.eq(part), tile.clear.eq(self.i.valid & ~busy)]
        inner_end, middle_end, rows_end = Signal(), Signal(), Signal()
        step = Signal()
        m.d.comb += [
            rows_end.eq(row + 1 >= region.rows),
            inner_end.eq((inner == limit) | transpose & rows_end),
            middle_end.eq(inner_end & Mux(transpose, part | ~tile.two,
                                          word == region.words - 1)),
            self.i.ready.eq(~busy), self.o.valid.eq(busy), step.eq(busy & self.o.ready),
            self.o.p.addr.eq(address + word), self.o.p.zero.eq(row >= region.rows),
            self.o.p.row_end.eq(word == region.words - 1),
            self.o.p.block_end.eq(inner_end),
            self.o.p.tag.first.eq(tile.first), self.o.p.tag.count.eq(tile.count),
            self.o.p.tag.pad.eq(tile.pad),
            self.o.p.final.eq(middle_end & rows_end & (~transpose | tile.last)),
            self.o.p.tag.final.eq(self.o.p.final),
            tile.advance.eq(step & middle_end & rows_end),
        ]
        with m.If(step):
            m.d.sync += [inner.eq(inner + 1), row.eq(row + 1),
                         address.eq(address + region.stride)]
            with m.If(inner_end):
                m.d.sync += [inner.eq(0), row.eq(tile_row), address.eq(tile_address),
                             word.eq(word + 1), part.eq(1)]
            with m.If(middle_end):
                # The running row and address stand one step before the next tile's first.
                m.d.sync += [row.eq(row + 1), tile_row.eq(row + 1),
                             address.eq(address + region.stride),
                             tile_address.eq(address + region.stride),
                             part.eq(0), word.eq(Mux(transpose, tile.word, 0))]
                with m.If(transpose & rows_end):
                    m.d.sync += [row.eq(0), tile_row.eq(0), address.eq(region.base),
                                 tile_address.eq(region.base), word.eq(tile.next_word)]
            with m.If(self.o.p.final):
                m.d.sync += busy.eq(0)
        with m.If(self.i.valid & ~busy):
            m.d.sync += [region.eq(self.i.p), busy.eq(1), inner.eq(0), word.eq(0), row.eq(0),
                         address.eq(self.i.p.base), tile_row.eq(0),
                         tile_address.eq(self.i.p.base), part.eq(0)]
        return m
