"""Shift and factor of a normalised layer norm: the reciprocal root of a row's variance."""

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.latency import ROOT_LOWEST, root_cycles, root_skip
from systola.hw.contract.numbers import NORM_NUMERATOR, NORM_ROOT_BITS
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.divider import Divider
from systola.hw.parts.pipeline import node

__all__ = ["NormalisedRoot"]


class NormalisedRoot(wiring.Component):
    """Compute ``factor = NORM_NUMERATOR // k`` of k = isqrt(v * 16**s), which has 18 bits.

    The root is found from the highest bits of `v` on, two of its bits from four of `v` a cycle;
    nothing happens while these are zero, and nothing more when it has 18 bits: so `v` needs no
    shifter, but for zeros that are skipped when it enters. A division follows, while the next root
    is found. Latency `latency`, throughput one value every `period` cycles.

    Model: model/operators/layernorm.py

    Parameters
    ----------
    width : int
        Bits of `v`, 18 to 63.
    tag : shape-like
        Shape of what accompanies each value.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``v``: unsigned(width), ``tag``. Of a number below 2**12, the results mean nothing.
    o : Out(stream.Signature(StructLayout))
        ``factor``: unsigned(17); ``place``: ``5 - s`` of the model's shift s, from 0; ``tag``.

    Raises
    ------
    ValueError
        If `width` is out of range.
    """

    def __init__(self, *, width, tag=1):
        check_integers(width=(width, 18, 63))
        self._parts, self._skip, self._cycles = -(-width // 4), root_skip(width), root_cycles(width)
        self.places = self._parts - ROOT_LOWEST
        numerator_bits = NORM_NUMERATOR.bit_length()
        self._divider = Divider(width=numerator_bits, den_width=NORM_ROOT_BITS, steps=2,
                                quot_bits=numerator_bits - NORM_ROOT_BITS + 2)
        self.period = self._cycles + 2
        self.latency = self._cycles + self._divider.cycles + 2
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"v": unsigned(width), "tag": tag}))),
            "o": Out(stream.Signature(data.StructLayout(
                {"factor": unsigned(numerator_bits - NORM_ROOT_BITS + 2),
                 "place": range(self.places), "tag": tag}))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.divider = divider = self._divider
        kept = data.StructLayout({"place": self.o.p.place.shape(), "tag": self.o.p.tag.shape()})
        found, divided = Signal(kept, reset_less=True), Signal(kept, reset_less=True)
        v = Signal(4 * self._parts, reset_less=True)
        root = Signal(NORM_ROOT_BITS, reset_less=True)
        # The remainder: between digits, at most as far from zero as twice the root and one.
        rest = Signal(NORM_ROOT_BITS + 2, reset_less=True)
        busy, left, complete = Signal(), Signal(range(self._cycles + 1)), Signal()
        m.d.comb += [
            self.i.ready.eq(~busy), divider.i.valid.eq(busy & complete),
            divider.i.p.num.eq(NORM_NUMERATOR), divider.i.p.den.eq(root),
            self.o.valid.eq(divider.o.valid), divider.o.ready.eq(self.o.ready),
            self.o.p.factor.eq(divider.o.p.quot), self.o.p.place.eq(divided.place),
            Value.cast(self.o.p.tag).eq(Value.cast(divided.tag)),
        ]
        with m.If(divider.i.ready):
            m.d.sync += divided.eq(found)
        with m.If(~busy):
            m.d.sync += [busy.eq(self.i.valid), left.eq(self._cycles), complete.eq(0),
                         Value.cast(found.tag).eq(Value.cast(self.i.p.tag))]
        with m.Elif(complete):
            m.d.sync += busy.eq(~divider.i.ready)
        with m.Else():
            m.d.sync += [left.eq(left - 1), complete.eq(left == 1)]
        after, more = (root, rest), Signal()
        m.d.comb += more.eq(busy & ~root[-2:].any())
        for k in range(2):
            after = _digit(m, *after, v[len(v) - 2 * k - 2:len(v) - 2 * k])
        with m.If(more):
            m.d.sync += [root.eq(after[0]), rest.eq(after[1])]
        with m.If(~busy):
            m.d.sync += [root.eq(0), rest.eq(0)]
        self._move(m, v, found.place, busy, more)
        return m

    def _move(self, m, v, place, busy, more):
        """Load `v` without most of its leading zeros, and shift it; keep where its bits lie."""
        value, zeros = Cat(self.i.p.v, Const(0, 4))[:len(v)], 4 * self._skip
        # One multiplexer of four with two selections: a look-up table a bit.
        source, skipped = Signal(2), Signal(2)
        m.d.comb += [
            skipped.eq(Mux((value[-2 * zeros:] == 0), 3, Mux((value[-zeros:] == 0), 2, 1))),
            source.eq(Mux(busy, 0, skipped))]
        with m.Switch(source):
            with m.Case(0):
                m.d.sync += v.eq(v << 4)
            for times in range(3):
                with m.Case(times + 1):
                    m.d.sync += v.eq(value << times * zeros)
        # Counted down by each step of the root, modulo its width.
        first = self.places - 1 + NORM_ROOT_BITS // 2
        with m.If(busy):
            m.d.sync += place.eq(place - more)
        with m.Else():
            m.d.sync += place.eq(first - Mux(skipped[1], Mux(
                skipped[0], 2 * self._skip, self._skip), 0))


def _digit(m, root, rest, pair):
    """Return the root and the remainder after one more bit of the root, from two of the number.

    Non-restoring: if the remainder is negative, what was too much is made up for.
    """
    positive = node(m, ~rest[-1])
    total = node(m, (Cat(pair, rest) + Cat(Const(3, 2), root ^ positive.replicate(len(root))))[
        :len(rest)])
    return node(m, Cat(~total[-1], root)[:len(root)]), total
