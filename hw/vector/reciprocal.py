"""Pipelined product of a small number and a reciprocal, without a multiplier."""

from amaranth import Cat, Const, Module, Mux, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_integers
from systola.hw.parts.pipeline import node
from systola.hw.vector.shiftexp import delay

__all__ = ["ReciprocalProduct"]


class ReciprocalProduct(wiring.Component):
    """Return ``product = mant * ((2**31 - 1) // den)``, one a cycle, free-running.

    A non-restoring division finds two quotient bits a stage, most significant first, and each pair
    is used at once as a radix-4 digit of the product. The numerator is all ones, so after bit i
    the partial remainder is below 2**i and the product below 2**(i+1): only that many bits are
    computed, half of the full rectangle. Latency `latency` (16) cycles.

    Model: none: Python's //

    Parameters
    ----------
    mant_bits : int
        Bits of `mant`, 1 to 32.

    Members
    -------
    den : In(unsigned(31))
        Denominator, at least 2.
    mant : In(unsigned(mant_bits))
        Factor, at most ``2 * den``.
    product : Out(unsigned(32))

    Raises
    ------
    ValueError
        If `mant_bits` is not an integer from 1 to 32.
    """

    latency = 16

    def __init__(self, *, mant_bits):
        check_integers(mant_bits=(mant_bits, 1, 32))
        super().__init__({"den": In(unsigned(31)), "mant": In(unsigned(mant_bits)),
                          "product": Out(unsigned(32))})

    def elaborate(self, platform):
        m = Module()
        den = self.den
        large = Cat(den[bit:].any() for bit in range(31))  # large[i]: den >= 2**i, bit i is zero
        rem, fits = Const(1, 2), Const(1, 1)  # after the first bit, zero because den >= 2
        mant, triple = delay(m, self.mant, 1), delay(m, self.mant + (self.mant << 1), 1)
        product = Const(0, 1)
        for bit in range(2, 32, 2):
            rem, high = self._trial(m, rem, fits, den, large, bit)
            rem, low = self._trial(m, rem, high, den, large, bit + 1)
            rem, fits, high = delay(m, rem, 1), delay(m, low, 1), delay(m, high, 1)
            den, large = delay(m, den, 1), delay(m, large, 1)
            digit = Mux(high, Mux(fits, triple, mant << 1), Mux(fits, mant, 0))
            width = bit + 2
            product = delay(m, (Cat(Const(0, 2), product) + digit[:width])[:width], 1)
            mant, triple = delay(m, mant, 1), delay(m, triple, 1)
        m.d.comb += self.product.eq(product)
        return m

    @staticmethod
    def _trial(m, rem, fits, den, large, bit):
        """Return the next trial remainder, modulo ``2**(bit+1)``, and its quotient bit.

        ``rem`` is the trial of the bit before and `fits` its sign: what did not fit is added back
        in the same step, ``2*rem + 1 - den`` or ``2*rem + 1 + den``.
        """
        width = bit + 1
        # One adder: the lowest position makes the carry that turns ~den into -den.
        total = Cat(Const(3, 2), rem) + Cat(fits, den[:width] ^ fits.replicate(min(width, 31)),
                                            fits.replicate(max(width - 31, 0)))
        trial = node(m, total[1:width + 1])
        return trial, node(m, ~trial[-1] & ~(large[bit] if bit < 31 else Const(0, 1)))
