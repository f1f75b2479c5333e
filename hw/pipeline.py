"""Registers that advance together: how the arithmetic units write their stages."""

from amaranth import Signal, Value, signed

__all__ = ["LIMB", "Pipeline"]

LIMB = 17
"""Unsigned bits of a factor in one multiplication: what a DSP slice's 18-bit input takes."""


class Pipeline:
    """Make registers in module `m` that load in every cycle in which `advance` is high.

    Parameters
    ----------
    m : Module
        Where the registers go, in domain ``sync``.
    advance : Value
        Common enable; without it the registers always load.
    """

    def __init__(self, m, advance=1):
        self.m, self.advance = m, advance

    def reg(self, value, shape=None, *, reset_less=True):
        """Return `value` one cycle later, in `shape` (by default its own)."""
        value = Value.cast(value)
        register = Signal(shape or value.shape(), reset_less=reset_less)
        with self.m.If(self.advance):
            self.m.d.sync += register.eq(value)
        return register

    def delay(self, value, cycles, *, reset_less=True):
        """Return `value` that many cycles later."""
        for _ in range(cycles):
            value = self.reg(value, reset_less=reset_less)
        return value

    def multiply(self, a, b):
        """Return the exact signed product ``a * b`` two cycles later.

        `a` and `b` are signed. Partial products take `LIMB` bits of `a` each: with a `b` of up to
        25 bits, one DSP slice.
        """
        starts = range(0, max(len(a) - 1, 1), LIMB)  # the top limb is signed, and may be one wider
        parts = [a[start:start + LIMB] for start in starts[:-1]] + [a[starts[-1]:].as_signed()]
        products = [self.reg(part * b) for part in parts]
        total = sum(product << start for product, start in zip(products, starts, strict=True))
        return self.reg(total, signed(len(a) + len(b)))

    def add_up(self, values):
        """Return ``(sum of values, cycles)``: four to an adder, a register behind each level."""
        cycles = 0
        while len(values) > 1:
            values = [self.reg(sum(values[k:k + 4])) for k in range(0, len(values), 4)]
            cycles += 1
        return values[0], cycles
