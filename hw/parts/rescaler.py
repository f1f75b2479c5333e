"""One lane of the requantizer: multiply, shift and round, add, saturate."""

from amaranth import Cat, Const, Mux, Signal, signed

from systola.hw.parts.pipeline import Pipeline, add_with_carry, booth_digits, booth_row

__all__ = ["LaneRescaler", "sign_mask"]


class LaneRescaler(Pipeline):
    """The data path of one lane: a slot of work may enter in every cycle.

    A slot multiplies ``z + addend`` by one limb of a multiplier, two bits to a row of Booth adders.
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
    limb : int
        Multiplier bits of a slot, even.
    whole : bool
        Whether a limb has a sign besides its bits, one more than the rows' digits cover: then its
        lowest bit selects what the rows begin with.
    keep : int
        Bits to which a shifted product is kept; beyond, its sign decides.
    out_bits : int
        Bits of the widest results, at most `keep`.
    """

    def __init__(self, m, advance, *, bits, limb, whole, keep, out_bits):
        super().__init__(m, advance)
        self.bits, self.limb, self.whole = bits, limb, int(whole)
        self.keep, self.out_bits = keep, out_bits

    def reset_reg(self, value, clear):
        """Return `value` one cycle later, or 0 if `clear`, for which a register has an input."""
        register = Signal(value.shape(), reset_less=True)
        with self.m.If(self.advance):
            self.m.d.sync += register.eq(value)
        with self.m.If(self.advance & clear):  # not nested: a reset comes before an enable
            self.m.d.sync += register.eq(0)
        return register

    def multiply(self, z, addend, limb, before, *, high, res_mult):
        """Return ``(product, low)`` three cycles later.

        `z` must be 0 in high and residual slots. `limb` is the limb as it lies, `before` the bit
        that the lowest Booth digit takes from below it. `res_mult` replaces the addend in residual
        slots but high ones, ``(flag, value)``; None without any. In a high slot `product` counts
        limbs and `low` is the one below; in others `low` is 0.
        """
        bits, size, whole = self.bits, self.limb, self.whole
        rows = size // 2
        back = Signal(signed(bits))
        total = Signal(signed(bits + size + whole))
        if res_mult is not None:
            addend = Mux(*res_mult, addend)
        summed = self.node((z + Mux(high, back, addend))[:bits].as_signed())
        carried = (total >> size)[:bits + whole].as_signed()
        a = self.reg(summed)
        digits = [self.reg(Cat(digit)) for digit in booth_digits(self.m, limb[whole:], before)]
        if whole:
            start = self.reset_reg(Mux(high, carried, summed), ~high & ~limb[0])
        else:
            start = self.reset_reg(carried, ~high)
        low = self.reset_reg(total[:size], ~high)
        known, upper = start[:whole], start[whole:].as_signed()
        for row in range(rows):
            upper = booth_row(upper, a, *digits[row])
            if row == rows // 2 - 1:
                known, upper, a = self.reg(known), self.reg(upper), self.reg(a)
                digits = [self.reg(digit, reset_less=False) for digit in digits]
                low = self.reg(low)
            if row < rows - 1:
                known, upper = Cat(known, upper[:2]), upper[2:].as_signed()
        self.m.d.comb += [back.eq(a), total.eq(Cat(known, upper))]
        return self.reg(total), self.reg(low)

    def round_shift(self, product, low, amount, res):
        """Return ``(sum, over, sign)`` three cycles later: shifted right, rounded half to even.

        Shifts ``product << limb | low`` by `amount`, up to 63 and a limb. The rounded value of the
        slot before is added if that was marked by `res`, the residual's; None without any. With
        `over` the sum is meaningless: it is beyond `keep` bits, on the side that `sign` tells.
        """
        value = Cat(Const(0, 1), low, product).as_signed()
        sign, place, fine = value[-1], amount[4:], amount[:4]
        zero = Const(0, 1)
        if len(product) + self.limb <= 65:  # shifted by 64 it is at most a half
            zero = place[2]
            place = place[:2]
        near, over, sticky = self._select(value, sign, place, 16, self.keep + 16)
        near, over, sticky, sign = (self.reset_reg(v, zero) for v in (near, over, sticky, sign))
        fine = self.reg(fine)
        near, over, sticky = self._select(near, sign, fine[2:], 4, self.keep + 4, over, sticky)
        near, over, sticky, sign, fine = (
            self.reg(v) for v in (near, over, sticky, sign, fine[:2]))
        near, over, sticky = self._select(near, sign, fine, 1, self.keep + 1, over, sticky)
        up = near[0] & (sticky | near[1])
        if res is None:
            total = add_with_carry(Const(0, signed(1)), near[1:].as_signed(), up, self.keep + 1)
        else:
            held, held_over, held_sign = Signal(signed(self.keep + 1)), Signal(), Signal()
            over, sign = self.node(over | held_over), self.node(Mux(over, sign, held_sign))
            total = self.node(add_with_carry(held, near[1:].as_signed(), up, self.keep + 2))
            for register, value in (held, total), (held_over, over), (held_sign, sign):
                self.m.d.comb += register.eq(self.reset_reg(value[:len(register)], ~res))
        return self.reg(total), self.reg(over), self.reg(sign)

    def _select(self, value, sign, amount, step, bits, *flags):
        """Shift right by ``step * amount``, 0 to 3 (0 to 7 if it has three bits), and keep `bits`.

        Returns the bits, whether any above them differs from `sign`, and whether a one fell out
        below; the earlier ones of these two `flags` joined.
        """
        count = 4 if len(amount) == 2 else 5
        shifted = Signal(signed(bits))
        over, dropped = flags or (Const(0, 1), Const(0, 1))
        with self.m.Switch(amount):
            for index in range(count):
                with self.m.Case(index):
                    self.m.d.comb += shifted.eq(value >> (step * index))
        for index in range(count - 1):
            start = bits - 1 + step * index
            upper = value[start:start + step] if index < count - 2 else value[start:]
            above = self.node(amount > index)
            over |= self._any(upper ^ sign.replicate(len(upper)), ~above)
            dropped |= self._any(value[step * index:step * (index + 1)], above)
        return shifted, over, dropped

    @staticmethod
    def _any(bits, enable):
        """Return whether a bit is set while `enable`, five of them and it to a look-up table."""
        found = Const(0, 1)
        for start in range(0, len(bits), 5):
            found |= bits[start:start + 5].any() & enable
        return found

    def saturate(self, value, over, sign, mask, symmetric):
        """Return `value` in `out_bits` two cycles later, saturated; `mask` as from `sign_mask`.

        Symmetric ranges end one above the lowest number; `symmetric` comes a cycle after the rest.
        """
        mask, counts = mask
        negative = Mux(over, sign, value[-1])
        top = self.out_bits - 1
        upper = value[top:-1] ^ value[-1].replicate(len(value) - self.out_bits)
        beyond, inner = [over, upper.any()], []
        for k, count in zip(range(0, top, 3), counts, strict=True):
            bits = value[k:min(k + 3, top)]
            copies = Cat(count.all(), count[1], count.any())[-len(bits):]
            beyond.append(((bits ^ value[-1].replicate(len(bits))) & copies).any())
            inner.append((bits & ~copies).any())
        beyond, inner = self.reg(Cat(beyond).any()), self.reg(Cat(inner).any())
        negative, value, mask = self.reg(negative), self.reg(value[:top]), self.reg(mask)
        lowest = symmetric & negative & ~inner
        kept = [Mux(beyond, ~negative | symmetric, value[0] | lowest),
                *(Mux(mask[k], negative, Mux(beyond, ~negative, value[k]))
                  for k in range(1, top))]
        return self.reg(Cat(kept, negative).as_signed())


def sign_mask(pipe, bits, out_bits):
    """Return for `LaneRescaler.saturate`, a cycle later, which of `out_bits` bits repeat the sign.

    As a mask, and for each three bits how many: two bits where three would not fit a look-up table.
    """
    top = out_bits - 1
    mask = (Const((1 << out_bits) - 1) << (bits - 1)[:top.bit_length()])[:out_bits]
    counts = [pipe.reg(sum(mask[j] for j in range(k, min(k + 3, top))), 2)
              for k in range(0, top, 3)]
    return pipe.reg(mask, out_bits), counts
