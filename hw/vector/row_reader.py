"""Reader of the VECTOR engine: words of a region to beats of rows."""

from amaranth import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts import shapes

__all__ = ["RowReader", "address_bits", "choose"]

_UNDER_WAY = 15
"""Words that may be asked for and not yet cut."""


def _row_region(config):
    """Return the payload that describes rows to read; ``wide`` means two planes of bytes."""
    keys = {"key_words": 16, "key_last": 16, "key_step": 1} if config.masks else {}
    return data.StructLayout({"base": 16, "stride": 16, "plane": 16, "rows": 16, "words": 16,
                              "lanes_last": 16, "wide": 1, **keys})


def address_bits(config):
    """Return the bits of a scratchpad address that matter; the regions were checked."""
    return (config.scratchpad_words - 1).bit_length()


def choose(values, index):
    """Return ``values[index]`` as a tree of multiplexers; any of them beyond the last."""
    level = list(values)
    for bit in index:
        level = [Mux(bit, b, a) for a, b in zip(level[::2], level[1::2], strict=False)
                 ] + level[len(level) & ~1:]
    return level[0]


class RowReader(wiring.Component):
    """Read a region row by row and cut its words into beats of ``config.vector_lanes`` elements.

    Elements are bytes (in the high half; the low half holds anything), or 16 bits from the low and
    the high byte plane, requested one after the other. One request a cycle and one beat a cycle,
    the next word arriving while one is cut; the first beat follows its (second) word by one cycle.
    The words of a row are requested in order, row after row: a region may be overwritten by results
    that depend on the words they replace.

    With masks a row ends early: the first one behind ``key_last`` elements of its word number
    ``key_words``, every other ``key_step`` elements later than the one before, but all at the
    region's end at the latest.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Size of words, rows and beats.

    Members
    -------
    i : In(stream.Signature(_row_region(config)))
        Taken when the previous region's last beat has left. Counts are at least 1.
    src : Out(shapes.ReadPort(config))
        To the memory.
    o : Out(stream.Signature(row_beat(signed(16), config.vector_lanes)))
        Rows.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(_row_region(config))), "src": Out(shapes.ReadPort(config)),
            "o": Out(stream.Signature(shapes.row_beat(signed(16), config.vector_lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        region = Signal(_row_region(self.config), reset_less=True)
        start, finish, busy = Signal(), Signal(), Signal()
        asked, final = Signal(), Signal()  # a word was asked for; all were, and one is not yet cut
        m.d.comb += [self.i.ready.eq(~busy), start.eq(self.i.valid & ~busy)]
        with m.If(finish):
            m.d.sync += busy.eq(0)
        with m.If(start):
            m.d.sync += [region.eq(self.i.p), busy.eq(1)]
        load = self._cut(m, region, start, finish, final)
        under_way, active = Signal(range(_UNDER_WAY + 1)), Signal()
        m.d.sync += under_way.eq(under_way + asked - load)
        m.d.comb += final.eq(~active & (under_way == 1))
        self._request(m, region, start, active, under_way == _UNDER_WAY, asked)
        return m

    def _request(self, m, region, start, active, full, asked):
        """Ask for every word of the region, the planes of a word one after the other."""
        req, bits = self.src.req, address_bits(self.config)
        high, row_end = Signal(), Signal()
        row_addr, addr, after = Signal(bits), Signal(bits), Signal(bits)
        rows, words = Signal(16), Signal(range(self.config.row_words + 1))  # left, with this one
        first, following = self._ends(m, region, start, asked & row_end)
        m.d.comb += [
            req.valid.eq(active & ~full), row_end.eq(words == 1),
            req.p.addr.eq((addr + Mux(high, region.plane, 0))[:bits]),
            # One adder for the next word and for the next row.
            after.eq(Mux(row_end, row_addr, addr) + Mux(row_end, region.stride, 1)),
            asked.eq(req.valid & req.ready & (~region.wide | high)),
        ]
        with m.If(req.valid & req.ready):
            m.d.sync += high.eq(region.wide & ~high)
        with m.If(asked):
            m.d.sync += [addr.eq(after), words.eq(words - 1)]
            with m.If(row_end):
                m.d.sync += [words.eq(following.words), rows.eq(rows - 1), active.eq(rows != 1),
                             row_addr.eq(after)]
        with m.If(start):
            m.d.sync += [active.eq(1), addr.eq(self.i.p.base), row_addr.eq(self.i.p.base),
                         rows.eq(self.i.p.rows), words.eq(first.words)]

    def _cut(self, m, region, start, finish, final):
        """Turn the words that arrive into beats; return the strobe that loads one."""
        size, lanes, rsp = self.config.rows, self.config.vector_lanes, self.src.rsp
        next_low, has_low = Signal.like(rsp.p, reset_less=True), Signal()
        low, high = Signal.like(rsp.p, reset_less=True), Signal.like(rsp.p, reset_less=True)
        left, full, row_end, end = Signal(range(size + 1)), Signal(), Signal(), Signal()
        group = Signal(range(size // lanes))
        words = Signal(range(self.config.row_words + 1))  # of the row, yet to arrive
        take, word_end, free, load = Signal(), Signal(), Signal(), Signal()
        pair = has_low | ~region.wide  # with the next word that arrives, its planes are complete
        first, following = self._ends(m, region, start, load & (words == 1))
        last = region.lanes_last  # of this row
        if self.config.masks:
            last = Signal(range(size + 1), reset_less=True)
            with m.If(start):
                m.d.sync += last.eq(first.last)
            with m.Elif(load & (words == 1)):
                m.d.sync += last.eq(following.last)
        m.d.comb += [
            self.o.valid.eq(full), self.o.p.last.eq(row_end & word_end),
            take.eq(full & self.o.ready), word_end.eq(left <= lanes),
            free.eq(~full | (take & word_end)), rsp.ready.eq(free | ~pair),
            load.eq(rsp.valid & free & pair), finish.eq(take & word_end & end),
        ]
        for k in range(lanes):
            m.d.comb += [
                self.o.p.x[k].eq(Cat(choose([plane[first + k] for first in range(0, size, lanes)],
                                            group) for plane in (low, high))),
                self.o.p.keep[k].eq(left > k)]
        with m.If(take):
            m.d.sync += [group.eq(group + 1), left.eq(left - lanes)]
            with m.If(word_end):
                m.d.sync += full.eq(0)
        with m.If(rsp.valid & ~pair):
            m.d.sync += [next_low.eq(rsp.p), has_low.eq(1)]
        with m.If(load):
            m.d.sync += [
                has_low.eq(0), full.eq(1), low.eq(next_low), high.eq(rsp.p), group.eq(0),
                words.eq(words - 1), row_end.eq(words == 1), end.eq(final),
                left.eq(Mux(words == 1, last, size)),
            ]
            with m.If(words == 1):
                m.d.sync += words.eq(following.words)
        with m.If(start):
            m.d.sync += words.eq(first.words)
        return load

    def _ends(self, m, region, start, row_end):
        """Return where rows end, as words and valid lanes of the last one: the first, the next.

        The next one follows the row that ends with the strobe `row_end`.
        """
        size = self.config.rows
        layout = data.StructLayout({"words": range(self.config.row_words + 1),
                                    "last": range(size + 1)})
        if not self.config.masks:
            return [_bundle(m, layout, of.words, of.lanes_last) for of in (self.i.p, region)]

        def end(keys, of):
            every = (keys.words > of.words) | (
                (keys.words == of.words) & (keys.last >= of.lanes_last))
            return every, _bundle(m, layout, Mux(every, of.words, keys.words),
                                  Mux(every, of.lanes_last, keys.last))

        keys = Signal(layout, reset_less=True)  # of the next row, if it has that many
        asked = _bundle(m, layout, self.i.p.key_words, self.i.p.key_last)
        now = _bundle(m, layout, *(Mux(start, new, old) for new, old in zip(
            (asked.words, asked.last), (keys.words, keys.last), strict=True)))
        step = Mux(start, self.i.p.key_step, region.key_step)
        (all_asked, first), (all_now, following) = end(asked, self.i.p), end(keys, region)
        with m.If((start | row_end) & step & ~Mux(start, all_asked, all_now)):
            full = now.last == size
            m.d.sync += [keys.words.eq(now.words + full), keys.last.eq(Mux(full, 1, now.last + 1))]
        with m.Elif(start):
            m.d.sync += keys.eq(asked)
        return first, following


def _bundle(m, layout, words, last):
    """Return a signal of two values."""
    both = Signal(layout)
    m.d.comb += [both.words.eq(words), both.last.eq(last)]
    return both
