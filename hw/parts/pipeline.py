"""Registers that advance together: how the arithmetic units write their stages."""

from amaranth import Cat, Const, Mux, Signal, Value

__all__ = ["Pipeline", "add_with_carry", "booth_digits", "booth_row", "booth_term", "delay", "node",
           "saturate", "up_down"]


def node(m, value):
    """Return `value` as a signal, to be used more than once.

    Amaranth writes an expression anew at each of its uses, and so do simulators compute it: a chain
    of sums, each used twice, would double with each.
    """
    value = Value.cast(value)
    wire = Signal(value.shape())
    m.d.comb += wire.eq(value)
    return wire


def delay(m, value, cycles, *, reset=False):
    """Return `value` `cycles` later; without `reset` the registers become shift-register LUTs."""
    for _ in range(cycles):
        later = Signal(value.shape(), reset_less=not reset)
        m.d.sync += later.eq(value)
        value = later
    return value


def up_down(count, up, down):
    """Return ``count + up - down`` of flags, in as many bits as `count`.

    A look-up table for each of up to four bits, where a sum would take two adders and a choice.
    """
    moves = up ^ down
    return Cat(count[k] ^ (moves & Mux(up, count[:k].all(), ~count[:k].any()))
               for k in range(len(count)))


def saturate(value, bits):
    """Return unsigned `value` in `bits` bits, all ones if it does not fit."""
    return Mux(value[bits:].any(), (1 << bits) - 1, value[:bits]) if len(value) > bits else value


def add_with_carry(a, b, carry, bits=None):
    """Return ``a + b + carry`` of signed values, modulo ``2**bits``, as one carry chain.

    Without `bits`, the sum is one bit longer than the longer operand, and so exact.
    The lowest position adds `carry` to itself: its sum is never used, its carry costs no look-up
    table.
    """
    bits = max(len(a), len(b)) + 1 if bits is None else bits
    return (Cat(carry, a).as_signed() + Cat(carry, b).as_signed())[1:bits + 1].as_signed()


def booth_term(a, low, mid, high):
    """Return the radix-4 Booth digit ``low + mid - 2*high`` times `a`, less one if `high`.

    Each bit is a function of five bits, and the missing one is the carry of the adder that adds it.
    One bit longer than `a`.
    """
    once, twice, minus = (flag.as_signed() for flag in (
        low ^ mid, Mux(high, ~mid & ~low, mid & low), high))
    return (Cat(a, a[-1]).as_signed() & once | Cat(Const(0, 1), a).as_signed() & twice) ^ minus


def booth_digits(m, b, carry):
    """Return ``(low, mid, high)`` of each radix-4 digit ``low + mid - 2*high`` of ``b + carry``.

    `b` is signed, `carry` a bit. All digits but the last are -2 to 1 with `low` zero, so that a bit
    of a term is a function of four bits and shares a look-up table of five inputs with its adder:
    nextpnr-xilinx puts no larger one beside a carry chain. They are the pairs of bits of a sum with
    2 in each place, less that 2; what the sum carries is for the last digit, -2 to 2.
    """
    b = Value.cast(b)
    b = Cat(b, b[-1]) if len(b) % 2 else b
    lower, upper = b[:-2], b[-2:]
    twos = Const(int("10" * (len(lower) // 2) or "0", 2), len(lower))
    total = node(m, (Cat(carry, lower) + Cat(carry, twos))[1:len(lower) + 2])
    return [*((Const(0, 1), total[k], ~total[k + 1]) for k in range(0, len(lower), 2)),
            (total[-1], upper[0], upper[1])]


def booth_row(total, a, low, mid, high):
    """Return ``total + (low + mid - 2*high) * a``, two bits longer than the longer operand.

    `total` must be a plain register or sum: then the selection of the digit's term and the adder
    share one look-up table per bit.
    """
    return add_with_carry(total, booth_term(a, low, mid, high), high, max(len(total), len(a)) + 2)


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

    def node(self, value):
        """Return `value` as a signal of the same cycle, see `node`."""
        return node(self.m, value)

    def delay(self, value, cycles, *, reset_less=True):
        """Return `value` that many cycles later."""
        for _ in range(cycles):
            value = self.reg(value, reset_less=reset_less)
        return value

    @staticmethod
    def multiply_cycles(b_bits, rows=3):
        """Return the latency of `multiply` by a factor of `b_bits` bits: two bits are a row."""
        return -(-b_bits // (2 * rows))

    def multiply(self, a, b, rows=3):
        """Return the exact signed product ``a * b``, `multiply_cycles` of ``len(b)`` later.

        `a` and `b` are signed, at least two bits each. Radix-4 Booth: ``ceil(len(b) / 2)`` rows of
        about ``len(a) + 2`` look-up tables, `rows` of them between registers, and never a DSP
        slice. Nothing needs to be registered before or behind.
        """
        bits = len(a) + len(b)
        digits = [self.node(Cat(digit)) for digit in booth_digits(self.m, b, Const(0, 1))]
        total, low_bits = None, []  # the sum from the current digit's weight on, and below it
        for row in range(len(digits)):
            if total is None:
                total = add_with_carry(booth_term(a, *digits[0]), Const(0, 1), digits[0][2],
                                       len(a) + 2)
            else:
                low_bits.append(total[:2])
                total = booth_row(total[2:].as_signed(), a, *digits[row])
            total = self.node(total)
            if row % rows == rows - 1 or row == len(digits) - 1:
                low_bits, total = [self.reg(Cat(low_bits))], self.reg(total)
                a, digits = self.reg(a), [self.reg(digit) for digit in digits]
        return Cat(low_bits, total)[:bits].as_signed()

    def add_up(self, values):
        """Return ``(sum of values, cycles)``: four to an adder, a register behind each level."""
        cycles = 0
        while len(values) > 1:
            values = [self.reg(sum(values[k:k + 4])) for k in range(0, len(values), 4)]
            cycles += 1
        return values[0], cycles
