"""VECTOR engine: Shiftmax, ShiftGELU and I-LayerNorm on rows in the scratchpad."""

from amaranth import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw import shapes
from systola.hw.config import GELU_SHIFT, SOFTMAX_SHIFT
from systola.hw.isa import Opcode
from systola.hw.layernorm import ILayerNorm
from systola.hw.rowreader import RowReader
from systola.hw.rowscaler import RowScaler
from systola.hw.rowwriter import RowWriter, balanced_digits
from systola.hw.shiftgelu import GeluTable, ShiftGelu
from systola.hw.shiftmax import Shiftmax

__all__ = ["VectorEngine"]


class VectorEngine(wiring.Component):
    """Run the row-wise operations, one instruction at a time.

    Memory words become beats of ``config.lanes`` elements, pass one of the three units, are
    requantized (I-LayerNorm; ShiftGELU when exact) or split into balanced digits (Shiftmax), and
    become words again, all at one beat a cycle while the units keep up. Rows follow each other
    without a gap inside an instruction; instructions do not overlap. Model:
    ``systola.sim.machine``.

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes; ``gelu`` and ``norm_start`` choose the units.

    Members
    -------
    instr : In(stream.Signature(engine_instruction()))
        SHIFTMAX, SHIFTGELU or LAYERNORM, checked; taken when the previous one is complete.
    done : Out(1)
        The instruction's last write was accepted in the previous cycle.
    src, dst, param : Out(shapes.ReadPort), Out(shapes.WritePort), Out(shapes.ParamPort)
        To the memories.
    table : In(stream.Signature(shapes.table_write()))
        Entries of the GELU table; always taken, and dropped if there is no table.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "instr": In(stream.Signature(shapes.engine_instruction())), "done": Out(1),
            "src": Out(shapes.ReadPort(config)), "dst": Out(shapes.WritePort(config)),
            "param": Out(shapes.ParamPort(config)),
            "table": In(stream.Signature(shapes.table_write())),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.reader = reader = RowReader(config)
        m.submodules.writer = writer = RowWriter(config)
        m.submodules.scaler = scaler = RowScaler(config)
        wiring.connect(m, wiring.flipped(self.src), reader.src)
        wiring.connect(m, wiring.flipped(self.dst), writer.dst)
        wiring.connect(m, wiring.flipped(self.param), scaler.param)
        opcode, x0 = self._start(m, reader, writer, scaler)
        m.d.comb += self.done.eq(writer.done)

        size = {"lanes": config.lanes, "max_row": config.max_row}
        m.submodules.shiftmax = shiftmax = Shiftmax(
            x0_bits=config.x0_bits, out_bits=config.attention_bits, n=SOFTMAX_SHIFT, **size)
        m.submodules.norm = norm = ILayerNorm(start=config.norm_start, **size)
        exact = config.gelu == "exact"
        if exact:
            m.submodules.gelu = gelu = ShiftGelu(x0_bits=config.x0_bits, n=GELU_SHIFT, **size)
            m.d.comb += [gelu.x0.eq(x0), self.table.ready.eq(1)]
        else:
            m.submodules.gelu = gelu = GeluTable(lanes=config.lanes)
            wiring.connect(m, wiring.flipped(self.table), gelu.w)
        m.d.comb += shiftmax.x0.eq(x0)
        units = {Opcode.SHIFTMAX: shiftmax, Opcode.SHIFTGELU: gelu, Opcode.LAYERNORM: norm}
        self._feed(m, opcode, reader.o, units)
        with m.Switch(opcode):
            for code, unit in units.items():
                with m.Case(code):
                    if code == Opcode.SHIFTMAX or (unit is gelu and not exact):
                        self._write(m, writer.i, unit.o, split=code == Opcode.SHIFTMAX)
                    else:
                        self._connect_rows(m, unit.o, scaler.i)
                        self._write(m, writer.i, scaler.o)
        return m

    def _start(self, m, reader, writer, scaler):
        """Distribute an instruction to all parts; return its opcode and x0, held until it ends."""
        raw = self.instr.p.body
        fields = {code: data.View(shapes.body(code), raw[:shapes.body(code).size])
                  for code in (Opcode.SHIFTMAX, Opcode.SHIFTGELU, Opcode.LAYERNORM)}
        ins, norm, gelu = (fields[code] for code in (
            Opcode.SHIFTMAX, Opcode.LAYERNORM, Opcode.SHIFTGELU))
        is_norm = self.instr.p.opcode == Opcode.LAYERNORM
        take, opcode = Signal(), Signal(8)
        x0 = Signal(self.config.x0_bits, reset_less=True)
        m.d.comb += [
            self.instr.ready.eq(reader.i.ready & writer.region.ready),
            take.eq(self.instr.valid & self.instr.ready),
            reader.i.valid.eq(take), writer.region.valid.eq(take),
        ]
        for name in "base", "stride", "plane":
            m.d.comb += [reader.i.p[name].eq(ins[f"src_{name}"]),
                         writer.region.p[name].eq(ins[f"dst_{name}"])]
        planes = Mux(self.instr.p.opcode == Opcode.SHIFTMAX, self.config.attention_digits, 1)
        m.d.comb += [
            reader.i.p.rows.eq(ins.rows), writer.region.p.rows.eq(ins.rows),
            reader.i.p.words.eq(ins.words), reader.i.p.lanes_last.eq(ins.lanes_last),
            reader.i.p.wide.eq(is_norm), writer.region.p.planes.eq(planes),
        ]
        how = Signal.like(scaler.scaling, reset_less=True)
        m.d.sync += scaler.start.eq(take)
        m.d.comb += scaler.scaling.eq(how)
        with m.If(take):
            m.d.sync += [
                opcode.eq(self.instr.p.opcode), x0.eq(ins.x0),
                how.base.eq(Mux(is_norm, norm.param_base, gelu.param_base)),
                how.bits.eq(Mux(is_norm, norm.out_bits, gelu.out_bits)),
                how.broadcast.eq((self.instr.p.opcode == Opcode.SHIFTGELU)
                                 & (self.config.gelu == "exact")),
            ]
        return opcode, x0

    def _feed(self, m, opcode, rows, units):
        """Lead the rows into the unit of the operation."""
        for code, unit in units.items():
            m.d.comb += [unit.i.p.x[k].eq(rows.p.x[k]) for k in range(self.config.lanes)]
            m.d.comb += [unit.i.p.keep.eq(rows.p.keep), unit.i.p.last.eq(rows.p.last),
                         unit.i.valid.eq(rows.valid & (opcode == code))]
            with m.If(opcode == code):
                m.d.comb += rows.ready.eq(unit.i.ready)

    def _connect_rows(self, m, source, sink):
        """Join two row streams, the source's elements sign-extended."""
        m.d.comb += [sink.p.x[k].eq(source.p.x[k]) for k in range(self.config.lanes)]
        m.d.comb += [sink.p.keep.eq(source.p.keep), sink.p.last.eq(source.p.last),
                     sink.valid.eq(source.valid), source.ready.eq(sink.ready)]

    def _write(self, m, sink, source, split=False):
        """Lead results to the writer, as bytes or split into digits."""
        config = self.config
        for k in range(config.lanes):
            x = source.p.x[k]
            digits = balanced_digits(x, config.act_bits, config.attention_digits) if split else [x]
            m.d.comb += [Value.cast(sink.p.x[p][k]).eq(digit) for p, digit in enumerate(digits)]
        m.d.comb += [sink.p.last.eq(source.p.last), sink.valid.eq(source.valid),
                     source.ready.eq(sink.ready)]
