"""Arbiter with fixed priorities that let nobody starve."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive

__all__ = ["Arbiter"]


class Arbiter(wiring.Component):
    """Grant one of several requests a cycle, the lowest index first, with an exception.

    Every `turns`-th grant prefers one of the others, each in its turn: a request that stays is
    granted after at most ``turns * (clients - 1)`` grants. Combinational from `valid` and `free`.

    Model: none: moves data

    Parameters
    ----------
    clients : int
        Number of requests.

    Members
    -------
    valid : In(clients), free : In(1)
        Requests, and whether one may be granted.
    grant : Out(clients)
        The granted one, one-hot; zero if none.

    Raises
    ------
    ValueError
        If `clients` is not a positive integer.
    """

    turns = 8

    def __init__(self, clients):
        check_positive(clients=clients)
        self.clients = clients
        super().__init__({"valid": In(clients), "free": In(1), "grant": Out(clients)})

    def elaborate(self, platform):
        m = Module()
        lowest = Cat(valid & ~self.valid[:k].any() for k, valid in enumerate(self.valid))
        if self.clients == 1:
            m.d.comb += self.grant.eq(lowest & self.free)
            return m
        count, favoured = Signal(range(self.turns)), Signal(self.clients, init=2)
        turn = Signal(self.clients)  # `favoured` when it has its turn
        favour = (self.valid & turn).any()
        m.d.comb += self.grant.eq(Mux(self.free, Mux(favour, turn, lowest), 0))
        with m.If(self.grant.any()):
            last = count == self.turns - 2
            m.d.sync += [count.eq(count + 1), turn.eq(Mux(last, favoured, 0))]
            with m.If(turn.any()):
                m.d.sync += [count.eq(0), favoured.eq(Cat(0, favoured[-1], favoured[1:-1]))]
        return m
