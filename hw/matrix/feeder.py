"""Front end of the MATRIX engine: reads the activations of a MATMUL, pass by pass."""

from amaranth import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.contract.isa import Flag, Opcode
from systola.hw.contract.numbers import LEVEL_BITS
from systola.hw.matrix.accumulator import Accumulators
from systola.hw.parts import shapes
from systola.hw.parts.levels import exponential
from systola.hw.parts.register_slice import RegisterSlice

__all__ = ["Feeder"]


class Feeder(wiring.Component):
    """Stream activation words into the array, with the swaps and the accumulator control.

    For every tile of C output columns (the first at lane ``out_group * lanes`` of the output),
    every activation word k and every digit plane, one pass of `rows` words from
    ``act_base + digit*act_plane + t*act_stride + k`` (k // 2 for codes). Requests run ahead; the
    first word of a pass waits at the array's door for its weights (``swap_ready``) and for
    `Accumulators.gap`. The first pass of a tile may enter a buffer that is still being drained, row
    by row behind the drain, as it only writes; the tile's other passes wait until the buffer is
    free. One word a cycle otherwise, without a gap between passes; one cycle between instructions
    without requests.

    The byte lanes become signed(act_bits + 1): with UNSIGNED the top digit is unsigned, or in log2
    attention a nibble is the code of an exponential, words 2j and 2j + 1 being those of word j of
    the memory; with NARROW they have ``narrow_bits``.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Array, memory and digits.

    Members
    -------
    instr : In(stream.Signature(body(MATMUL)))
        Taken as soon as the previous instruction's last request is out.
    act : Out(shapes.ReadPort(config))
        Activations.
    swap_ready : In(1)
        The array can take a swap.
    tile_narrow : In(1)
        With ``config.narrow_bits`` only: the loaded tile is narrow. A MATMUL of the other kind
        waits for its weights, which never come.
    tiles : In(range(acc_buffers + 2))
        Tiles that have started and are not drained.
    rows_read : In(range(token_depth + 1))
        Rows of the oldest of them that the drain has read.
    valid, acts, swap : Out
        A word enters the array, and whether it is the first of a tile of weights.
    start : Out(1)
        The word is the first of a tile of columns.
    control : Out(shapes.control_layout(token_depth, attention_digits, acc_buffers))
        What the accumulators need, in the cycle of ``valid``.
    wait_weights, wait_room, wait_act : Out(1)
        Why the next word that is to enter does not, one of them: its weights are not loaded (or
        the array cannot take a swap yet), the drain has not freed its buffer, or the scratchpad has
        not delivered it. None while there is nothing to enter.
    """

    def __init__(self, config):
        self.config = config
        self.control_layout = shapes.control_layout(
            config.token_depth, config.attention_digits, config.acc_buffers,
            narrow=bool(config.narrow_bits))
        self.word_layout = data.StructLayout({
            "t": range(config.token_depth), "digit": range(config.attention_digits), "first": 1,
            "last": 1, "begin": 1, "swap": 1, "top": 1,
            **({"narrow": 1} if config.narrow_bits else {}),
            **({"codes": 1, "high": 1} if config.levels else {})})
        super().__init__({
            "instr": In(stream.Signature(shapes.body(Opcode.MATMUL))),
            "act": Out(shapes.ReadPort(config)),
            "swap_ready": In(1), "tiles": In(range(config.acc_buffers + 2)),
            "rows_read": In(range(config.token_depth + 1)),
            "valid": Out(1), "swap": Out(1), "start": Out(1),
            "wait_weights": Out(1), "wait_room": Out(1), "wait_act": Out(1),
            "control": Out(self.control_layout),
            "acts": Out(data.ArrayLayout(signed(config.act_bits + 1), config.rows)),
            **({"tile_narrow": In(1)} if config.narrow_bits else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = SyncFIFO(width=self.word_layout.size, depth=16)
        self._request(m, words)
        # Comparing an entry and popping it would make a long path.
        m.submodules.head = head = RegisterSlice(self.word_layout)
        wiring.connect(m, words.r_stream, head.i)
        self._enter(m, head.o)
        return m

    def _request(self, m, words):
        """Request every word, and queue what it is for."""
        config = self.config
        ins = Signal(shapes.body(Opcode.MATMUL), reset_less=True)
        active, step = Signal(), Signal()
        t, digit = Signal(range(config.token_depth)), Signal(range(config.attention_digits))
        k, column = Signal(16), Signal(16)           # `column` and `lane`: the tile's first output
        lane, next_lane = Signal(range(config.rows)), Signal(range(2 * config.rows))
        narrow = (ins.flags & Flag.NARROW).any() if config.narrow_bits else Const(0, 1)
        addr, plane, word = Signal(16), Signal(16), Signal(16)  # of this word, its plane, its k
        # Kept one step ahead in registers; `last_tile` is late, so a tile of one word takes two.
        last_t, last_digit, last_k, last_tile = Signal(), Signal(), Signal(), Signal()
        one_t, one_digit, one_k = Signal(), Signal(), Signal()
        one_word, pause = Signal(), Signal()  # tiles are one word; and the next is not yet known
        ends = Signal()  # the tile ends with this word
        # Fields of the instruction less 2 or 1, so that comparing them needs no sum.
        t_less, digit_less, k_less = Signal.like(t), Signal.like(digit), Signal.like(k)
        words_less, lanes_last = Signal(16), Signal(range(config.rows + 1))
        m.d.comb += [
            next_lane.eq(lane + Mux(narrow, 2 * config.cols, config.cols)),
            ends.eq(last_t & last_digit & last_k),
            self.instr.ready.eq(~active),
            self.act.req.valid.eq(active & words.w_rdy & ~pause),
            self.act.req.p.addr.eq(addr), step.eq(self.act.req.valid & self.act.req.ready),
            words.w_en.eq(step),
        ]
        m.d.sync += [
            pause.eq(step & one_word),
            last_tile.eq(((column == words_less) & (next_lane >= lanes_last))
                         | ((column + 1 == words_less) & (next_lane >= lanes_last + config.rows))),
        ]
        note = data.View(self.word_layout, words.w_data)
        m.d.comb += [
            note.t.eq(t), note.digit.eq(digit), note.begin.eq(t == 0),
            note.first.eq((k == 0) & (digit == 0)), note.swap.eq((t == 0) & (digit == 0)),
            note.top.eq(last_digit & (ins.flags & Flag.UNSIGNED).any()),
            note.last.eq(ends),
        ]
        if config.narrow_bits:
            m.d.comb += note.narrow.eq(narrow)
        next_word = word + 1
        if config.levels:
            codes = (ins.flags & Flag.UNSIGNED).any()
            m.d.comb += [note.codes.eq(codes), note.high.eq(k[0])]
            next_word = word + (k[0] | ~codes)
        with m.If(step):
            m.d.sync += [t.eq(t + 1), addr.eq(addr + ins.act_stride), last_t.eq(t == t_less)]
            with m.If(last_t):
                m.d.sync += [t.eq(0), last_t.eq(one_t), digit.eq(digit + 1),
                             last_digit.eq(digit == digit_less), plane.eq(plane + ins.act_plane),
                             addr.eq(plane + ins.act_plane)]
                with m.If(last_digit):
                    m.d.sync += [digit.eq(0), last_digit.eq(one_digit), k.eq(k + 1),
                                 last_k.eq(k == k_less),
                                 *(s.eq(next_word) for s in (word, plane, addr))]
                    with m.If(last_k):
                        m.d.sync += [k.eq(0), last_k.eq(one_k), lane.eq(next_lane),
                                     active.eq(~last_tile),
                                     *(s.eq(ins.act_base) for s in (word, plane, addr))]
                        with m.If(next_lane >= config.rows):
                            m.d.sync += [lane.eq(next_lane - config.rows), column.eq(column + 1)]
        with m.If(self.instr.valid & self.instr.ready):
            for last, one, less, count in (
                    (last_t, one_t, t_less, self.instr.p.rows),
                    (last_digit, one_digit, digit_less, self.instr.p.digits),
                    (last_k, one_k, k_less, self.instr.p.act_words)):
                m.d.sync += [last.eq(count == 1), one.eq(count == 1), less.eq(count - 2)]
            single = Signal()
            m.d.comb += single.eq((self.instr.p.rows == 1) & (self.instr.p.digits == 1)
                                  & (self.instr.p.act_words == 1))
            m.d.sync += [one_word.eq(single), pause.eq(single), ins.eq(self.instr.p),
                         active.eq(1), column.eq(0),
                         words_less.eq(self.instr.p.words - 1),
                         lanes_last.eq(self.instr.p.lanes_last),
                         lane.eq(shapes.first_lane(config, self.instr.p.out_group)),
                         *(s.eq(self.instr.p.act_base) for s in (word, plane, addr))]

    def _enter(self, m, words):
        """Let words into the array in order, each when its place is prepared."""
        note, buffers = words.p, self.config.acc_buffers
        buffer = Signal(range(buffers))
        since = Signal(range(Accumulators.gap))  # cycles until the next pass may begin
        may_begin, behind, room = Signal(), Signal(), Signal()
        bits, narrow_bits, right = self.config.act_bits, self.config.narrow_bits, Const(1, 1)
        if narrow_bits:
            right = note.narrow == self.tile_narrow
            m.d.comb += self.control.narrow.eq(note.narrow)
        m.d.comb += [
            self.start.eq(self.valid & note.begin & note.first),
            may_begin.eq((since == 0) & (~note.swap | self.swap_ready & right)),
            # With as many tiles ahead of this one, the drain is still reading this one's buffer.
            behind.eq(note.first & (note.t < self.rows_read)),
            room.eq(Mux(note.begin & note.first,
                        (self.tiles < buffers) | (behind & (self.tiles == buffers)),
                        (self.tiles != buffers + 1) | behind)),
            self.act.rsp.ready.eq(words.valid & room & (~note.begin | may_begin)),
            self.valid.eq(self.act.rsp.valid & self.act.rsp.ready),
            self.wait_weights.eq(words.valid & note.begin & ~may_begin),
            self.wait_room.eq(words.valid & ~room & ~self.wait_weights),
            self.wait_act.eq(self.act.rsp.ready & ~self.act.rsp.valid),
            words.ready.eq(self.valid),
            self.swap.eq(self.valid & note.swap),
            self.control.t.eq(note.t), self.control.digit.eq(note.digit),
            self.control.first.eq(note.first), self.control.last.eq(note.last),
            self.control.buffer.eq(buffer),
        ]
        for lane in range(self.config.rows):
            byte = self.act.rsp.p[lane]
            if self.config.levels:
                code = Mux(note.high, byte[LEVEL_BITS:], byte[:LEVEL_BITS])
                byte = Mux(note.codes, exponential(m, self.config.levels, code), byte)
            sign = byte[bits] if bits < 8 else byte[7] & ~note.top
            act = Cat(byte[:bits], sign)
            if narrow_bits:
                act = Mux(note.narrow, byte[:narrow_bits].as_signed(), act.as_signed())
            m.d.comb += self.acts[lane].eq(act)
        with m.If(self.valid & note.last):
            m.d.sync += buffer.eq(Mux(buffer == buffers - 1, 0, buffer + 1))
        # Rows of a pass may have come with pauses: its last one counts, and how many there were.
        with m.If(self.valid):
            m.d.sync += since.eq(Mux(note.t < Accumulators.gap, Accumulators.gap - 1 - note.t, 0))
        with m.Elif(since != 0):
            m.d.sync += since.eq(since - 1)
