"""Dyadic requantization of lanes, with an optional residual."""

from amaranth import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.pipeline import Pipeline
from systola.hw.shapes import param_record

__all__ = ["Requantizer"]

FINE = 3
"""Low bits of the shift that the second of the two shift stages handles."""


class _Rescaler(Pipeline):
    """The steps of the requantizer that are more than a register."""

    def round_shift(self, value, shift, keep):
        """Return ``(rne(value, shift), overflow, sign)`` three cycles later.

        An overflowed value has `sign` and a magnitude of at least ``2**keep``, and its result is
        meaningless. Shifts by multiples of 8 first, then by 0 to 7; below the integer goes one bit
        for the half, and everything below that becomes one sticky bit.
        """
        m, step = self.m, 1 << FINE
        wide = Signal(signed(max(len(value) + 1, 7 * step + 1)))
        m.d.comb += wide.eq(value << 1)
        near = Signal(signed(min(len(value) + 1, keep + step + 1)))
        dropped, over = Signal(), Signal()
        with m.Switch(shift[FINE:]):
            for coarse in range(8):
                with m.Case(coarse):
                    rest = wide.shift_right(coarse * step)
                    m.d.comb += [near.eq(rest), dropped.eq(wide[:coarse * step].any())]
                    m.d.comb += over.eq((rest[len(near) - 1:] ^ rest[-1].replicate(
                        max(len(rest) - len(near) + 1, 0))).any())
        near, dropped, over = self.reg(near), self.reg(dropped), self.reg(over)
        sign, fine = self.delay(value[-1], 3), self.reg(shift[:FINE])
        below = (near[:step - 1] & ((1 << fine) - 1)).any()
        last, sticky = self.reg(near >> fine, near.shape()), self.reg(dropped | below)
        up = last[0] & (sticky | last[1])
        return self.reg(last[1:].as_signed() + up), self.delay(over, 2), sign

    def saturate(self, value, mask, over, sign):
        """Return `value` in 16 bits one cycle later, saturated; `mask` has the sign's copies set.

        `over` tells that the value is beyond the range, on the side that `sign` tells.
        """
        wide = Signal(signed(max(len(value), 16)))
        self.m.d.comb += wide.eq(value)
        negative = Mux(over, sign, wide[-1])
        beyond = (wide[15:] ^ wide[-1].replicate(len(wide) - 15)).any()
        beyond |= ((wide[:16] ^ wide[-1].replicate(16)) & mask).any()
        return self.reg(Mux(over | beyond, Mux(negative, mask, ~mask), wide[:16]), 16)


class Requantizer(wiring.Component):
    """Rescale each lane by ``mult / 2**shift``, add a rescaled residual, saturate.

    ``y = sat(rne((z + bias) * mult, shift) [+ rne(res * res_mult, res_shift)], bits)``, where rne
    rounds half to even and everything before `sat` is exact. Latency `latency` cycles (7, with a
    residual 8), throughput one beat per cycle; all stages advance together, whenever the output is
    empty or taken. Model: ``systola.sim.requant.requantize``. Source: I-ViT, HAWQ-V3.

    Parameters
    ----------
    lanes : int
        Elements per beat.
    in_bits : int
        Bits of the signed input, 2 to 48.
    mult_bits : int
        Magnitude bits of the multipliers, 2 to 31. Up to 24, one DSP slice multiplies 17 bits of
        ``z + bias``; beyond, two do.
    bias_bits : int
        Bits of the signed bias, 2 to 48.
    residual : bool
        Whether the residual exists.
    tag : shape-like, optional
        Shape of what accompanies each beat; None for nothing.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``z``: lanes x signed(in_bits); ``p``: lanes x `systola.hw.shapes.param_record`; ``bits``:
        unsigned(5), output bits, 2 to 16; ``tag``; with a residual also ``res``: lanes x
        signed(16) and ``use_res``: unsigned(1).
    res_mult, res_shift : In(signed(mult_bits + 1)), In(unsigned(6))
        Rescaling of the residual, with a residual only; sampled with each beat.
    o : Out(stream.Signature(StructLayout))
        ``y``: lanes x signed(16), ``tag``.

    Raises
    ------
    ValueError
        If a size is not an integer in its range.
    """

    def __init__(self, *, lanes, in_bits, mult_bits, bias_bits=32, residual=True, tag=None):
        for name, value, low, high in (
                ("lanes", lanes, 1, 64), ("in_bits", in_bits, 2, 48),
                ("mult_bits", mult_bits, 2, 31), ("bias_bits", bias_bits, 2, 48)):
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be an integer from {low} to {high}, not {value!r}")
        self.lanes, self.mult_bits, self.residual = lanes, mult_bits, bool(residual)
        carried = {} if tag is None else {"tag": tag}
        payload = {"z": data.ArrayLayout(signed(in_bits), lanes),
                   "p": data.ArrayLayout(param_record(mult_bits, bias_bits), lanes),
                   "bits": 5, **carried}
        ports = {}
        if residual:
            payload |= {"res": data.ArrayLayout(signed(16), lanes), "use_res": 1}
            ports = {"res_mult": In(signed(mult_bits + 1)), "res_shift": In(6)}
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(payload))), **ports,
            "o": Out(stream.Signature(data.StructLayout(
                {"y": data.ArrayLayout(signed(16), lanes), **carried}))),
        })

    @property
    def latency(self):
        """Cycles from the accepted beat to its result, without stalls."""
        return 8 if self.residual else 7

    def elaborate(self, platform):
        m = Module()
        advance = Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]
        pipe, beat = _Rescaler(m, advance), self.i.p
        m.d.comb += self.o.valid.eq(pipe.delay(self.i.valid, self.latency, reset_less=False))
        if "tag" in beat.shape().members:
            m.d.comb += Value.cast(self.o.p.tag).eq(pipe.delay(beat.tag, self.latency))
        bits = pipe.delay(beat.bits, self.latency - 2)
        mask = pipe.reg(Const(0xFFFF, 16) << (bits - 1)[:4], 16)
        if self.residual:
            res_mult, res_shift = pipe.reg(self.res_mult), pipe.delay(self.res_shift, 3)
        for k in range(self.lanes):
            shift = pipe.delay(beat.p[k].shift, 3)
            product = pipe.multiply(pipe.reg(beat.z[k] + beat.p[k].bias),
                                    pipe.reg(beat.p[k].mult))
            # A branch that overflows outweighs any residual, of at most 2**(15 + mult_bits).
            keep = 16 + self.mult_bits if self.residual else 15
            value, over, sign = pipe.round_shift(product, shift, keep)
            if self.residual:
                res = pipe.reg(Mux(beat.use_res, beat.res[k], 0))
                res, *_ = pipe.round_shift(pipe.multiply(res, res_mult), res_shift,
                                           16 + self.mult_bits)
                value, over, sign = pipe.reg(value + res), pipe.reg(over), pipe.reg(sign)
            m.d.comb += self.o.p.y[k].eq(pipe.saturate(value, mask, over, sign))
        return m
