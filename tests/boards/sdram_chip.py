"""A chip of SDR memory at its pins, for tests; it counts what a chip must not be told."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

__all__ = ["SdramChip"]

ROW_BITS, COLUMN_BITS = 4, 9


class SdramChip(wiring.Component):
    """Four banks of 16 rows, which the lowest bits of an address choose; in domain ``chip``.

    ``data`` changes at the edge after which those of a real chip change.
    """

    def __init__(self):
        super().__init__({
            "cke": In(1), "cs_n": In(1), "ras_n": In(1), "cas_n": In(1), "we_n": In(1),
            "ba": In(2), "a": In(13), "dm": In(2), "written": In(16), "data": Out(16),
            "mode": Out(13), "refreshes": Out(16), "errors": Out(16)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cells = cells = Memory(shape=16, depth=4 << ROW_BITS + COLUMN_BITS, init=[])
        write, read = cells.write_port(domain="chip", granularity=8), cells.read_port(domain="comb")
        rows = [Signal(ROW_BITS, name=f"row{k}") for k in range(4)]
        opened, started, error = Signal(4), Signal(), Signal()
        latency, burst = self.mode[4:7], self.mode[:3] == 1
        # What the second word of a burst needs.
        again, writes = Signal(), Signal()
        column, bank = Signal(COLUMN_BITS), Signal(2)
        now, now_bank, reading, writing = Signal(COLUMN_BITS), Signal(2), Signal(), Signal()
        command = Cat(self.we_n, self.cas_n, self.ras_n, self.cs_n)
        row = Signal(ROW_BITS)
        address = Cat(now, row, now_bank)
        m.d.comb += [
            now.eq(Mux(again, column ^ 1, self.a)), now_bank.eq(Mux(again, bank, self.ba)),
            reading.eq(again & ~writes), writing.eq(again & writes), read.addr.eq(address),
            write.addr.eq(address), write.data.eq(self.written),
            write.en.eq((~self.dm) & writing.replicate(2)),
        ]
        with m.Switch(now_bank):
            for k in range(4):
                with m.Case(k):
                    m.d.comb += row.eq(rows[k])
        m.d.chip += [again.eq(0), self.errors.eq(self.errors + error)]
        closed = ~opened.bit_select(self.ba, 1)
        with m.If(self.cke):
            with m.Switch(command):
                with m.Case(0b0101, 0b0100):
                    m.d.comb += [error.eq(closed | ~started), now.eq(self.a),
                                 now_bank.eq(self.ba), reading.eq(self.we_n),
                                 writing.eq(~self.we_n)]
                    m.d.chip += [again.eq(burst), writes.eq(~self.we_n), column.eq(self.a),
                                 bank.eq(self.ba)]
                    with m.If(self.a[10]):
                        m.d.chip += opened.bit_select(self.ba, 1).eq(0)
                with m.Case(0b0011):
                    m.d.comb += error.eq(~closed | ~started)
                    m.d.chip += opened.bit_select(self.ba, 1).eq(1)
                    with m.Switch(self.ba):
                        for k in range(4):
                            with m.Case(k):
                                m.d.chip += rows[k].eq(self.a)
                with m.Case(0b0010):
                    m.d.chip += opened.bit_select(self.ba, 1).eq(0)
                    with m.If(self.a[10]):
                        m.d.chip += opened.eq(0)
                with m.Case(0b0001):
                    m.d.comb += error.eq(opened.any())
                    m.d.chip += self.refreshes.eq(self.refreshes + 1)
                with m.Case(0b0000):
                    m.d.comb += error.eq(opened.any() | started)
                    m.d.chip += [self.mode.eq(self.a), started.eq(self.refreshes >= 2)]
        with m.Elif(~self.cs_n & (command != 0b0111)):
            m.d.comb += error.eq(1)
        # After the edge that is one before the last of the latency, like those of a real chip.
        stages = [Signal(16, name=f"stage{k}") for k in range(3)]
        m.d.chip += [stages[0].eq(0x5A5A), stages[1].eq(stages[0]), stages[2].eq(stages[1])]
        with m.If(reading):
            m.d.chip += stages[0].eq(read.data)
        m.d.comb += self.data.eq(Mux(latency == 3, stages[2], stages[1]))
        return m
