"""Newton root of a row's variance, and the reciprocal that I-LayerNorm multiplies by."""

from amaranth import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import MAX31
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.divider import Divider

__all__ = ["ITERATIONS", "InverseRoot"]

ITERATIONS = 10
"""Steps of the root iteration, always all of them."""


class InverseRoot(wiring.Component):
    """Compute ``factor = MAX31 // root``, with `root` near ``sqrt(v)``, one value at a time.

    ``root`` is k after `ITERATIONS` steps of ``k = max((k + v // k) >> 1, 1)`` from a power of two,
    so the first step is a shift. From then on ``k >= floor(sqrt(v))``, which halves the bits of the
    quotients. Latency `latency`, ten divisions and a cycle; throughput one value every latency + 1
    cycles. Source: I-ViT.

    Model: model/operators/layernorm.py

    Parameters
    ----------
    width : int
        Bits of `v`, 18 to 62.
    start : str
        First k: ``published`` (2**16) or ``leading_one`` (2**ceil(bit_length(v) / 2)).
    steps : int
        Quotient bits per cycle.
    tag : shape-like
        Shape of what accompanies each value.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``v``: unsigned(width), ``tag``.
    o : Out(stream.Signature(StructLayout))
        ``factor``: unsigned(25) from ``published`` (k is at least 64), else unsigned(31); ``root``;
        ``tag``.

    Raises
    ------
    ValueError
        If `width` or `start` is out of range.
    """

    def __init__(self, *, width, start, steps=2, tag=1):
        check_integers(width=(width, 18, 62))
        if start not in ("published", "leading_one"):
            raise ValueError(f"start must be 'published' or 'leading_one', not {start!r}")
        self.start, half = start, (width + 1) // 2
        published = start == "published"
        root_bits = max(16, width - 16) + 1 if published else half + 1
        factor_bits = 25 if published else 31
        self.quot_bits, self.steps = max(factor_bits, half + 1), steps
        self.latency = ITERATIONS * (-(-self.quot_bits // steps) + 1) + 1
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"v": unsigned(width), "tag": tag}))),
            "o": Out(stream.Signature(data.StructLayout(
                {"factor": unsigned(factor_bits), "root": unsigned(root_bits), "tag": tag}))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.divider = divider = Divider(
            width=max(len(self.i.p.v), 31), den_width=len(self.o.p.root), steps=self.steps,
            quot_bits=self.quot_bits)
        v, tag = Signal.like(self.i.p.v, reset_less=True), Signal.like(self.i.p.tag)
        shift = Signal(range(max(17, len(v) // 2 + 2)), reset_less=True)
        root, next_root = Signal.like(self.o.p.root, reset_less=True), Signal.like(self.o.p.root)
        busy, first, issue = Signal(), Signal(), Signal()
        left = Signal(range(ITERATIONS + 1))  # divisions to start yet, the last one for the factor
        one, none = Signal(), Signal()        # so many are left
        m.d.comb += [
            self.i.ready.eq(~busy), self.o.valid.eq(busy & ~first & none & divider.o.valid),
            self.o.p.factor.eq(divider.o.p.quot), self.o.p.root.eq(root),
            Value.cast(self.o.p.tag).eq(tag),
            issue.eq(busy & (first | (~none & divider.o.valid))),
            divider.i.valid.eq(issue), divider.i.p.den.eq(next_root),
            divider.i.p.num.eq(Mux(one, MAX31, v)),
            divider.o.ready.eq(~none | self.o.ready),
        ]
        total, published = Signal(len(root) + 1), self.start == "published"
        at = 16 if published else shift
        m.d.comb += total.eq(Mux(first, (1 << at) + (v >> at), root + divider.o.p.quot))
        # From 2**16, k stays at least 64; else it may become 0, only for v = 0.
        m.d.comb += next_root.eq(total[1:] if published else Mux(total[1:] == 0, 1, total[1:]))
        with m.If(~busy):
            m.d.sync += [v.eq(self.i.p.v), Value.cast(tag).eq(self.i.p.tag),
                         busy.eq(self.i.valid), first.eq(1), left.eq(ITERATIONS),
                         one.eq(ITERATIONS == 1), none.eq(0)]
            if not published:
                m.d.sync += shift.eq(self._shift(m))
        with m.If(issue):
            m.d.sync += [first.eq(0), root.eq(next_root), left.eq(left - 1), one.eq(left == 2),
                         none.eq(one)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += busy.eq(0)
        return m

    def _shift(self, m):
        """Return the exponent of the first k that depends on v."""
        shift = Signal(range(len(self.i.p.v) // 2 + 2))
        for k in range(len(self.i.p.v)):  # the last assignment wins: the leading one
            with m.If(self.i.p.v[k]):
                m.d.comb += shift.eq((k + 2) // 2)
        return shift
