"""One lane of the requantizer: multiply, shift and round, add, saturate."""

from amaranth import Cat, Const, Mux, Signal, signed

from systola.hw.config import MULT_LIMB
from systola.hw.pipeline import Pipeline, add_with_carry, booth_row

__all__ = ["LANE_LATENCY", "LaneRescaler"]

LANE_LATENCY = 7
"""Cycles from the operands of a slot to its result."""

_ROWS = MULT_LIMB // 2


class LaneRescaler(Pipeline):
    """The data path of one lane: a slot of work may enter in every cycle.

    A slot multiplies ``z + addend`` by one limb of a multiplier, in `_ROWS` rows of Booth adders.
    A high slot comes two cycles after the low slot of its value: the sum of that slot, less its
    lowest limb, is what the rows add to, and the multiplicand comes back from the middle of the
    rows; so no adder joins the limbs. Then the product is shifted right, rounded half to even, and
    added to the rounded residual if the slot before was one; the sum is saturated.

    Parameters
    ----------
    m, advance
        As for `Pipeline`.
    bits : int
        Bits of the multiplicand.
    whole : bool
        Whether a limb has a sign besides its `MULT_LIMB` bits, one more than `_ROWS` digits cover:
        then its lowest bit selects what the rows begin with.
    keep : int
        Bits to which a shifted product is kept; beyond, its sign decides.
    """

    def __init__(self, m, advance, *, bits, whole, keep):
        super().__init__(m, advance)
        self.bits, self.whole, self.keep = bits, int(whole), keep

    def reset_reg(self, value, clear):
        """Return `value` one cycle later, or 0 if `clear`, for which a register has an input."""
        register = Signal(value.shape(), reset_less=True)
        with self.m.If(self.advance):
            self.m.d.sync += register.eq(value)
            with self.m.If(clear):
                self.m.d.sync += register.eq(0)
        return register

    def multiply(self, z, addend, limb, before, *, high, res_mult):
        """Return ``(product, low)`` three cycles later.

        `z` must be 0 in high and residual slots. `limb` is the limb as it lies, `before` the bit
        that the lowest Booth digit takes from below it. `res_mult` replaces the addend in residual
        slots, ``(flag, value)``; None without any. In a high slot `product` counts limbs and `low`
        is the one below; in others `low` is 0.
        """
        bits, whole = self.bits, self.whole
        back = Signal(signed(bits))
        total = Signal(signed(bits + MULT_LIMB + whole))
        if res_mult is not None:
            addend = Mux(*res_mult, addend)
        summed = (z + Mux(high, back, addend))[:bits].as_signed()
        carried = (total >> MULT_LIMB)[:bits + whole].as_signed()
        a, digits = self.reg(summed), self.reg(Cat(before, limb[whole:]))
        if whole:
            start = self.reset_reg(Mux(high, carried, summed), ~high & ~limb[0])
        else:
            start = self.reset_reg(carried, ~high)
        low = self.reset_reg(total[:MULT_LIMB], ~high)
        known, upper = start[:whole], start[whole:].as_signed()
        for row in range(_ROWS):
            upper = booth_row(upper, a, *digits[2 * row:2 * row + 3])
            if row == _ROWS // 2 - 1:
                known, upper, a = self.reg(known), self.reg(upper), self.reg(a)
                digits, low = self.reg(digits), self.reg(low)
            if row < _ROWS - 1:
                known, upper = Cat(known, upper[:2]), upper[2:].as_signed()
        self.m.d.comb += [back.eq(a), total.eq(Cat(known, upper))]
        return self.reg(total), self.reg(low)

    def shift(self, product, low, place, fine):
        """Return ``(near, sticky, over, sign)`` two cycles later.

        ``near[1:]`` is the product shifted right by ``16 * (place - 1) + fine``, ``near[0]`` the
        bit below and `sticky` whether there is a one below that; a `place` of 4 gives 0. `over`
        tells that the shifted product does not fit `keep` bits.
        """
        value = Cat(Const(0, 1), low, product).as_signed()
        sign, zero = value[-1], place[2]
        if len(product) > 3 * MULT_LIMB + 1:  # else shifted by 48 it is below a half, if that
            place, zero = place[:3], Const(0, 1)
        else:
            place = place[:2]
        near, over, sticky = self._select(value, sign, place, MULT_LIMB, self.keep + 16)
        near, over = self.reset_reg(near, zero), self.reset_reg(over, zero)
        sticky, sign = self.reset_reg(sticky, zero), self.reset_reg(sign, zero)
        fine = self.reg(fine)
        near, far, below = self._select(near, sign, fine[2:], 4, self.keep + 4)
        over, sticky = over | far, sticky | below
        near, far, below = self._select(near, sign, fine[:2], 1, self.keep + 1)
        return self.reg(near), self.reg(sticky | below), self.reg(over | far), self.reg(sign)

    def _select(self, value, sign, amount, step, bits):
        """Shift right by ``step * amount``, 0 to 3, and keep `bits`.

        By 4 too if `amount` has three bits. Returns the bits, whether any above them differs from
        `sign`, and whether a one fell out below.
        """
        count = 4 if len(amount) == 2 else 5
        shifted = Signal(signed(bits))
        over, dropped = Const(0, 1), Const(0, 1)
        with self.m.Switch(amount):
            for index in range(count):
                with self.m.Case(index):
                    self.m.d.comb += shifted.eq(value >> (step * index))
        for index in range(count - 1):
            start = bits - 1 + step * index
            upper = value[start:start + step] if index < count - 2 else value[start:]
            over |= (upper ^ sign.replicate(len(upper))).any() & (amount <= index)
            dropped |= value[step * index:step * (index + 1)].any() & (amount > index)
        return shifted, over, dropped

    def add(self, near, sticky, over, sign, res):
        """Return ``(sum, over, sign)`` one cycle later: rounded, and the residual before added.

        `res` marks the residual's slot, None without any. With `over` the sum is meaningless: it is
        beyond `keep` bits, on the side that `sign` tells.
        """
        up = near[0] & (sticky | near[1])
        if res is None:
            held = Const(0, signed(1))
        else:
            held, held_over, held_sign = Signal(signed(self.keep + 1)), Signal(), Signal()
            over, sign = over | held_over, Mux(over, sign, held_sign)
        total = add_with_carry(held, near[1:].as_signed(), up, self.keep + 1 + (res is not None))
        if res is not None:
            with self.m.If(self.advance):
                self.m.d.sync += [held.eq(total), held_over.eq(over), held_sign.eq(sign)]
                with self.m.If(~res):
                    self.m.d.sync += [held.eq(0), held_over.eq(0)]
        return self.reg(total), self.reg(over), self.reg(sign)

    def saturate(self, value, over, sign, mask, symmetric):
        """Return `value` in 16 bits one cycle later, saturated; `mask` has the sign's copies set.

        Symmetric ranges end one above the lowest number.
        """
        negative = Mux(over, sign, value[-1])
        inner = value[:15] ^ value[-1].replicate(15)
        upper = value[15:-1] ^ value[-1].replicate(len(value) - 16)
        beyond = over | upper.any() | (inner & mask).any()
        lowest = symmetric & negative & (beyond | ~(value[:15] & ~mask[:15]).any())
        kept = Cat(Mux(mask[k], negative, Mux(beyond, ~negative, value[k])) for k in range(15))
        return self.reg(Cat(kept[0] | lowest, kept[1:], negative).as_signed())
