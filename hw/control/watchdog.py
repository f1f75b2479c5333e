"""Watchdog: tells that a program can never end."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.arguments import check_positive

__all__ = ["Watchdog", "patience"]


def patience(config):
    """Return the cycles without any event after which a program counts as stuck.

    A power of two. Events are beats, words and parameters that move, and instructions that start
    or end. Nothing that works is silent for longer than a few rows of a VECTOR unit with its
    divisions and roots, or than a pass over the accumulators: the longest silence is measured in
    ``tests/sim/test_program_runs.py``, and is less than a quarter of this.
    """
    return 1 << (16 * (config.max_row + config.token_depth) + 1024).bit_length()


class Watchdog(wiring.Component):
    """Count cycles in which nothing happens although something should.

    What the host owes, a beat that is wanted or a result that is not taken, is an event as well:
    only the host knows how long it may take. ``stuck`` rises ``limit + 2`` cycles after the last
    event, and falls two cycles after the next one.

    Model: none: counts cycles

    Parameters
    ----------
    limit : int
        Cycles, a power of two; see `patience`.
    events : int
        Number of events.

    Members
    -------
    busy : In(1)
        A program runs.
    events : In(events)
        Something moves in this cycle, or waits for the host.
    stuck : Out(1)
        Nothing has moved for too long.

    Raises
    ------
    ValueError
        If `limit` is not a power of two from 2, or `events` is not a positive integer.
    """

    def __init__(self, *, limit, events):
        if not isinstance(limit, int) or limit < 2 or limit & (limit - 1):
            raise ValueError(f"limit must be a power of two from 2, not {limit!r}")
        check_positive(events=events)
        self.limit = limit
        super().__init__({"busy": In(1), "events": In(events), "stuck": Out(1)})

    def elaborate(self, platform):
        m = Module()
        seen, quiet = Signal.like(self.events), Signal(range(self.limit + 1))
        m.d.sync += seen.eq(self.events)  # they end long paths
        m.d.comb += self.stuck.eq(quiet[-1])
        with m.If(~self.busy | seen.any()):
            m.d.sync += quiet.eq(0)
        with m.Elif(~self.stuck):
            m.d.sync += quiet.eq(quiet + 1)
        return m
