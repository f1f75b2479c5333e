"""Table of 256 entries of one or two bytes that several lanes read at once."""

from amaranth import Cat, Module, Mux, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive
from systola.hw.parts.shapes import table_write
from systola.hw.parts.target import has_dsp48e1

__all__ = ["ByteTable"]


class ByteTable(wiring.Component):
    """Read an entry per lane and cycle; two lanes share the ports of one block RAM.

    Latency 1 cycle from `addr` to `data`, which holds while `en` is low. A write takes effect from
    the next cycle on, and makes `data` undefined. The content is undefined until written.

    Model: none: moves data

    Parameters
    ----------
    lanes : int
        Entries per cycle.
    table : int
        Which writes are for this table, see LOAD_TABLE: those to the first byte of its entries.
    entry_bytes : int
        Bytes of an entry; the table after `table` is the second of each, and so on.
    in_luts : bool
        On 7 series, memory of LUTs where two lanes share one, about 45 for a lane's bytes.

    Members
    -------
    w : In(stream.Signature(table_write()))
        Always ready; writes of other tables are dropped.
    en : In(1), addr : In(ArrayLayout(8, lanes)), data : Out(ArrayLayout(8 * entry_bytes, lanes))
        Reads.

    Raises
    ------
    ValueError
        If `lanes` or `entry_bytes` is not a positive integer.
    """

    def __init__(self, *, lanes, table, entry_bytes=1, in_luts=False):
        check_positive(lanes=lanes, entry_bytes=entry_bytes)
        self.lanes, self.table, self.entry_bytes = lanes, table, entry_bytes
        self.in_luts = in_luts
        super().__init__({"w": In(stream.Signature(table_write())), "en": In(1),
                          "addr": In(data.ArrayLayout(unsigned(8), lanes)),
                          "data": Out(data.ArrayLayout(unsigned(8 * entry_bytes), lanes))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.w.ready.eq(1)
        enables = Cat(self.w.valid & (self.w.p.table == self.table + k)
                      for k in range(self.entry_bytes))
        writes = enables.any()
        for first in range(0, self.lanes, 2):
            # One port and LUTs would be a RAM256X1S, which nextpnr-xilinx does not place.
            luts = self.in_luts and first + 1 < self.lanes
            m.submodules[f"memory_{first}"] = memory = Memory(
                shape=8 * self.entry_bytes, depth=256, init=[], attrs={
                    "ram_style": "distributed" if luts else "block"
                } if has_dsp48e1(platform) else {})
            write = memory.write_port(granularity=8)
            m.d.comb += [write.en.eq(enables),
                         write.data.eq(self.w.p.data.as_unsigned().replicate(self.entry_bytes))]
            for lane in range(first, min(first + 2, self.lanes)):
                read = memory.read_port()
                m.d.comb += [read.en.eq(self.en | writes), self.data[lane].eq(read.data)]
                if lane == first:  # one port of the block RAM writes and reads
                    m.d.comb += [read.addr.eq(Mux(writes, self.w.p.addr, self.addr[lane])),
                                 write.addr.eq(read.addr)]
                else:
                    m.d.comb += read.addr.eq(self.addr[lane])
        return m
