"""The array, its tile loader and its accumulators as one unit with stream ports, for benches.

The accelerator requantizes sums before anyone sees them; here they come out whole.
"""

from amaranth import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.matrix.accumulator import Accumulators
from systola.hw.matrix.systolic import SystolicArray
from systola.hw.matrix.tile_loader import TileLoader
from systola.hw.parts import shapes

__all__ = ["MatmulUnit"]


class MatmulUnit(wiring.Component):
    """Multiply streamed rows by stationary tiles and return the accumulated sums.

    Parameters
    ----------
    rows, cols, act_bits, weight_bits, style
        See `SystolicArray`.
    digits, acc_bits, depth
        See `Accumulators`.

    Members
    -------
    w : In(stream)
        Columns of the tiles.
    act : In(stream)
        ``x``: activation words, in passes of at least two rows. ``control``: see
        `control_layout`, with ``buffer`` 0. ``swap``: first row that uses the next tile.
    o : Out(stream)
        After the row with ``last``, entries 0 to its ``t``.
    """

    def __init__(self, *, rows, cols, act_bits, weight_bits, style, digits, acc_bits, depth):
        self._array = SystolicArray(rows=rows, cols=cols, act_bits=act_bits,
                                    weight_bits=weight_bits, style=style)
        self._loader = TileLoader(rows=rows, cols=cols, weight_bits=weight_bits,
                                  group=self._array.group)
        self._sums = Accumulators(delays=self._array.delays, psum_bits=self._array.psum_bits,
                                  act_bits=act_bits, digits=digits, acc_bits=acc_bits,
                                  depth=depth)
        super().__init__({
            "w": In(self._loader.i.signature.flip()),
            "act": In(stream.Signature(data.StructLayout({
                "x": data.ArrayLayout(signed(act_bits + 1), rows),
                "control": shapes.control_layout(depth, digits, self._sums.buffers), "swap": 1}))),
            "o": Out(stream.Signature(data.ArrayLayout(signed(acc_bits), cols))),
        })

    def elaborate(self, platform):
        m = Module()
        array, loader, sums, act = self._array, self._loader, self._sums, self.act
        m.submodules.array, m.submodules.loader, m.submodules.sums = array, loader, sums
        wiring.connect(m, wiring.flipped(self.w), loader.i)
        draining, fire = Signal(), Signal()
        m.d.comb += [
            act.ready.eq(~draining & (~act.p.swap | loader.ready)),
            fire.eq(act.valid & act.ready),
            array.acts.eq(act.p.x), array.swap.eq(fire & act.p.swap), loader.swap.eq(array.swap),
            array.w.eq(loader.w), array.w_col.eq(loader.w_col), sums.psum.eq(array.psum),
        ]
        valid, control = fire, act.p.control
        for stage in range(array.latency - 1):
            valid_next = Signal(name=f"valid_{stage}")
            control_next = Signal(control.shape(), name=f"control_{stage}")
            m.d.sync += [valid_next.eq(valid), control_next.eq(control)]
            valid, control = valid_next, control_next
        m.d.comb += [sums.valid.eq(valid), sums.i.eq(control)]
        self._drain(m, draining, fire & act.p.control.last)
        return m

    def _drain(self, m, draining, start):
        """Read the entries one by one once the last sum is in, and send them."""
        final, t = (Signal(self.act.p.control.t.shape()) for _ in range(2))
        reading = Signal()
        m.d.comb += [self._sums.row_t.eq(t), self.o.payload.eq(self._sums.rows[0]),
                     self._sums.row_en.eq(reading & (~self.o.valid | self.o.ready))]
        with m.If(start):
            m.d.sync += [draining.eq(1), final.eq(self.act.p.control.t), t.eq(0)]
        with m.If(self._sums.done):
            m.d.sync += reading.eq(1)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(self._sums.row_en):
            m.d.sync += [self.o.valid.eq(1), t.eq(t + 1)]
            with m.If(t == final):
                m.d.sync += reading.eq(0)
        with m.If(draining & self.o.valid & self.o.ready & ~reading):
            m.d.sync += draining.eq(0)
