"""Logic that recovers the sums of packed fields, see `systola.hw.contract.dsp_packing`."""

from amaranth import Cat, Const, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FieldCounter", "next_count", "pack_fields", "split_fields", "spread_fields"]


def next_count(count, before, now, bits):
    """Return the count V, as signed(`bits`), after a field's top bits went from `before` to `now`.

    `before` and `now` count units modulo 2**m and differ by at most 2**(m-1) - 1 units: they
    wrapped upwards if `now` is smaller although the difference is positive, and downwards likewise.
    """
    borrow = Const(0, 1)
    for old, new in zip(before, now, strict=True):
        negative = old ^ new ^ borrow  # after the loop: the difference modulo 2**m, as signed
        borrow = (old & ~new) | (~(old ^ new) & borrow)
    up, down = borrow & ~negative, ~borrow & negative
    stepped, through = [], up | down
    for k in range(bits):
        bit = count[min(k, len(count) - 1)]
        stepped.append(bit ^ through)
        through = through & ~(bit ^ up)
    return Cat(stepped).as_signed()


def pack_fields(values, bits):
    """Return signed `values` less the borrow of the one below, which `spread_fields` spreads.

    Each still fits `bits`, as the values are at least -2**(bits-1) + 1 (all but the lowest).
    """
    packed, borrow = [], Const(0, 1)
    for value in values:
        lanes = []
        for k in range(bits):
            lanes.append(value[min(k, len(value) - 1)] ^ borrow)
            borrow = borrow & ~value[min(k, len(value) - 1)]
        packed.append(Cat(lanes))
        borrow = lanes[-1]
    return packed


def spread_fields(packed, offsets, bits):
    """Return the exact sum of ``value << offset``, as signed(`bits`), of `pack_fields` values."""
    parts = []
    for value, low, high in zip(packed, offsets, [*offsets[1:], bits], strict=True):
        parts += [value[min(k, len(value) - 1)] for k in range(high - low)]
    return Cat(parts).as_signed()


def split_fields(packing, total, counts):
    """Return the sum of every field, lowest first, from a column's sum and its final counts."""
    sums, below = [], None
    for field, count in zip(packing.fields, [*counts, None], strict=True):
        bits = total[field.offset:field.offset + field.width] if count is not None else (
            total[field.offset:])
        whole = bits if count is None else Cat(bits, count)
        whole = whole.as_signed()
        sums.append((whole if below is None else whole - below)[:packing.sum_bits].as_signed())
        below = count
    return sums


class FieldCounter(wiring.Component):
    """Follow one field down a column of DSP slices and count how often it wrapped around.

    Model: hw/contract/dsp_packing.py

    Parameters
    ----------
    packing : Packing
        Where the fields are, and the taps.
    index : int
        Which field; not the last one.

    Members
    -------
    seen : In(ArrayLayout(unsigned(field.seen), looks))
        The field's top bits below ``field.first`` and below each of ``field.taps`` rows, each as
        soon as it is there: one cycle later per row.
    count : Out(signed)
        Combinational: the count below the last row, in the cycle of its bits.
    """

    def __init__(self, packing, index):
        self.packing, self.index, self.field = packing, index, packing.fields[index]
        looks = 1 + len(self.field.taps)
        super().__init__({
            "seen": In(data.ArrayLayout(max(self.field.seen, 1), looks)),
            "count": Out(signed(self._bits(packing.rows)))})

    def _bits(self, rows):
        low, high = self.packing.count_range(self.index, rows)
        return max(-low - 1, high).bit_length() + 1

    def elaborate(self, platform):
        m = Module()
        count, before, above = self.seen[0][-1:].as_signed(), self.seen[0], self.field.first
        for look, rows in enumerate(self.field.taps, 1):
            for stage in range(rows - above):  # until the sum has come down these rows
                # The first count is the top bit of what is seen: nothing to store twice.
                if look > 1:
                    later = Signal.like(count, name=f"count_{look}_{stage}", reset_less=True)
                    m.d.sync += later.eq(count)
                    count = later
                later = Signal.like(before, name=f"seen_{look}_{stage}", reset_less=True)
                m.d.sync += later.eq(before)
                before = later
                if look == 1:
                    count = before[-1:].as_signed()
            count = next_count(count, before, self.seen[look], self._bits(rows))
            before, above = self.seen[look], rows
        m.d.comb += self.count.eq(count)
        return m
