"""Dyadic requantization of lanes, with an optional residual."""

from amaranth import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.config import mult_limb, requant_slots
from systola.hw.contract.latency import LANE_LATENCY, requant_latency
from systola.hw.contract.numbers import BRANCH_BITS, INT_BITS, RESIDUAL_BITS, SHIFT_BITS
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.rescaler import LaneRescaler, sign_mask
from systola.hw.parts.shapes import param_record

__all__ = ["Requantizer"]


class Requantizer(wiring.Component):
    """Rescale each lane by ``mult / 2**shift``, add a rescaled residual, saturate.

    ``y = sat(rne((z + bias) * mult, shift) [+ rne(res * res_mult, res_shift)], bits)``, where rne
    rounds half to even and everything before `sat` is exact, but for one case: of the two
    branches of a sum, one that leaves `BRANCH_BITS` bits before it is rounded saturates the sum to
    its own side, the main one first. While the rescaled residual stays below
    ``2**(BRANCH_BITS - 1) - 2**15``, that is exact as well.

    A beat takes a slot for each limb of its multiplier (`systola.hw.contract.config.mult_limb`) and
    of its residual, as `slots` tells: so many cycles pass between beats. Two beats of two slots
    each interleave (low, low, high, high), and so do the two branches of a sum, the residual first,
    if it has two limbs; a beat that could overtake waits for at most two cycles more. Results are
    in order, `latency` cycles after a beat is first offered, and all stages advance together
    whenever the output is empty or taken; with `registered` also when it was taken in the cycle
    before, and one result more waits for the output. No DSP slice is used. Source: I-ViT, HAWQ-V3.

    Model: model/operators/requant.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    in_bits : int
        Bits of the signed input, 2 to 48. A bias and its sum with the input must be in the same
        range, whatever the record could hold.
    mult_bits, code_mult_bits : int
        Magnitude bits of the multipliers of long and of other beats, 2 to 31. A code multiplier
        lies in the low ``code_mult_bits + 1`` bits of ``mult``; it has at most `mult_bits`. There
        is one adder less if neither is a multiple of the limb.
    bias_bits : int
        Bits of the signed bias, 2 to 48.
    out_bits : int
        Bits of the widest results, 2 to 16; 16 with a residual.
    residual, symmetric : bool
        Whether the residual and symmetric saturation exist.
    tag : shape-like, optional
        Shape of what accompanies each beat; None for nothing.
    registered : bool
        Whether ``o.ready`` ends in registers, which the enable of the stages and ``i.ready`` come
        from: for an output far away. A flip-flop and a look-up table for each bit of the output.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``z``: lanes x signed(in_bits); ``p``: lanes x `systola.hw.parts.shapes.param_record`;
        ``bits``: unsigned(5), output bits, 2 to out_bits; ``long``: unsigned(1); ``tag``; with
        `symmetric` also ``symmetric``: unsigned(1), the least result is ``-(2**(bits-1) - 1)``;
        with a residual also ``res``: lanes x signed(16) and ``use_res``: unsigned(1).
    res_mult, res_shift : In(signed(mult_bits + 1)), In(unsigned(6))
        Rescaling of the residual, with a residual only; like the payload while a beat is offered.
    o : Out(stream.Signature(StructLayout))
        ``y``: lanes x signed(out_bits), ``tag``.

    Raises
    ------
    ValueError
        If a size is not an integer in its range.
    """

    def __init__(self, *, lanes, in_bits, mult_bits, code_mult_bits, bias_bits=32, out_bits=16,
                 residual=True, symmetric=True, tag=None, registered=False):
        check_integers(
            lanes=(lanes, 1, 64), in_bits=(in_bits, 2, 48), mult_bits=(mult_bits, 2, INT_BITS),
            code_mult_bits=(code_mult_bits, 2, INT_BITS), bias_bits=(bias_bits, 2, 48),
            out_bits=(out_bits, 16 if residual else 2, 16))
        self.lanes, self.in_bits, self.residual = lanes, in_bits, bool(residual)
        self.out_bits, self.registered = out_bits, registered
        self.mult_bits, self.code_mult_bits = mult_bits, min(code_mult_bits, mult_bits)
        self._limb_bits = mult_limb(mult_bits, code_mult_bits)
        self._whole = 0 in (self.mult_bits % self._limb_bits, self.code_mult_bits % self._limb_bits)
        self._res_two = self.residual and self._limb_bits < RESIDUAL_BITS
        carried = {} if tag is None else {"tag": tag}
        payload = {"z": data.ArrayLayout(signed(in_bits), lanes),
                   "p": data.ArrayLayout(param_record(mult_bits, bias_bits), lanes),
                   "bits": 5, "long": 1, **carried}
        ports = {}
        if symmetric:
            payload["symmetric"] = 1
        if residual:
            payload |= {"res": data.ArrayLayout(signed(RESIDUAL_BITS), lanes), "use_res": 1}
            ports = {"res_mult": In(signed(mult_bits + 1)), "res_shift": In(SHIFT_BITS)}
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(payload))), **ports,
            "o": Out(stream.Signature(data.StructLayout(
                {"y": data.ArrayLayout(signed(out_bits), lanes), **carried}))),
        })

    def slots(self, *, long, use_res=False):
        """Return the cycles that a beat takes from the unit's throughput."""
        return requant_slots(self.mult_bits, self.code_mult_bits, long=long, residual=use_res)

    def latency(self, *, long, use_res=False):
        """Return the cycles from the first one in which a beat is offered to its result."""
        return requant_latency(self.mult_bits, self.code_mult_bits, long=long, residual=use_res)

    def elaborate(self, platform):
        m = Module()
        advance, accepts = Signal(init=1), Signal()
        result, valid = Signal(self.o.p.shape()), Signal()
        pipe, beat = Pipeline(m, advance), self.i.p
        slot = self._sequence(m, pipe, accepts)

        def later(value, cycles):
            """Delay by registers with a reset, of which no tool makes look-up tables (SRL16)."""
            return pipe.delay(value, cycles, reset_less=False)

        def follow(value, cycles):
            """Delay what belongs to a beat; a high slot takes what came with its low slot."""
            value = pipe.node(value)
            return later(Mux(slot["high"], later(value, 2), value), cycles + 1)

        before_last = later(slot["final"], LANE_LATENCY)
        m.d.comb += valid.eq(later(before_last, 1))
        self._output(m, result, valid, Mux(advance, before_last, valid), advance, accepts)
        if "tag" in beat.shape().members:
            m.d.comb += Value.cast(result.tag).eq(follow(beat.tag, LANE_LATENCY))
        mask = sign_mask(pipe, follow(beat.bits, LANE_LATENCY - 3), self.out_bits)
        symmetric = Const(0, 1)
        if "symmetric" in beat.shape().members:
            symmetric = follow(beat.symmetric, LANE_LATENCY - 1)
        high, res_mult, adds = pipe.reg(slot["high"]), None, None
        if self.residual:
            res_mult = pipe.reg(slot["res"]), pipe.reg(self.res_mult)
            adds = later(slot["adds"], LANE_LATENCY - 2)
        width = max(self.in_bits, self.mult_bits + 1 if self.residual else 0)
        for k in range(self.lanes):
            lane = LaneRescaler(m, advance, bits=width, limb=self._limb_bits,
                                whole=self._whole, out_bits=self.out_bits,
                                keep=BRANCH_BITS if self.residual else self.out_bits)
            limb, before = self._limb(pipe, slot, k)
            shift = beat.p[k].shift
            if self.residual:
                shift = Mux(slot["res"], self.res_shift, shift)
            shift = follow(shift, 0)
            amount = later((shift + Mux(high, 0, self._limb_bits))[:7], 3)
            z = lane.reset_reg(beat.z[k], slot["high"] | slot["res"])
            bias = pipe.reg(beat.p[k].bias, signed(self.in_bits))
            product, low = lane.multiply(z, bias, limb, before, high=high, res_mult=res_mult)
            total = lane.round_shift(product, low, amount, adds)
            m.d.comb += result.y[k].eq(lane.saturate(*total, mask, symmetric))
        return m

    def _output(self, m, result, valid, next_valid, advance, accepts):
        """Offer the last stage's result, and say when the stages advance and the first accepts."""
        if not self.registered:
            m.d.comb += [self.o.p.eq(result), self.o.valid.eq(valid),
                         advance.eq(~valid | self.o.ready), accepts.eq(advance)]
            return
        # What left the last stage while the output was stalled.
        empty, spare = Signal(init=1), Signal(self.o.p.shape(), reset_less=True)
        next_empty, next_advance = Signal(), Signal()
        # The enable again, for what is far from the stages; the other way round, so that no tool
        # makes one register of the two.
        stalls = Signal()
        m.d.comb += [self.o.valid.eq(~empty | valid), self.o.p.eq(Mux(empty, result, spare)),
                     next_empty.eq((empty & ~valid) | self.o.ready),
                     next_advance.eq(~next_valid | next_empty), accepts.eq(~stalls)]
        m.d.sync += [empty.eq(next_empty), advance.eq(next_advance), stalls.eq(~next_advance)]
        with m.If(empty):
            m.d.sync += spare.eq(result)

    def _sequence(self, m, pipe, accepts):
        """Divide the cycles: low, residual and single slots of the beat offered, high slots.

        Returns ``high``, ``low`` and ``res`` (not in high slots; with ``low`` if a residual takes
        two), ``adds`` for a residual's last slot and ``final`` for a beat's.
        """
        beat = self.i.p
        second, two, use_res = Signal(), Signal(), Signal()
        waiting, high = Signal(), Signal()  # a low slot was in the last cycle, and the one before
        begin, go = Signal(), Signal()
        slot = {name: Signal(name=name) for name in ("low", "res", "adds", "final")}
        m.d.comb += [
            use_res.eq(beat.use_res if self.residual else 0),
            two.eq(Mux(beat.long, self.slots(long=1) == 2, self.slots(long=0) == 2)
                   | (use_res & self._res_two)),
            # Only low slots may follow before high ones, and none of them a residual: its rounded
            # value would be added to the next result.
            begin.eq(~high & (~waiting | (two & ~use_res))),
            go.eq(self.i.valid & (second | begin)),
            self.i.ready.eq(accepts & (second | (begin & ~use_res))),
        ]
        if self._res_two:
            adds = pipe.delay(slot["res"], 2, reset_less=False)
            m.d.comb += [
                slot["low"].eq(go & two), slot["res"].eq(go & use_res & ~second),
                slot["adds"].eq(adds), slot["final"].eq((high & ~adds) | (go & ~two)),
            ]
        else:
            m.d.comb += [
                slot["low"].eq(go & two & ~second), slot["res"].eq(go & use_res & (second == two)),
                slot["adds"].eq(slot["res"]),
                slot["final"].eq(high | (go & ~two & (second == use_res))),
            ]
        with m.If(pipe.advance):
            m.d.sync += [second.eq(go & use_res & ~second), waiting.eq(slot["low"]),
                         high.eq(waiting)]
        return {"high": high, **slot}

    def _limb(self, pipe, slot, k):
        """Return lane `k`'s multiplier limb of the slot, and the bit below its first digit."""
        mult, whole = self.i.p.p[k].mult, int(self._whole)
        bits = self._limb_bits + whole
        value = Signal(signed(max(self.mult_bits + 1, bits, RESIDUAL_BITS)))
        pipe.m.d.comb += value.eq(
            Mux(self.i.p.long, mult, mult[:self.code_mult_bits + 1].as_signed()))
        if self.residual:
            with pipe.m.If(slot["res"]):
                pipe.m.d.comb += value.eq(self.i.p.res[k])
        lowest = value[:bits].as_signed()
        if self.slots(long=True) == 1 and not self._res_two:
            return pipe.reg(lowest), Const(0, 1)
        before = pipe.delay(value[bits - 1], 2)
        rest = pipe.delay(value[self._limb_bits:].as_signed(), 2)
        return (pipe.reg(Mux(slot["high"], rest, lowest), signed(bits)),
                pipe.reg(slot["high"] & before))
