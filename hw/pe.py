"""Weight-stationary processing element: one multiply-accumulate with a double-buffered weight."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["ProcessingElement", "check_cell"]


def check_cell(*, act_bits, weight_bits, style):
    """Raise ``ValueError`` unless these are parameters of a `ProcessingElement`."""
    for name, value in ("act_bits", act_bits), ("weight_bits", weight_bits):
        if not isinstance(value, int) or not 2 <= value <= 8:
            raise ValueError(f"{name} must be an integer from 2 to 8, not {value!r}")
    if style not in {"dsp", "lut"}:
        raise ValueError(f"style must be 'dsp' or 'lut', not {style!r}")


def add_with_carry(a, b, carry):
    """Return ``a + b + carry`` of two signed values as one carry chain, one bit longer."""
    return (Cat(Const(1, 1), a).as_signed() + Cat(carry, b).as_signed())[1:].as_signed()


def booth_product(act, weight):
    """Return ``(partial, carry)`` with ``act * weight = partial + carry``, in radix-4 Booth form.

    Each of the ceil(len(weight)/2) digits, from -2 to 2, picks 0, act or 2*act (a 5-input function
    per bit), inverted if negative; the missing +1 enters as the carry of the adder that adds it,
    and for the first digit is left to the caller's adder.
    """
    padded = Cat(Const(0, 1), weight, weight[-1])
    total = first = None
    for k in range(0, len(weight), 2):
        low, mid, high = padded[k], padded[k + 1], padded[k + 2]
        once, twice = low ^ mid, Mux(high, ~mid & ~low, mid & low)
        term = Cat(((act[j] if j < len(act) else act[-1]) & once
                    | (act[min(j, len(act)) - 1] if j else Const(0, 1)) & twice) ^ high
                   for j in range(len(act) + 1)).as_signed()
        if total is None:
            total, first = term, high
        else:
            upper = add_with_carry(total[k:].as_signed(), term, high)
            total = Cat(total[:k], upper).as_signed()
    return total, first


class ProcessingElement(wiring.Component):
    """Multiply an activation by a stationary weight and add it to the passing partial sum.

    ``psum_out[t+3] = psum[t+2] + weight * act[t]``; ``act_out[t+1] = act[t]``, one MAC a cycle. The
    weight is the shadow register's content when the latest ``swap`` came with its activation
    (that activation already sees the new weight). ``load`` in the cycle of ``swap`` or later
    prepares the next weight and disturbs nothing.

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
        maps to look-up tables instead). ``lut``: radix-4 Booth adders, which no tool turns
        into a DSP slice.

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
        if not isinstance(psum_bits, int) or psum_bits < act_bits + weight_bits:
            raise ValueError(f"psum_bits must be an integer of at least {act_bits + weight_bits}, "
                             f"not {psum_bits!r}")
        self.style, self.product_bits = style, act_bits + weight_bits + 1
        super().__init__({
            "act": In(signed(act_bits + 1)), "act_out": Out(signed(act_bits + 1)),
            "swap": In(1), "w": In(signed(weight_bits)), "load": In(1),
            "psum": In(signed(psum_bits)), "psum_out": Out(signed(psum_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        # Data registers have no reset: a reset input would keep them out of the DSP slice.
        act = Signal.like(self.act, reset_less=True)
        shadow = Signal.like(self.w, reset_less=True)
        weight = Signal.like(self.w, reset_less=True)
        product = Signal(signed(self.product_bits), reset_less=True)
        psum = Signal.like(self.psum, reset_less=True)
        m.d.comb += [self.act_out.eq(act), self.psum_out.eq(psum)]
        with m.If(self.load):
            m.d.sync += shadow.eq(self.w)
        with m.If(self.swap):
            m.d.sync += weight.eq(shadow)
        m.d.sync += act.eq(self.act)
        if self.style == "dsp":
            m.d.sync += [product.eq(act * weight), psum.eq(self.psum + product)]
        else:
            carry = Signal(reset_less=True)
            partial, first = booth_product(act, weight)
            m.d.sync += [product.eq(partial), carry.eq(first),
                         psum.eq(add_with_carry(self.psum, product, carry))]
        return m
