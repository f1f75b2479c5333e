"""VECTOR engine: Shiftmax, ShiftGELU, layer norm and means of rows in the scratchpad."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from systola.hw.contract.isa import Opcode
from systola.hw.contract.numbers import (
    CODE_BITS,
    GELU_SHIFT,
    INT_BITS,
    SOFTMAX_SHIFT,
    SQUARE_FRACTION,
    epsilon_bits,
)
from systola.hw.parts import shapes
from systola.hw.parts.pipeline import up_down
from systola.hw.parts.register_slice import RegisterSlice
from systola.hw.vector.comparing_norm import ComparingNorm
from systola.hw.vector.expmax import ExpMax
from systola.hw.vector.lanes import Narrow, Widen
from systola.hw.vector.layernorm import ILayerNorm
from systola.hw.vector.normalised_softmax import NormalisedSoftmax
from systola.hw.vector.row_extender import RowExtender
from systola.hw.vector.row_mean import RowMean
from systola.hw.vector.row_reader import RowReader
from systola.hw.vector.row_scaler import RowScaler
from systola.hw.vector.row_writer import RowWriter, balanced_digits
from systola.hw.vector.shiftgelu import GeluTable, ShiftGelu
from systola.hw.vector.shiftmax import Shiftmax

__all__ = ["VectorEngine"]


class VectorEngine(wiring.Component):
    """Run the row-wise operations, one instruction at a time.

    Memory words become beats of ``config.vector_lanes`` elements, pass the operation's unit, are
    requantized (layer norm, but a compared one; published ShiftGELU) or split into balanced digits
    (published and normalised Shiftmax), and become words again. Layer norm and requantizer work on
    ``config.norm_lanes`` elements a cycle, between adapters if these are fewer. Rows follow each
    other without a gap inside an instruction; instructions do not overlap. Every word of the source
    is read before a word of the destination that depends on it is written, in the same order:
    source and destination may be the same rows, for Shiftmax in its first plane; a mean may replace
    any row.

    Model: sim/machine/memories.py

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes; ``attention``, ``gelu``, ``norm`` and ``pooling`` choose the units.

    Members
    -------
    instr : In(stream.Signature(engine_instruction()))
        SHIFTMAX, SHIFTGELU, LAYERNORM or MEAN, checked; taken when the previous one is complete.
    done : Out(1)
        The instruction's last write, of words and factors, was accepted in the previous cycle.
    src, dst, param : Out(shapes.ReadPort), Out(shapes.WritePort), Out(shapes.ParamPort)
        To the memories.
    table : In(stream.Signature(shapes.table_write()))
        Entries of the tables; always taken, and dropped if there is no such table.
    factor : Out(stream.Signature(shapes.factor_write(config)))
        Row factors, with ``config.factor_depth`` only; the sink must always be ready.
    """

    def __init__(self, config):
        self.config = config
        factor = {"factor": Out(stream.Signature(shapes.factor_write(config), always_ready=True))}
        super().__init__({
            "instr": In(stream.Signature(shapes.engine_instruction())), "done": Out(1),
            "src": Out(shapes.ReadPort(config)), "dst": Out(shapes.WritePort(config)),
            "param": Out(shapes.ParamPort(config)),
            "table": In(stream.Signature(shapes.table_write())),
            **(factor if config.factor_depth else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.reader = reader = RowReader(config)
        m.submodules.writer = writer = RowWriter(config)
        scaler = None
        if not config.compared_norm or config.gelu == "published":  # else all units make codes
            m.submodules.scaler = scaler = RowScaler(config)
        wiring.connect(m, wiring.flipped(self.src), reader.src)
        wiring.connect(m, wiring.flipped(self.dst), writer.dst)
        if scaler:
            wiring.connect(m, wiring.flipped(self.param), scaler.param)
        softmax, gelu, norm = self._units(m)
        take, opcode, fields, bits = self._start(m, reader, writer, scaler)
        if config.fine_norm:
            m.d.comb += norm.epsilon.eq(Cat(fields.epsilon_low, fields.epsilon_high))
        if config.compared_norm:
            m.d.comb += [norm.share.eq(fields.share), norm.bits_used.eq(bits)]
        m.d.comb += [getattr(unit, name).eq(fields[name]) for unit in (softmax, gelu)
                     for name in ("unit", "numerator") if hasattr(unit, name)]
        m.d.comb += self.done.eq(self._factors(m, take, fields, softmax, writer.done)
                                 if config.factor_depth else writer.done)
        is_softmax, is_gelu, is_norm, *is_mean = opcode
        compared = config.compared_norm
        # Registers between the units, or readiness would pass through all of them in one cycle.
        m.submodules.cut = cut = RegisterSlice(reader.o.p.shape())
        m.submodules.normed = normed = RegisterSlice(
            shapes.row_beat(signed(8), config.norm_lanes) if compared else norm.o.p.shape())
        if scaler:
            m.submodules.codes = codes = RegisterSlice(scaler.o.p.shape(), forward=False)
        m.submodules.result = result = RegisterSlice(writer.i.p.shape())
        wiring.connect(m, reader.o, cut.i)
        if compared:
            _join(m, normed.i, (1, norm.o))
        else:
            wiring.connect(m, norm.o, normed.i)
        wiring.connect(m, result.o, writer.i)
        if scaler:
            wiring.connect(m, scaler.o, codes.i)
        # Streams of codes from here: of compared norms, and what is requantized.
        made = [(is_norm, normed.o)] if compared else []
        if scaler:
            made.append((is_gelu if compared else 1, codes.o))
        for when, sink in (is_softmax, softmax.i), (is_gelu, gelu.i):
            _join(m, sink, (when, cut.o), convert=lambda x: x[8:].as_signed())
        if config.norm_lanes == config.vector_lanes:
            _join(m, norm.i, (is_norm, cut.o))
            gelu_out = gelu.o
        else:
            adapter = {"wide": config.vector_lanes, "narrow": config.norm_lanes}
            m.submodules.narrow = narrow = Narrow(shape=signed(16), **adapter)
            m.submodules.widen = widen = Widen(shape=signed(config.norm_bits), **adapter)
            _join(m, narrow.i, (is_norm, cut.o))
            _join(m, norm.i, (1, narrow.o))
            _join(m, widen.i, *made if len(made) > 1 else [(1, made[0][1])])
            gelu_out, made = gelu.o, [(1, widen.o)]
            if config.gelu == "published":
                m.submodules.narrow_gelu = narrow_gelu = Narrow(shape=signed(16), **adapter)
                _join(m, narrow_gelu.i, (1, gelu.o))
                gelu_out = narrow_gelu.o
        shares = softmax.o
        if config.attention == "normalised":  # whose queues all depend on readiness in a cycle
            m.submodules.shares = spare = RegisterSlice(shares.p.shape(), forward=False)
            wiring.connect(m, softmax.o, spare.i)
            shares = spare.o
        if config.masks:
            m.submodules.extender = extender = RowExtender(
                shape=shares.p.x.shape().elem_shape, lanes=config.vector_lanes, size=config.rows,
                max_words=config.row_words)
            m.d.comb += [extender.words.eq(fields.words), extender.lanes_last.eq(fields.lanes_last)]
            wiring.connect(m, shares, extender.i)
            shares = extender.o
        results = [(is_softmax, shares)]
        wide = [(is_norm, made[0][1])] if config.norm_bits > CODE_BITS else []
        if is_mean:
            results.append((*is_mean, self._mean(m, *is_mean, fields, cut.o).o))
            wide.append(results[-1])
        if config.gelu == "published":
            _join(m, scaler.i, *[(1, gelu_out)] if compared else [
                (is_norm, normed.o), (is_gelu, gelu_out)])
            results += made if len(made) > 1 else [
                (is_norm | is_gelu if is_mean else ~is_softmax, made[0][1])]
        else:
            if not compared:
                _join(m, scaler.i, (is_norm, normed.o))
            results += [(is_norm, made[0][1]), (is_gelu, gelu.o)]
        self._write(m, result.i, results, wide)
        return m

    def _mean(self, m, when, fields, rows):
        """Add the unit of MEAN, which takes `rows` then; bytes lie in their high half."""
        config = self.config
        m.submodules.mean = mean = RowMean(lanes=config.vector_lanes, max_row=config.max_row,
                                           mult_bits=config.mean_mult_bits)
        _join(m, mean.i, (when, rows),
              convert=lambda x: Mux(fields.wide, x, x[8:].as_signed()))
        m.d.comb += [getattr(mean, port).eq(fields[name]) for port, name in (
            ("rows", "rows"), ("mult", "mult"), ("shift", "shift"), ("bits", "out_bits"))]
        return mean

    def _units(self, m):
        """Add the units of the three operations."""
        config = self.config
        size = {"lanes": config.vector_lanes, "max_row": config.max_row}
        if config.deferred:
            softmax = ExpMax(mult_bits=config.mult_bits, levels=config.levels, **size)
        elif config.attention == "normalised":
            softmax = NormalisedSoftmax(factor_bits=config.factor_bits, **size)
        else:
            softmax = Shiftmax(unit_bits=config.x0_bits, out_bits=config.attention_bits,
                               n=SOFTMAX_SHIFT, **size)
        if config.gelu == "published":
            gelu = ShiftGelu(unit_bits=config.x0_bits, n=GELU_SHIFT, **size)
        else:
            gelu = GeluTable(lanes=config.vector_lanes)
        size["lanes"] = config.norm_lanes
        norm = ComparingNorm(bits=config.act_bits, **size) if config.compared_norm else ILayerNorm(
            variant=config.norm, roots=config.norm_roots, **size)
        m.submodules.softmax, m.submodules.gelu, m.submodules.norm = softmax, gelu, norm
        m.d.comb += self.table.ready.eq(1)
        for unit in softmax, gelu:
            if hasattr(unit, "w"):
                m.d.comb += [unit.w.p.eq(self.table.p), unit.w.valid.eq(self.table.valid)]
        return softmax, gelu, norm

    def _start(self, m, reader, writer, scaler):
        """Distribute an instruction to all parts.

        Return its strobe, which of the operations it is (a bit each), its held fields, and the bits
        of a norm's or an activation's codes.
        """
        config, raw = self.config, self.instr.p.body
        ins, norm, gelu, mean = (
            data.View(shapes.body(code), raw[:shapes.body(code).size]) for code in (
                Opcode.SHIFTMAX, Opcode.LAYERNORM, Opcode.SHIFTGELU, Opcode.MEAN))
        is_norm = self.instr.p.opcode == Opcode.LAYERNORM
        codes = [Opcode.SHIFTMAX, Opcode.SHIFTGELU, Opcode.LAYERNORM]
        rows, wide = ins.rows, is_norm
        planes = Mux(self.instr.p.opcode == Opcode.SHIFTMAX, config.attention_digits, 1)
        if config.norm_bits > CODE_BITS:
            planes = Mux(is_norm & (norm.out_bits > CODE_BITS), 2, planes)
        sources = {name: (ins, bits) for name, bits in (
            ("unit", config.x0_bits), ("numerator", INT_BITS), ("factor_base", 16))}
        if config.fine_norm:
            sources |= {"epsilon_low": (norm, 32),
                        "epsilon_high": (norm, epsilon_bits(config.max_row) - 32)}
        if config.compared_norm:
            sources["share"] = norm, SQUARE_FRACTION
        if config.masks:
            sources |= {name: (ins, bits_for(most)) for name, most in (
                ("words", config.row_words), ("lanes_last", config.rows))}
        if config.pooling == "mean":
            codes.append(Opcode.MEAN)
            is_mean = self.instr.p.opcode == Opcode.MEAN
            rows, wide = Mux(is_mean, 1, rows), is_norm | (is_mean & mean.wide[0])
            planes = Mux(is_mean, Mux(mean.out_bits > 8, 2, 1), planes)
            sources |= {name: (mean, bits) for name, bits in (
                ("rows", 16), ("wide", 1), ("mult", config.mean_mult_bits), ("shift", 6),
                ("out_bits", 5))}
        take, busy, opcode = Signal(), Signal(), Signal(len(codes))
        m.d.comb += [
            self.instr.ready.eq(~busy), take.eq(self.instr.valid & self.instr.ready),
            reader.i.valid.eq(take), writer.region.valid.eq(take),
        ]
        with m.If(take):
            m.d.sync += busy.eq(1)
        with m.Elif(self.done):
            m.d.sync += busy.eq(0)
        for name in "base", "stride", "plane":
            m.d.comb += [reader.i.p[name].eq(ins[f"src_{name}"]),
                         writer.region.p[name].eq(ins[f"dst_{name}"])]
        m.d.comb += [
            reader.i.p.rows.eq(ins.rows), writer.region.p.rows.eq(rows),
            reader.i.p.words.eq(ins.words), reader.i.p.lanes_last.eq(ins.lanes_last),
            reader.i.p.wide.eq(wide), writer.region.p.planes.eq(planes),
        ]
        if config.masks:
            masked = self.instr.p.opcode == Opcode.SHIFTMAX
            m.d.comb += [
                reader.i.p.key_words.eq(Mux(masked, ins.key_words, ins.words)),
                reader.i.p.key_last.eq(Mux(masked, ins.key_last, ins.lanes_last)),
                reader.i.p.key_step.eq(masked & ins.key_step[0]),
            ]
        if config.levels:
            m.d.comb += writer.region.p.packed.eq(self.instr.p.opcode == Opcode.SHIFTMAX)
        held = Signal(data.StructLayout({name: bits for name, (_, bits) in sources.items()}),
                      reset_less=True)
        how = Signal(shapes.scaling(), reset_less=True)
        if scaler:
            m.d.sync += scaler.start.eq(take)
            m.d.comb += scaler.scaling.eq(how)
        with m.If(take):
            m.d.sync += [held[name].eq(source[name]) for name, (source, _) in sources.items()]
            m.d.sync += [
                opcode.eq(Cat(self.instr.p.opcode == code for code in codes)),
                how.base.eq(Mux(is_norm, norm.param_base, gelu.param_base)),
                how.bits.eq(Mux(is_norm, norm.out_bits, gelu.out_bits)),
                how.broadcast.eq((self.instr.p.opcode == Opcode.SHIFTGELU)
                                 & (config.gelu == "published")),
            ]
        return take, opcode, held, how.bits

    def _factors(self, m, take, fields, softmax, written):
        """Write the row factors; return when the instruction is done, `written` or later."""
        rows = Signal(4)  # left the unit, and their factors have not
        addr, waits, started = Signal(16), Signal(), Signal()
        end = softmax.o.valid & softmax.o.ready & softmax.o.p.last
        complete = Signal()
        m.d.comb += [
            softmax.factor.ready.eq(1), self.factor.valid.eq(softmax.factor.valid),
            self.factor.p.factor.eq(softmax.factor.p), self.factor.p.addr.eq(addr),
            complete.eq((written | waits) & (rows == 0)),
        ]
        m.d.sync += [rows.eq(up_down(rows, end, softmax.factor.valid)), started.eq(take),
                     waits.eq((written | waits) & ~complete)]
        with m.If(softmax.factor.valid):
            m.d.sync += addr.eq(addr + 1)
        with m.If(started):
            m.d.sync += addr.eq(fields.factor_base)
        return complete

    def _write(self, m, sink, results, wide):
        """Lead results to the writer.

        The first are digits but for deferred attention, the others bytes; those of `wide` may have
        a second plane.
        """
        config = self.config
        for k in range(config.vector_lanes):
            values = [source.p.x[k] for _, source in results]
            digits = balanced_digits(values[0], config.act_bits, config.attention_digits) \
                if not config.deferred else [values[0]]
            low = _select([(when, value[:8]) for (when, _), value in zip(
                results, [digits[0], *values[1:]], strict=True)])
            planes = [low, *digits[1:]]
            high = [(when, source.p.x[k][8:]) for when, source in wide]
            if high:
                if len(planes) > 1:
                    high.append((None, planes[1]))
                planes[1:2] = [_select(high)]
            m.d.comb += [Value.cast(sink.p.x[p][k]).eq(value) for p, value in enumerate(planes)]
        m.d.comb += sink.p.last.eq(_select([(when, source.p.last) for when, source in results]))
        _handshake(m, sink, results)


def _select(choices):
    """Return the value of the ``(when, value)`` that holds, the last one if none does."""
    *others, (_, result) = choices
    for when, value in others:
        result = Mux(when, value, result)
    return result


def _handshake(m, sink, sources):
    """Connect valid and ready of the ``(when, source)`` that holds."""
    for when, source in sources:
        with m.If(when):
            m.d.comb += [sink.valid.eq(source.valid), source.ready.eq(sink.ready)]


def _join(m, sink, *sources, convert=lambda x: x):
    """Lead rows into `sink` from the ``(when, source)`` that holds, sign-extending elements."""
    for k in range(len(sink.p.x)):
        m.d.comb += sink.p.x[k].eq(_select([(when, convert(source.p.x[k]))
                                            for when, source in sources]))
    for name in "keep", "last":
        m.d.comb += sink.p[name].eq(_select([(when, source.p[name]) for when, source in sources]))
    _handshake(m, sink, sources)
