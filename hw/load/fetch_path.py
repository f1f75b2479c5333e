"""Scratchpad words on their way to the result stream or to the weight FIFO."""

from enum import IntEnum

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.load.transposer import Transposer
from systola.hw.parts import shapes
from systola.hw.parts.register_slice import RegisterSlice

__all__ = ["FetchPath", "Target"]


class Target(IntEnum):
    """Where `FetchPath` sends words."""

    RESULT = 0
    WEIGHTS = 1
    TRANSPOSE = 2


class FetchPath(wiring.Component):
    """Read the words of a walk, one a cycle, and send them on.

    RESULT sends words as they are. WEIGHTS zeroes the lanes outside ``lanes`` in a row's last
    word. TRANSPOSE passes blocks through the `Transposer`. Zero words cost no read.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Word size.

    Members
    -------
    i : In(stream.Signature(shapes.walk_item(config)))
        Steps of a walk.
    target : In(2), lanes : In(R)
        `Target`, and the valid lanes of a row's last word; constant during a walk.
    src : Out(shapes.ReadPort(config))
        Scratchpad.
    result : Out(stream.Signature(shapes.result_beat(config)))
        Words of RESULT.
    weights : Out(stream.Signature(shapes.word(config)))
        Words of the other two.
    finished : Out(1)
        The walk's last word is being taken.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(shapes.walk_item(config))),
            "target": In(2), "lanes": In(config.rows),
            "src": Out(shapes.ReadPort(config)),
            "result": Out(stream.Signature(shapes.result_beat(config))),
            "weights": Out(stream.Signature(shapes.word(config))),
            "finished": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        item, rsp = shapes.walk_item(self.config), self.src.rsp
        # Steps wait here for their words, more than the reads a port has on the way.
        m.submodules.steps = steps = SyncFIFO(width=item.size, depth=8)
        m.submodules.transposer = transposer = Transposer(
            rows=self.config.rows, cols=self.config.cols)
        # Registers on both ways to the scratchpad: its arbiter ends one path and begins another.
        m.submodules.request = request = RegisterSlice(self.src.req.p.shape())
        m.submodules.rows = rows = RegisterSlice(transposer.i.p.shape(), forward=False)
        wiring.connect(m, request.o, wiring.flipped(self.src.req))
        wiring.connect(m, rows.o, transposer.i)
        m.d.comb += [
            request.i.p.addr.eq(self.i.p.addr), steps.w_data.eq(self.i.p),
            request.i.valid.eq(self.i.valid & ~self.i.p.zero & steps.w_rdy),
            self.i.ready.eq(steps.w_rdy & (self.i.p.zero | request.i.ready)),
            steps.w_en.eq(self.i.valid & self.i.ready),
        ]
        step, valid, taken = Signal(item), Signal(), Signal()
        word = Signal(shapes.word(self.config))
        m.d.comb += [
            step.eq(steps.r_data), valid.eq(steps.r_rdy & (step.zero | rsp.valid)),
            steps.r_en.eq(valid & taken), rsp.ready.eq(steps.r_en & ~step.zero),
        ]
        trim = step.row_end & (self.target == Target.WEIGHTS)
        m.d.comb += [word[lane].eq(Mux(step.zero | trim & ~self.lanes[lane], 0, byte))
                     for lane, byte in enumerate(rsp.p)]

        m.d.comb += [self.result.p.word.eq(word), self.result.p.last.eq(step.final),
                     rows.i.p.word.eq(word), rows.i.p.last.eq(step.block_end),
                     rows.i.p.tag.eq(step.tag), self.weights.p.eq(word)]
        with m.Switch(self.target):
            with m.Case(Target.RESULT):
                m.d.comb += [self.result.valid.eq(valid), taken.eq(self.result.ready),
                             self.finished.eq(valid & taken & step.final)]
            with m.Case(Target.WEIGHTS):
                m.d.comb += [self.weights.valid.eq(valid), taken.eq(self.weights.ready),
                             self.finished.eq(valid & taken & step.final)]
            with m.Case(Target.TRANSPOSE):
                m.d.comb += [
                    rows.i.valid.eq(valid), taken.eq(rows.i.ready),
                    self.weights.valid.eq(transposer.o.valid),
                    transposer.o.ready.eq(self.weights.ready),
                    self.weights.p.eq(transposer.o.p.word),
                    self.finished.eq(transposer.o.valid & self.weights.ready
                                     & transposer.o.p.final),
                ]
        return m
