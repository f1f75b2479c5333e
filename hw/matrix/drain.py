"""Back end of the MATRIX engine: accumulators to requantized words in the scratchpad."""

from amaranth import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.isa import Opcode
from systola.hw.matrix.group_walker import GroupWalker
from systola.hw.matrix.residual_reader import ResidualReader
from systola.hw.matrix.word_writer import WordWriter
from systola.hw.parts import shapes
from systola.hw.parts.pipeline import up_down
from systola.hw.parts.requant import Requantizer

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Requantize finished tiles, ``config.lanes`` columns a cycle, and write them.

    For each row of a tile, groups of `lanes` columns in order, the first of the instruction at lane
    ``out_group * lanes``; a group's parameters and residual, and a row's factor, are requested
    ahead of it. A group takes ``config.requant_cycles``; a row takes that for its groups, or as
    many cycles as it has accesses of the residual or output port (two a word if 16 bits wide),
    whichever is more. After an instruction with residual or 16-bit output, the next one waits until
    its writes are out.

    The residual may lie where the output goes: a lane is written after its residual has been read,
    and a word is read again for the next tile only for the lanes that are not written yet.

    Model: model/operators/requant.py

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes.

    Members
    -------
    instr : In(stream.Signature(body(MATMUL)))
        Taken when every group of the previous instruction is requested.
    tile : In(1)
        Another tile has been accumulated, in the order of the instructions' tiles.
    free : Out(1)
        The oldest tile has been read out.
    rows_read : Out(range(token_depth + 1))
        Rows of the oldest tile that have been read, 0 between tiles.
    row_en, row_t, row_buffer, rows
        Read port of `systola.hw.matrix.accumulator.Accumulators`.
    param, factor, res, out
        Ports of the engine; `factor` only with ``config.factor_depth``.
    done : Out(1)
        One cycle per instruction, after its last write has been accepted.
    """

    def __init__(self, config):
        self.config = config
        # Narrow rows have twice the groups: two sums lie in an entry.
        self.groups = config.tile_columns(narrow=bool(config.narrow_bits)) // config.lanes
        factor = {"factor": Out(shapes.FactorPort(config))} if config.factor_depth else {}
        super().__init__({
            "instr": In(stream.Signature(shapes.body(Opcode.MATMUL))),
            "tile": In(1), "free": Out(1), "row_en": Out(1),
            "row_buffer": Out(range(config.acc_buffers)),
            "row_t": Out(range(config.token_depth)),
            "rows_read": Out(range(config.token_depth + 1)),
            "rows": In(data.ArrayLayout(
                data.ArrayLayout(signed(config.entry_bits), config.cols), config.acc_buffers)),
            "param": Out(shapes.ParamPort(config)), "res": Out(shapes.ReadPort(config)),
            "out": Out(shapes.WritePort(config)), "done": Out(1), **factor,
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walker = walker = GroupWalker(config)
        m.submodules.residual = residual = ResidualReader(config)
        m.submodules.writer = writer = WordWriter(config)
        m.submodules.requant = requant = Requantizer(
            lanes=config.lanes, in_bits=config.acc_bits, mult_bits=config.mult_bits,
            code_mult_bits=config.code_mult_bits, tag=shapes.group_tag(config), registered=True)
        wiring.connect(m, wiring.flipped(self.instr), walker.instr)
        wiring.connect(m, requant.o, writer.i)
        wiring.connect(m, residual.port, wiring.flipped(self.res))
        wiring.connect(m, writer.out, wiring.flipped(self.out))
        wiring.connect(m, walker.residual, residual.i)
        m.d.comb += [
            residual.plane.eq(walker.res_plane), writer.plane.eq(walker.out_plane),
            requant.res_mult.eq(walker.res_mult), requant.res_shift.eq(walker.res_shift),
            self.done.eq(writer.done), walker.done.eq(writer.done),
        ]
        wiring.connect(m, walker.param, wiring.flipped(self.param.req))
        if config.factor_depth:
            wiring.connect(m, walker.factor, wiring.flipped(self.factor.req))
        self._join(m, walker.note, residual, requant)
        return m

    def _join(self, m, source, residual, requant):
        """Bring accumulators, parameters and residual of a group together."""
        config, lanes = self.config, self.config.lanes
        note = source.p
        buffers = config.acc_buffers
        tiles, buffer = Signal(range(buffers + 1)), Signal(range(buffers))
        t, group = self.rows_read, Signal(range(self.groups))
        has_row, ahead, go = Signal(), Signal(), Signal()
        here = Signal()
        beat = requant.i.p
        has_factor = 1
        if config.factor_depth:
            has_factor = ~note.row_scale | self.factor.rsp.valid
            m.d.comb += self.factor.rsp.ready.eq(go & note.row_scale & note.row_end)
        m.d.comb += [
            requant.i.valid.eq(source.valid & has_row & self.param.rsp.valid & has_factor
                               & (~note.use_res | residual.o.valid)),
            go.eq(requant.i.valid & requant.i.ready),
            source.ready.eq(go), self.param.rsp.ready.eq(go),
            residual.o.ready.eq(go & note.use_res & note.tag.flush),
            beat.tag.eq(note.tag), beat.bits.eq(note.bits), beat.use_res.eq(note.use_res),
            beat.symmetric.eq(note.symmetric), beat.long.eq(note.long),
            self.free.eq(go & note.tile_end),
            here.eq((group == 0) & ~ahead),
            # A row is read when the last group of the one before is next, or as soon as its tile is
            # complete. Not when a group leaves: that is known late, and the memories are far away.
            self.row_en.eq(Mux(has_row, source.valid & note.row_end & ~note.tile_end & ~ahead,
                               tiles != 0)),
            self.row_t.eq(t), self.row_buffer.eq(buffer),
        ]
        row_of = Signal.like(buffer)
        with m.If(self.row_en):
            m.d.sync += row_of.eq(buffer)
        # Chosen here, where a look-up table chooses the group as well.
        row = Array(self.rows[k].as_value() for k in range(buffers))[row_of]
        z = (self._narrow_sums if config.narrow_bits else self._sums)(m, row, here, note, group)
        pairs = Array(residual.o.p[k:k + lanes] for k in range(0, config.rows, lanes))
        slot = Signal(range(config.rows // lanes))
        for index in range(config.rows // lanes):
            with m.If(note.tag.lane == index * lanes):
                m.d.comb += slot.eq(index)
        m.d.comb += [Value.cast(beat.z).eq(z), beat.res.eq(pairs[slot])]
        m.d.comb += [beat.p[k].eq(Mux(note.broadcast, self.param.rsp.p[0], self.param.rsp.p[k]))
                     for k in range(lanes)]
        if config.factor_depth:
            with m.If(note.row_scale):
                m.d.comb += [beat.p[k].mult.eq(self.factor.rsp.p) for k in range(lanes)]
        m.d.sync += tiles.eq(up_down(tiles, self.tile, self.free))
        with m.If(self.row_en):
            m.d.sync += [t.eq(t + 1), has_row.eq(1), ahead.eq(has_row)]
        with m.If(go):
            m.d.sync += group.eq(Mux(note.row_end, 0, group + 1))
            with m.If(note.row_end):
                m.d.sync += ahead.eq(0)
        with m.If(self.free):
            m.d.sync += [t.eq(0), has_row.eq(0),
                         buffer.eq(Mux(buffer == buffers - 1, 0, buffer + 1))]

    def _sums(self, m, row, here, note, group):
        """Return the sums of group `group`: of `row`, or what is kept of it when it is not `here`.

        When the memories have the next row, the last group of this one is kept in any case.
        """
        bits = self.config.lanes * self.config.acc_bits
        kept = Signal(data.ArrayLayout(bits, max(self.groups - 1, 1)), reset_less=True)
        first, *others = (row[k * bits:(k + 1) * bits] for k in range(self.groups))
        with m.If(here):
            m.d.sync += kept.eq(Cat(others))
            with m.If(note.row_end):
                m.d.sync += kept[0].eq(first)
        held = Array([kept[0], *(kept[k] for k in range(self.groups - 1))])
        return Mux(here, first, held[group])

    def _narrow_sums(self, m, row, here, note, group):
        """Return the same of rows that may be narrow, with two sums in each entry."""
        lanes, cols, acc_bits = self.config.lanes, self.config.cols, self.config.acc_bits
        bits, half = self.config.entry_bits, self.config.sum_bits(narrow=True)
        start = lanes // 2  # entries before it are in the first group only

        def group_of(entries, first, index, narrow):
            if not narrow:
                return Cat(entries[(c - first) * bits:][:acc_bits]
                           for c in range(index * lanes, (index + 1) * lanes))
            sums = (entries[(n // 2 - first) * bits + n % 2 * half:][:half]
                    for n in range(index * lanes, (index + 1) * lanes))
            return Cat(Cat(value, *[value[-1]] * (acc_bits - half)) for value in sums)

        first = Mux(note.narrow, group_of(row, 0, 0, True), group_of(row, 0, 0, False))
        kept_first = Signal(lanes * acc_bits, reset_less=True)
        kept = Signal((cols - start) * bits, reset_less=True)
        with m.If(here):
            m.d.sync += [kept_first.eq(first), kept.eq(row[start * bits:])]
        held = [Array([kept_first, *(group_of(kept, start, index, narrow)
                                     for index in range(1, self.groups >> (not narrow)))])
                for narrow in (False, True)]
        return Mux(here, first, Mux(note.narrow, held[1][group], held[0][group]))
