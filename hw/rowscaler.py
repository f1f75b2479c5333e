"""Requantizer of the VECTOR engine: rows of units' results to codes."""

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw import shapes
from systola.hw.requant import Requantizer

__all__ = ["RowScaler", "scaling"]


def scaling():
    """Return the payload that says how to requantize the rows to come.

    ``base``: first parameter word; ``broadcast``: its record 0 serves all elements, else word k
    serves beat k of every row; ``bits``: output bits.
    """
    return data.StructLayout({"base": 16, "broadcast": 1, "bits": 5})


class RowScaler(wiring.Component):
    """Requantize rows with parameters from memory, per channel or the same for all.

    One beat a cycle. Beats wait in a queue of `DEPTH` for the parameters that each requests on
    entering; nothing is requested ahead of a beat, so a shared memory is never held up.

    Parameters
    ----------
    config : AcceleratorConfig
        Lanes and multiplier bits.

    Members
    -------
    start : In(1), scaling : In(scaling())
        Strobe and how to requantize, while no beat is inside; `scaling` holds afterwards.
    i : In(stream.Signature(row_beat(signed(32), config.lanes)))
        Rows.
    param : Out(shapes.ParamPort(config))
        To the parameter memory.
    o : Out(stream.Signature(row_beat(signed(16), config.lanes)))
        Codes; ``keep`` is all ones.
    """

    DEPTH = 8

    def __init__(self, config):
        self.config = config
        super().__init__({
            "start": In(1), "scaling": In(scaling()),
            "i": In(stream.Signature(shapes.row_beat(signed(32), config.lanes))),
            "param": Out(shapes.ParamPort(config)),
            "o": Out(stream.Signature(shapes.row_beat(signed(16), config.lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, how = self.config.lanes, self.scaling
        waiting = data.StructLayout({"x": self.i.p.x.shape(), "last": 1})
        m.submodules.queue = queue = SyncFIFO(width=waiting.size, depth=self.DEPTH)
        m.submodules.requantizer = unit = Requantizer(
            lanes=lanes, in_bits=32, mult_bits=self.config.mult_bits, residual=False, tag=1)
        entering, beat = data.View(waiting, queue.w_data), data.View(waiting, queue.r_data)
        record = Signal(shapes.param_record(self.config.mult_bits), reset_less=True)
        ask, have, index = Signal(), Signal(), Signal(16)
        req, rsp = self.param.req, self.param.rsp
        m.d.comb += [
            req.valid.eq(Mux(how.broadcast, ask, self.i.valid & queue.w_rdy)),
            req.p.eq(how.base + index),
            queue.w_en.eq(self.i.valid & (how.broadcast | req.ready)),
            self.i.ready.eq(queue.w_rdy & (how.broadcast | req.ready)),
            Value.cast(entering.x).eq(self.i.p.x), entering.last.eq(self.i.p.last),
            unit.i.valid.eq(queue.r_rdy & Mux(how.broadcast, have, rsp.valid)),
            queue.r_en.eq(unit.i.valid & unit.i.ready),
            rsp.ready.eq(Mux(how.broadcast, ~have, queue.r_rdy & unit.i.ready)),
            unit.i.p.z.eq(beat.x), unit.i.p.tag.eq(beat.last), unit.i.p.bits.eq(how.bits),
            self.o.valid.eq(unit.o.valid), unit.o.ready.eq(self.o.ready),
            self.o.p.x.eq(unit.o.p.y), self.o.p.last.eq(unit.o.p.tag),
            self.o.p.keep.eq((1 << lanes) - 1),
        ]
        m.d.comb += [Value.cast(unit.i.p.p[k]).eq(Mux(
            how.broadcast, Value.cast(record), Value.cast(rsp.p[k]))) for k in range(lanes)]
        with m.If(self.i.valid & self.i.ready & ~how.broadcast):
            m.d.sync += index.eq(Mux(self.i.p.last, 0, index + 1))
        with m.If(ask & req.ready):
            m.d.sync += ask.eq(0)
        with m.If(how.broadcast & rsp.valid & ~have):
            m.d.sync += [record.eq(rsp.p[0]), have.eq(1)]
        with m.If(self.start):
            m.d.sync += [ask.eq(how.broadcast), have.eq(0), index.eq(0)]
        return m
