"""Weight-stationary processing elements: multiply-accumulate with a double-buffered weight."""

from amaranth import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.dsp_packing import DSP48E1, FABRIC_PINS
from systola.hw.matrix.mult18 import mult18x18d
from systola.hw.matrix.unwrap import spread_fields
from systola.hw.parts.arguments import check_integers, check_least
from systola.hw.parts.pipeline import add_with_carry, booth_term
from systola.hw.parts.target import has_dsp48e1, is_ecp5

__all__ = ["STYLES", "PackedElement", "ProcessingElement", "booth_product", "check_cell",
           "multiply_accumulate"]

STYLES = "dsp", "lut"
"""What a `ProcessingElement` is made of."""

_LINKS = {"none": 0, "cascade": 1, "fabric": 3}
"""What a DSP48E1 adds to its product, as OPMODE[6:4] has it."""


def check_cell(*, act_bits, weight_bits, style, styles=STYLES):
    """Raise ``ValueError`` unless these are parameters of a processing element of `styles`."""
    check_integers(act_bits=(act_bits, 2, 8), weight_bits=(weight_bits, 2, 8))
    if style not in styles:
        raise ValueError(f"style must be {' or '.join(map(repr, styles))}, not {style!r}")


def booth_product(act, weight, hold=lambda value: value):
    """Return ``(partial, carry)`` with ``act * weight = partial + carry``, in radix-4 Booth form.

    Each of the ceil(len(weight)/2) digits, from -2 to 2, picks 0, act or 2*act (a 5-input function
    per bit), inverted if negative; the missing +1 enters as the carry of the adder that adds it,
    and for the first digit is left to the caller's adder. `hold` may put a sum of rows into a
    signal: the expression doubles with each row, which many rows cannot afford.
    """
    padded = Cat(Const(0, 1), weight, weight[-1])
    total = first = None
    for k in range(0, len(weight), 2):
        low, mid, high = padded[k], padded[k + 1], padded[k + 2]
        term = booth_term(act, low, mid, high)
        if total is None:
            total, first = term, high
        else:
            upper = add_with_carry(total[k:].as_signed(), term, high)
            total = hold(Cat(total[:k], upper).as_signed())
    return total, first


def multiply_accumulate(cell, platform, hold=lambda m, value: value):
    """Return the module of `cell`, which has the ports and attributes of a `ProcessingElement`.

    `hold` is that of `booth_product`, with the module as first argument.
    """
    m = Module()
    # Data registers have no reset: a reset input would keep them out of the DSP slice.
    act = Signal.like(cell.act, reset_less=True)
    shadow = Signal.like(cell.w, reset_less=True)
    weight = Signal.like(cell.w, reset_less=True)
    product = Signal(signed(cell.product_bits), reset_less=True)
    psum = Signal.like(cell.psum, reset_less=True)
    m.d.comb += [cell.act_out.eq(act), cell.psum_out.eq(psum)]
    with m.If(cell.load):
        m.d.sync += shadow.eq(cell.w)
    with m.If(cell.swap):
        m.d.sync += weight.eq(shadow)
    m.d.sync += act.eq(cell.act)
    if cell.style == "dsp" and is_ecp5(platform):
        # Its own registers for activation, weight and product, beside the one that passes on.
        m.submodules.dsp, product = mult18x18d(cell.act, shadow, enable_b=cell.swap)
        m.d.sync += psum.eq(cell.psum + product[:cell.product_bits].as_signed())
    elif cell.style == "dsp":
        m.d.sync += [product.eq(act * weight), psum.eq(cell.psum + product)]
    else:
        carry = Signal(reset_less=True)
        rows, first = booth_product(act, weight, lambda value: hold(m, value))
        m.d.sync += [product.eq(rows), carry.eq(first),
                     psum.eq(add_with_carry(cell.psum, product, carry))]
    return m


class ProcessingElement(wiring.Component):
    """Multiply an activation by a stationary weight and add it to the passing partial sum.

    ``psum_out[t+3] = psum[t+2] + weight * act[t]``; ``act_out[t+1] = act[t]``, one MAC a cycle. The
    weight is the shadow register's content when the latest ``swap`` came with its activation
    (that activation already sees the new weight). ``load`` in the cycle of ``swap`` or later
    prepares the next weight and disturbs nothing.

    Model: model/operators/matmul.py

    Parameters
    ----------
    act_bits, weight_bits : int
        Bits of the operands, 2 to 8. The activation port has one bit more, so that it also holds
        the unsigned top digit of a split operand.
    psum_bits : int
        Bits of the partial sum, at least act_bits + weight_bits.
    style : str
        ``dsp``: a plain multiplication; Yosys packs weight, product and sum registers into one
        DSP48E1, so that only the passing activation stays in the fabric (products below 9 bits it
        maps to look-up tables instead); on ECP5 one MULT18X18D, with the sum in the fabric.
        ``lut``: radix-4 Booth adders, which no tool turns into a DSP slice.

    Members
    -------
    act, act_out : In, Out(signed(act_bits + 1))
        Activation from the left, to the right.
    swap : In(1)
        With `act`: take over the shadow weight.
    w, load : In(signed(weight_bits)), In(1)
        The column's next weight, and its enable.
    psum, psum_out : In, Out(signed(psum_bits))
        Partial sum from above, to below.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, act_bits, weight_bits, psum_bits, style):
        check_cell(act_bits=act_bits, weight_bits=weight_bits, style=style)
        check_least(psum_bits=(psum_bits, act_bits + weight_bits))
        self.style, self.product_bits = style, act_bits + weight_bits + 1
        super().__init__({
            "act": In(signed(act_bits + 1)), "act_out": Out(signed(act_bits + 1)),
            "swap": In(1), "w": In(signed(weight_bits)), "load": In(1),
            "psum": In(signed(psum_bits)), "psum_out": Out(signed(psum_bits)),
        })

    def elaborate(self, platform):
        return multiply_accumulate(self, platform)


class PackedElement(wiring.Component):
    """A DSP slice that multiplies several weights and activations at once, see `plan_packing`.

    ``psum_out[t+3] = psum[t+2] + A * B[t]`` with all registers inside the slice: the shadow weight
    is A1, the weight A2, the activation B1 (so that ``act_out`` is a register of its own), then
    product and sum. `psum` enters through the C port, or from the slice above through the wires
    that neighbours have (PCOUT to PCIN). ``load`` and ``swap`` as in `ProcessingElement`. One cell
    is one DSP48E1 if the platform has it (`systola.hw.parts.target.Primitives`); on ECP5 one
    MULT18X18D with the sum in the fabric, if the plan is for its ports; else plain logic with the
    same behaviour.

    Model: model/operators/matmul.py

    Parameters
    ----------
    packing : Packing
        The plan.
    narrow : Packing, optional
        That of a second precision, by `plan_narrow`: what the slice adds up is then either.
    link : str
        Where the sum comes from: ``none`` (the uppermost of its column), ``fabric``, or
        ``cascade``, the `cascade` of another.
    passes : bool
        Whether the next one takes `cascade`; nothing else may.

    Members
    -------
    act, act_out : In, Out
        ``packing.tokens`` activations of act_bits + 1 bits, prepared by `pack_fields`.
    swap, load : In(1)
        As in `ProcessingElement`.
    w : In(signed(packing.weight_span))
        Its weights side by side, made by `spread_fields`: once for the slices of all columns.
    psum, psum_out : In, Out(signed(packing.packed_bits))
        Sums of all fields; from a `cascade`, `psum` has its bits. This and `w` have the bits of
        the plan that needs more.
    cascade : Out(signed(48))
        The same sum, if it `passes`.

    Raises
    ------
    ValueError
        If there is no such `link`.
    """

    def __init__(self, packing, *, narrow=None, link="fabric", passes=False):
        if link not in _LINKS:
            raise ValueError(f"link must be {' or '.join(map(repr, _LINKS))}, not {link!r}")
        self.packing, self.link, self.passes = packing, link, passes
        plans = [packing] if narrow is None else [packing, narrow]
        total = signed(max(plan.packed_bits for plan in plans))
        wide = signed(DSP48E1.sum_port)
        super().__init__({
            "act": In(packing.tokens * (packing.act_bits + 1)),
            "act_out": Out(packing.tokens * (packing.act_bits + 1)),
            "swap": In(1), "w": In(signed(max(plan.weight_span for plan in plans))),
            "load": In(1), "psum": In(wide if link == "cascade" else total),
            "psum_out": Out(total),
            **({"cascade": Out(wide)} if passes else {}),
        })

    def elaborate(self, platform):
        m = Module()
        plan, first = self.packing, self.link == "none"
        act = Signal.like(self.act, reset_less=True)
        m.d.sync += act.eq(self.act)
        m.d.comb += self.act_out.eq(act)
        acts = [self.act.word_select(k, plan.act_bits + 1) for k in range(plan.tokens)]
        a = self.w
        b = spread_fields(acts, plan.token_offsets, plan.token_offsets[-1] + plan.act_bits + 1)
        if has_dsp48e1(platform):
            total = Signal(DSP48E1.sum_port)
            m.submodules.dsp = self._slice(m, a, b, total)
            m.d.comb += self.psum_out.eq(total)
            return m
        if self.passes:
            m.d.comb += self.cascade.eq(self.psum_out)
        if is_ecp5(platform) and max(len(a), len(b)) <= 18:
            # The slice has no adder: sums are carry chains.
            shadow, psum = Signal(signed(len(a)), reset_less=True), Signal.like(
                self.psum, reset_less=True)
            with m.If(self.load):
                m.d.sync += shadow.eq(a)
            m.submodules.dsp, product = mult18x18d(b, shadow, enable_b=self.swap)
            m.d.sync += psum.eq(product if first else self.psum + product)
            m.d.comb += self.psum_out.eq(psum)
            return m
        shadow, weight = (Signal(signed(len(a)), reset_less=True, name=n) for n in ("a1", "a2"))
        factor = Signal(signed(len(b)), reset_less=True)
        product = Signal(signed(len(a) + len(b)), reset_less=True)
        psum = Signal.like(self.psum, reset_less=True)
        with m.If(self.load):
            m.d.sync += shadow.eq(a)
        with m.If(self.swap):
            m.d.sync += weight.eq(shadow)
        m.d.sync += [factor.eq(b), product.eq(weight * factor),
                     psum.eq(product if first else self.psum + product)]
        m.d.comb += self.psum_out.eq(psum)
        return m

    def _slice(self, m, a, b, total):
        """Return the DSP48E1: P := M [+ C or PCIN], M := A2 * B, A2 := A1 when swapped.

        ACIN, BCIN, PCIN, CARRYCASCIN and MULTSIGNIN are dedicated wires, which no constant reaches:
        they stay open, but for the PCIN of a cascade. `FABRIC_PINS` are driven by a flip-flop that
        is always 0 and that no tool sees through.
        """
        low = Signal()
        m.submodules.low = Instance(
            "FDRE", a_keep=True, p_INIT=Const(0, 1), i_C=ClockSignal(), i_CE=Const(1, 1),
            i_R=Const(0, 1), i_D=low, o_Q=low)
        enables = {f"i_{name}": Const(1, 1) for name in ("CEB2", "CEM", "CEP")}
        unused = ("CEAD", "CEALUMODE", "CEB1", "CEC", "CECARRYIN", "CECTRL", "CED", "CEINMODE",
                  "CARRYIN", "RSTA", "RSTALLCARRYIN", "RSTALUMODE", "RSTB", "RSTC", "RSTCTRL",
                  "RSTD", "RSTINMODE", "RSTM", "RSTP")
        registers = dict.fromkeys(("ADREG", "ALUMODEREG", "CARRYINREG", "CARRYINSELREG", "CREG",
                                   "DREG", "INMODEREG", "OPMODEREG"), 0)
        registers |= {"AREG": 2, "ACASCREG": 2, "BREG": 1, "BCASCREG": 1, "MREG": 1, "PREG": 1}

        modes = {f"i_{name}": Cat(low if k in FABRIC_PINS[name] else Const(value >> k & 1, 1)
                                  for k in range(bits))
                 for name, value, bits in (("ALUMODE", 0, 4), ("INMODE", 0, 5),
                                           ("OPMODE", _LINKS[self.link] << 4 | 0b0101, 7))}

        def extended(value, bits):
            return Cat(value[min(k, len(value) - 1)] for k in range(bits))

        return Instance(
            "DSP48E1", **{f"p_{name}": value for name, value in registers.items()},
            p_USE_MULT="MULTIPLY", p_USE_DPORT="FALSE", p_A_INPUT="DIRECT", p_B_INPUT="DIRECT",
            i_CLK=ClockSignal(), i_A=extended(a, 30), i_B=extended(b, 18),
            i_C=extended(self.psum, 48) if self.link == "fabric" else Const(0, 48),
            **({"i_PCIN": self.psum} if self.link == "cascade" else {}),
            **({"o_PCOUT": self.cascade} if self.passes else {}), i_D=Const(0, 25),
            i_CEA1=self.load, i_CEA2=self.swap, **enables,
            **{f"i_{name}": Const(0, 1) for name in unused},
            i_CARRYINSEL=Const(0, 3), **modes, o_P=total)
