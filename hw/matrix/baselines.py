"""Arrays that the report compares: of dequantized operands, and of codes that stand for numbers.

No accelerator is made of them. Processing elements sit in the same weight-stationary array as the
low-bit integer ones, so that areas and energies differ by the arithmetic alone; what decodes at the
edge of an accelerator's array, in its feeder or on the way of the weights, is here beside it.
"""

from functools import partial

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.contract.latency import array_delays, array_latency
from systola.hw.matrix.pe import STYLES, booth_product, multiply_accumulate
from systola.hw.matrix.systolic import SystolicArray, connect_cells
from systola.hw.parts.arguments import check_integers, check_least, check_positive
from systola.hw.parts.levels import exponential
from systola.hw.parts.pipeline import node

__all__ = ["CODE_BITS", "FIXED_BITS", "CodedArray", "FixedPointElement", "OperandScalers",
           "ShiftElement", "StyledArray", "fixed_point_array", "shift_array"]

FIXED_BITS = 16
"""Bits of a dequantized operand, and of the scale that makes it."""

CODE_BITS = 4
"""Bits of a log2 attention code."""

_SHIFTED_BITS = 8  # the largest decoded value is 192


class FixedPointElement(wiring.Component):
    """Multiply two operands in 16-bit fixed point and add to a sum that keeps every bit.

    Ports, timing and styles are those of `ProcessingElement`; all operands are signed(16).

    Model: model/operators/fixed_point.py

    Parameters
    ----------
    psum_bits : int
        Bits of the partial sum, at least 32.
    style : str
        ``dsp`` or ``lut``.
    """

    def __init__(self, *, psum_bits, style):
        if style not in STYLES:
            raise ValueError(f"style must be {' or '.join(map(repr, STYLES))}, not {style!r}")
        check_least(psum_bits=(psum_bits, 2 * FIXED_BITS))
        self.style, self.product_bits = style, 2 * FIXED_BITS
        super().__init__({
            "act": In(signed(FIXED_BITS)), "act_out": Out(signed(FIXED_BITS)),
            "swap": In(1), "w": In(signed(FIXED_BITS)), "load": In(1),
            "psum": In(signed(psum_bits)), "psum_out": Out(signed(psum_bits)),
        })

    def elaborate(self, platform):
        return multiply_accumulate(self, platform, hold=node)


class ShiftElement(wiring.Component):
    """Multiply a value by a log2 attention code with shifts and one addition.

    ``psum_out[t+3] = psum[t+2] + d(act[t]) * weight`` and ``act_out[t+1] = act[t]``, where
    ``d(0) = 0``, ``d(1) = 1`` and ``d(c) = (2 + (c & 1)) * 2**(c // 2 - 1)`` for the codes 2 to 15:
    the leading one of scheme Half_16 is c // 2 and its half step c & 1
    (``systola.model.operators.log2``). Weights as in `ProcessingElement`.

    Model: model/operators/fixed_point.py

    Parameters
    ----------
    weight_bits : int
        Bits of the value, 2 to 8.
    psum_bits : int
        Bits of the partial sum, at least weight_bits + 8.

    Members
    -------
    act, act_out : In, Out(4)
        Code, and to the right.
    swap, load, w, psum, psum_out
        As in `ProcessingElement`.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, weight_bits, psum_bits):
        check_integers(weight_bits=(weight_bits, 2, 8))
        check_least(psum_bits=(psum_bits, weight_bits + _SHIFTED_BITS))
        super().__init__({
            "act": In(CODE_BITS), "act_out": Out(CODE_BITS), "swap": In(1),
            "w": In(signed(weight_bits)), "load": In(1),
            "psum": In(signed(psum_bits)), "psum_out": Out(signed(psum_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        act = Signal(CODE_BITS, reset_less=True)
        shadow = Signal.like(self.w, reset_less=True)
        weight = Signal.like(self.w, reset_less=True)
        product = Signal(signed(len(self.w) + _SHIFTED_BITS), reset_less=True)
        psum = Signal.like(self.psum, reset_less=True)
        m.d.comb += [self.act_out.eq(act), self.psum_out.eq(psum)]
        with m.If(self.load):
            m.d.sync += shadow.eq(self.w)
        with m.If(self.swap):
            m.d.sync += weight.eq(shadow)
        leading = act[1:]
        # Two or three times the weight, shifted one too far: position 0 has no half step.
        multiple = Signal(signed(len(weight) + 2))
        m.d.comb += multiple.eq((weight << 1) + Mux(act[0] & leading.any(), weight, 0))
        m.d.sync += [act.eq(self.act), psum.eq(self.psum + product),
                     product.eq(Mux(act.any(), multiple << leading >> 1, 0))]
        return m


class CodedArray(wiring.Component):
    """A packed array of 8-bit operands of which one kind comes as codes of 4 bits.

    Activations by the levels of log2 attention, as `hw.matrix.feeder.Feeder` decodes them; or else
    weights from a codebook, of which every lane has a copy, as `hw.load.unpackers.CodeUnpacker`.
    Ports, timing and attributes are those of `SystolicArray` but for the codes.

    Model: model/operators/matmul.py

    Parameters
    ----------
    rows, cols : int
        Of the array.
    levels : sequence of int
        What codes of activations stand for; none if the weights are codes.

    Members
    -------
    acts, w
        One of them of `CODE_BITS` bits.
    book_en, book_entry, book_value : In(1), In(4), In(8)
        Of weights: writes an entry of the codebook.
    """

    def __init__(self, *, rows, cols, levels=()):
        self.levels = levels
        self._array = array = SystolicArray(rows=rows, cols=cols, act_bits=8, weight_bits=8,
                                            style="dsp_packed")
        for name in "rows", "cols", "group", "tokens", "latency", "delays", "psum_bits":
            setattr(self, name, getattr(array, name))
        codes = {name: In(data.ArrayLayout(unsigned(CODE_BITS), len(getattr(array, name))))
                 for name in ("acts", "w")}
        members = {name: In(getattr(array, name).shape()) for name in ("acts", "w")}
        members |= {"acts": codes["acts"]} if levels else {
            "w": codes["w"], "book_en": In(1), "book_entry": In(CODE_BITS), "book_value": In(8)}
        super().__init__({**members, "swap": In(1), "w_col": In(cols // array.group),
                          "psum": Out(array.psum.shape())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.array = array = self._array
        m.d.comb += [array.swap.eq(self.swap), array.w_col.eq(self.w_col),
                     self.psum.eq(array.psum)]
        if self.levels:
            m.d.comb += [act.eq(exponential(m, self.levels, code))
                         for act, code in zip(array.acts, self.acts, strict=True)]
            m.d.comb += array.w.eq(self.w)
            return m
        m.d.comb += array.acts.eq(self.acts)
        for k, code in enumerate(self.w):
            memory = Memory(shape=8, depth=1 << CODE_BITS, init=[])
            m.submodules[f"book_{k}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [write.en.eq(self.book_en), write.addr.eq(self.book_entry),
                         write.data.eq(self.book_value), read.addr.eq(code),
                         array.w[k].eq(read.data)]
        return m


class OperandScalers(wiring.Component):
    """Turn low-bit codes into 16-bit fixed point, for the edge of an array: one for each row.

    ``y = (x * scale + 2**(bits-1)) >> bits``, the code's bits of fraction rounded away, ties
    upwards; two cycles later. Activations run through in every cycle, weights while `w_en` is
    high. Booth rows of adders, no DSP slice.

    Model: model/operators/fixed_point.py

    Parameters
    ----------
    rows : int
        Scalers of each kind.
    bits : int
        Bits of a code, 2 to 8.

    Members
    -------
    acts, w : In(ArrayLayout(signed(bits + 1), rows)), In(ArrayLayout(signed(bits), rows))
        Codes, of magnitudes to 2**(bits-1).
    act_scale, w_scale : In(16)
        2**15 to 2**16 - 2: the mantissa of the tensor's (channel's) scale.
    w_en : In(1)
        Weights are scaled.
    acts_out, w_out : Out(ArrayLayout(signed(16), rows))

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, rows, bits):
        check_positive(rows=rows)
        check_integers(bits=(bits, 2, 8))
        self.rows, self.bits = rows, bits
        scaled = data.ArrayLayout(signed(FIXED_BITS), rows)
        super().__init__({
            "acts": In(data.ArrayLayout(signed(bits + 1), rows)), "act_scale": In(FIXED_BITS),
            "w": In(data.ArrayLayout(signed(bits), rows)), "w_scale": In(FIXED_BITS),
            "w_en": In(1), "acts_out": Out(scaled), "w_out": Out(scaled)})

    def elaborate(self, platform):
        m = Module()
        late = Signal()
        m.d.sync += late.eq(self.w_en)
        for r in range(self.rows):
            self._scaler(m, f"act_{r}", self.acts[r], self.act_scale, self.acts_out[r], 1, 1)
            self._scaler(m, f"w_{r}", self.w[r], self.w_scale, self.w_out[r], self.w_en, late)
        return m

    def _scaler(self, m, name, code, scale, out, enable, late):
        product = Signal(signed(FIXED_BITS + self.bits + 2), name=f"{name}_product",
                         reset_less=True)
        carry = Signal(name=f"{name}_carry", reset_less=True)
        result = Signal(signed(FIXED_BITS), name=f"{name}_out", reset_less=True)
        rows, first = booth_product(Cat(scale, Const(0, 1)).as_signed(), code,
                                       partial(node, m))
        with m.If(enable):
            m.d.sync += [product.eq(rows), carry.eq(first)]
        with m.If(late):
            m.d.sync += result.eq((product + (carry + (1 << self.bits - 1))) >> self.bits)
        m.d.comb += out.eq(result)


class StyledArray(wiring.Component):
    """A weight-stationary array of any cells: `systolic.SystolicArray` without packing.

    Ports and timing are its own; attributes too.

    Model: model/operators/matmul.py

    Parameters
    ----------
    rows, cols : int
        Reduction lanes and output columns.
    act, weight : Shape
        Of a cell's operands.
    psum_bits : int
        Bits of a sum.
    cell : callable
        Makes a cell.
    """

    def __init__(self, *, rows, cols, act, weight, psum_bits, cell):
        check_positive(rows=rows, cols=cols)
        self.rows, self.cols, self._cell, self.psum_bits = rows, cols, cell, psum_bits
        self.group = self.tokens = 1
        self.latency, self.delays = array_latency(rows, "dsp"), array_delays(cols, 1)
        super().__init__({
            "acts": In(data.ArrayLayout(act, rows)), "swap": In(1),
            "w": In(data.ArrayLayout(weight, rows)), "w_col": In(cols),
            "psum": Out(data.ArrayLayout(signed(psum_bits), cols))})

    def elaborate(self, platform):
        m = Module()
        psums = connect_cells(m, acts=list(self.acts), weights=list(self.w), swap=self.swap,
                              w_col=self.w_col, cell=lambda row: self._cell())
        m.d.comb += [self.psum[j].eq(column[-1]) for j, column in enumerate(psums)]
        return m


def fixed_point_array(*, rows, cols, style):
    """Return a `StyledArray` of `FixedPointElement`, whose sums are wide enough for all rows."""
    bits = 2 * FIXED_BITS + (rows - 1).bit_length()
    return StyledArray(rows=rows, cols=cols, act=signed(FIXED_BITS), weight=signed(FIXED_BITS),
                       psum_bits=bits,
                       cell=lambda: FixedPointElement(psum_bits=bits, style=style))


def shift_array(*, rows, cols, weight_bits):
    """Return a `StyledArray` of `ShiftElement`, whose sums are wide enough for all rows."""
    bits = weight_bits + _SHIFTED_BITS + (rows - 1).bit_length()
    return StyledArray(rows=rows, cols=cols, act=unsigned(CODE_BITS), weight=signed(weight_bits),
                       psum_bits=bits,
                       cell=lambda: ShiftElement(weight_bits=weight_bits, psum_bits=bits))
