"""Order in which the LOAD engine visits the words of a region."""

from enum import IntEnum

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts import shapes
from systola.hw.parts.register_slice import RegisterSlice

__all__ = ["ChannelTile", "RegionWalker", "Walk"]


class Walk(IntEnum):
    """Orders of `RegionWalker`."""

    ROWS = 0       # row after row, word after word
    COLUMNS = 1    # FETCH: C rows of a tile, for each word, for each tile of C rows
    TRANSPOSE = 2  # FETCH TRANSPOSE: blocks of R rows of a word for the `Transposer`


def _walk_region():
    """Return the payload that starts a walk; counts are at least 1."""
    return data.StructLayout({"base": 16, "stride": 16, "rows": 16, "words": 16,
                              "lanes_last": 16, "walk": 2})


class ChannelTile(wiring.Component):
    """Position of a tile of C channels in rows of words: which lanes of which one or two words.

    All outputs but ``word``, ``first``, ``count`` and ``pad`` are registers that follow the
    position `ChannelTile.SETTLE` cycles later; those three are chosen from registers by ``part``.

    Model: none: moves data

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

    SETTLE = 5
    """Cycles from a new position, or the size of a row, to the outputs."""

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
        row_end, next_end, beyond = Signal(), Signal(), Signal(count)
        wraps, last_word = Signal(), Signal(16)
        # A register behind every operation.
        m.d.sync += [
            last_word.eq(self.words - 1), after.eq(lane + cols), wraps.eq(lane >= rows - cols),
            row_end.eq(self.word == last_word), next_end.eq(self.word + 1 == last_word),
            self.next_word.eq(self.word + wraps),
            left.eq(Mux(row_end, self.lanes_last, rows) - lane),
            left_next.eq(Mux(next_end, self.lanes_last, rows)),
            here.eq(Mux(left < cols, left, cols)), missing.eq(Mux(left < cols, cols - left, 0)),
            self.two.eq((missing != 0) & ~row_end),
            there.eq(Mux(left_next < missing, left_next, missing)),
            beyond.eq(Mux(left_next < missing, missing - left_next, 0)),
            self.last.eq(Mux((missing != 0) & ~row_end, next_end & (left_next <= missing),
                             row_end & (left <= cols))),
        ]
        m.d.comb += [
            self.first.eq(Mux(self.part, 0, lane)), self.count.eq(Mux(self.part, there, here)),
            self.pad.eq(Mux(self.part, beyond, Mux(self.two, 0, missing))),
        ]
        with m.If(self.advance):
            m.d.sync += [self.word.eq(self.next_word),
                         lane.eq(Mux(wraps, after - rows, after))]
        with m.If(self.clear):
            m.d.sync += [self.word.eq(0), lane.eq(0)]
        return m


def _place():
    """Return a row's address, how many rows are left with it, and what that number allows.

    ``end``: no other row of the region follows; ``zero``: it is beyond the region.
    """
    return data.StructLayout({"address": 16, "left": 16, "end": 1, "zero": 1})


class RegionWalker(wiring.Component):
    """Turn a region into the sequence of its words, one a cycle, without a multiplier.

    The three orders share one nest of loops: rows of a tile innermost, then words of the row
    (COLUMNS, ROWS) or the two words that a tile of C channels may touch (TRANSPOSE), then tiles
    of rows, and for TRANSPOSE tiles of channels outermost. Between tiles of channels and at the
    start it pauses for ``ChannelTile.SETTLE`` cycles.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        R and C.

    Members
    -------
    i : In(stream.Signature(_walk_region()))
        Taken when the previous walk has ended; the first step follows `RegionWalker.LATENCY`
        cycles later.
    o : Out(stream.Signature(shapes.walk_item(config)))
        Steps, from registers.
    """

    LATENCY = 5
    """Cycles from an accepted region to its first step, for TRANSPOSE those of `ChannelTile`."""

    def __init__(self, config):
        self.config = config
        super().__init__({"i": In(stream.Signature(_walk_region())),
                          "o": Out(stream.Signature(shapes.walk_item(config)))})

    def elaborate(self, platform):
        m = Module()
        config = self.config
        region, busy, ready = Signal(_walk_region()), Signal(), Signal()
        m.submodules.output = output = RegisterSlice(shapes.walk_item(config))
        m.submodules.tile = tile = ChannelTile(config)
        wiring.connect(m, output.o, wiring.flipped(self.o))
        item, step = output.i.p, Signal()
        m.d.comb += [self.i.ready.eq(~busy), output.i.valid.eq(ready),
                     step.eq(ready & output.i.ready)]
        whole, fresh, transpose = Signal(_place()), Signal(), Signal()
        inner, inner_end, words_left, word_end = (
            Signal(range(config.rows)), Signal(), Signal(16), Signal())
        word, part = Signal(16), Signal()  # part: second word of a tile of channels
        here, tile_start, below = Signal(_place()), Signal(_place()), Signal(_place())
        block_end, middle_end, rows_end, final = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            tile.words.eq(region.words), tile.lanes_last.eq(region.lanes_last),
            tile.part.eq(part), tile.clear.eq(~busy), tile.advance.eq(step & rows_end),
            block_end.eq(inner_end | transpose & here.end),
            middle_end.eq(block_end & Mux(transpose, part | ~tile.two, word_end)),
            rows_end.eq(middle_end & here.end),
            below.address.eq(here.address + region.stride),
            below.left.eq(here.left - ~here.zero), below.zero.eq(here.end),
            below.end.eq(here.left <= 2),
            item.addr.eq(here.address + word), item.zero.eq(here.zero), item.row_end.eq(word_end),
            item.block_end.eq(block_end), item.tag.first.eq(tile.first),
            item.tag.count.eq(tile.count), item.tag.pad.eq(tile.pad),
            final.eq(rows_end & (~transpose | tile.last)), item.final.eq(final),
            item.tag.final.eq(final),
        ]
        single, one_word, limit = Signal(), Signal(), Signal(range(config.rows))
        m.d.sync += [
            whole.address.eq(region.base), whole.left.eq(region.rows),
            whole.end.eq(region.rows == 1), transpose.eq(region.walk == Walk.TRANSPOSE),
            limit.eq(Mux(region.walk == Walk.TRANSPOSE, config.rows - 1,
                         Mux(region.walk == Walk.ROWS, 0, config.cols - 1))),
            single.eq(limit == 0), one_word.eq(region.words == 1),
        ]
        pause = Signal(range(ChannelTile.SETTLE + 1))
        with m.If(step):
            m.d.sync += [inner.eq(inner + 1), inner_end.eq(inner + 1 == limit), here.eq(below)]
            with m.If(block_end):
                m.d.sync += [inner.eq(0), inner_end.eq(single), here.eq(tile_start), part.eq(1),
                             word.eq(word + 1), words_left.eq(words_left - 1),
                             word_end.eq(words_left == 2)]
            with m.If(middle_end):
                # The running row stands one before the next tile's first.
                m.d.sync += [here.eq(below), tile_start.eq(below), part.eq(0),
                             word.eq(Mux(transpose, tile.word, 0)), words_left.eq(region.words),
                             word_end.eq(one_word)]
            with m.If(rows_end & transpose):
                m.d.sync += [here.eq(whole), tile_start.eq(whole), word.eq(tile.next_word),
                             ready.eq(0), fresh.eq(0), pause.eq(ChannelTile.SETTLE)]
            with m.If(final):
                m.d.sync += [busy.eq(0), ready.eq(0)]
        with m.Elif(busy & ~ready):
            m.d.sync += [pause.eq(pause - 1), ready.eq(pause == 1)]
            with m.If(pause == 0):  # the first cycle of a walk
                m.d.sync += pause.eq(Mux(region.walk == Walk.TRANSPOSE, ChannelTile.SETTLE,
                                         self.LATENCY - 2) - 1)
            with m.If(fresh):
                m.d.sync += [inner.eq(0), inner_end.eq(single), here.eq(whole), part.eq(0),
                             tile_start.eq(whole), word.eq(0), words_left.eq(region.words),
                             word_end.eq(one_word)]
        with m.If(~busy):
            m.d.sync += [region.eq(self.i.p), busy.eq(self.i.valid), fresh.eq(1), pause.eq(0)]
        return m
