"""Requantization of lanes to codes of few bits by comparison with thresholds."""

from amaranth import Cat, Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_integers
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.shapes import threshold_write
from systola.hw.parts.threshold_search import ThresholdSearch

__all__ = ["ThresholdQuantizer"]


class ThresholdQuantizer(wiring.Component):
    """Requantize each lane to `bits` bits as `Requantizer` does, without a product or a shift.

    The code is the least one and one more for each threshold of its channel that z exceeds; for a
    channel with a negative multiplier its complement. Bias, multiplier, shift and the symmetric
    range are in the thresholds (`systola.model.operators.threshold.channel_thresholds`), which
    lie in the unit: ``2**bits - 1`` for each channel, of which a lane reads `bits` a beat. Latency
    ``bits + 1`` cycles (`latency`), throughput one beat a cycle; all stages advance together
    whenever the output is empty or taken. Source: Lin and Shah (2025).

    Model: model/operators/threshold.py

    Parameters
    ----------
    lanes : int
        Elements per beat, 1 to 64.
    in_bits : int
        Bits of the signed input, 2 to 48.
    bits : int
        Bits of a code, 2 to 8.
    sets : int
        Sets of channels, one for each lane: ``lanes * sets`` channels.
    in_luts : bool
        On 7 series, thresholds in memory of LUTs; else the tool chooses.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``z``: lanes x signed(in_bits), without bias; ``set``: range(sets), the lanes' channels.
    w : In(stream.Signature(threshold_write(signed(in_bits + 1), ...)))
        Always ready: ``set``, ``lane`` and ``level``. Level 0 says in its lowest bit whether codes
        fall as z rises; levels 1 to ``2**bits - 1`` are the thresholds in order. No beat may be
        inside.
    o : Out(stream.Signature(ArrayLayout(signed(bits), lanes)))
        Codes.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, in_bits, bits, sets, in_luts=False):
        check_integers(lanes=(lanes, 1, 64), in_bits=(in_bits, 2, 48), bits=(bits, 2, 8),
                       sets=(sets, 1, 1 << 16))
        self.lanes, self.bits, self.sets, self.in_luts = lanes, bits, sets, in_luts
        self.in_bits, self.latency = in_bits, ThresholdSearch.latency_for(bits)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"z": data.ArrayLayout(signed(in_bits), lanes), "set": range(sets)}))),
            "w": In(stream.Signature(threshold_write(
                signed(in_bits + 1), bits=bits, sets=sets, lanes=lanes))),
            "o": Out(stream.Signature(data.ArrayLayout(signed(bits), lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.search = search = ThresholdSearch(
            lanes=self.lanes, bits=self.bits, shape=signed(self.in_bits + 1), sets=self.sets,
            shared=False, in_luts=self.in_luts)
        m.submodules.falling = falling = Memory(shape=self.lanes, depth=self.sets, init=[])
        flags, write = falling.read_port(), falling.write_port(granularity=1)
        advance = ~self.o.valid | self.o.ready
        pipe = Pipeline(m, search.en)
        m.d.comb += [
            search.en.eq(advance), self.i.ready.eq(search.en), search.set.eq(self.i.p.set),
            search.w.p.eq(self.w.p), search.w.valid.eq(self.w.valid),
            self.w.ready.eq(1),
            write.addr.eq(self.w.p.set), write.data.eq(self.w.p.data[0].replicate(self.lanes)),
            write.en.eq((self.w.valid & (self.w.p.level == 0)) << self.w.p.lane),
            flags.addr.eq(self.i.p.set), flags.en.eq(search.en),
            self.o.valid.eq(pipe.delay(self.i.valid, self.latency, reset_less=False)),
        ]
        falls = pipe.delay(flags.data, self.latency - 1)
        for k in range(self.lanes):
            code = search.code[k]
            m.d.comb += [search.x[k].eq(self.i.p.z[k]),
                         self.o.p[k].eq(Cat(code[:-1], ~code[-1]) ^ falls[k].replicate(self.bits))]
        return m
