"""Assembler of output words from groups of lanes."""

from amaranth import Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts import shapes

__all__ = ["WordWriter"]


class WordWriter(wiring.Component):
    """Collect groups into words and write them with lane masks.

    One group a cycle, and one write a cycle of which a wide word takes two: the groups of the next
    word are collected while a word is written. Latency 2 cycles from the last group to the write.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Size of words and groups.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``y``: lanes x signed(16); ``tag``: `group_tag`.
    plane : In(16)
        Distance of the high plane; constant while a wide word is inside.
    out : Out(shapes.WritePort(config))
        To the memory.
    done : Out(1)
        The write of an ``end`` has been accepted in the previous cycle.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"y": data.ArrayLayout(signed(16), config.lanes),
                 "tag": shapes.group_tag(config)}))),
            "plane": In(16), "out": Out(shapes.WritePort(config)), "done": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        rows, lanes = self.config.rows, self.config.lanes
        tag, req = self.i.p.tag, self.out.req
        where = data.StructLayout({"addr": 16, "wide": 1, "end": 1})
        word = Signal(data.ArrayLayout(signed(16), rows), reset_less=True)
        mask, full, goes_to = Signal(rows), Signal(), Signal(where, reset_less=True)
        # The word that is being written, its high plane second.
        sent, sent_mask = Signal.like(word), Signal(rows, reset_less=True)
        sent_to, high = Signal(where, reset_less=True), Signal()
        last, move = Signal(), Signal()
        m.d.comb += [
            last.eq(req.valid & req.ready & (high | ~sent_to.wide)),
            move.eq(full & (~req.valid | last)),
            self.i.ready.eq(~full | move),
            req.p.addr.eq(sent_to.addr + Mux(high, self.plane, 0)),
            req.p.mask.eq(sent_mask),
        ]
        m.d.comb += [req.p.data[k].eq(Mux(high, sent[k][8:], sent[k][:8])) for k in range(rows)]
        m.d.sync += self.done.eq(last & sent_to.end)
        with m.If(req.valid & req.ready):
            m.d.sync += high.eq(sent_to.wide & ~high)
        with m.If(last):
            m.d.sync += req.valid.eq(0)
        with m.If(move):
            m.d.sync += [req.valid.eq(1), sent.eq(word), sent_mask.eq(mask), sent_to.eq(goes_to),
                         mask.eq(0), full.eq(0)]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [full.eq(tag.flush), goes_to.addr.eq(tag.addr), goes_to.wide.eq(tag.wide),
                         goes_to.end.eq(tag.end)]
            for first in range(0, rows, lanes):
                here = tag.lane == first
                group = Mux(here, tag.mask, Const(0, lanes))
                kept = Mux(move, Const(0, lanes), mask[first:first + lanes])
                m.d.sync += mask[first:first + lanes].eq(kept | group)
                with m.If(here):
                    m.d.sync += [word[first + j].eq(self.i.p.y[j]) for j in range(lanes)]
        return m
