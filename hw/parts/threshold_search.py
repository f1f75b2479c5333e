"""Search among sorted thresholds: a comparison for each bit of the result."""

from amaranth import Cat, Module, Shape, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_integers, check_positive
from systola.hw.parts.pipeline import Pipeline
from systola.hw.parts.shapes import threshold_write
from systola.hw.parts.target import has_dsp48e1

__all__ = ["ThresholdSearch"]


class ThresholdSearch(wiring.Component):
    """Count for each lane how many of ``2**bits - 1`` thresholds, which do not decrease, x exceeds.

    From the highest bit of the count on: a stage compares x with the threshold that tells its bit,
    and has its own memory of the ``2**stage`` ones that this may be, of every set; so nothing
    selects among thresholds, and a lane reads `bits` of them. Latency ``bits + 1`` cycles with
    `en`, throughput one beat a cycle.

    Model: none: NumPy's searchsorted

    Parameters
    ----------
    lanes : int
        Numbers at a time.
    bits : int
        Bits of a count, 1 to 8.
    shape : ShapeLike
        Numbers and thresholds.
    sets : int
        Sets of thresholds; a beat says which one is for it.
    shared : bool
        Whether the lanes have the same thresholds; else each has its own.
    in_luts : bool
        On 7 series, memory of LUTs whatever the number of sets; else the tool chooses.

    Members
    -------
    en : In(1)
        Stages advance.
    x : In(ArrayLayout(shape, lanes)), set : In(range(sets))
        Numbers, and the set for them.
    code : Out(ArrayLayout(unsigned(bits), lanes))
        Counts.
    w : In(stream.Signature(threshold_write(...)))
        Always ready. A beat that enters in the next cycle finds it; one that is inside, with the
        same set, must not be.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, bits, shape, sets, shared, in_luts=False):
        check_integers(bits=(bits, 1, 8))
        check_positive(lanes=lanes, sets=sets)
        self.lanes, self.bits, self.sets, self.shared = lanes, bits, sets, shared
        self.in_luts = in_luts
        self.shape, self.latency = Shape.cast(shape), self.latency_for(bits)
        super().__init__({
            "en": In(1), "x": In(data.ArrayLayout(shape, lanes)), "set": In(range(sets)),
            "code": Out(data.ArrayLayout(unsigned(bits), lanes)),
            "w": In(stream.Signature(threshold_write(
                shape, bits=bits, sets=sets, lanes=None if shared else lanes))),
        })

    @staticmethod
    def latency_for(bits):
        """Return the latency for so many bits."""
        return bits + 1

    def elaborate(self, platform):
        m = Module()
        attrs = {"ram_style": "distributed"} if self.in_luts and has_dsp48e1(platform) else {}
        pipe, found = Pipeline(m, self.en), [Cat()] * self.lanes
        x, where = list(self.x), self.set
        m.d.comb += self.w.ready.eq(1)
        for stage in range(self.bits):
            thresholds = self._memories(m, stage, [Cat(f, where) for f in found], attrs)
            x, where = [pipe.reg(value) for value in x], pipe.reg(where)
            before = [pipe.reg(f) if stage else f for f in found]
            found = [pipe.node(Cat(threshold < value, f))
                     for threshold, value, f in zip(thresholds, x, before, strict=True)]
        m.d.comb += [self.code[k].eq(pipe.reg(f)) for k, f in enumerate(found)]
        return m

    def _memories(self, m, stage, addresses, attrs):
        """Return what the lanes read at their addresses, a cycle later, of a stage's thresholds."""
        level, below = self.w.p.level, self.bits - 1 - stage
        write = Signal()
        # A level is for the stage that its lowest one tells, and what is above is the count so far.
        m.d.comb += write.eq(self.w.valid & level[below] & ~level[:below].any())
        reads = []
        for lane in range(1 if self.shared else self.lanes):
            memory = Memory(shape=self.shape, depth=self.sets << stage, init=[],
                            attrs=attrs)
            m.submodules[f"stage_{stage}_{lane}"] = memory
            port = memory.write_port()
            m.d.comb += [port.addr.eq(Cat(level[below + 1:], self.w.p.set)),
                         port.data.eq(self.w.p.data),
                         port.en.eq(write if self.shared else write & (self.w.p.lane == lane))]
            # With a shared set, the first stage reads the same for all lanes.
            here = [addresses[lane]] if not self.shared else addresses[:1 if not stage else None]
            for address in here:
                read = memory.read_port()
                m.d.comb += [read.addr.eq(address), read.en.eq(self.en)]
                reads.append(read.data)
        return reads * (self.lanes // len(reads))
