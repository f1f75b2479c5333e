"""Stream beats into parameter words, table entries, and words of weights from their codes."""

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.contract.numbers import CODEBOOK_ENTRIES, RECORD_BYTES, SHIFT_BITS
from systola.hw.parts import shapes

__all__ = ["CodeUnpacker", "ParamUnpacker", "TableUnpacker"]


class ParamUnpacker(wiring.Component):
    """Assemble each ``config.param_beats`` beats to a parameter word, offered with the last beat.

    Record k is bytes 9k to 9k + 8 of the beats put together, little-endian. Of the multiplier the
    low mult_bits + 1 bits count, of the shift the low `SHIFT_BITS`.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes.

    Members
    -------
    i : In(stream.Signature(shapes.bus_beat(config)))
        Beats.
    o : Out(stream.Signature(shapes.param_word(config)))
        Words.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({"i": In(stream.Signature(shapes.bus_beat(config))),
                          "o": Out(stream.Signature(shapes.param_word(config)))})

    def elaborate(self, platform):
        m = Module()
        beats, size = self.config.param_beats, 8 * self.config.bus_bytes
        held = [Signal(size, name=f"held{k}") for k in range(beats - 1)]
        beat = Signal(range(beats))
        raw = Cat(*held, self.i.p.as_value())
        for k in range(self.config.lanes):
            bits = raw[8 * RECORD_BYTES * k:]
            m.d.comb += [self.o.p[k].bias.eq(bits[:32].as_signed()),
                         self.o.p[k].mult.eq(bits[32:33 + self.config.mult_bits].as_signed()),
                         self.o.p[k].shift.eq(bits[64:64 + SHIFT_BITS])]
        full = beat == beats - 1
        m.d.comb += [self.o.valid.eq(self.i.valid & full), self.i.ready.eq(self.o.ready | ~full)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += beat.eq(beat + 1)
            with m.If(full):
                m.d.sync += beat.eq(0)
            for k, part in enumerate(held):
                with m.If(beat == k):
                    m.d.sync += part.eq(self.i.p)
        return m


class CodeUnpacker(wiring.Component):
    """Turn beats of LOAD_CODES into weights: the codebook first, then two words from every beat.

    An entry of the codebook is stored in a cycle, a copy of it for every lane; then a word leaves
    in every cycle.

    Model: sim/machine/memories.py

    Parameters
    ----------
    config : AcceleratorConfig
        Word size.

    Members
    -------
    start : In(1)
        The next beat is the first of a codebook.
    i : In(stream.Signature(shapes.bus_beat(config)))
        Beats.
    o : Out(stream.Signature(shapes.word(config)))
        Words of weights.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({"start": In(1), "i": In(stream.Signature(shapes.bus_beat(config))),
                          "o": Out(stream.Signature(shapes.word(config)))})

    def elaborate(self, platform):
        m = Module()
        entries, per_beat = CODEBOOK_ENTRIES, min(self.config.rows, CODEBOOK_ENTRIES)
        filling, high = Signal(), Signal()
        entry, lane = Signal(range(entries)), Signal(range(per_beat))
        last, ends = Signal(), Signal()  # the entry is the codebook's or the beat's last
        m.d.comb += [
            self.o.valid.eq(self.i.valid & ~filling),
            self.i.ready.eq(Mux(filling, ends, high & self.o.ready)),
        ]
        with m.If(self.start):
            m.d.sync += [filling.eq(1), entry.eq(0), lane.eq(0), high.eq(0), last.eq(0),
                         ends.eq(0)]
        with m.Elif(filling & self.i.valid):
            m.d.sync += [entry.eq(entry + 1), lane.eq(Mux(ends, 0, lane + 1)), filling.eq(~last),
                         last.eq(entry == entries - 2),
                         ends.eq((entry == entries - 2) | ~ends & (lane == per_beat - 2))]
        with m.Elif(self.o.valid & self.o.ready):
            m.d.sync += high.eq(~high)
        value = Signal(8)
        m.d.comb += value.eq(Array(self.i.p[j] for j in range(per_beat))[lane])
        for k in range(self.config.rows):
            memory = Memory(shape=8, depth=entries, init=[])
            m.submodules[f"book_{k}"] = memory
            write, read = memory.write_port(), memory.read_port(domain="comb")
            m.d.comb += [write.en.eq(filling & self.i.valid), write.addr.eq(entry),
                         write.data.eq(value),
                         read.addr.eq(Mux(high, self.i.p[k][4:], self.i.p[k][:4])),
                         self.o.p[k].eq(read.data)]
        return m


class TableUnpacker(wiring.Component):
    """Split ``ceil(256 / R)`` beats into the 256 entries of a table, one a cycle.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes.

    Members
    -------
    i : In(stream.Signature(shapes.bus_beat(config)))
        Beats of R entries.
    table : In(2)
        Which table; constant while beats enter.
    o : Out(stream.Signature(shapes.table_write()))
        Entries, addresses 0 to 255.
    finished : Out(1)
        The last entry is being taken.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({"i": In(stream.Signature(shapes.bus_beat(config))), "table": In(2),
                          "o": Out(stream.Signature(shapes.table_write())), "finished": Out(1)})

    def elaborate(self, platform):
        m = Module()
        addr, lane = Signal(8), Signal(range(self.config.rows))
        moved, ends = Signal(), Signal()
        final, lane_end = Signal(), Signal()  # the entry is the table's or the beat's last
        m.d.comb += [
            self.o.valid.eq(self.i.valid), moved.eq(self.o.valid & self.o.ready),
            self.o.p.addr.eq(addr), self.o.p.table.eq(self.table),
            self.o.p.data.eq(Array(self.i.p)[lane].as_signed()),
            ends.eq(lane_end | final),
            self.i.ready.eq(self.o.ready & ends), self.finished.eq(moved & final),
        ]
        with m.If(moved):
            m.d.sync += [addr.eq(addr + 1), lane.eq(lane + 1), final.eq(addr == 254),
                         lane_end.eq(lane == self.config.rows - 2)]
            with m.If(ends):
                m.d.sync += [lane.eq(0), lane_end.eq(0)]
        return m
