"""Transposer: words in by row, a few of their columns out as words."""

from math import gcd

from amaranth import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts import shapes
from systola.hw.parts.arguments import check_integers, check_least

__all__ = ["Transposer"]


class Transposer(wiring.Component):
    """Collect up to R words as the rows of a block, emit up to C columns of it as words.

    Lane r of a column is a byte of the block's row r, and zero beyond the block's last row. Two
    blocks are held: one fills while the other is emitted, a word a cycle each, without a bubble
    between blocks, but for a cycle every other block if R = C, and behind a block of fewer than C
    rows, where the next waits until C cycles after its start. The first column follows the last row
    by 3 cycles.

    Each row has a memory of its own, which takes the row's C bytes one after the other, from delay
    lines that all rows share: byte c is c cycles late. So a row needs one multiplexer in time
    instead of R in space, and a column is the same address in all memories.

    Model: none: moves data

    Parameters
    ----------
    rows, cols : int
        R, lanes of a word and rows of a full block; C, most columns of a block.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``word``: R bytes; ``last``: the block ends with this row; ``tag``: `block_tag`, the same
        for all rows of a block. ``first`` is a multiple of gcd(R, C), ``count`` at most C and
        ``first + count`` at most R, ``count + pad`` at least 1.
    o : Out(stream.Signature(StructLayout))
        ``word``: R bytes; ``final``: the last word of a block whose tag said so.

    Raises
    ------
    ValueError
        If `rows` is not an integer of at least 2, or `cols` none from 1 to `rows`.
    """

    def __init__(self, *, rows, cols):
        check_least(rows=(rows, 2))
        check_integers(cols=(cols, 1, rows))
        self.rows, self.cols = rows, cols
        self.word = data.ArrayLayout(unsigned(8), rows)
        # Rows that are a multiple of this apart share a multiplexer; a block has as many for each.
        self._tracks = next(k for k in range(cols, rows + 1) if rows % k == 0)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"word": self.word, "last": 1, "tag": shapes.block_tag(rows)}))),
            "o": Out(stream.Signature(data.StructLayout({"word": self.word, "final": 1}))),
        })

    def elaborate(self, platform):
        m = Module()
        rows = self.rows
        full, closing = Signal(2), Signal(2)
        tags = Array(Signal(shapes.block_tag(rows), name=f"tag{k}") for k in range(2))
        tops = Array(Signal(range(rows), name=f"top{k}") for k in range(2))  # last row's index
        fill, row, write = Signal(), Signal(range(rows)), Signal()
        tracks = self._fill(m, write, fill)
        m.d.comb += [
            self.i.ready.eq(~(full | closing).bit_select(fill, 1) & ~tracks["busy"]),
            write.eq(self.i.valid & self.i.ready),
        ]
        with m.If(write):
            m.d.sync += row.eq(row + 1)
            with m.If(self.i.p.last):
                m.d.sync += [row.eq(0), fill.eq(~fill), tags[fill].eq(self.i.p.tag),
                             tops[fill].eq(row)]

        emit, index = Signal(), Signal(range(rows + 1))
        tag, top = Signal(shapes.block_tag(rows)), Signal(range(rows))
        zero, read, ends, free = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            tag.eq(tags[emit]), top.eq(tops[emit]), zero.eq(index >= tag.count),
            free.eq(~self.o.valid | self.o.ready), read.eq(full.bit_select(emit, 1) & free),
            ends.eq(index + 1 == tag.count + tag.pad),
        ]
        with m.If(read):
            m.d.sync += index.eq(index + 1)
            with m.If(ends):
                m.d.sync += [index.eq(0), emit.eq(~emit)]
        # A byte is written a cycle after its row's turn, so a block is full a cycle late.
        m.d.sync += [closing[k].eq(write & self.i.p.last & (fill == k)) for k in range(2)]
        m.d.sync += [full[k].eq((full[k] | closing[k]) & ~(read & ends & (emit == k)))
                     for k in range(2)]
        with m.If(free):
            m.d.sync += [self.o.valid.eq(read), self.o.p.final.eq(ends & tag.final)]
        for r, byte in enumerate(self._memories(m, tracks, index, emit)):
            with m.If(free):
                m.d.sync += self.o.p.word[r].eq(Mux(zero | (top < r), 0, byte))
        return m

    def _fill(self, m, write, fill):
        """Send each row's bytes to its track, one a cycle, beginning one cycle after `write`.

        Return the tracks' state: the byte, the column it is for, the row's place among those of
        the track, the block's half and whether there is one; and if the next row's is ``busy``.
        """
        lanes = self._select(m)
        for c in range(self.cols):
            for stage in range(c + 1):
                late = Signal(8, name=f"late_{c}_{stage}", reset_less=True)
                m.d.sync += late.eq(lanes[c])
                lanes[c] = late
        count = self._tracks
        turn, place = Signal(count, init=1), Signal(range(self.rows // count))
        track = data.StructLayout({"on": 1, "column": range(self.cols), "place": place.shape(),
                                   "half": 1})
        tracks = [Signal(track, name=f"track_{k}") for k in range(count)]
        last = [track.column == self.cols - 1 for track in tracks]
        # On and not in the last column, kept beside: the input's readiness depends on it.
        works = Signal(count)
        busy = (turn & works).any()
        with m.If(write):
            m.d.sync += turn.eq(turn.rotate_left(1))
            with m.If(turn[-1]):
                m.d.sync += place.eq(place + 1)
            with m.If(self.i.p.last):
                m.d.sync += [turn.eq(1), place.eq(0)]
        choices = Array(lanes)
        bytes_now = [Signal(8, name=f"byte_{k}") for k in range(count)]
        for k, track in enumerate(tracks):
            m.d.comb += bytes_now[k].eq(choices[track.column])
            with m.If(write & turn[k]):
                m.d.sync += [track.on.eq(1), track.column.eq(0), track.place.eq(place),
                             track.half.eq(fill), works[k].eq(self.cols > 1)]
            with m.Else():
                m.d.sync += [works[k].eq(works[k] & (track.column != max(self.cols - 2, 0))),
                             track.on.eq(track.on & ~last[k]), track.column.eq(track.column + 1)]
        return {"busy": busy, "bytes": bytes_now, "tracks": tracks}

    def _select(self, m):
        """Return the C bytes of the row from the block's first column on."""
        step, first = gcd(self.rows, self.cols), self.i.p.tag.first
        lanes = [Signal(8, name=f"select_{c}") for c in range(self.cols)]
        with m.Switch(first):
            for start in range(0, self.rows, step):
                with m.Case(start):
                    m.d.comb += [lane.eq(self.i.p.word[(start + c) % self.rows])
                                 for c, lane in enumerate(lanes)]
            with m.Default():  # impossible: any choice, for a smaller multiplexer
                m.d.comb += [lane.eq(self.i.p.word[c]) for c, lane in enumerate(lanes)]
        return lanes

    def _memories(self, m, tracks, column, half):
        """Return the bytes of `column`, one from each row's memory."""
        outputs = []
        bits = (self.cols - 1).bit_length()
        for r in range(self.rows):
            memory = Memory(shape=8, depth=2 << bits, init=[])
            m.submodules[f"row{r}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            place, k = divmod(r, self._tracks)
            track = tracks["tracks"][k]
            m.d.comb += [
                write.addr.eq(Cat(track.column[:bits], track.half)),
                write.data.eq(tracks["bytes"][k]), write.en.eq(track.on & (track.place == place)),
                read.addr.eq(Cat(column[:bits], half)),
            ]
            outputs.append(read.data)
        return outputs
