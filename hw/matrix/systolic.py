"""Weight-stationary systolic array: a vector-matrix product every cycle."""

from itertools import accumulate

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.dsp_packing import DSP48E1, plan_chains, plan_narrow, plan_packing
from systola.hw.contract.latency import array_delays, array_latency
from systola.hw.matrix.pe import STYLES, PackedElement, ProcessingElement, check_cell
from systola.hw.matrix.unwrap import FieldCounter, pack_fields, split_fields, spread_fields
from systola.hw.parts.arguments import check_positive

__all__ = ["SystolicArray", "check_array", "connect_cells"]


def check_array(*, rows, cols, act_bits, weight_bits, style):
    """Raise ``ValueError`` unless these are parameters of a `SystolicArray`."""
    check_positive(rows=rows, cols=cols)
    check_cell(act_bits=act_bits, weight_bits=weight_bits, style=style,
               styles=(*STYLES, "dsp_packed"))


def connect_cells(m, *, acts, weights, swap, w_col, cell):
    """Put cells into module `m` as a weight-stationary array, with its skew.

    Parameters
    ----------
    m : Module
    acts, weights : list of Value
        What the cells of each row take, at the cycle of the vector's entry.
    swap : Value
        With the first vector of a tile.
    w_col : Value
        One bit for each column of cells: it takes `weights`.
    cell : callable
        Makes a cell, of the members of `systola.hw.matrix.pe.ProcessingElement`; called with its
        row. One whose ``link`` is ``cascade`` takes that of the one above.

    Returns
    -------
    list of list of Value
        Partial sums by column and row; row r's are r + 3 cycles later than the vector.
    """
    columns = len(w_col)
    # Cell (r, j) swaps r + j cycles after the vector's entry: one flag per diagonal.
    swaps = [swap]
    for d in range(1, len(acts) + columns - 1):
        swaps.append(Signal(name=f"swap_{d}"))
        m.d.sync += swaps[d].eq(swaps[d - 1])
    psums, above = [[] for _ in range(columns)], [None] * columns
    for r, (act, weight) in enumerate(zip(acts, weights, strict=True)):
        for s in range(r):  # without reset, so that it maps to shift-register primitives
            skewed = Signal(len(act), name=f"act_{r}_{s}", reset_less=True)
            m.d.sync += skewed.eq(act)
            act = skewed
        for j in range(columns):
            m.submodules[f"cell_{r}_{j}"] = element = cell(r)
            m.d.comb += [element.act.eq(act), element.swap.eq(swaps[r + j]),
                         element.w.eq(weight), element.load.eq(w_col[j])]
            if r:
                linked = getattr(element, "link", "fabric") == "cascade"
                m.d.comb += element.psum.eq(above[j].cascade if linked else above[j].psum_out)
            act, above[j] = element.act_out, element
            psums[j].append(element.psum_out)
    return psums


class SystolicArray(wiring.Component):
    """Multiply activation vectors by a stationary tile of R x C weights.

    ``psum[c] = sum over r of acts[r] * tile[r][c]``. A vector enters in any cycle; the sum of its
    column c leaves `latency` + ``delays[c]`` cycles later (no deskew: whoever takes column c is
    that late). The array never stalls, and cycles between vectors leave meaningless sums.

    `group` neighbouring columns share the cells of a *slice column* (one in all styles but
    ``dsp_packed``). Weights are double buffered and loaded a slice column at a time. A vector
    that enters with ``swap`` in cycle s is the first to see the tile loaded before; the swap runs
    with it through the array. So, for that vector, slice column j must have been loaded in cycle
    s + j - 1 at the latest; and slice column j of the next tile may be loaded from cycle
    s + rows - 1 + j on. A loader that follows the wave (``hw/matrix/tile_loader.py``) thus permits
    a swap every max(rows, slice columns) cycles.

    In ``dsp_packed`` the cells of a column pass their sums through the wires between neighbouring
    slices, in chains as long as these allow (`systola.hw.contract.dsp_packing.plan_chains`). The
    sums of several products share each slice and are told apart below the column
    (`systola.hw.matrix.unwrap`). Weights must not be -2**(weight_bits-1), and activations lie in
    -2**(act_bits-1) .. 2**(act_bits-1). With `tokens` above one, that many vectors enter in every
    cycle.

    With `narrow_bits`, each tile is of one of two precisions: of the parameters above, or a
    *narrow* one of operands with so many bits, of which a slice holds twice as many. An element of
    `w` then holds two weights, ``w0 + (w1 << weight_bits / 2)``, of neighbouring columns, and one
    of `psum` their two sums. Activations of narrow vectors must lie in the range of their bits.

    The exact model is the integer matrix product, ``systola.model.operators.matmul``.

    Model: model/operators/matmul.py

    Parameters
    ----------
    rows, cols : int
        Reduction lanes R and output columns C.
    act_bits, weight_bits, style
        See `ProcessingElement`; ``dsp_packed`` is made of `PackedElement`.
    packing : Packing, optional
        The plan for ``dsp_packed``; by default the densest for one vector per cycle.
    narrow_bits : int, optional
        Bits of both operands of narrow tiles, see `plan_narrow` (``dsp_packed`` only); 0 for none.

    Attributes
    ----------
    latency : int
        Cycles from a vector's entry to its sum at column 0, see `array_latency`.
    delays : list of int
        Cycles that the sums of each column are later than those of column 0.
    group, tokens : int
        Columns that share a slice, and vectors per cycle.
    psum_bits : int
        Bits of a sum.
    narrow : Packing or None
        The plan of narrow tiles.
    half : int
        Bits of each of two narrow sums.

    Members
    -------
    acts : In(ArrayLayout(signed(act_bits + 1), tokens * rows))
        Activation vectors, one after the other; skewed inside.
    swap : In(1)
        With the first vector of a tile.
    w : In(ArrayLayout(signed(weight_bits), group * rows))
        `group` columns of the next tile, one after the other, broadcast to all slice columns.
    w_col : In(cols / group)
        One-hot: the slice column that takes `w`; 0 for none.
    psum : Out(ArrayLayout(signed(psum_bits), tokens * cols))
        Column sums, column c delayed by ``delays[c]`` cycles; vectors one after the other. If there
        are narrow tiles, of at least ``2 * half`` bits: columns 2c and 2c + 1 of a narrow tile.
    w_narrow, psum_narrow : In(1)
        Only with `narrow_bits`: `w` is of a narrow tile; in the cycle before those of column 0, the
        sums are.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it. `PackingError` if nothing packs.
    """

    def __init__(self, *, rows, cols, act_bits, weight_bits, style, packing=None, narrow_bits=0):
        check_array(rows=rows, cols=cols, act_bits=act_bits, weight_bits=weight_bits, style=style)
        if packing is not None and (style != "dsp_packed" or cols % packing.group or (
                rows, act_bits, weight_bits) != (
                packing.rows, packing.act_bits, packing.weight_bits)):
            raise ValueError(f"packing must be a plan for this array, not {packing!r}")
        self.rows, self.cols, self.style = rows, cols, style
        self.act_bits, self.weight_bits, self.packing = act_bits, weight_bits, packing
        if style == "dsp_packed":
            self.packing = packing or plan_packing(weight_bits, act_bits, rows, cols=cols)
            self.psum_bits = self.packing.sum_bits
        else:  # rows products of at most (2**act_bits - 1) * 2**(weight_bits - 1)
            self.psum_bits = act_bits + weight_bits + (rows - 1).bit_length()
        self.narrow, self.half, self.narrow_bits = None, 0, narrow_bits
        if narrow_bits:
            if not self.packing:
                raise ValueError(f"narrow_bits need style 'dsp_packed', not {style!r}")
            self.narrow = plan_narrow(self.packing, narrow_bits)
            self.half = self.narrow.sum_bits
            self.psum_bits = max(self.psum_bits, 2 * self.half)
        self.group = self.packing.group if self.packing else 1
        self.tokens = self.packing.tokens if self.packing else 1
        self.latency = array_latency(rows, style)
        self.delays = array_delays(cols, self.group)
        super().__init__({
            "acts": In(data.ArrayLayout(signed(act_bits + 1), self.tokens * rows)),
            "swap": In(1), "w": In(data.ArrayLayout(signed(weight_bits), self.group * rows)),
            "w_col": In(cols // self.group),
            "psum": Out(data.ArrayLayout(signed(self.psum_bits), self.tokens * cols)),
            **({"w_narrow": In(1), "psum_narrow": In(1)} if self.narrow else {}),
        })

    def elaborate(self, platform):
        m = Module()
        psums = connect_cells(
            m, swap=self.swap, w_col=self.w_col, cell=self._cell,
            acts=[self._acts(m, r) for r in range(self.rows)],
            weights=[self._weights(m, r) for r in range(self.rows)])
        narrow = self.psum_narrow if self.narrow else None
        for j, column in enumerate(psums):
            if j and self.narrow:  # the vector of column j's sums is a cycle behind
                narrow, before = Signal(name=f"narrow_{j}", reset_less=True), narrow
                m.d.sync += narrow.eq(before)
            self._outputs(m, j, column, narrow)
        return m

    def _acts(self, m, row):
        """Return what the cells of a row take of `acts`."""
        values = [self.acts[k * self.rows + row] for k in range(self.tokens)]
        return self._side_by_side(m, values, self.act_bits + 1, f"act_{row}")

    def _weights(self, m, row):
        """Return what the cells of a row take of `w`."""
        values = [self.w[k * self.rows + row] for k in range(self.group)]
        if not self.packing:
            return values[0]
        packed = self._side_by_side(m, values, self.weight_bits, f"w_{row}")

        def spread(plan, bits):
            # Weights less the borrow of the one below are also narrow ones, two in each, less it.
            place = len(packed) // plan.group
            return spread_fields([packed.word_select(k, place) for k in range(plan.group)],
                                 plan.weight_offsets, bits)

        plan, narrow = self.packing, self.narrow
        if not narrow:
            return spread(plan, plan.weight_span)
        bits = max(plan.weight_span, narrow.weight_span)
        return Mux(self.w_narrow, spread(narrow, bits), spread(plan, bits)).as_signed()

    def _side_by_side(self, m, values, bits, name):
        """Return `values` for `spread_fields`; a signal, as an expression would come as often."""
        if not self.packing:
            return values[0]
        packed = Signal(len(values) * bits, name=name)
        m.d.comb += packed.eq(Cat(pack_fields(values, bits)))
        return packed

    def _cell(self, row):
        if self.packing:
            starts = {0, *accumulate(plan_chains(self.rows, DSP48E1.chain))}
            return PackedElement(
                self.packing, narrow=self.narrow, passes=row + 1 not in starts,
                link="none" if not row else "fabric" if row in starts else "cascade")
        return ProcessingElement(act_bits=self.act_bits, weight_bits=self.weight_bits,
                                 psum_bits=self.psum_bits, style=self.style)

    def _outputs(self, m, j, psums, narrow):
        """Take the sums of slice column `j` apart, as of a narrow tile in the cycles `narrow`."""
        if not self.packing:
            m.d.comb += self.psum[j].eq(psums[-1])
            return
        sums = self._split(m, psums, self.packing, f"{j}")
        pairs = self._split(m, psums, self.narrow, f"{j}_narrow") if self.narrow else None
        for index, (field, value) in enumerate(zip(self.packing.fields, sums, strict=True)):
            lane = field.token * self.cols + j * self.group + field.weight
            out = Signal(signed(self.psum_bits), name=f"sum_{lane}", reset_less=True)
            m.d.sync += out.eq(value)
            if narrow is not None:
                with m.If(narrow):
                    m.d.sync += out.eq(Cat(pairs[2 * index:2 * index + 2]).as_signed())
            m.d.comb += self.psum[lane].eq(out)

    def _split(self, m, psums, packing, name):
        """Return the sums of the fields of `packing`, lowest first."""
        counts = []
        for index, field in enumerate(packing.fields[:-1]):
            m.submodules[f"counter_{name}_{index}"] = counter = FieldCounter(packing, index)
            top = field.offset + field.width
            for look, rows in enumerate((field.first, *field.taps)):
                m.d.comb += counter.seen[look].eq(
                    psums[rows - 1][top - len(counter.seen[look]):top])
            counts.append(counter.count)
        return split_fields(packing, psums[-1], counts)
