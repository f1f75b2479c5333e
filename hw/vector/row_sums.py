"""Sums of rows, of their squares, and how many elements there are."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.shapes import row_beat

__all__ = ["RowSums", "square", "square_cycles"]

_ROWS = 3
"""Adders of a square between registers."""


def square_cycles(bits):
    """Return the latency of `square` of a signed number."""
    return -(-bits // (2 * _ROWS))


def square(pipe, x):
    """Return ``x * x`` of signed `x`, ``square_cycles(len(x))`` later; never a DSP slice.

    Booth digits d from the lowest on: with ``x = 4*h + d``, ``x*x = 16*h*h + (8*h*d + d*d)``, and
    h is the higher bits plus one if d is negative, so that ``8*h*d + d*d`` is ``8*|d|`` times the
    higher bits, inverted if d is negative, plus ``d*d``: rows of shrinking length.
    """
    bits, below = len(x), Cat(Const(0, 1), x, x[-1])
    count, low_bits, total = -(-bits // 2), [], None
    for k in range(count):
        low, mid, high = below[2 * k], below[2 * k + 1], below[2 * k + 2]
        rest = below[2 * k + 3:bits + 1] if 2 * k + 2 < bits else below[bits]
        once, twice = pipe.node(low ^ mid), pipe.node(Mux(high, ~mid & ~low, mid & low))
        rest = Cat(rest, rest[-1]).as_signed() ^ high.as_signed()
        term = (rest & once.as_signed()
                | Cat(Const(0, 1), rest)[:len(rest)].as_signed() & twice.as_signed())
        row = Cat(once, Const(0, 1), twice, term).as_signed()
        if total is None:
            total = row
        else:
            low_bits.append(total[:4])
            total = pipe.node(total[4:].as_signed() + row)
        if k % _ROWS == _ROWS - 1 or k == count - 1:
            low_bits, total, below = [pipe.reg(Cat(low_bits))], pipe.reg(total), pipe.reg(below)
    return Cat(low_bits, total)[:2 * bits]


class RowSums(wiring.Component):
    """Add up x, x**2 and the kept lanes of each row; codes are taken as ``x + 2**15``.

    Throughput one beat a cycle. The sums appear `latency` cycles after the row's last beat, and the
    next row's last beat is not taken before they are: beats never wait inside.

    Model: none: Python's sum

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    first_bits : int, optional
        Bits of what the sums of squares begin with.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(16), lanes)))
        Rows of 1 to `max_row` codes, by ``keep``.
    first : In(first_bits)
        What the sums of squares begin with, if there are `first_bits`; constant while a row is
        inside.
    o : Out(stream.Signature(StructLayout))
        ``total``: unsigned(16 + count_bits), ``squares``: unsigned(32 + count_bits), modulo
        ``2**(32 + count_bits)``, ``count``: unsigned(count_bits).

    Raises
    ------
    ValueError
        If `lanes` or `max_row` is not a positive integer.
    """

    def __init__(self, *, lanes, max_row, first_bits=0):
        check_positive(lanes=lanes, max_row=max_row)
        self.lanes, self.count_bits, self._has_first = lanes, max_row.bit_length(), first_bits > 0
        self.latency = self.latency_for(lanes)
        self._cycles = self.latency - 1
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))),
            **({"first": In(first_bits)} if first_bits else {}),
            "o": Out(stream.Signature(data.StructLayout({
                "total": unsigned(16 + self.count_bits), "squares": unsigned(32 + self.count_bits),
                "count": unsigned(self.count_bits)}))),
        })

    @staticmethod
    def latency_for(lanes):
        """Return the latency for so many elements in a beat."""
        return 2 + square_cycles(17) + -(-(lanes - 1).bit_length() // 2)

    def elaborate(self, platform):
        m = Module()
        pipe, beat, waits = Pipeline(m), self.i.p, Signal()
        take = self.i.valid & self.i.ready
        m.d.comb += self.i.ready.eq(~(waits & beat.last))
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [waits.eq(0), self.o.valid.eq(0)]
        with m.If(take & beat.last):
            m.d.sync += waits.eq(1)
        codes = [beat.x[k] ^ 0x8000 for k in range(self.lanes)]
        x = [pipe.reg(code if k == 0 else Mux(beat.keep[k], code, 0), unsigned(16))
             for k, code in enumerate(codes)]
        squares, cycles = pipe.add_up([square(pipe, Cat(code, Const(0, 1)).as_signed())
                                       for code in x])
        cycles += square_cycles(17) + 1
        assert cycles == self._cycles
        total, early = pipe.add_up(x)
        count = 1 if self.lanes == 1 else pipe.delay(
            1 + sum(beat.keep[k] for k in range(1, self.lanes)), early + 1)
        self._accumulate(m, pipe, take, early + 1, {"total": total, "count": count})
        end = self._accumulate(m, pipe, take, cycles, {"squares": squares},
                               self.first if self._has_first else None)
        with m.If(end):  # of the squares, the later ones
            m.d.sync += self.o.valid.eq(1)
        return m

    def _accumulate(self, m, pipe, take, cycles, values, first=None):
        """Add up `values` of beats that were taken `cycles` before; return whether a row ends."""
        valid = pipe.delay(take, cycles, reset_less=False)
        last = pipe.delay(self.i.p.last, cycles)
        begins = Signal(init=1)
        if first is None:
            m.d.sync += begins.eq(0)
        else:
            with m.If(valid):
                m.d.sync += begins.eq(last)
        for name, value in values.items():
            so_far = Signal.like(self.o.p[name], reset_less=True)
            new = Signal.like(self.o.p[name])
            m.d.comb += new.eq((so_far if first is None else Mux(begins, first, so_far)) + value)
            with m.If(valid):
                m.d.sync += so_far.eq(new)
            if first is None:
                with m.If(begins | (valid & last)):  # no reset value: so it takes no look-up table
                    m.d.sync += so_far.eq(0)
            with m.If(valid & last):
                m.d.sync += self.o.p[name].eq(new)
        return valid & last
