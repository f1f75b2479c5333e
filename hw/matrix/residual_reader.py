"""Reader of 16-bit words that lie in two planes of bytes."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts import shapes
from systola.hw.parts.register_slice import RegisterSlice

__all__ = ["ResidualReader"]


class ResidualReader(wiring.Component):
    """Read the low and the high word of each address and pair their bytes.

    One pair every 2 cycles; up to 1 pair waits, beside what the port holds. A request leaves a
    cycle after its address is offered, and a pair comes a cycle after its high word.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Size of a word.

    Members
    -------
    i : In(stream.Signature(16))
        Address of the low word, taken a cycle before the request of the high word at the earliest.
    plane : In(16)
        Distance of the high word; constant while addresses are offered.
    port : Out(shapes.ReadPort(config))
        To the memory.
    o : Out(stream.Signature(ArrayLayout(signed(16), config.rows)))
        Pairs, in order.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(16)), "plane": In(16), "port": Out(shapes.ReadPort(config)),
            "o": Out(stream.Signature(data.ArrayLayout(signed(16), config.rows))),
        })

    def elaborate(self, platform):
        m = Module()
        req, rsp, o = self.port.req, self.port.rsp, self.o
        high, has_low, low = Signal(), Signal(), Signal(rsp.p.shape(), reset_less=True)
        pair = Signal(o.p.shape(), reset_less=True)
        m.submodules.requests = requests = RegisterSlice(req.p.shape())
        wiring.connect(m, requests.o, wiring.flipped(req))
        m.d.comb += [
            requests.i.valid.eq(self.i.valid), self.i.ready.eq(requests.i.ready & high),
            requests.i.p.addr.eq(self.i.p + Mux(high, self.plane, 0)),
            rsp.ready.eq(~has_low | ~o.valid | o.ready),
            o.p.eq(pair),
        ]
        with m.If(requests.i.valid & requests.i.ready):
            m.d.sync += high.eq(~high)
        with m.If(o.ready):
            m.d.sync += o.valid.eq(0)
        with m.If(rsp.valid & rsp.ready):
            m.d.sync += has_low.eq(~has_low)
            with m.If(has_low):
                m.d.sync += o.valid.eq(1)
                m.d.sync += [pair[lane].eq(Cat(low[lane], rsp.p[lane]))
                             for lane in range(self.config.rows)]
            with m.Else():
                m.d.sync += low.eq(rsp.p)
        return m
