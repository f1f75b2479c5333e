"""Writer of the VECTOR engine: beats of rows to words of a region."""

from amaranth import Array, Cat, Module, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw import shapes

__all__ = ["RowWriter", "balanced_digits", "byte_beat", "write_region"]


def write_region(config):
    """Return the payload that describes rows to write, in 1 to ``attention_digits`` planes."""
    return data.StructLayout({"base": 16, "stride": 16, "plane": 16, "rows": 16, "words": 16,
                              "planes": range(config.attention_digits + 1)})


def byte_beat(config):
    """Return a beat of rows of bytes: for each plane ``config.lanes`` of them; the row's end."""
    lanes = data.ArrayLayout(unsigned(8), config.lanes)
    return data.StructLayout({"x": data.ArrayLayout(lanes, config.attention_digits), "last": 1})


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

    One beat a cycle and one write a cycle: the next word is assembled while one is written. The
    first write follows the word's last beat by two cycles. Lanes beyond the row hold anything.

    Parameters
    ----------
    config : AcceleratorConfig
        Size of words and beats, and the planes.

    Members
    -------
    region : In(stream.Signature(write_region(config)))
        Taken when the previous region is done. Counts are at least 1.
    i : In(stream.Signature(byte_beat(config)))
        Rows.
    dst : Out(shapes.WritePort(config))
        To the memory.
    done : Out(1)
        The region's last write was accepted in the previous cycle.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "region": In(stream.Signature(write_region(config))),
            "i": In(stream.Signature(byte_beat(config))),
            "dst": Out(shapes.WritePort(config)), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        size, lanes = self.config.rows, self.config.lanes
        planes, req = self.config.attention_digits, self.dst.req
        region, busy = Signal(write_region(self.config), reset_less=True), Signal()
        word = Signal(data.ArrayLayout(shapes.word(self.config), planes), reset_less=True)
        sent = Signal.like(word)
        group = Signal(range(size // lanes))       # of the word being assembled
        full, row_end = Signal(), Signal()
        final, sent_final = Signal(), Signal()     # the region's last word
        plane = Signal(range(planes + 1))          # of the word being written
        row_addr, addr, write_addr = Signal(16), Signal(16), Signal(16)
        rows, last, move = Signal(16), Signal(), Signal()  # `rows` yet to end at the input
        m.d.comb += [
            self.region.ready.eq(~busy),
            last.eq(req.valid & req.ready & (plane + 1 == region.planes)),
            move.eq(full & (~req.valid | last)), self.i.ready.eq((rows != 0) & (~full | move)),
            req.p.addr.eq(write_addr), req.p.data.eq(Array(sent)[plane]),
            req.p.mask.eq((1 << size) - 1),
        ]
        m.d.sync += self.done.eq(last & sent_final)
        with m.If(req.valid & req.ready):
            m.d.sync += [plane.eq(plane + 1), write_addr.eq(write_addr + region.plane)]
        with m.If(last):
            m.d.sync += req.valid.eq(0)
            with m.If(sent_final):
                m.d.sync += busy.eq(0)
        with m.If(move):
            m.d.sync += [full.eq(0), req.valid.eq(1), sent.eq(word), sent_final.eq(final),
                         plane.eq(0), write_addr.eq(addr), addr.eq(addr + 1)]
            with m.If(row_end):
                m.d.sync += [addr.eq(row_addr + region.stride),
                             row_addr.eq(row_addr + region.stride)]
        with m.If(self.i.valid & self.i.ready):
            end = (group == size // lanes - 1) | self.i.p.last
            m.d.sync += [full.eq(end), row_end.eq(self.i.p.last), group.eq(group + 1),
                         final.eq(self.i.p.last & (rows == 1)), rows.eq(rows - self.i.p.last)]
            with m.If(end):
                m.d.sync += group.eq(0)
            for first in range(size // lanes):
                with m.If(group == first):
                    m.d.sync += [word[p][lanes * first + k].eq(self.i.p.x[p][k])
                                 for p in range(planes) for k in range(lanes)]
        with m.If(self.region.valid & self.region.ready):
            m.d.sync += [region.eq(self.region.p), busy.eq(1), addr.eq(self.region.p.base),
                         row_addr.eq(self.region.p.base), rows.eq(self.region.p.rows)]
        return m
