"""Response queue of a memory port, with credits so that accepted reads always find room."""

from amaranth import Module, Mux, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_least
from systola.hw.parts.pipeline import up_down

__all__ = ["CreditQueue"]


class CreditQueue(wiring.Component):
    """Hold the responses of a memory whose reads cannot be stalled.

    A read may be accepted while ``room`` is high; ``take`` reports the acceptance and reserves an
    entry, ``push`` fills it any number of cycles later, in order. An entry pushed in cycle t is on
    ``o`` in cycle t + 1. With `depth` at least the cycles from ``take`` to ``push`` plus two, one
    read a cycle is sustained. ``room`` and ``o.valid`` are registers.

    Model: none: moves data

    Parameters
    ----------
    shape : ShapeLike
        Payload.
    depth : int
        Entries.

    Members
    -------
    room : Out(1)
        An entry is free.
    take : In(1)
        An entry is being reserved; only while ``room``.
    push : In(1), data : In(shape)
        The oldest reserved entry's value.
    o : Out(stream.Signature(shape))
        Values in order.

    Raises
    ------
    ValueError
        If `depth` is not an integer of at least 2.
    """

    def __init__(self, *, shape, depth=4):
        check_least(depth=(depth, 2))
        self.shape, self.depth = shape, depth
        super().__init__({
            "room": Out(1), "take": In(1), "push": In(1), "data": In(shape),
            "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform):
        m = Module()
        # An asynchronous read port: the entries become LUT memory, not registers.
        m.submodules.entries = entries = Memory(shape=Shape.cast(self.shape), depth=self.depth,
                                                init=[])
        fill, front = entries.write_port(), entries.read_port(domain="comb")
        reserved = Signal(range(self.depth + 1))
        filled = Signal(range(self.depth + 1))
        room, some = Signal(init=1), Signal()
        write, read = Signal(range(self.depth)), Signal(range(self.depth))
        pop = Signal()
        m.d.comb += [
            self.room.eq(room), self.o.valid.eq(some),
            front.addr.eq(read), self.o.p.eq(front.data),
            fill.addr.eq(write), fill.data.eq(self.data), fill.en.eq(self.push),
            pop.eq(self.o.valid & self.o.ready),
        ]
        # `pop` comes late in its cycle: it only chooses between what is known before.
        for count, step in (reserved, self.take), (filled, self.push):
            m.d.sync += count.eq(up_down(count, step, pop))
        m.d.sync += [
            room.eq(Mux(self.take, pop | (reserved < self.depth - 1),
                        pop | (reserved != self.depth))),
            some.eq(self.push | Mux(pop, filled > 1, filled != 0)),
        ]
        for index, step in (write, self.push), (read, pop):
            with m.If(step):
                m.d.sync += index.eq(index + 1)
                if self.depth & (self.depth - 1):
                    with m.If(index == self.depth - 1):
                        m.d.sync += index.eq(0)
        return m
