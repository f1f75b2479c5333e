"""Restoring dividers: a serial one, and a pipelined one with a division per cycle."""

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Divider", "PipelinedDivider"]


def _check(**values):
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")


def _restore(m, rem, den, bits):
    """Return the remainder after, and the quotient of, dividing ``Cat(bits, rem)`` by `den`.

    ``rem < den`` on entry and on exit; with ``den == 0`` every quotient bit is one. Each step gets
    signals of its own: as one expression its size would triple with every bit.
    """
    quot = []
    for bit in reversed(bits):
        shifted, diff = Signal(len(den) + 1), Signal(len(den) + 2)
        m.d.comb += [shifted.eq(Cat(bit, rem)), diff.eq(shifted - den)]
        rem = Signal(len(den))
        m.d.comb += rem.eq(Mux(diff[-1], shifted, diff))
        quot.insert(0, ~diff[-1])
    return rem, Cat(quot)


class Divider(wiring.Component):
    """Divide serially: ``quot = floor(num / den)``, ``rem = num - quot*den``.

    Latency ``cycles + 1`` with ``cycles = ceil(quot_bits / steps)``, throughput one division every
    ``cycles + 1`` cycles. A zero `den` gives a quotient of all ones. Model: ``numpy`` ``//``.

    Parameters
    ----------
    width, den_width : int
        Bits of the numerator and of the denominator, both unsigned.
    steps : int
        Quotient bits per cycle: one subtraction of `den_width` bits each, one after another.
    quot_bits : int, optional
        Bits of the quotient, `width` by default. With fewer, the caller guarantees that it fits
        (``num >> quot_bits < den``), and the division is as much faster.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``num``: unsigned(width), ``den``: unsigned(den_width).
    o : Out(stream.Signature(StructLayout))
        ``quot``: unsigned(quot_bits), ``rem``: unsigned(den_width), undefined for ``den == 0``.

    Raises
    ------
    ValueError
        If a parameter is not a positive integer, or `quot_bits` exceeds `width`.
    """

    def __init__(self, *, width, den_width, steps=1, quot_bits=None):
        quot_bits = width if quot_bits is None else quot_bits
        _check(width=width, den_width=den_width, steps=steps, quot_bits=quot_bits)
        if quot_bits > width:
            raise ValueError(f"quot_bits must be at most width ({width}), not {quot_bits!r}")
        self.steps, self.cycles = steps, -(-quot_bits // steps)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"num": unsigned(width), "den": unsigned(den_width)}))),
            "o": Out(stream.Signature(data.StructLayout(
                {"quot": unsigned(quot_bits), "rem": unsigned(den_width)}))),
        })

    def elaborate(self, platform):
        m = Module()
        low = self.cycles * self.steps
        den = Signal.like(self.i.p.den, reset_less=True)
        rem = Signal.like(self.o.p.rem, reset_less=True)
        work = Signal(low, reset_less=True)  # numerator bits to come above quotient bits found
        left = Signal(range(self.cycles + 1))
        m.d.comb += [self.o.p.quot.eq(work), self.o.p.rem.eq(rem)]
        m.d.comb += self.i.ready.eq((left == 0) & (~self.o.valid | self.o.ready))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [den.eq(self.i.p.den), rem.eq(self.i.p.num >> low), work.eq(self.i.p.num),
                         left.eq(self.cycles), self.o.valid.eq(0)]
        with m.Elif(left != 0):
            next_rem, quot = _restore(m, rem, den, list(work[low - self.steps:]))
            m.d.sync += [rem.eq(next_rem), work.eq(Cat(quot, work)), left.eq(left - 1)]
            m.d.sync += self.o.valid.eq(left == 1)
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


class PipelinedDivider(wiring.Component):
    """Divide once a cycle: ``quot = floor(num / den)``, with a tag carried along.

    Latency ``stages = ceil(width / steps)`` cycles, throughput one division per cycle. All stages
    advance together, whenever the output is empty or taken. A zero `den` gives a quotient of all
    ones. Model: ``numpy`` ``//``.

    Parameters
    ----------
    width, den_width : int
        Bits of the numerator (and the quotient) and of the denominator, all unsigned.
    steps : int
        Quotient bits per stage: one subtraction of `den_width` bits each, one after another.
    tag : shape-like, optional
        Shape of what accompanies each division; None for nothing.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``num``: unsigned(width), ``den``: unsigned(den_width), ``tag``: `tag`.
    o : Out(stream.Signature(StructLayout))
        ``quot``: unsigned(width), ``tag``: `tag`.

    Raises
    ------
    ValueError
        If a size is not a positive integer.
    """

    def __init__(self, *, width, den_width, steps=1, tag=None):
        _check(width=width, den_width=den_width, steps=steps)
        self.width, self.steps, self.stages = width, steps, -(-width // steps)
        self._tag = unsigned(0) if tag is None else tag
        carried = {} if tag is None else {"tag": tag}
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"num": unsigned(width), "den": unsigned(den_width), **carried}))),
            "o": Out(stream.Signature(data.StructLayout({"quot": unsigned(width), **carried}))),
        })

    def elaborate(self, platform):
        m = Module()
        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        low = self.stages * self.steps
        work = Signal(low)
        m.d.comb += work.eq(self.i.p.num)
        rem, den, valid = Signal.like(self.i.p.den), self.i.p.den, self.i.valid
        tag = Signal(self._tag)
        if "tag" in self.o.p.shape().members:
            m.d.comb += tag.eq(self.i.p.tag)
        for stage in range(self.stages):
            rem_next, quot = _restore(m, rem, den, list(work[low - self.steps:]))
            after = [Signal.like(signal, name=f"{name}_{stage}", reset_less=name != "valid")
                     for name, signal in (("work", work), ("rem", rem), ("den", den),
                                          ("tag", tag), ("valid", valid))]
            with m.If(advance):
                m.d.sync += [register.eq(value) for register, value in zip(
                    after, (Cat(quot, work), rem_next, den, tag, valid), strict=True)]
            work, rem, den, tag, valid = after
        m.d.comb += [self.o.p.quot.eq(work), self.o.valid.eq(valid)]
        if "tag" in self.o.p.shape().members:
            m.d.comb += self.o.p.tag.eq(tag)
        return m
