"""Stationary tiles from a stream of columns into the systolic array, behind the swap's wave."""

from amaranth import Cat, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

__all__ = ["TileLoader"]


class TileLoader(wiring.Component):
    """Keep one tile of columns in a FIFO and load it as early as the array permits.

    In cycle s of a swap, the array still holds the next tile in its shadow registers. Column c of
    the tile after that is loaded from cycle s + rows - 1 + c on, one column a cycle. ``ready``
    means that a swap is allowed in this cycle: the next tile is loaded, or its first column is and
    the FIFO holds the rest, which then stays ahead of the wave. With a stream that is never
    late, ``ready`` comes max(rows, cols) cycles after a swap (2 cycles for a 1 x 1 array).

    Parameters
    ----------
    rows, cols : int
        Array size; a tile is `cols` words.
    weight_bits : int
        Bits of a weight, the low bits of each lane.

    Members
    -------
    i : In(stream.Signature(ArrayLayout(unsigned(8), rows)))
        Columns of the tiles, in order.
    swap : In(1)
        A vector with the swap flag enters the array in this cycle. Only while `ready`.
    ready : Out(1)
        See above.
    w, w_col : Out(ArrayLayout(signed(weight_bits), rows)), Out(cols)
        To the array.
    """

    def __init__(self, *, rows, cols, weight_bits):
        for name, value in ("rows", rows), ("cols", cols), ("weight_bits", weight_bits):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        self.rows, self.cols, self.weight_bits = rows, cols, weight_bits
        super().__init__({
            "i": In(stream.Signature(data.ArrayLayout(8, rows))),
            "swap": In(1), "ready": Out(1),
            "w": Out(data.ArrayLayout(signed(weight_bits), rows)), "w_col": Out(cols),
        })

    def elaborate(self, platform):
        m = Module()
        cols = self.cols
        m.submodules.fifo = fifo = SyncFIFO(width=self.rows * self.weight_bits, depth=cols)
        m.d.comb += [
            fifo.w_data.eq(Cat(lane[:self.weight_bits] for lane in self.i.payload)),
            fifo.w_en.eq(self.i.valid), self.i.ready.eq(fifo.w_rdy),
            self.w.eq(fifo.r_data),
        ]
        col = Signal(range(cols + 1))     # columns of the next tile that are loaded
        taken = Signal()                  # its swap is already on the way
        hold = Signal(range(self.rows))   # cycles until its first column may be loaded
        load = Signal()
        loaded = Signal.like(col)
        m.d.comb += [
            load.eq(fifo.r_rdy & (col != cols) & ((col != 0) | (hold == 0))),
            fifo.r_en.eq(load),
            self.w_col.eq(load << col),
            loaded.eq(col + load),
            self.ready.eq(~taken & ((col == cols) | ((col != 0) & (fifo.level + col >= cols)))),
        ]
        m.d.sync += [col.eq(loaded), taken.eq(taken | self.swap)]
        with m.If((taken | self.swap) & (loaded == cols)):
            m.d.sync += [col.eq(0), taken.eq(0)]
        with m.If(self.swap):
            m.d.sync += hold.eq(max(self.rows - 2, 0))
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        return m
