"""LOAD engine: moves words between stream, scratchpad, parameters, table and weight FIFO."""

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw import shapes
from systola.hw.fetch import FetchPath, Target, result_beat
from systola.hw.isa import Flag, Opcode
from systola.hw.regslice import RegisterSlice
from systola.hw.unpack import ParamUnpacker, TableUnpacker, bus_beat
from systola.hw.walk import RegionWalker, Walk

__all__ = ["LoadEngine"]


class LoadEngine(wiring.Component):
    """Run the operations of the LOAD engine, one at a time, about a word a cycle.

    Model: ``systola.sim.machine_ops``. An instruction is taken when the previous one is complete;
    its first word moves 1 (from the stream) or 7 (from the scratchpad) cycles later, and ``done``
    follows its last word by one cycle. FETCH with TRANSPOSE reads a block of up to R rows for one
    tile column group, so it gives C words per R reads, or per 2R where the C channels straddle two
    words.

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes.

    Members
    -------
    instr : In(stream.Signature(shapes.engine_instruction()))
        Checked instructions.
    done : Out(1)
        High for one cycle when an instruction is complete and all its effects are visible.
    data : In(stream.Signature(bus_beat(config)))
        The beats that follow instructions; a word is the lowest R bytes.
    result : Out(stream.Signature(result_beat(config)))
        Words of STORE.
    src : Out(shapes.ReadPort(config)), dst : Out(shapes.WritePort(config))
        Scratchpad.
    weights : Out(stream.Signature(shapes.word(config)))
        Columns of stationary tiles.
    param : Out(stream.Signature(shapes.param_write(config)))
        Parameter memory.
    table : Out(stream.Signature(shapes.table_write()))
        Tables of the VECTOR engine.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "instr": In(stream.Signature(shapes.engine_instruction())),
            "done": Out(1),
            "data": In(stream.Signature(bus_beat(config))),
            "result": Out(stream.Signature(result_beat(config))),
            "src": Out(shapes.ReadPort(config)), "dst": Out(shapes.WritePort(config)),
            "weights": Out(stream.Signature(shapes.word(config))),
            "param": Out(stream.Signature(shapes.param_write(config))),
            "table": Out(stream.Signature(shapes.table_write())),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walker = walker = RegionWalker(config)
        m.submodules.path = path = FetchPath(config)
        m.submodules.params = params = ParamUnpacker(config)
        m.submodules.table = table = TableUnpacker(config)
        wiring.connect(m, wiring.flipped(self.src), path.src)
        wiring.connect(m, wiring.flipped(self.result), path.result)
        wiring.connect(m, wiring.flipped(self.table), table.o)
        word = [self.data.p[lane] for lane in range(config.rows)]
        step = walker.o
        target = data.StructLayout({"addr": 16, "data": shapes.word(config)})
        m.submodules.write = write = RegisterSlice(target)
        m.d.comb += [
            self.dst.req.valid.eq(write.o.valid), write.o.ready.eq(self.dst.req.ready),
            self.dst.req.p.addr.eq(write.o.p.addr), self.dst.req.p.data.eq(write.o.p.data),
            self.dst.req.p.mask.eq(~0),
            path.i.p.eq(step.p), self.param.p.data.eq(params.o.p),
            params.i.p.eq(self.data.p), table.i.p.eq(self.data.p),
            write.i.p.addr.eq(step.p.addr),
            *(write.i.p.data[lane].eq(byte) for lane, byte in enumerate(word)),
        ]
        left = Signal(32)  # beats or words still to move

        with m.FSM():
            with m.State("IDLE"):
                self._start(m, walker, path, table, left)
            with m.State("LOAD"):
                m.d.comb += [write.i.valid.eq(step.valid & self.data.valid),
                             step.ready.eq(write.i.ready & self.data.valid),
                             self.data.ready.eq(write.i.ready & step.valid)]
                with m.If(step.valid & step.ready & step.p.final):
                    m.next = "WRITTEN"
            with m.State("WRITTEN"):  # the last word may still wait
                with m.If(~write.o.valid | (self.dst.req.ready & write.i.ready)):
                    m.next = "DONE"
            with m.State("PARAMS"):
                m.d.comb += [params.i.valid.eq(self.data.valid),
                             self.data.ready.eq(params.i.ready),
                             self.param.valid.eq(params.o.valid),
                             params.o.ready.eq(self.param.ready)]
                with m.If(self.param.valid & self.param.ready):
                    m.d.sync += [left.eq(left - 1), self.param.p.addr.eq(self.param.p.addr + 1)]
                    with m.If(left == 1):
                        m.next = "DONE"
            with m.State("TABLE"):
                m.d.comb += [table.i.valid.eq(self.data.valid), self.data.ready.eq(table.i.ready)]
                with m.If(table.finished):
                    m.next = "DONE"
            with m.State("WEIGHTS"):
                m.d.comb += [self.weights.valid.eq(self.data.valid),
                             self.data.ready.eq(self.weights.ready)]
                m.d.comb += [self.weights.p[lane].eq(byte) for lane, byte in enumerate(word)]
                with m.If(self.weights.valid & self.weights.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "DONE"
            with m.State("READ"):
                m.d.comb += [path.i.valid.eq(step.valid), step.ready.eq(path.i.ready),
                             self.weights.valid.eq(path.weights.valid),
                             path.weights.ready.eq(self.weights.ready),
                             self.weights.p.eq(path.weights.p)]
                with m.If(path.finished):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m

    def _start(self, m, walker, path, table, left):
        """Take an instruction and hand its fields to the unit that counts for it."""
        m.d.comb += self.instr.ready.eq(1)
        states = {Opcode.LOAD: "LOAD", Opcode.LOAD_PARAMS: "PARAMS", Opcode.LOAD_TABLE: "TABLE",
                  Opcode.LOAD_WEIGHTS: "WEIGHTS", Opcode.FETCH: "READ", Opcode.STORE: "READ"}
        with m.If(self.instr.valid), m.Switch(self.instr.p.opcode):
            for opcode, state in states.items():
                form = shapes.body(opcode)
                body = form(self.instr.p.body[:form.size])
                with m.Case(opcode):
                    m.next = state
                    if "stride" in form.members:
                        m.d.comb += walker.i.valid.eq(1)
                        m.d.comb += [walker.i.p[name].eq(body[name])
                                     for name in form.members if name in walker.i.p.shape().members]
                    if opcode is Opcode.LOAD_PARAMS:
                        m.d.sync += [left.eq(body.count), self.param.p.addr.eq(body.base)]
                    if opcode is Opcode.LOAD_TABLE:
                        m.d.sync += table.table.eq(body.table)
                    if opcode is Opcode.LOAD_WEIGHTS:
                        m.d.sync += left.eq(body.beats)
                    if opcode is Opcode.FETCH:
                        transpose = (body.flags & Flag.TRANSPOSE).any()
                        m.d.comb += walker.i.p.walk.eq(
                            Mux(transpose, Walk.TRANSPOSE, Walk.COLUMNS))
                        m.d.sync += path.target.eq(
                            Mux(transpose, Target.TRANSPOSE, Target.WEIGHTS))
                        m.d.sync += [path.lanes[lane].eq(body.lanes_last > lane)
                                     for lane in range(self.config.rows)]
                    if opcode is Opcode.STORE:
                        m.d.sync += path.target.eq(Target.RESULT)
