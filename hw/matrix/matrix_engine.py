"""The MATRIX engine: matrix products out of and into the scratchpad."""

from amaranth import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.contract.isa import Opcode
from systola.hw.matrix.accumulator import Accumulators
from systola.hw.matrix.drain import Drain
from systola.hw.matrix.feeder import Feeder
from systola.hw.matrix.systolic import SystolicArray
from systola.hw.matrix.tile_loader import TileLoader
from systola.hw.parts import shapes

__all__ = ["MatrixEngine"]


class MatrixEngine(wiring.Component):
    """Run MATMUL instructions: ``out = requantize(act . weights [+ residual])``.

    The front end (`Feeder`, `TileLoader`, `SystolicArray`) multiplies one activation word a cycle
    into one buffer of the `Accumulators`, tile by tile of C output columns; the back end (`Drain`)
    requantizes another. Both run ahead of each other over tiles and instructions as far as the
    buffers permit. Weights are prefetched one tile beyond the one that waits in the array.

    Cycles, with memories that answer at once and weights in time; the test computes them so:

    - The first word enters the array 3 cycles after the instruction is taken; then a word a cycle.
      Swaps are at least max(R, C) cycles apart, and the sums of a row `SUM_GAP`
      (``hw/contract/latency.py``). Of two instructions that follow each other directly, the
      second's first word enters 2 cycles after the first's last word.
    - A tile's first group leaves `matmul_latency` cycles (``hw/contract/latency.py``; R + C + 5
      for ``dsp`` and ``lut``, R + C / group + 6 for ``dsp_packed``) after its last word, or 2
      cycles after the previous tile's last group, 1 if that took more than one. It takes rows *
      max(groups, accesses) cycles: groups of `lanes` columns, each ``config.requant_cycles``, and
      the words that its columns touch, twice if there is a residual or a wide output.
    - The next tile in the same buffer (with two of them the next tile but one) may enter 1 cycle
      after the tile's last group; but row t of its first pass already when row t of this tile is
      at the requantizer, one cycle before its first group.
    - All of that with 2C columns for a MATMUL with NARROW.
    - ``done`` comes about 12 cycles after the last group, 13 after a 16-bit one. After an
      instruction with a residual or wide output, the next one's first group comes 7 cycles after
      its ``done`` at the earliest, 10 with a residual, and the one after that enters 5 cycles after
      it.

    Model: sim/machine/memories.py

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes, widths and style.

    Members
    -------
    instr : In(stream.Signature(shapes.engine_instruction()))
        MATMUL instructions, taken when the front end starts with them; what they read must be in
        memory then.
    done : Out(1)
        One cycle per instruction, in order, after its last write has been accepted.
    weights : In(stream.Signature(shapes.weight_word(config)))
        Columns of the stationary tiles.
    act, res : Out(shapes.ReadPort(config))
        Activations, and the residual.
    out : Out(shapes.WritePort(config))
        Results.
    param : Out(shapes.ParamPort(config))
        Requantization records.
    factor : Out(shapes.FactorPort(config))
        Row factors, with ``config.factor_depth`` only.
    left : Out(1)
        There are weights here that no instruction has taken yet.
    entered, wait_weights, wait_room, wait_act : Out(1)
        An activation word enters the array, or why the next one does not, see `Feeder`.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "instr": In(stream.Signature(shapes.engine_instruction())), "done": Out(1),
            "weights": In(stream.Signature(shapes.weight_word(config))),
            "act": Out(shapes.ReadPort(config)), "res": Out(shapes.ReadPort(config)),
            "out": Out(shapes.WritePort(config)), "param": Out(shapes.ParamPort(config)),
            "left": Out(1), "entered": Out(1),
            "wait_weights": Out(1), "wait_room": Out(1), "wait_act": Out(1),
            **({"factor": Out(shapes.FactorPort(config))} if config.factor_depth else {}),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        size = {"rows": config.rows, "cols": config.cols, "weight_bits": config.weight_bits}
        m.submodules.feeder = feeder = Feeder(config)
        m.submodules.array = array = SystolicArray(
            act_bits=config.act_bits, style=config.pe_style, narrow_bits=config.narrow_bits, **size)
        m.submodules.loader = loader = TileLoader(
            group=array.group, narrow=bool(config.narrow_bits), **size)
        m.submodules.sums = sums = Accumulators(
            delays=array.delays, psum_bits=array.psum_bits, act_bits=config.act_bits,
            digits=config.attention_digits, acc_bits=config.entry_bits, depth=config.token_depth,
            buffers=config.acc_buffers, half=array.half, half_acc=config.sum_bits(narrow=True))
        m.submodules.drain = drain = Drain(config)
        for own, inner in ((self.weights, loader.i), (self.act, feeder.act),
                           (self.res, drain.res), (self.out, drain.out),
                           (self.param, drain.param)):
            wiring.connect(m, wiring.flipped(own), inner)
        if config.factor_depth:
            wiring.connect(m, wiring.flipped(self.factor), drain.factor)
        self._instructions(m, feeder, drain)

        # One register in front of the array, for weights and activations alike.
        m.d.sync += [array.acts.eq(feeder.acts), array.swap.eq(feeder.swap),
                     array.w.eq(loader.w), array.w_col.eq(loader.w_col)]
        tiles = Signal(range(config.acc_buffers + 2))
        m.d.sync += tiles.eq(tiles + feeder.start - drain.free)
        m.d.comb += [
            loader.swap.eq(feeder.swap), feeder.swap_ready.eq(loader.ready),
            feeder.tiles.eq(tiles), feeder.rows_read.eq(drain.rows_read),
            sums.psum.eq(array.psum), drain.tile.eq(sums.done),
            sums.row_en.eq(drain.row_en), sums.row_t.eq(drain.row_t),
            sums.row_buffer.eq(drain.row_buffer), drain.rows.eq(sums.rows),
            self.done.eq(drain.done),
            self.left.eq(loader.left), self.entered.eq(feeder.valid),
            self.wait_weights.eq(feeder.wait_weights),
            self.wait_room.eq(feeder.wait_room), self.wait_act.eq(feeder.wait_act),
        ]
        valid, control = feeder.valid, feeder.control
        for stage in range(array.latency):  # the register and the array, less the early read
            valid_next = Signal(name=f"valid_{stage}")
            control_next = Signal(control.shape(), name=f"control_{stage}", reset_less=True)
            m.d.sync += [valid_next.eq(valid), control_next.eq(control)]
            valid, control = valid_next, control_next
        m.d.comb += [sums.valid.eq(valid), sums.i.eq(control)]
        if config.narrow_bits:
            m.d.sync += array.w_narrow.eq(loader.w_narrow)
            m.d.comb += [feeder.tile_narrow.eq(loader.tile_narrow),
                         array.psum_narrow.eq(control.narrow)]
        return m

    def _instructions(self, m, feeder, drain):
        """Give each instruction to the front end, and a copy to the back end.

        Copies wait there for as many instructions as there may be tiles behind the one it is at.
        """
        body = shapes.body(Opcode.MATMUL)
        ins = data.View(body, self.instr.p.body[:body.size])
        m.submodules.kept = kept = SyncFIFO(width=body.size, depth=self.config.acc_buffers - 1)
        m.d.comb += [
            self.instr.ready.eq(feeder.instr.ready & kept.w_rdy),
            kept.w_en.eq(self.instr.valid & self.instr.ready), kept.w_data.eq(ins),
            feeder.instr.valid.eq(self.instr.valid & kept.w_rdy), feeder.instr.p.eq(ins),
        ]
        wiring.connect(m, kept.r_stream, drain.instr)
