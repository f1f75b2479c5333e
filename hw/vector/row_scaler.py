"""Requantizer of the VECTOR engine: rows of units' results to codes."""

from amaranth import Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.parts import shapes
from systola.hw.parts.requant import Requantizer

__all__ = ["RowScaler"]


class RowScaler(wiring.Component):
    """Requantize rows with parameters from memory, per channel or the same for all.

    A beat takes the cycles of ``config.requant_cycles`` for codes. Beats wait in a queue of `DEPTH`
    for the parameters; a word of them, for ``lanes / norm_lanes`` beats, is requested when its
    first beat enters and taken as soon as it comes, so that a shared memory is never held up.

    Model: model/operators/requant.py

    Parameters
    ----------
    config : AcceleratorConfig
        Lanes and multiplier bits.

    Members
    -------
    start : In(1), scaling : In(shapes.scaling())
        Strobe and how to requantize, while no beat is inside; `scaling` holds afterwards.
    i : In(stream.Signature(row_beat(signed(32), config.norm_lanes)))
        Rows.
    param : Out(shapes.ParamPort(config))
        To the parameter memory.
    o : Out(stream.Signature(row_beat(signed(config.norm_bits), config.norm_lanes)))
        Codes; ``keep`` is all ones.
    """

    DEPTH = 8

    def __init__(self, config):
        self.config = config
        super().__init__({
            "start": In(1), "scaling": In(shapes.scaling()),
            "i": In(stream.Signature(shapes.row_beat(signed(32), config.norm_lanes))),
            "param": Out(shapes.ParamPort(config)),
            "o": Out(stream.Signature(shapes.row_beat(signed(config.norm_bits),
                                                      config.norm_lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        config, how = self.config, self.scaling
        lanes, parts = config.norm_lanes, config.lanes // config.norm_lanes
        waiting = data.StructLayout({"x": self.i.p.x.shape(), "last": 1})
        m.submodules.queue = queue = SyncFIFO(width=waiting.size, depth=self.DEPTH)
        m.submodules.requantizer = unit = Requantizer(
            lanes=lanes, in_bits=33,  # of the sum of two numbers of 32 bits
            mult_bits=min(config.code_mult_bits, config.mult_bits),
            code_mult_bits=config.code_mult_bits, out_bits=config.norm_bits,
            residual=False, symmetric=False, tag=1)
        entering, beat = data.View(waiting, queue.w_data), data.View(waiting, queue.r_data)
        word = Signal(shapes.param_word(config), reset_less=True)
        have, ask, index = Signal(), Signal(), Signal(16)
        into, out = Signal(range(parts)), Signal(range(parts))  # the beat's part of its word
        chosen = Signal(data.ArrayLayout(word.shape().elem_shape, lanes))
        new, used, go = Signal(), Signal(), Signal()
        req, rsp = self.param.req, self.param.rsp
        m.d.comb += [
            new.eq(~how.broadcast & (into == 0)),
            req.valid.eq(Mux(how.broadcast, ask, self.i.valid & queue.w_rdy & new)),
            req.p.eq(how.base + index),
            queue.w_en.eq(self.i.valid & (~new | req.ready)),
            self.i.ready.eq(queue.w_rdy & (~new | req.ready)),
            Value.cast(entering.x).eq(self.i.p.x), entering.last.eq(self.i.p.last),
            unit.i.valid.eq(queue.r_rdy & have), go.eq(unit.i.valid & unit.i.ready),
            queue.r_en.eq(go), unit.i.p.tag.eq(beat.last),
            *(unit.i.p.z[k].eq(beat.x[k]) for k in range(lanes)),
            unit.i.p.bits.eq(how.bits),
            used.eq(go & ~how.broadcast & (beat.last | (out == parts - 1))),
            rsp.ready.eq(~have | used),
            self.o.valid.eq(unit.o.valid), unit.o.ready.eq(self.o.ready),
            self.o.p.x.eq(unit.o.p.y), self.o.p.last.eq(unit.o.p.tag),
            self.o.p.keep.eq((1 << lanes) - 1),
        ]
        with m.Switch(out):
            for part in range(parts):
                with m.Case(part):
                    m.d.comb += [chosen[k].eq(word[part * lanes + k]) for k in range(lanes)]
        with m.If(how.broadcast):
            m.d.comb += [chosen[k].eq(word[0]) for k in range(lanes)]
        # By name: the unit's multipliers are shorter than those in memory.
        m.d.comb += [unit.i.p.p[k][name].eq(chosen[k][name])
                     for k in range(lanes) for name in chosen[k].shape().members]
        with m.If(self.i.valid & self.i.ready & ~how.broadcast):
            m.d.sync += into.eq(Mux(self.i.p.last | (into == parts - 1), 0, into + 1))
            with m.If(new | self.i.p.last):
                m.d.sync += index.eq(Mux(self.i.p.last, 0, index + 1))
        with m.If(go & ~how.broadcast):
            m.d.sync += out.eq(Mux(used, 0, out + 1))
        with m.If(ask & req.ready):
            m.d.sync += ask.eq(0)
        with m.If(rsp.ready):
            m.d.sync += [have.eq(rsp.valid), word.eq(rsp.p)]
        with m.If(self.start):
            m.d.sync += [ask.eq(how.broadcast), have.eq(0), index.eq(0)]
        return m
