"""Integer normalization of rows, before the per-channel bias and scale."""

from amaranth import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import NORM_FRACTION, NORM_NUMERATOR, NORM_ROOT_BITS
from systola.hw.parts.arguments import check_positive
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.shapes import row_beat
from systola.hw.vector.fine_moments import FineMoments
from systola.hw.vector.inverse_root import InverseRoot
from systola.hw.vector.normalised_root import NormalisedRoot
from systola.hw.vector.row_moments import RowMoments

__all__ = ["ILayerNorm"]

_FACTOR_BITS = NORM_NUMERATOR.bit_length() - NORM_ROOT_BITS + 3
"""Bits of a factor of `NormalisedRoot`, signed."""


class ILayerNorm(wiring.Component):
    """Normalize rows: ``o ~ 2**30 * (x - mean) / sqrt(sum (x - mean)**2 + epsilon)``.

    Published: ``mean`` is rounded half to even; ``o = ((x - mean) * (MAX31 // k)) >> 1`` with the
    root k of `systola.hw.vector.inverse_root.InverseRoot`; ``-2**30 <= o < 2**30``. Normalised:
    ``y = x - mean`` has f = `NORM_FRACTION` fractional bits, and
    ``o = (floor(y * 4**(s + 1)) * factor) >> 5`` with shift s and factor of
    `systola.hw.vector.normalised_root.NormalisedRoot`.

    Throughput one beat a cycle and a row every `period` cycles: rows are received, summed up,
    rooted (`roots` of them at a time) and emitted at once, from one row memory. Latency from the
    last beat in to the first beat out: `latency` cycles.

    Model: model/operators/layernorm.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    variant : str
        First k: ``published`` (2**16) or ``leading_one`` (2**ceil(bit_length(v) / 2)); or
        ``normalised``.
    roots : int
        Rows whose root is computed at the same time; with ``normalised``, one is as fast as rows
        are summed up, and there is one.
    steps : int
        Quotient bits per cycle of the divisions of the roots of the others.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(16), lanes)))
        Rows of 1 to `max_row` codes.
    epsilon : In(unsigned(epsilon_bits(max_row)))
        With ``normalised`` only: in units of ``2**(-2*f)``; constant while a row is inside.
    o : Out(stream.Signature(row_beat(signed(32), lanes)))
        The rows; lanes that are not kept hold anything.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or `variant` is none of these.
    """

    def __init__(self, *, lanes, max_row, variant, roots=4, steps=2):
        check_positive(lanes=lanes, max_row=max_row, roots=roots, steps=steps)
        if variant not in ("published", "leading_one", "normalised"):
            raise ValueError(f"variant must be 'published', 'leading_one' or 'normalised', not "
                             f"{variant!r}")
        self.lanes, self._normalised = lanes, variant == "normalised"
        if self._normalised:
            self._moments = FineMoments(lanes=lanes, max_row=max_row)
            self._roots = [NormalisedRoot(width=self._moments.v_bits,
                                          tag=self._moments.o.p.mean.shape())]
            self.period = max(self._moments.period, self._roots[0].period)
            self._cycles = 2 + Pipeline.multiply_cycles(_FACTOR_BITS)  # of `_scale`
        else:
            self._moments = RowMoments(lanes=lanes, max_row=max_row)
            self._roots = [InverseRoot(width=self._moments.v_bits, start=variant, steps=steps,
                                       tag=signed(16)) for _ in range(roots)]
            self.period = max(self._moments.period, -(-(self._roots[0].latency + 1) // roots))
            self._cycles = 1 + Pipeline.multiply_cycles(17)
        self.latency = self._moments.latency + self._roots[0].latency + self._cycles + 1
        # While a row waits for its root the following ones arrive: never a stall for long rows.
        self.depth = 1 << (-(-max_row // lanes) + self.latency - 1).bit_length()
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(16), lanes))),
            **({"epsilon": In(len(self._moments.epsilon))} if self._normalised else {}),
            "o": Out(stream.Signature(row_beat(signed(32), lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.moments = moments = self._moments
        m.submodules.rows = rows = SyncFIFOBuffered(width=self.i.p.shape().size, depth=self.depth)
        m.d.comb += [
            moments.i.payload.eq(self.i.payload), rows.w_data.eq(self.i.payload),
            moments.i.valid.eq(self.i.valid & rows.w_rdy),
            rows.w_en.eq(self.i.valid & moments.i.ready),
            self.i.ready.eq(rows.w_rdy & moments.i.ready),
        ]
        if self._normalised:
            m.d.comb += moments.epsilon.eq(self.epsilon)
        factor = self._divide_by_root(m)
        self._scale(m, data.View(self.i.p.shape(), rows.r_data), rows, factor)
        return m

    def _divide_by_root(self, m):
        """Hand rows to the roots in turn; return the stream of their factors, in row order."""
        roots = self._roots
        factor = stream.Signature(roots[0].o.p.shape()).create(path=("factor",))
        give, take = Signal(range(len(roots))), Signal(range(len(roots)))
        m.d.comb += [
            self._moments.o.ready.eq(Array(root.i.ready for root in roots)[give]),
            factor.valid.eq(Array(root.o.valid for root in roots)[take]),
            Value.cast(factor.payload).eq(
                Array(Value.cast(root.o.payload) for root in roots)[take]),
        ]
        for k, root in enumerate(roots):
            m.submodules[f"root_{k}"] = root
            m.d.comb += [
                root.i.p.v.eq(self._moments.o.p.v), root.i.p.tag.eq(self._moments.o.p.mean),
                root.i.valid.eq(self._moments.o.valid & (give == k)),
                root.o.ready.eq(factor.ready & (take == k)),
            ]
        for pointer, port in (give, self._moments.o), (take, factor):
            with m.If(port.valid & port.ready):
                m.d.sync += pointer.eq(Mux(pointer == len(roots) - 1, 0, pointer + 1))
        return factor

    def _scale(self, m, beat, rows, factor):
        """Multiply the beats of each row by its factor."""
        advance, valid, held = Signal(), Signal(), Signal()
        row = Signal.like(factor.p, reset_less=True)  # a copy: the root may start the next row
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready), valid.eq(rows.r_rdy & held),
            rows.r_en.eq(advance & valid), factor.ready.eq(~held | (rows.r_en & beat.last)),
        ]
        with m.If(factor.ready):
            m.d.sync += [row.eq(factor.p), held.eq(factor.valid)]
        pipe = Pipeline(m, advance)
        product = self._fine_product if self._normalised else self._product
        for k in range(self.lanes):
            m.d.comb += self.o.p.x[k].eq(product(pipe, row, beat.x[k]))
        m.d.comb += [
            self.o.valid.eq(pipe.delay(valid, self._cycles, reset_less=False)),
            Cat(self.o.p.last, self.o.p.keep[1:]).eq(
                pipe.delay(Cat(beat.last, beat.keep[1:]), self._cycles)),
            self.o.p.keep[0].eq(1),
        ]

    @staticmethod
    def _product(pipe, row, x):
        bound = pipe.reg(Cat(row.factor, 0).as_signed())
        return pipe.multiply(bound, pipe.reg(x - row.tag))[1:33]

    @staticmethod
    def _fine_product(pipe, row, x):
        """Scale what is left of `x` to the bits of the root and two more, and multiply."""
        y = pipe.reg(Cat(Const(0, NORM_FRACTION), x).as_signed() - row.tag)
        place, factor = pipe.reg(row.place), pipe.reg(Cat(row.factor, 0).as_signed())
        # s = 5 - place, so that y * 4**(s + 1) is y * 2**12, shifted right.
        scaled = (Cat(Const(0, 12), y).as_signed() >> (place << 1))[:NORM_ROOT_BITS + 3]
        return pipe.multiply(pipe.reg(scaled.as_signed()), pipe.reg(factor))[5:37]
