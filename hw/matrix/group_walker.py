"""Walk of the MATRIX engine's back end over the groups of lanes of its results."""

from amaranth import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.contract.isa import Flag, Opcode
from systola.hw.parts import shapes
from systola.hw.parts.pipeline import up_down
from systola.hw.parts.register_slice import RegisterSlice

__all__ = ["GroupWalker"]


def _group_note(config):
    """Return what accompanies a group of lanes on its way through the requantizer.

    ``tag``: where it goes; ``bits``, ``symmetric``, ``broadcast``, ``use_res``, ``row_scale``: how
    it is requantized, ``long`` if that takes a long multiplier; ``row_end``, ``tile_end``: last
    group of a row of the tile, of the tile; ``narrow``, if there are such: of a narrow one.
    """
    return data.StructLayout({
        "tag": shapes.group_tag(config), "bits": 5, "symmetric": 1, "broadcast": 1, "use_res": 1,
        "row_scale": 1, "long": 1, "row_end": 1, "tile_end": 1,
        **({"narrow": 1} if config.narrow_bits else {})})


class GroupWalker(wiring.Component):
    """Turn a MATMUL into its groups of lanes, in the order in which tiles are drained.

    For every tile of C columns (2C with NARROW), every row, every group of `lanes` columns: what to
    do with it, the parameters it needs, the residual word if it is the first of the row that needs
    that word, and the row's factor if it is the row's first. Up to one group a cycle, 5 cycles
    after `instr`, and its requests a cycle before it.
    After an instruction with residual or 16-bit output, the next one waits until its writes are
    out, as the held values below belong to the last instruction taken.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes.

    Members
    -------
    instr : In(stream.Signature(body(MATMUL)))
        Taken when every group of the previous instruction is known.
    done : In(1)
        An instruction is complete.
    note : Out(stream.Signature(_group_note(config)))
        Groups, from a register; each to be taken not before its requests on the other ports.
    param, residual, factor : Out(stream.Signature(16))
        Parameter words, words of the residual's low plane, entries of the row factors (these only
        with ``config.factor_depth``).
    out_plane, res_plane, res_mult, res_shift : Out
        Held values of the instruction.
    """

    DEPTH = 16
    """Far enough ahead to hide the residual's latency of 12 cycles, at two cycles a group."""

    def __init__(self, config):
        self.config = config
        self.groups, self.narrow_groups = (
            config.tile_columns(narrow=narrow) // config.lanes for narrow in (False, True))
        factor = {"factor": Out(stream.Signature(16))} if config.factor_depth else {}
        super().__init__({
            "instr": In(stream.Signature(shapes.body(Opcode.MATMUL))), "done": In(1),
            "note": Out(stream.Signature(_group_note(config))),
            "param": Out(stream.Signature(16)), "residual": Out(stream.Signature(16)),
            "out_plane": Out(16), "res_plane": Out(16), "res_mult": Out(signed(32)),
            "res_shift": Out(6), **factor,
        })

    def elaborate(self, platform):
        m = Module()
        ins = Signal(shapes.body(Opcode.MATMUL), reset_less=True)
        m.d.comb += [self.out_plane.eq(ins.out_plane), self.res_plane.eq(ins.res_plane),
                     self.res_mult.eq(ins.res_mult), self.res_shift.eq(ins.res_shift)]
        layout = data.StructLayout({"note": _group_note(self.config), "param": 16, "residual": 16,
                                    "factor": 16, "new_word": 1, "new_row": 1})
        group, found, taken = Signal(layout, reset_less=True), Signal(), Signal()
        step, active = Signal(), Signal()
        m.d.comb += step.eq(active & (~found | taken))
        with m.If(taken | step):
            m.d.sync += found.eq(step)
        queues = {"note": 1, "param": 1, "residual": group.new_word}
        if self.config.factor_depth:
            queues["factor"] = group.new_row
        for name, asked in queues.items():
            port = getattr(self, name)
            # The slice behind the notes' queue holds two more.
            depth = self.DEPTH - 2 * (name == "note")
            queue = SyncFIFO(width=len(Value.cast(port.p)), depth=depth)
            m.submodules[f"{name}_queue"] = queue
            m.d.comb += [queue.w_data.eq(group[name]), queue.w_en.eq(taken & asked)]
            if name != "note":
                wiring.connect(m, queue.r_stream, wiring.flipped(port))
                continue
            # The others are never fuller: a group leaves only with all that it asked for.
            m.submodules.head = head = RegisterSlice(port.p.shape())
            wiring.connect(m, head.o, wiring.flipped(port))
            wiring.connect(m, queue.r_stream, head.i)
            m.d.comb += taken.eq(found & queue.w_rdy)
        self._walk(m, ins, step, active, group)
        return m

    def _walk(self, m, ins, step, active, found):
        """Keep the position; describe its group in the registers `found` with every `step`."""
        config, lanes = self.config, self.config.lanes
        place = data.StructLayout({"word": 16, "last": 1, "final": 1, "lane": range(config.rows),
                                   "param": 16})
        here, tile = (Signal(place, reset_less=True) for _ in range(2))  # `tile`: its first group
        after = Signal(place)
        group = Signal(range(self.narrow_groups if config.narrow_bits else self.groups))
        rows_left = Signal(range(config.token_depth), reset_less=True)
        out_row, res_row, factor = (Signal(16, reset_less=True) for _ in range(3))
        # Of the last word: its index, its valid lanes, and the lane of its last group.
        last_word = Signal(16, reset_less=True)
        lanes_last = Signal(range(config.rows + 1), reset_less=True)
        last_lane = Signal(range(config.rows), reset_less=True)
        word_end, row_end, tile_end = Signal(), Signal(), Signal()
        # Signals of their own: read back out of `after`, older simulators take them for a loop.
        word_after, last_after, lane_after = Signal(16), Signal(), Signal(range(config.rows))
        flag = {name: (ins.flags & name).any() for name in Flag}
        use_res, wide = flag[Flag.RESIDUAL], ins.out_bits > 8
        last_group = self.groups - 1
        if config.narrow_bits:
            last_group = Mux(flag[Flag.NARROW], self.narrow_groups - 1, last_group)
            with m.If(step):
                m.d.sync += found.note.narrow.eq(flag[Flag.NARROW])
        m.d.comb += [
            word_end.eq(here.lane == config.rows - lanes),
            row_end.eq(here.final | (group == last_group)),
            tile_end.eq(row_end & (rows_left == 0)),
            word_after.eq(here.word + word_end), last_after.eq(word_after == last_word),
            lane_after.eq(Mux(word_end, 0, here.lane + lanes)),
            after.word.eq(word_after), after.last.eq(last_after), after.lane.eq(lane_after),
            after.final.eq(last_after & (lane_after >= last_lane)),
            after.param.eq(here.param + ~flag[Flag.BROADCAST]),
        ]
        note = found.note
        with m.If(step):
            m.d.sync += [
                note.tag.lane.eq(here.lane), note.tag.wide.eq(wide),
                note.tag.mask.eq(Cat(~here.last | (here.lane + j < lanes_last)
                                     for j in range(lanes))),
                note.tag.addr.eq(out_row + here.word), note.tag.flush.eq(row_end | word_end),
                note.tag.end.eq(tile_end & here.final), note.bits.eq(ins.out_bits),
                note.symmetric.eq(flag[Flag.SYMMETRIC]), note.use_res.eq(use_res),
                note.broadcast.eq(flag[Flag.BROADCAST]), note.row_end.eq(row_end),
                note.row_scale.eq(flag[Flag.ROW_SCALE]), note.tile_end.eq(tile_end),
                note.long.eq(wide | flag[Flag.ROW_SCALE] & config.long_factors),
                found.param.eq(here.param), found.residual.eq(res_row + here.word),
                found.new_word.eq(use_res & ((group == 0) | (here.lane == 0))),
                found.factor.eq(factor), found.new_row.eq(flag[Flag.ROW_SCALE] & (group == 0)),
                here.eq(after), group.eq(group + 1),
            ]
            with m.If(row_end):
                m.d.sync += [here.eq(tile), group.eq(0), rows_left.eq(rows_left - 1),
                             out_row.eq(out_row + ins.out_stride),
                             res_row.eq(res_row + ins.res_stride), factor.eq(factor + 1)]
            with m.If(tile_end):
                m.d.sync += [here.eq(after), tile.eq(after), rows_left.eq(ins.rows - 1),
                             out_row.eq(ins.out_base), res_row.eq(ins.res_base),
                             factor.eq(ins.factor_base), active.eq(~here.final)]
        most = config.acc_buffers + 1  # instructions taken and not done, of a tile each
        in_flight = Signal(range(most + 1))
        begin, first = Signal(), Signal(place)
        only_word, lane_first = Signal(), Signal(range(config.rows))
        taken = self.instr.valid & self.instr.ready
        m.d.comb += [
            self.instr.ready.eq(~active & ~begin & ((in_flight == 0) | ~(wide | use_res))
                                & (in_flight != most)),
            lane_first.eq(shapes.first_lane(config, ins.out_group)), only_word.eq(ins.words == 1),
            first.lane.eq(lane_first), first.last.eq(only_word), first.param.eq(ins.param_base),
            first.final.eq(only_word & (lane_first >= last_lane)),
        ]
        m.d.sync += [in_flight.eq(up_down(in_flight, taken, self.done)), begin.eq(taken)]
        with m.If(taken):
            new = self.instr.p
            m.d.sync += [ins.eq(new), last_word.eq(new.words - 1), lanes_last.eq(new.lanes_last),
                         last_lane.eq(Mux(new.lanes_last > lanes, new.lanes_last - lanes, 0))]
        with m.If(begin):
            m.d.sync += [active.eq(1), out_row.eq(ins.out_base), res_row.eq(ins.res_base),
                         factor.eq(ins.factor_base), rows_left.eq(ins.rows - 1), here.eq(first),
                         tile.eq(first)]
