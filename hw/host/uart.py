"""UART: bytes over one wire each way, 8 data bits, no parity, one stop bit."""

from fractions import Fraction

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

__all__ = ["DIVISOR_MIN", "PARTS", "Receiver", "Transmitter", "baud_divisor"]

DIVISOR_MIN = 4
"""Fewest clock cycles of a bit: the receiver samples within half of one."""

PARTS = 16
"""What a clock cycle is divided into: bits may differ by a cycle, and are right on average, so that
3 Mbaud can be had of 50 MHz."""

_ERROR_MAX = 0.02
"""Largest deviation of the baud rate; the tenth bit of a byte is then off by a fifth of a bit."""


def baud_divisor(clock_hz, baud):
    """Return the clock cycles of a bit, a multiple of 1 / `PARTS`.

    Raises ``ValueError`` if `baud` cannot be made from `clock_hz` within 2 %.
    """
    divisor = Fraction(round(PARTS * clock_hz / baud), PARTS)
    if divisor < DIVISOR_MIN or abs(clock_hz / divisor / baud - 1) > _ERROR_MAX:
        raise ValueError(f"baud must be at most {clock_hz / DIVISOR_MIN:g} with a clock of "
                         f"{clock_hz:g} Hz, not {baud!r}")
    return int(divisor) if divisor.denominator == 1 else divisor


def _check_divisor(divisor):
    """Return `divisor` in parts of a cycle; ``ValueError`` if it is out of range."""
    parts = divisor * PARTS if isinstance(divisor, int | Fraction) else 0.5
    if parts != int(parts) or divisor < DIVISOR_MIN:
        raise ValueError(f"divisor must be a multiple of 1/{PARTS} of at least {DIVISOR_MIN}, "
                         f"not {divisor!r}")
    return int(parts)


class Receiver(wiring.Component):
    """Receives bytes; each is offered for one cycle, in the middle of its stop bit.

    A start bit that is not still low in its middle is ignored.

    Model: none: moves data

    Parameters
    ----------
    divisor : int or Fraction
        Clock cycles of a bit, see `baud_divisor`.

    Members
    -------
    rx : In(1)
        The wire, not synchronised.
    o : Out(stream of 8 bits, always ready)
        Bytes; one without its stop bit is dropped.

    Raises
    ------
    ValueError
        If `divisor` is out of range.
    """

    def __init__(self, divisor):
        self.divisor, self._parts = divisor, _check_divisor(divisor)
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8, always_ready=True))})

    def elaborate(self, platform):
        m = Module()
        level, bits = Signal(init=1), Signal(range(11))
        wait = Signal(range(self._parts))
        m.submodules.synchronizer = FFSynchronizer(self.rx, level, init=1)
        m.d.sync += self.o.valid.eq(0)
        with m.If(bits == 0):
            with m.If(~level):
                m.d.sync += [bits.eq(10), wait.eq(self._parts // 2 - PARTS)]
        with m.Elif(wait >= PARTS):
            m.d.sync += wait.eq(wait - PARTS)
        with m.Else():  # what is left of a cycle makes the next bit longer
            m.d.sync += [bits.eq(bits - 1), wait.eq(wait + self._parts - PARTS)]
            with m.If(bits == 10):
                with m.If(level):
                    m.d.sync += bits.eq(0)
            with m.Elif(bits == 1):
                m.d.sync += self.o.valid.eq(level)
            with m.Else():
                m.d.sync += self.o.payload.eq(Cat(self.o.payload[1:], level))
        return m


class Transmitter(wiring.Component):
    """Sends bytes, each in 10 bits of `divisor` cycles, back to back.

    Model: none: moves data

    Parameters
    ----------
    divisor : int or Fraction
        Clock cycles of a bit, see `baud_divisor`.

    Members
    -------
    i : In(stream of 8 bits)
        Bytes; ready in one cycle of 10 * `divisor`, on average.
    tx : Out(1)
        The wire, from a register; high when idle.

    Raises
    ------
    ValueError
        If `divisor` is out of range.
    """

    def __init__(self, divisor):
        self.divisor, self._parts = divisor, _check_divisor(divisor)
        super().__init__({"tx": Out(1, init=1), "i": In(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        bits, wait = Signal(range(11)), Signal(range(self._parts))
        shift = Signal(9, init=-1)  # what follows: the byte, then the stop bit
        done = Signal()
        m.d.comb += [done.eq(wait < PARTS), self.i.ready.eq(done & (bits == 0))]
        with m.If(~done):
            m.d.sync += wait.eq(wait - PARTS)
        with m.Elif(bits != 0):
            m.d.sync += [bits.eq(bits - 1), wait.eq(wait + self._parts - PARTS),
                         self.tx.eq(shift[0]),
                         shift.eq(Cat(shift[1:], 1))]
        with m.Elif(self.i.valid):
            m.d.sync += [bits.eq(9), wait.eq(wait + self._parts - PARTS), self.tx.eq(0),
                         shift.eq(Cat(self.i.payload, 1))]
        return m
