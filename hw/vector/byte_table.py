"""Table of 256 bytes that several lanes read at once."""

from amaranth import Module, Mux, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.shapes import table_write

__all__ = ["ByteTable"]


class ByteTable(wiring.Component):
    """Read a byte per lane and cycle; two lanes share the ports of one block RAM.

    Latency 1 cycle from `addr` to `data`, which holds while `en` is low. A write takes effect from
    the next cycle on, and makes `data` undefined. The content is undefined until written.

    Model: none: moves data

    Parameters
    ----------
    lanes : int
        Bytes per cycle.
    table : int
        Which writes are for this table, see LOAD_TABLE.

    Members
    -------
    w : In(stream.Signature(table_write()))
        Always ready; writes of other tables are dropped.
    en : In(1), addr : In(ArrayLayout(8, lanes)), data : Out(ArrayLayout(8, lanes))
        Reads.

    Raises
    ------
    ValueError
        If `lanes` is not a positive integer.
    """

    def __init__(self, *, lanes, table):
        check_positive(lanes=lanes)
        self.lanes, self.table = lanes, table
        entries = data.ArrayLayout(unsigned(8), lanes)
        super().__init__({"w": In(stream.Signature(table_write())),
                          "en": In(1), "addr": In(entries), "data": Out(entries)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.w.ready.eq(1)
        writes = self.w.valid & (self.w.p.table == self.table)
        for first in range(0, self.lanes, 2):
            m.submodules[f"memory_{first}"] = memory = Memory(shape=8, depth=256, init=[])
            write = memory.write_port()
            m.d.comb += [write.en.eq(writes), write.data.eq(self.w.p.data)]
            for lane in range(first, min(first + 2, self.lanes)):
                read = memory.read_port()
                m.d.comb += [read.en.eq(self.en | writes), self.data[lane].eq(read.data)]
                if lane == first:  # one port of the block RAM writes and reads
                    m.d.comb += [read.addr.eq(Mux(writes, self.w.p.addr, self.addr[lane])),
                                 write.addr.eq(read.addr)]
                else:
                    m.d.comb += read.addr.eq(self.addr[lane])
        return m
