"""LOAD engine: moves words between stream, scratchpad, parameters, table and weight FIFO."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.isa import WEIGHT_STREAMS, Flag, Opcode, formats
from systola.hw.load.fetch_path import FetchPath, Target
from systola.hw.load.region_walker import RegionWalker, Walk
from systola.hw.load.unpackers import CodeUnpacker, ParamUnpacker, TableUnpacker
from systola.hw.parts import shapes
from systola.hw.parts.register_slice import RegisterSlice

__all__ = ["LoadEngine"]


class LoadEngine(wiring.Component):
    """Run the operations of the LOAD engine, one at a time, about a word a cycle.

    An instruction is taken when the previous one is complete; its first word moves 1 (from the
    stream) or 7 (from the scratchpad) cycles later, a cycle more to the weights, and ``done``
    follows the last word from the stream by one cycle, one from the scratchpad by two, and that of
    COPY, which both reads and writes there, when it is accepted. FETCH with
    TRANSPOSE reads a block of up to R rows for one tile column group, so it gives C words per R
    reads, or per 2R where the C channels straddle two words.

    Model: sim/machine/memories.py

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
    data : In(stream.Signature(shapes.bus_beat(config)))
        The beats that follow instructions; a word is the lowest R bytes.
    result : Out(stream.Signature(shapes.result_beat(config)))
        Words of STORE.
    src : Out(shapes.ReadPort(config)), dst : Out(shapes.WritePort(config))
        Scratchpad.
    weights : Out(stream.Signature(shapes.weight_word(config)))
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
            "data": In(stream.Signature(shapes.bus_beat(config))),
            "result": Out(stream.Signature(shapes.result_beat(config))),
            "src": Out(shapes.ReadPort(config)), "dst": Out(shapes.WritePort(config)),
            "weights": Out(stream.Signature(shapes.weight_word(config))),
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
        # Registers that say which operation runs, instead of decoded states: they begin every path.
        kind = Signal(data.StructLayout(
            {"load": 1, "params": 1, "table": 1, "weights": 1, "narrow": 1, "codes": 1, "read": 1,
             "copy": 1}))
        left = Signal(signed(33))  # beats or words still to move, less 2: negative at the last
        m.submodules.out = out = RegisterSlice(self.weights.p.shape())
        wiring.connect(m, out.o, wiring.flipped(self.weights))
        finished = Signal()
        m.d.sync += finished.eq(path.finished)
        m.d.comb += [
            write.i.valid.eq(kind.load & step.valid & self.data.valid),
            path.i.valid.eq(kind.read & step.valid),
            step.ready.eq(Mux(kind.load, write.i.ready & self.data.valid,
                              kind.read & path.i.ready)),
            params.i.valid.eq(kind.params & self.data.valid),
            self.param.valid.eq(params.o.valid), params.o.ready.eq(self.param.ready),
            table.i.valid.eq(kind.table & self.data.valid),
            out.i.valid.eq(Mux(kind.weights, self.data.valid, path.weights.valid)),
            Value.cast(out.i.p).eq(Mux(kind.weights, Cat(word, kind.narrow), path.weights.p)),
            path.weights.ready.eq(out.i.ready),
            self.data.ready.eq(kind.load & write.i.ready & step.valid
                               | kind.params & params.i.ready | kind.table & table.i.ready
                               | kind.weights & out.i.ready),
        ]
        param_moves, moves = self.param.valid & self.param.ready, Signal()
        m.d.comb += moves.eq(param_moves | kind.weights & self.data.valid & out.i.ready)
        if config.weight_codes:
            self._codes(m, kind, out, moves)
        final = Signal()
        m.d.comb += final.eq(step.p.final)
        m.d.comb += [self.result.p.eq(path.result.p),
                     self.result.valid.eq(path.result.valid & ~kind.copy),
                     path.result.ready.eq(self.result.ready)]
        if config.copies:
            self._copy(m, kind, path.result, write.i, final)
        with m.If(moves):
            m.d.sync += left.eq(left - 1)
        with m.If(param_moves):
            m.d.sync += self.param.p.addr.eq(self.param.p.addr + 1)

        with m.FSM():
            with m.State("IDLE"):
                self._start(m, walker, path, table, left, kind)
                with m.If(self.instr.valid):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(write.i.valid & write.i.ready & final):
                    m.d.sync += kind.eq(0)
                    m.next = "WRITTEN"
                with m.If(moves & left[-1] | table.finished | finished):
                    m.d.sync += kind.eq(0)
                    m.next = "DONE"
            with m.State("WRITTEN"):  # the last word may still wait
                with m.If(~write.o.valid | (self.dst.req.ready & write.i.ready)):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m

    def _codes(self, m, kind, out, moves):
        """Let weights come from their codes."""
        m.submodules.codes = codes = CodeUnpacker(self.config)
        m.d.comb += [codes.i.p.eq(self.data.p), codes.i.valid.eq(kind.codes & self.data.valid),
                     codes.start.eq(self.instr.valid & self.instr.ready)]
        with m.If(kind.codes):
            m.d.comb += [out.i.valid.eq(codes.o.valid), Value.cast(out.i.p).eq(codes.o.p),
                         codes.o.ready.eq(out.i.ready), self.data.ready.eq(codes.i.ready),
                         moves.eq(codes.i.valid & codes.i.ready)]

    def _copy(self, m, kind, words, write, final):
        """Let words of the scratchpad be written there again, row by row of another region.

        Parameters
        ----------
        kind : Value
            Which operation runs; ``copy`` beside ``read``.
        words : stream
            Words that are read.
        write : stream
            What is written.
        final : Signal
            That is the last word.
        """
        form = shapes.body(Opcode.COPY)
        body = form(self.instr.p.body[:form.size])
        row, place, stride, last, left = (Signal(16) for _ in range(5))
        with m.If(self.instr.valid & self.instr.ready):
            m.d.sync += [row.eq(body.to_base + body.to_stride), place.eq(body.to_base),
                         stride.eq(body.to_stride), last.eq(body.words - 1),
                         left.eq(body.words - 1)]
        with m.If(kind.copy):
            m.d.comb += [write.valid.eq(words.valid), words.ready.eq(write.ready),
                         write.p.addr.eq(place), write.p.data.eq(words.p.word),
                         final.eq(words.p.last)]
            with m.If(words.valid & write.ready):
                with m.If(left == 0):
                    m.d.sync += [place.eq(row), row.eq(row + stride), left.eq(last)]
                with m.Else():
                    m.d.sync += [place.eq(place + 1), left.eq(left - 1)]

    def _start(self, m, walker, path, table, left, kind):
        """Take an instruction and hand its fields to the unit that counts for it."""
        m.d.comb += self.instr.ready.eq(1)
        kinds = {Opcode.LOAD: "load", Opcode.LOAD_PARAMS: "params", Opcode.LOAD_TABLE: "table",
                 Opcode.LOAD_WEIGHTS: "weights", Opcode.LOAD_NARROW: "weights",
                 Opcode.LOAD_CODES: "codes",
                 **dict.fromkeys((Opcode.FETCH, Opcode.STORE, Opcode.COPY), "read")}
        with m.If(self.instr.valid), m.Switch(self.instr.p.opcode):
            for opcode, name in kinds.items():
                if opcode not in formats(self.config):
                    continue
                form = shapes.body(opcode)
                body = form(self.instr.p.body[:form.size])
                with m.Case(opcode):
                    m.d.sync += kind[name].eq(1)
                    if "stride" in form.members:
                        m.d.comb += walker.i.valid.eq(1)
                        m.d.comb += [walker.i.p[name].eq(body[name])
                                     for name in form.members if name in walker.i.p.shape().members]
                    if opcode is Opcode.LOAD_PARAMS:
                        m.d.sync += [left.eq(body.count - 2), self.param.p.addr.eq(body.base)]
                    if opcode is Opcode.LOAD_TABLE:
                        m.d.sync += table.table.eq(body.table)
                    if opcode in WEIGHT_STREAMS:
                        m.d.sync += [left.eq(body.beats - 2),
                                     kind.narrow.eq(opcode is Opcode.LOAD_NARROW)]
                    if opcode is Opcode.FETCH:
                        transpose = (body.flags & Flag.TRANSPOSE).any()
                        m.d.comb += walker.i.p.walk.eq(
                            Mux(transpose, Walk.TRANSPOSE, Walk.COLUMNS))
                        m.d.sync += path.target.eq(
                            Mux(transpose, Target.TRANSPOSE, Target.WEIGHTS))
                        m.d.sync += [path.lanes[lane].eq(body.lanes_last > lane)
                                     for lane in range(self.config.rows)]
                    if opcode in (Opcode.STORE, Opcode.COPY):
                        m.d.sync += path.target.eq(Target.RESULT)
                    if opcode is Opcode.COPY:
                        m.d.sync += kind.copy.eq(1)
