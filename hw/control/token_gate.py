"""Dependency tokens between the engines."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from systola.hw.contract.isa import Engine
from systola.hw.parts.arguments import check_positive

__all__ = ["TokenGate", "connect_gates"]


class TokenGate(wiring.Component):
    """Hold an engine's next instruction until its tokens are there; give tokens when it is done.

    An instruction starts when every other engine in ``wait`` has given a token (which it takes),
    and, if its own engine is in ``wait``, when nothing is inside the engine. When the engine
    reports ``done``, each engine in that instruction's ``signal`` gets a token one cycle later; a
    signal to the own engine gives nothing, the fence being its counterpart. Once valid, the
    instruction stays valid: nobody else takes this gate's tokens. An instruction is offered one
    cycle after nothing holds it any more, from a register, be the engine ready or not: at most one
    starts every two cycles.

    No token is lost: every token to this engine that is neither taken nor given yet belongs to an
    instruction inside the giver (at most `depth`) or is counted here. ``full`` tells the giver
    when the counter has `depth` values left, and a giver starts no instruction that signals a
    full counter; what can arrive after that check is one token on its way and one of each of the
    `depth` instructions inside, which is the room left. A program in which one engine runs
    2**bits - 1 - depth tokens ahead of another stops there until they are taken.

    Model: none: moves data

    Parameters
    ----------
    engine : Engine
        Whose gate this is.
    payload : ShapeLike
        What is handed to the engine.
    depth : int
        Most instructions inside the engine.
    bits : int
        Width of a token counter.

    Members
    -------
    i : In(stream.Signature(StructLayout))
        ``payload``, ``wait`` and ``signal`` (a bit per engine) of the next instruction.
    o : Out(stream.Signature(payload))
        To the engine.
    done : In(1)
        The engine's oldest instruction is complete.
    give : Out(3), take : In(3)
        Tokens to each engine, and from each engine, one cycle high for each.
    full : Out(3), blocked : In(3)
        Per giver: it must not start a signalling instruction; per receiver: the same seen here.
    clear : In(1)
        Forget all tokens.
    busy, left : Out(1)
        An instruction is inside the engine; a token to or from it is not taken.
    started : Out(1)
        The engine takes an instruction.
    waits : Out(3)
        What the next instruction is held back by although the engine would take it, at most one
        bit: a missing token of another engine, or (its own bit) instructions that are inside.

    Raises
    ------
    ValueError
        If `depth` is not a positive integer or `bits` leaves no room above it.
    """

    def __init__(self, *, engine, payload, depth=4, bits=12):
        check_positive(depth=depth)
        if not isinstance(bits, int) or 1 << bits <= 2 * depth:
            raise ValueError(f"bits must be an integer with 2**bits above {2 * depth}, "
                             f"not {bits!r}")
        self.engine, self.depth, self.bits = engine, depth, bits
        engines = len(Engine)
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"payload": payload, "wait": engines, "signal": engines}))),
            "o": Out(stream.Signature(payload)),
            "done": In(1),
            "give": Out(engines), "take": In(engines),
            "full": Out(engines), "blocked": In(engines),
            "clear": In(1), "busy": Out(1), "left": Out(1), "started": Out(1),
            "waits": Out(engines),
        })

    def elaborate(self, platform):
        m = Module()
        others = [engine for engine in Engine if engine != self.engine]
        left = [self.give.any()]  # a token on its way is not counted yet
        m.submodules.inside = inside = SyncFIFO(width=len(Engine), depth=self.depth)
        start, free = Signal(), Signal(len(Engine))
        m.d.comb += [
            free[self.engine].eq(inside.level == 0),
            inside.w_data.eq(self.i.p.signal), inside.w_en.eq(start),
            inside.r_en.eq(self.done),
            self.busy.eq(inside.level != 0),
        ]
        for engine in others:
            tokens = Signal(self.bits, name=f"tokens_{engine.name.lower()}")
            taken = start & self.i.p.wait[engine]
            # Kept beside the counter: comparing it would begin every path to the engine.
            some = Signal(name=f"some_{engine.name.lower()}")
            left.append(some)
            m.d.comb += [free[engine].eq(some),
                         self.full[engine].eq(tokens >= (1 << self.bits) - 1 - self.depth)]
            m.d.sync += [tokens.eq(tokens + self.take[engine] - taken),
                         some.eq(self.take[engine] | Mux(taken, tokens > 1, some))]
            with m.If(self.clear):
                m.d.sync += [tokens.eq(0), some.eq(0)]
            m.d.sync += self.give[engine].eq(self.done & inside.r_data[engine])
        m.d.comb += self.left.eq(Cat(left).any())
        granted, missing = Signal(), Signal(len(Engine))
        signals = Cat(self.i.p.signal[e] & self.blocked[e] for e in others)
        m.d.comb += [
            missing.eq(self.i.p.wait & ~free),
            self.o.valid.eq(granted), self.o.p.eq(self.i.p.payload),
            self.i.ready.eq(start), start.eq(granted & self.o.ready),
            self.started.eq(start),
            # The lowest of the missing ones alone.
            self.waits.eq(Mux(self.i.valid & self.o.ready & ~granted, missing & -missing, 0)),
        ]
        # A counter may fill up behind an instruction that is already offered: keep offering.
        with m.If(granted):
            m.d.sync += granted.eq(~self.o.ready)
        with m.Else():
            m.d.sync += granted.eq(self.i.valid & inside.w_rdy & (missing == 0) & (signals == 0))
        return m


def connect_gates(m, gates):
    """Wire the tokens between `gates`, a list of `TokenGate` in the order of `Engine`."""
    for giver in gates:
        for receiver in gates:
            if giver is not receiver:
                m.d.comb += [receiver.take[giver.engine].eq(giver.give[receiver.engine]),
                             giver.blocked[receiver.engine].eq(receiver.full[giver.engine])]
