"""ShiftExp of I-ViT: the integer exponential inside Shiftmax and ShiftGELU."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_integers
from systola.hw.parts.pipeline import delay, node

__all__ = ["ShiftExp"]

_STEPS = 2
"""Quotient bits per pipeline stage."""


class ShiftExp(wiring.Component):
    """Return ``exp(x / a)`` as mantissa and shift: ``(mant << shift) >> 1``, ``a`` the unit.

    ``p = x + (x >> 1) - (x >> 4)``; for ``x <= 0``, ``q = min(-p // a, n)``, ``mant = 2a - (-p -
    a*q)`` (``2a`` at the limit), ``shift = n - q``: the half step enters before the shift. For
    ``x > 0`` (only if `positive`), ``q = min(p // a, n)``, ``mant = a + p - a*q`` and ``shift =
    n + q + 1``, which equals the published value below 2**31 and is at least 2**31 elsewhere.

    Free-running: results leave `latency` cycles after `x`, one per lane and cycle. The quotient
    comes from a restoring division whose steps shrink as the quotient bit's weight grows.

    Model: model/operators/shiftmax.py

    Parameters
    ----------
    lanes : int
        Elements per cycle.
    x_bits : int
        Bits of `x`, signed, at least 2.
    unit_bits : int
        Bits of ``a``.
    n : int
        Octaves kept below 1; at least 16 with `positive`.
    positive : int
        How many lanes, from lane 0, take positive `x`; the others must not get any.

    Members
    -------
    x : In(ArrayLayout(signed(x_bits), lanes)), unit : In(unsigned(unit_bits))
        Codes, and ``a >= 1``, which must not change while codes are inside.
    mant : Out(ArrayLayout(unsigned(unit_bits + 1), lanes))
    shift : Out(ArrayLayout(unsigned, lanes))
        0 to n, or up to ``2n + 1`` with `positive`.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, x_bits, unit_bits, n, positive=0):
        check_integers(lanes=(lanes, 1, 1024), x_bits=(x_bits, 2, 17), unit_bits=(unit_bits, 1, 24),
                       positive=(positive, 0, lanes), n=(n, 16 if positive else 1, 30))
        self.lanes, self.n, self.positive = lanes, n, positive
        self._quot_bits = n.bit_length()
        lowest = -(1 << x_bits - 1)
        self._m_bits = (-(lowest + (lowest >> 1) - (lowest >> 4))).bit_length()
        self.latency = self.latency_for(n)
        shift_shape = unsigned((2 * n + 1 if positive else n).bit_length())
        super().__init__({
            "x": In(data.ArrayLayout(signed(x_bits), lanes)), "unit": In(unsigned(unit_bits)),
            "mant": Out(data.ArrayLayout(unsigned(unit_bits + 1), lanes)),
            "shift": Out(data.ArrayLayout(shift_shape, lanes)),
        })

    @staticmethod
    def latency_for(n):
        """Return the latency of a unit with `n` octaves."""
        return 2 + -(-n.bit_length() // _STEPS)

    def elaborate(self, platform):
        m = Module()
        for lane in range(self.lanes):
            self._lane(m, self.x[lane], self.mant[lane], self.shift[lane], lane < self.positive)
        return m

    def _lane(self, m, x, mant, shift, positive):
        p = node(m, x + (x >> 1) - (x >> 4))
        above = x > 0 if positive else Const(0, 1)
        rem = Signal(self._m_bits, reset_less=True)
        m.d.sync += rem.eq(Mux(above, p, -p))
        if positive:
            above = delay(m, above, self.latency - 1)
        quot, left = [], self._quot_bits
        while left:
            steps = min(_STEPS, left)
            for bit in range(left - 1, left - 1 - steps, -1):
                rem, fits = self._step(m, rem, bit)
                quot.insert(0, fits)
            left -= steps
            rem, quot = delay(m, rem, 1), list(delay(m, Cat(quot), 1))
        q = Cat(quot)
        limit = q >= self.n
        q = node(m, Mux(limit, self.n, q))
        rem = node(m, Mux(limit, 0, rem))
        m.d.sync += [mant.eq(Mux(above, self.unit + rem, (self.unit << 1) - rem)),
                     shift.eq(Mux(above, self.n + 1 + q, self.n - q))]

    def _step(self, m, rem, bit):
        """Subtract ``a << bit`` from `rem` if it fits; return the remainder and whether it did."""
        width = len(rem) - bit
        if width <= 0:
            return rem, Const(0, 1)
        high = rem[bit:]
        diff = high - self.unit[:width]  # one bit wider than the longer operand: its top is borrow
        diff = node(m, diff)
        fits = node(m, ~diff[-1] & ~self.unit[width:].any())
        return Cat(rem[:bit], node(m, Mux(fits, diff[:width], high))), fits
