"""ShiftGELU of I-ViT, with the row maximum as published, and as a table."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import INT_BITS
from systola.hw.parts.arguments import check_integers, check_positive
from systola.hw.parts.credit_queue import CreditQueue
from systola.hw.parts.pipeline import delay, saturate
from systola.hw.parts.shapes import row_beat, table_write
from systola.hw.vector.byte_table import ByteTable
from systola.hw.vector.reciprocal import ReciprocalProduct
from systola.hw.vector.row_maximum import RowMaximum
from systola.hw.vector.shiftexp import ShiftExp

__all__ = ["GeluTable", "ShiftGelu"]


class ShiftGelu(wiring.Component):
    """Multiply rows of codes by their sigmoid, bit for bit as I-ViT's ShiftGELU in exact integers.

    ``e = ShiftExp(x - max)``, ``em = ShiftExp(-max)``, ``D = min(e + em, 2**31 - 1)``, ``s =
    min((e * ((2**31 - 1) // D)) >> (32 - out_bits), 2**(out_bits-1) - 1)``, ``o = x * s``.

    Two passes: a row is buffered until its maximum is known, then ``-max`` goes down the pipeline
    ahead of it. A long run of rows of B beats takes ``B + 1`` cycles a row. A row's first beat is
    out ``latency`` cycles after its last beat was in (attribute; 31 for n = 23). Every lane has its
    own pipelined division.

    Model: model/operators/shiftgelu.py

    Parameters
    ----------
    lanes : int
        Elements per beat.
    max_row : int
        Elements of the longest row.
    unit_bits, in_bits : int
        Bits of the unit and of a code.
    n : int
        Octaves of ShiftExp, at least 16.
    out_bits : int
        Bits of the sigmoid, 2 to 8; its values are below ``2**(out_bits-1)``.

    Members
    -------
    i : In(stream.Signature(row_beat(signed(in_bits), lanes)))
        Rows of 1 to `max_row` codes.
    o : Out(stream.Signature(row_beat(signed(in_bits + out_bits), lanes)))
        The rows in units of ``S * 2**-(out_bits-1)``; lanes that are not kept hold anything.
    unit : In(unsigned(unit_bits))
        The unit, at least 1; must not change while rows are inside.

    Raises
    ------
    ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, *, lanes, max_row, unit_bits, in_bits=8, n=23, out_bits=8):
        check_integers(lanes=(lanes, 1, 1024), max_row=(max_row, 1, 1 << 20), n=(n, 16, 30),
                       unit_bits=(unit_bits, 1, 24), in_bits=(in_bits, 2, 16),
                       out_bits=(out_bits, 2, 8))
        self.lanes, self.max_row, self.unit_bits = lanes, max_row, unit_bits
        self.in_bits, self.out_bits, self.n = in_bits, out_bits, n
        self._pipeline = 1 + ShiftExp.latency_for(n) + 2 + ReciprocalProduct.latency + 3
        self.latency = 3 + self._pipeline + 1  # row maximum 2, head 1, queue 1
        super().__init__({
            "i": In(stream.Signature(row_beat(signed(in_bits), lanes))),
            "o": Out(stream.Signature(row_beat(signed(in_bits + out_bits), lanes))),
            "unit": In(unsigned(unit_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = RowMaximum(
            lanes=self.lanes, max_row=self.max_row, in_bits=self.in_bits)
        m.submodules.exp = exp = ShiftExp(lanes=self.lanes, x_bits=self.in_bits + 1,
                                          unit_bits=self.unit_bits, n=self.n, positive=1)
        m.submodules.queue = queue = CreditQueue(shape=self.o.p.shape(), depth=self._pipeline + 3)
        wiring.connect(m, wiring.flipped(self.i), rows.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        head, take, exp_max = Signal(init=1), Signal(), Signal(INT_BITS, reset_less=True)
        m.d.comb += [rows.o.ready.eq(queue.room & ~head), queue.take.eq(take),
                     take.eq(rows.o.valid & rows.o.ready), exp.unit.eq(self.unit)]
        with m.If(rows.o.valid & head):
            m.d.sync += head.eq(0)
        with m.If(take & rows.o.p.last):
            m.d.sync += head.eq(1)
        m.d.sync += exp.x[0].eq(Mux(head, 0, rows.o.p.x[0]) - rows.o.p.max)
        m.d.sync += [exp.x[k].eq(rows.o.p.x[k] - rows.o.p.max) for k in range(1, self.lanes)]
        at_exp = 1 + exp.latency
        head = delay(m, head, at_exp + 1)
        for k in range(self.lanes):
            mant, shift, low = exp.mant[k], exp.shift[k], self.n.bit_length()
            # Lane 0 carries the head: 2**low octaves (low > 4) are more than 31 bits.
            value = Cat((mant << shift[:low])[1:], shift[low:]) if k == 0 else (
                (mant << shift[:low])[1:len(mant) + self.n])
            e = delay(m, saturate(value, INT_BITS), 1)
            if k == 0:
                with m.If(head):  # follows while the row waits, settles with its first beat
                    m.d.sync += exp_max.eq(e)
            x = delay(m, rows.o.p.x[k], at_exp + 2 + ReciprocalProduct.latency)
            m.submodules[f"reciprocal_{k}"] = unit = ReciprocalProduct(mant_bits=len(mant))
            m.d.sync += unit.den.eq(saturate(e + exp_max, INT_BITS))
            m.d.comb += unit.mant.eq(delay(m, mant, 2))
            shift = delay(m, shift[:low], 2 + unit.latency)
            m.d.comb += queue.data.x[k].eq(self._times_sigmoid(m, x, unit.product, shift))
        tail = delay(m, Cat(rows.o.p.last, rows.o.p.keep), self._pipeline)
        m.d.comb += [queue.push.eq(delay(m, take, self._pipeline, reset=True)),
                     queue.data.last.eq(tail[0]), queue.data.keep.eq(tail[1:])]
        return m

    def _times_sigmoid(self, m, x, product, shift):
        """Return ``x * sigmoid`` three cycles later; four radix-4 digits, no multiplier."""
        # Below 2**32 unless the sum was clamped; then the factor is 1, the product a mantissa.
        scaled = (product << shift)[33 - self.out_bits:max(32, self.unit_bits + 1 + self.n)]
        sigmoid = delay(m, saturate(scaled, self.out_bits - 1), 1)
        x, triple = delay(m, x, 1), delay(m, x + (x << 1), 1)
        parts = []
        for digit in range(0, self.out_bits - 1, 2):
            low, high = sigmoid[digit], sigmoid[digit + 1:digit + 2].any()
            parts.append(Mux(high, Mux(low, triple, x << 1), Mux(low, x, 0)))
        pairs = [delay(m, low + (high << 2), 1)
                 for low, high in zip(parts[::2], [*parts[1::2], Const(0)], strict=False)]
        return delay(m, sum(pair << 4 * k for k, pair in enumerate(pairs)), 1)


class GeluTable(wiring.Component):
    """Look up each code in a table of 256 results.

    One beat per cycle, latency 1 cycle; two lanes share a block RAM. No row must be inside while
    entries are written; the content is undefined until then.

    Model: model/operators/shiftgelu.py

    Parameters
    ----------
    lanes : int
        Elements per beat.

    Members
    -------
    i, o : In, Out(stream.Signature(row_beat(signed(8), lanes)))
        Codes and their results.
    w : In(stream.Signature(table_write()))
        ``addr``: code + 128, ``data``: its result. Always ready; other tables' are dropped.

    Raises
    ------
    ValueError
        If `lanes` is not a positive integer.
    """

    def __init__(self, *, lanes):
        check_positive(lanes=lanes)
        self.lanes = lanes
        beat = stream.Signature(row_beat(signed(8), lanes))
        super().__init__({"i": In(beat), "o": Out(beat),
                          "w": In(stream.Signature(table_write()))})

    def elaborate(self, platform):
        m = Module()
        # It would take an eighth of half a block RAM, of which small parts have few.
        m.submodules.table = table = ByteTable(lanes=self.lanes, table=0, in_luts=True)
        wiring.connect(m, wiring.flipped(self.w), table.w)
        free = ~self.o.valid | self.o.ready
        m.d.comb += [self.i.ready.eq(free), table.en.eq(free)]
        with m.If(free):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.p.keep.eq(self.i.p.keep),
                         self.o.p.last.eq(self.i.p.last)]
        for k in range(self.lanes):
            m.d.comb += [table.addr[k].eq(self.i.p.x[k] ^ 0x80),  # plus 128
                         self.o.p.x[k].eq(table.data[k].as_signed())]
        return m
