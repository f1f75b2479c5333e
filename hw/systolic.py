"""Weight-stationary systolic array: a vector-matrix product every cycle."""

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.pe import ProcessingElement, check_cell

__all__ = ["SystolicArray", "psum_bits"]


def psum_bits(rows, act_bits, weight_bits):
    """Return the bits of a column's sum: `rows` products of at most (2**a - 1) * 2**(w - 1)."""
    return act_bits + weight_bits + (rows - 1).bit_length()


class SystolicArray(wiring.Component):
    """Multiply activation vectors by a stationary tile of R x C weights.

    ``psum[c] = sum over r of acts[r] * tile[r][c]``. A vector enters in any cycle; the sum of its
    column c leaves `latency` + c cycles later (no deskew: whoever takes column c is c cycles late).
    The array never stalls, and cycles between vectors leave meaningless sums.

    Weights are double buffered. A vector that enters with ``swap`` in cycle s is the first to see
    the tile loaded before; the swap runs with it through the array. So, for that vector, column c
    must have been loaded in cycle s + c - 1 at the latest; and the column c of the next tile may be
    loaded from cycle s + rows - 1 + c on. A loader that follows the wave column by column
    (``hw/tile_loader.py``) thus permits a swap every max(rows, cols) cycles.

    The exact model is the integer matrix product, ``systola.sim.systolic``.

    Parameters
    ----------
    rows, cols : int
        Reduction lanes R and output columns C.
    act_bits, weight_bits, style
        See `ProcessingElement`.

    Attributes
    ----------
    latency : int
        Cycles from a vector's entry to its sum at column 0: rows + 2.

    Members
    -------
    acts : In(ArrayLayout(signed(act_bits + 1), rows))
        Activation vector; skewed inside.
    swap : In(1)
        With the first vector of a tile.
    w : In(ArrayLayout(signed(weight_bits), rows))
        One column of the next tile, broadcast to all columns.
    w_col : In(cols)
        One-hot: the column that takes `w`; 0 for none.
    psum : Out(ArrayLayout(signed(act_bits + weight_bits + ceil(log2(rows))), cols))
        Column sums, column c delayed by c cycles.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, rows, cols, act_bits, weight_bits, style):
        for name, value in ("rows", rows), ("cols", cols):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value!r}")
        self.cell = {"act_bits": act_bits, "weight_bits": weight_bits, "style": style}
        check_cell(**self.cell)
        self.cell["psum_bits"] = psum_bits(rows, act_bits, weight_bits)
        self.rows, self.cols = rows, cols
        self.latency = rows + 2
        super().__init__({
            "acts": In(data.ArrayLayout(signed(act_bits + 1), rows)), "swap": In(1),
            "w": In(data.ArrayLayout(signed(weight_bits), rows)), "w_col": In(cols),
            "psum": Out(data.ArrayLayout(signed(self.cell["psum_bits"]), cols)),
        })

    def elaborate(self, platform):
        m = Module()
        # PE (r, c) swaps r + c cycles after the vector's entry: one flag per diagonal.
        swaps = [self.swap]
        for d in range(1, self.rows + self.cols - 1):
            swaps.append(Signal(name=f"swap_{d}"))
            m.d.sync += swaps[d].eq(swaps[d - 1])
        psums = [0] * self.cols
        for r in range(self.rows):
            act = self.acts[r]
            for s in range(r):  # without reset, so that it maps to shift-register primitives
                skewed = Signal.like(act, name=f"act_{r}_{s}", reset_less=True)
                m.d.sync += skewed.eq(act)
                act = skewed
            for c in range(self.cols):
                m.submodules[f"pe_{r}_{c}"] = pe = ProcessingElement(**self.cell)
                m.d.comb += [pe.act.eq(act), pe.swap.eq(swaps[r + c]), pe.psum.eq(psums[c]),
                             pe.w.eq(self.w[r]), pe.load.eq(self.w_col[c])]
                act, psums[c] = pe.act_out, pe.psum_out
        m.d.comb += [self.psum[c].eq(psums[c]) for c in range(self.cols)]
        return m
