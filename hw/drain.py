"""Back end of the MATRIX engine: accumulators to requantized words in the scratchpad."""

from amaranth import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw import shapes
from systola.hw.isa import Flag, Opcode
from systola.hw.requant import Requantizer
from systola.hw.residual import ResidualReader
from systola.hw.word_writer import WordWriter, group_tag

__all__ = ["Drain"]


class Drain(wiring.Component):
    """Requantize finished tiles, ``config.lanes`` columns a cycle, and write them.

    For each row of a tile, groups of `lanes` columns in order; a group's parameters and residual
    are requested ahead of it. A row takes as many cycles as it has groups, or accesses of the
    residual or output port (two a word if 16 bits wide), whichever is more. After an instruction
    with residual or 16-bit output, the next one waits until its writes are out.

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
    row_en, row_t, row_half, row
        Read port of `systola.hw.accumulator.Accumulators`.
    param, res, out
        Ports of the engine.
    done : Out(1)
        One cycle per instruction, after its last write has been accepted.
    """

    def __init__(self, config):
        self.config = config
        self.groups = config.cols // config.lanes
        self.note_layout = data.StructLayout({
            "tag": group_tag(config), "bits": 5, "broadcast": 1, "use_res": 1, "row_end": 1,
            "tile_end": 1})
        super().__init__({
            "instr": In(stream.Signature(shapes.body(Opcode.MATMUL))),
            "tile": In(1), "free": Out(1), "row_en": Out(1), "row_half": Out(1),
            "row_t": Out(range(config.token_depth)),
            "rows_read": Out(range(config.token_depth + 1)),
            "row": In(data.ArrayLayout(signed(config.acc_bits), config.cols)),
            "param": Out(shapes.ParamPort(config)), "res": Out(shapes.ReadPort(config)),
            "out": Out(shapes.WritePort(config)), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        # Far enough ahead to hide the residual's latency of 6 cycles, at one group a cycle.
        m.submodules.notes = notes = SyncFIFO(width=self.note_layout.size, depth=16)
        m.submodules.params = params = SyncFIFO(width=16, depth=16)
        m.submodules.residual = residual = ResidualReader(config)
        m.submodules.writer = writer = WordWriter(config)
        m.submodules.requant = requant = Requantizer(
            lanes=config.lanes, in_bits=config.acc_bits, mult_bits=config.mult_bits,
            tag=group_tag(config))
        ins = Signal(shapes.body(Opcode.MATMUL), reset_less=True)
        wiring.connect(m, requant.o, writer.i)
        wiring.connect(m, residual.port, wiring.flipped(self.res))
        wiring.connect(m, writer.out, wiring.flipped(self.out))
        m.d.comb += [
            residual.plane.eq(ins.res_plane), writer.plane.eq(ins.out_plane),
            requant.res_mult.eq(ins.res_mult), requant.res_shift.eq(ins.res_shift),
            self.done.eq(writer.done),
        ]
        m.d.comb += [self.param.req.valid.eq(params.r_rdy), self.param.req.p.eq(params.r_data),
                     params.r_en.eq(self.param.req.ready)]
        self._request(m, ins, notes, params, residual)
        self._join(m, notes, residual, requant)
        return m

    def _request(self, m, ins, notes, params, residual):
        """Walk over all groups: request parameters and residual, queue where the result goes."""
        config, lanes = self.config, self.config.lanes
        place = data.StructLayout({"word": 16, "lane": range(config.rows), "param": 16})
        here, tile, after = Signal(place), Signal(place), Signal(place)  # `tile`: its first group
        t, group = Signal(range(config.token_depth)), Signal(range(self.groups))
        out_row, res_row = Signal(16), Signal(16)
        active, step = Signal(), Signal()
        in_flight = Signal(2)  # instructions taken and not done; at most 3 as their tiles are 2
        word_end, row_end, tile_end, end = Signal(), Signal(), Signal(), Signal()
        new_word, wide, use_res = Signal(), Signal(), Signal()
        broadcast = (ins.flags & Flag.BROADCAST).any()
        valid_lanes = Cat((here.word + 1 != ins.words) | (here.lane + j < ins.lanes_last)
                          for j in range(lanes))
        finished = (here.word + 1 == ins.words) & (here.lane + lanes >= ins.lanes_last)
        m.d.comb += [
            wide.eq(ins.out_bits > 8), use_res.eq((ins.flags & Flag.RESIDUAL).any()),
            word_end.eq(here.lane == config.rows - lanes),
            row_end.eq(finished | (group == self.groups - 1)),
            tile_end.eq(row_end & (t + 1 == ins.rows)), end.eq(tile_end & finished),
            after.word.eq(here.word + word_end), after.param.eq(here.param + ~broadcast),
            after.lane.eq(Mux(word_end, 0, here.lane + lanes)),
            new_word.eq(use_res & ((group == 0) | (here.lane == 0))),
            # `params` is never fuller than `notes`: a group leaves only with its parameters.
            step.eq(active & notes.w_rdy & (~new_word | residual.i.ready)),
            notes.w_en.eq(step), params.w_en.eq(step), params.w_data.eq(here.param),
            residual.i.valid.eq(step & new_word), residual.i.p.eq(res_row + here.word),
            self.instr.ready.eq(~active & ((in_flight == 0) | ~(wide | use_res))
                                & (in_flight != 3)),
        ]
        note = data.View(self.note_layout, notes.w_data)
        m.d.comb += [
            note.tag.lane.eq(here.lane), note.tag.mask.eq(valid_lanes), note.tag.wide.eq(wide),
            note.tag.addr.eq(out_row + here.word), note.tag.flush.eq(row_end | word_end),
            note.tag.end.eq(end), note.bits.eq(ins.out_bits), note.use_res.eq(use_res),
            note.broadcast.eq(broadcast), note.row_end.eq(row_end), note.tile_end.eq(tile_end),
        ]
        with m.If(step):
            m.d.sync += [here.eq(after), group.eq(group + 1)]
            with m.If(row_end):
                m.d.sync += [here.eq(tile), group.eq(0), t.eq(t + 1),
                             out_row.eq(out_row + ins.out_stride),
                             res_row.eq(res_row + ins.res_stride)]
            with m.If(tile_end):
                m.d.sync += [here.eq(after), tile.eq(after), t.eq(0), out_row.eq(ins.out_base),
                             res_row.eq(ins.res_base), active.eq(~end)]
        taken, new = self.instr.valid & self.instr.ready, self.instr.p
        m.d.sync += in_flight.eq(in_flight + taken - self.done)
        with m.If(taken):
            m.d.sync += [ins.eq(new), active.eq(1), out_row.eq(new.out_base),
                         res_row.eq(new.res_base)]
            for start in here, tile:
                m.d.sync += [start.word.eq(0), start.lane.eq(0), start.param.eq(new.param_base)]

    def _join(self, m, notes, residual, requant):
        """Bring accumulators, parameters and residual of a group together."""
        config, lanes = self.config, self.config.lanes
        note = data.View(self.note_layout, notes.r_data)
        tiles, half = Signal(2), Signal()
        t, group = self.rows_read, Signal(range(self.groups))
        has_row, go = Signal(), Signal()
        beat = requant.i.p
        m.d.comb += [
            requant.i.valid.eq(notes.r_rdy & has_row & self.param.rsp.valid
                               & (~note.use_res | residual.o.valid)),
            go.eq(requant.i.valid & requant.i.ready),
            notes.r_en.eq(go), self.param.rsp.ready.eq(go),
            residual.o.ready.eq(go & note.use_res & note.tag.flush),
            beat.tag.eq(note.tag), beat.bits.eq(note.bits), beat.use_res.eq(note.use_res),
            self.free.eq(go & note.tile_end),
            # A row is read when the group before it leaves, or as soon as its tile is complete.
            self.row_en.eq(Mux(has_row, go & note.row_end & ~note.tile_end, tiles != 0)),
            self.row_t.eq(t), self.row_half.eq(half),
        ]
        rows = Array(self.row[k:k + lanes] for k in range(0, config.cols, lanes))
        pairs = Array(residual.o.p[k:k + lanes] for k in range(0, config.rows, lanes))
        slot = Signal(range(config.rows // lanes))
        for index in range(config.rows // lanes):
            with m.If(note.tag.lane == index * lanes):
                m.d.comb += slot.eq(index)
        m.d.comb += [beat.z.eq(rows[group]), beat.res.eq(pairs[slot])]
        m.d.comb += [beat.p[k].eq(Mux(note.broadcast, self.param.rsp.p[0], self.param.rsp.p[k]))
                     for k in range(lanes)]
        m.d.sync += tiles.eq(tiles + self.tile - self.free)
        with m.If(self.row_en):
            m.d.sync += [t.eq(t + 1), has_row.eq(1)]
        with m.If(go):
            m.d.sync += group.eq(Mux(note.row_end, 0, group + 1))
        with m.If(self.free):
            m.d.sync += [t.eq(0), half.eq(~half), has_row.eq(0)]
