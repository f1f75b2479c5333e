"""Transposer: R x R bytes, words in by row, words out by column."""

from amaranth import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["Transposer", "block_tag", "rotate"]


def block_tag(rows):
    """Return what a block carries with its last row.

    Emit `count` columns from column `first` on, then `pad` words of zeros; ``final`` is passed on.
    """
    return data.StructLayout({"first": range(rows), "count": range(rows + 1),
                              "pad": range(rows + 1), "final": 1})


def rotate(m, lanes, amount):
    """Return the bytes `lanes` rotated: item i is ``lanes[(i + amount) mod len(lanes)]``."""
    for bit, move in enumerate(amount):
        step, moved = (1 << bit) % len(lanes), []
        for i, lane in enumerate(lanes):
            # A signal a stage: nested expressions would double with each.
            moved.append(Signal(8, name=f"moved_{bit}_{i}"))
            m.d.comb += moved[i].eq(Mux(move, lanes[(i + step) % len(lanes)], lane))
        lanes = moved
    return lanes


class Transposer(wiring.Component):
    """Collect up to R words as the rows of a block, emit columns of it as words.

    Lane r of column c is lane c of the block's row r, and zero beyond the block's last row. Two
    blocks are held: one fills while the other is emitted, a word a cycle each, without a bubble
    between blocks. The first column follows the last row by 2 cycles.

    The bytes lie in R small memories, one row skewed against the next, so that both a row and a
    column touch each memory once; that costs 2 R**2 bytes of LUT memory and two rotators instead
    of as many registers and R-to-1 multiplexers.

    Parameters
    ----------
    rows : int
        R, lanes of a word and rows of a full block.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``word``: R bytes; ``last``: the block ends with this row; ``tag``: `block_tag`, which
        counts on the last row. ``first + count`` is at most R, ``count + pad`` at least 1.
    o : Out(stream.Signature(StructLayout))
        ``word``: R bytes; ``final``: the last word of a block whose tag said so.

    Raises
    ------
    ValueError
        If `rows` is not an integer of at least 2.
    """

    def __init__(self, *, rows):
        if not isinstance(rows, int) or rows < 2:
            raise ValueError(f"rows must be an integer of at least 2, not {rows!r}")
        self.rows = rows
        self.word = data.ArrayLayout(unsigned(8), rows)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"word": self.word, "last": 1, "tag": block_tag(rows)}))),
            "o": Out(stream.Signature(data.StructLayout({"word": self.word, "final": 1}))),
        })

    def elaborate(self, platform):
        m = Module()
        rows = self.rows
        full = Signal(2)
        tags = Array(Signal(block_tag(rows), name=f"tag{k}") for k in range(2))
        tops = Array(Signal(range(rows), name=f"top{k}") for k in range(2))  # last row's index

        fill, row = Signal(), Signal(range(rows))
        write, skew = Signal(), Signal(range(rows))  # skew is -row modulo R
        m.d.comb += [self.i.ready.eq(~full.bit_select(fill, 1)),
                     write.eq(self.i.valid & self.i.ready)]
        with m.If(write):
            m.d.sync += [row.eq(row + 1), skew.eq(Mux(row == 0, rows - 1, skew - 1))]
            with m.If(self.i.p.last):
                m.d.sync += [row.eq(0), skew.eq(0), fill.eq(~fill),
                             tags[fill].eq(self.i.p.tag), tops[fill].eq(row)]

        emit, index = Signal(), Signal(range(rows + 1))
        tag, top = Signal(block_tag(rows)), Signal(range(rows))
        column, zero, read, ends = Signal(range(rows)), Signal(), Signal(), Signal()
        m.d.comb += [
            tag.eq(tags[emit]), top.eq(tops[emit]),
            column.eq(tag.first + index), zero.eq(index >= tag.count),
            read.eq(full.bit_select(emit, 1) & (~self.o.valid | self.o.ready)),
            ends.eq(index + 1 == tag.count + tag.pad),
        ]
        with m.If(read):
            m.d.sync += index.eq(index + 1)
            with m.If(ends):
                m.d.sync += [index.eq(0), emit.eq(~emit)]
        m.d.sync += [full[k].eq((full[k] | write & self.i.p.last & (fill == k))
                                & ~(read & ends & (emit == k))) for k in range(2)]

        outputs = self._memories(m, rotate(m, list(self.i.p.word), skew), Cat(row, fill), write,
                                 column, emit)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(read), self.o.p.final.eq(ends & tag.final)]
            m.d.sync += [self.o.p.word[r].eq(Mux(zero | (top < r), 0, byte))
                         for r, byte in enumerate(rotate(m, outputs, column))]
        return m

    def _memories(self, m, bytes_in, address, enable, column, emit):
        """Return the bytes of `column`: lane r of it is in memory (column + r) mod R at r."""
        outputs = []
        bits = range(self.rows)
        for k, byte in enumerate(bytes_in):
            memory = Memory(shape=8, depth=2 << (self.rows - 1).bit_length(), init=[])
            m.submodules[f"lane{k}"] = memory
            write, read, row = memory.write_port(), memory.read_port(domain="comb"), Signal(bits)
            m.d.comb += [
                write.addr.eq(address), write.data.eq(byte), write.en.eq(enable),
                row.eq(Mux(column > k, k + self.rows - column, k - column)),
                read.addr.eq(Cat(row, emit)),
            ]
            outputs.append(read.data)
        return outputs
