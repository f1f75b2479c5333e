"""Writer of the VECTOR engine: beats of rows to words of a region."""

from itertools import product

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import LEVEL_BITS
from systola.hw.parts import shapes
from systola.hw.vector.row_reader import address_bits, choose

__all__ = ["RowWriter", "balanced_digits"]


def _write_region(config):
    """Return the payload that describes rows to write, in 1 to ``vector_planes`` planes."""
    return data.StructLayout({"base": 16, "stride": 16, "plane": 16, "rows": 16, "words": 16,
                              "planes": range(config.vector_planes + 1),
                              **({"packed": 1} if config.levels else {})})


def _byte_beat(config):
    """Return a beat of rows of bytes: ``config.vector_lanes`` for each plane; the row's end."""
    lanes = data.ArrayLayout(unsigned(8), config.vector_lanes)
    return data.StructLayout({"x": data.ArrayLayout(lanes, config.vector_planes), "last": 1})


def balanced_digits(value, digit_bits, count):
    """Return the `count` radix-2**digit_bits digits of unsigned `value` as bytes, lowest first.

    All but the top one lie in -2**(digit_bits-1) .. 2**(digit_bits-1)-1: adding half a radix to
    each beforehand makes them unsigned fields, whose inverted top bit is the sign.
    """
    low = digit_bits * (count - 1)
    offset = sum(1 << digit_bits * k + digit_bits - 1 for k in range(count - 1))
    moved = Value.cast(value) + offset
    digits = []
    for start in range(0, low, digit_bits):
        field = moved[start:start + digit_bits]
        digits.append(Cat(field[:-1], (~field[-1]).replicate(9 - digit_bits)))
    return [*digits, moved[low:low + 8]]


class RowWriter(wiring.Component):
    """Assemble beats of rows to words and write each word, plane after plane.

    One beat a cycle and one write a cycle: the next word is assembled while one is written. A word
    of b beats takes ``max(b, planes + 1)`` cycles. The first write follows the word's last beat by
    two cycles. Lanes beyond the row hold anything.

    Of log2 attention a ``packed`` region has codes of 4 bits, the low nibbles of the beats: two
    words share one, and the second's fill the high nibbles, 0 where the row has no more
    (`systola.model.operators.log2_exponentials.packed`).

    Model: model/operators/matmul.py

    Parameters
    ----------
    config : AcceleratorConfig
        Size of words and beats, and the planes.

    Members
    -------
    region : In(stream.Signature(_write_region(config)))
        Taken when the previous region is done. Counts are at least 1.
    i : In(stream.Signature(_byte_beat(config)))
        Rows; ``ready`` depends on registers only.
    dst : Out(shapes.WritePort(config))
        To the memory.
    done : Out(1)
        The region's last write was accepted in the previous cycle.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "region": In(stream.Signature(_write_region(config))),
            "i": In(stream.Signature(_byte_beat(config))),
            "dst": Out(shapes.WritePort(config)), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        region, busy = Signal(_write_region(self.config), reset_less=True), Signal()
        # Rows yet to end at the input; whether there are any.
        rows, more = Signal(16, reset_less=True), Signal()
        row_end, final = Signal(reset_less=True), Signal(reset_less=True)
        full, move, take = Signal(), Signal(), Signal()
        m.d.comb += [
            self.region.ready.eq(~busy), move.eq(full & ~self.dst.req.valid),
            self.i.ready.eq(more & (~full | move)), take.eq(self.i.valid & self.i.ready),
        ]
        with m.If(move):
            m.d.sync += full.eq(0)
        word = self._assemble(m, region, take, full)
        with m.If(take):
            m.d.sync += row_end.eq(self.i.p.last)
            with m.If(self.i.p.last):
                m.d.sync += [rows.eq(rows - 1), final.eq(rows == 1), more.eq(rows != 1)]
        last = self._write(m, region, word, row_end, final, move)
        m.d.sync += busy.eq(Mux(busy, ~last, self.region.valid))
        with m.If(self.region.valid & self.region.ready):
            m.d.sync += [region.eq(self.region.p), more.eq(1), final.eq(0),
                         rows.eq(self.region.p.rows)]
        return m

    def _assemble(self, m, region, take, full):
        """Collect the beats of a word, for all planes at once; return it."""
        size, lanes = self.config.rows, self.config.vector_lanes
        word = Signal(data.ArrayLayout(shapes.word(self.config), self.config.vector_planes),
                      reset_less=True)
        group = Signal(range(size // lanes), reset_less=True)
        with m.If(self.region.valid & self.region.ready):
            m.d.sync += group.eq(0)
        end = (group == size // lanes - 1) | self.i.p.last
        second, complete = self._pack(m, take, end, region.packed) if self.config.levels else (
            Const(0, 1), end)
        with m.If(take):
            m.d.sync += [full.eq(complete), group.eq(Mux(end, 0, group + 1))]
            for first in range(size // lanes):
                with m.If(group == first):
                    for plane, k in product(range(self.config.vector_planes), range(lanes)):
                        byte, x = word[plane][lanes * first + k], self.i.p.x[plane][k]
                        if not self.config.levels:
                            m.d.sync += byte.eq(x)
                            continue
                        m.d.sync += byte[LEVEL_BITS:].eq(
                            Mux(second, x[:LEVEL_BITS], x[LEVEL_BITS:]))
                        with m.If(~second):
                            m.d.sync += byte[:LEVEL_BITS].eq(x)
        return word

    def _pack(self, m, take, end, packed):
        """Return whether a beat is of a word's high nibbles, and whether it completes the word.

        `end` says that it is the last of the lanes, or of the row.
        """
        second = Signal(reset_less=True)
        with m.If(take & end):
            m.d.sync += second.eq(packed & ~second & ~self.i.p.last)
        with m.If(self.region.valid & self.region.ready):
            m.d.sync += second.eq(0)
        return second, end & (~packed | second | self.i.p.last)

    def _write(self, m, region, word, row_end, final, move):
        """Write `word` from the cycle after `move` on; return when the region is complete."""
        req, planes = self.dst.req, self.config.vector_planes
        sent, sent_final = Signal.like(word), Signal(reset_less=True)
        plane, last = Signal(range(planes + 1), reset_less=True), Signal()
        # Known early: the memory's readiness comes late.
        plane_end = Signal(init=planes == 1, reset_less=True)
        bits = address_bits(self.config)
        row_addr, addr, write_addr = (Signal(bits, reset_less=True) for _ in range(3))
        after = Signal(bits)
        m.d.comb += [
            req.p.addr.eq(write_addr), req.p.data.eq(choose(list(sent), plane[:(planes - 1)
                                                                              .bit_length()])),
            req.p.mask.eq((1 << self.config.rows) - 1),
            last.eq(req.valid & req.ready & plane_end),
            # One adder for the next word and for the next row.
            after.eq(Mux(row_end, row_addr, addr) + Mux(row_end, region.stride, 1)),
        ]
        m.d.sync += self.done.eq(last & sent_final)
        if planes > 1:
            with m.If(req.valid & req.ready):
                m.d.sync += [plane.eq(plane + 1), plane_end.eq(plane + 2 == region.planes),
                             write_addr.eq(write_addr + region.plane)]
        with m.If(last):
            m.d.sync += req.valid.eq(0)
        with m.If(move):
            m.d.sync += [req.valid.eq(1), sent.eq(word), sent_final.eq(final), plane.eq(0),
                         write_addr.eq(addr), addr.eq(after)]
            if planes > 1:
                m.d.sync += plane_end.eq(region.planes == 1)
            with m.If(row_end):
                m.d.sync += row_addr.eq(after)
        with m.If(self.region.valid & self.region.ready):
            m.d.sync += [addr.eq(self.region.p.base), row_addr.eq(self.region.p.base)]
        return last & sent_final
