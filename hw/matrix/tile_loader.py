"""Stationary tiles from a stream of columns into the systolic array, behind the swap's wave."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive

__all__ = ["TileLoader"]


class TileLoader(wiring.Component):
    """Keep one tile of columns in a FIFO and load it as early as the array permits.

    The words of `group` columns are collected and then loaded at once, as a *slice column*. In
    cycle s of a swap, the array still holds the next tile in its shadow registers. Slice column j
    of the tile after that is loaded from cycle s + rows - 1 + j on, one a cycle. ``ready`` means
    that a swap is allowed in this cycle: the next tile is loaded, or its first slice column is
    and the FIFO holds the rest, which then stays ahead of the wave. With a stream that is never
    late, ``ready`` comes max(rows, cols) cycles after a swap (2 cycles for a 1 x 1 array): a tile
    is `cols` words of the stream. Tiles that are already in the FIFO when the swap comes are as
    fast as max(rows, cols / group).

    Model: none: moves data

    Parameters
    ----------
    rows, cols : int
        Array size; a tile is `cols` words.
    weight_bits : int
        Bits of a weight, the low bits of each lane.
    group : int
        Columns that the array takes at once; divides cols.
    narrow : bool
        Whether there are narrow tiles. All words of a tile must say the same.

    Members
    -------
    i : In(stream.Signature(ArrayLayout(unsigned(8), rows)))
        Columns of the tiles, in order; with `narrow`, a structure of that ``word`` and ``narrow``.
    swap : In(1)
        A vector with the swap flag enters the array in this cycle. Only while `ready`.
    ready : Out(1)
        See above; from a register.
    left : Out(1)
        Some of a tile is here whose swap has not come.
    w, w_col : Out(ArrayLayout(signed(weight_bits), group * rows)), Out(cols / group)
        To the array.
    w_narrow, tile_narrow : Out(1)
        Only with `narrow`: `w` is of a narrow tile; while `ready`, the next tile is.
    """

    def __init__(self, *, rows, cols, weight_bits, group=1, narrow=False):
        check_positive(rows=rows, cols=cols, weight_bits=weight_bits, group=group)
        if cols % group:
            raise ValueError(f"group must divide cols ({cols}), not {group!r}")
        self.rows, self.cols, self.weight_bits, self.group = rows, cols, weight_bits, group
        self.narrow = narrow
        word = data.ArrayLayout(8, rows)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"word": word, "narrow": 1}) if narrow
                                     else word)),
            "swap": In(1), "ready": Out(1), "left": Out(1),
            "w": Out(data.ArrayLayout(signed(weight_bits), group * rows)),
            "w_col": Out(cols // group),
            **({"w_narrow": Out(1), "tile_narrow": Out(1)} if narrow else {}),
        })

    def elaborate(self, platform):
        m = Module()
        cols = self.cols // self.group
        m.submodules.fifo = fifo = SyncFIFO(
            width=self.group * self.rows * self.weight_bits + self.narrow, depth=cols)
        part = self._collect(m, fifo)
        m.d.comb += Value.cast(self.w).eq(fifo.r_data)
        col = Signal(range(cols + 1))     # slice columns of the next tile that are loaded
        known = Signal(range(2 * cols + 1))  # these and the ones in the FIFO
        taken = Signal()                  # its swap is already on the way
        hold = Signal(range(self.rows))   # cycles until its first column may be loaded
        load = Signal()
        loaded, after, ends = Signal.like(col), Signal.like(known), Signal()
        m.d.comb += [
            load.eq(fifo.r_rdy & (col != cols) & ((col != 0) | (hold == 0))),
            fifo.r_en.eq(load),
            self.w_col.eq(load << col),
            loaded.eq(col + load),
            ends.eq((taken | self.swap) & (loaded == cols)),
            after.eq(known + (fifo.w_en & fifo.w_rdy)),
            self.left.eq(part | (known != 0)),
        ]
        # Compared before it is known whether the tile ends: `swap` comes late in its cycle. It
        # ends only if its swap is on the way, and then the next one has no column loaded.
        m.d.sync += [col.eq(loaded), taken.eq(taken | self.swap), known.eq(after),
                     self.ready.eq(~taken & ~self.swap & (loaded != 0) & (after >= cols))]
        with m.If(ends):
            m.d.sync += [col.eq(0), taken.eq(0), known.eq(after - cols)]
        if self.narrow:
            m.d.comb += self.w_narrow.eq(fifo.r_data[-1])
            with m.If(load & (col == 0)):
                m.d.sync += self.tile_narrow.eq(self.w_narrow)
        with m.If(self.swap):
            m.d.sync += hold.eq(max(self.rows - 2, 0))
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        return m

    def _collect(self, m, fifo):
        """Put `group` columns side by side into `fifo`; return whether some wait for the rest."""
        lanes = self.i.payload.word if self.narrow else self.i.payload
        word = Cat(lane[:self.weight_bits] for lane in lanes)
        have = Signal(range(self.group))
        last = have == self.group - 1
        before = [Signal(len(word), name=f"word_{k}", reset_less=True)
                  for k in range(self.group - 1)]
        kind = [self.i.payload.narrow] if self.narrow else []
        m.d.comb += [fifo.w_data.eq(Cat(*before, word, *kind)), fifo.w_en.eq(self.i.valid & last),
                     self.i.ready.eq(fifo.w_rdy | ~last)]
        for k, held in enumerate(before):
            with m.If(have == k):  # also while nothing comes: what comes later replaces it
                m.d.sync += held.eq(word)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += have.eq(Mux(last, 0, have + 1))
        return have != 0
