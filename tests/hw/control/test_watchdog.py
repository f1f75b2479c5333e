# amaranth: UnusedElaboratable=no
"""The watchdog calls when nothing moves, two cycles after its limit and not before."""

import pytest

from systola.hw.contract.config import PRESETS
from systola.hw.control.watchdog import Watchdog, patience
from systola.sim.harness import run


def cycles_until_stuck(ctx, dut):
    async def count():
        cycles = 0
        while not ctx.get(dut.stuck):
            await ctx.tick()
            cycles += 1
        return cycles
    return count()


def test_calls_after_the_limit():
    dut = Watchdog(limit=16, events=3)

    async def bench(ctx):
        ctx.set(dut.busy, 1)
        for event in range(3):
            ctx.set(dut.events, 1 << event)
            await ctx.tick()
            ctx.set(dut.events, 0)
            await ctx.tick()  # two cycles from an event to the counter
            assert await cycles_until_stuck(ctx, dut) == 16
            for _ in range(40):  # the counter does not wrap
                assert ctx.get(dut.stuck)
                await ctx.tick()

    run(dut, bench)


@pytest.mark.parametrize("period", [2, 15, 16])
def test_any_event_in_time_keeps_it_quiet(period):
    dut = Watchdog(limit=16, events=2)

    async def bench(ctx):
        ctx.set(dut.busy, 1)
        for cycle in range(20 * period):
            ctx.set(dut.events, (1 + cycle // period % 2) * (cycle % period == 0))
            await ctx.tick()
            assert not ctx.get(dut.stuck)

    run(dut, bench)


def test_sleeps_while_no_program_runs():
    dut = Watchdog(limit=4, events=1)

    async def bench(ctx):
        for busy, stuck in (0, 0), (1, 1), (0, 0):
            ctx.set(dut.busy, busy)
            for _ in range(20):
                await ctx.tick()
            assert ctx.get(dut.stuck) == stuck

    run(dut, bench)


@pytest.mark.parametrize(("limit", "events", "message"), [
    (12, 1, r"^limit must be a power of two from 2, not 12$"),
    (1, 1, r"^limit must be a power of two from 2, not 1$"),
    (8, 0, r"^events must be a positive integer, not 0$"),
])
def test_parameters_are_checked(limit, events, message):
    with pytest.raises(ValueError, match=message):
        Watchdog(limit=limit, events=events)


@pytest.mark.parametrize("name", PRESETS)
def test_patience_is_a_power_of_two_and_milliseconds_at_most(name):
    config = PRESETS[name]
    limit = patience(config)
    assert limit & (limit - 1) == 0
    assert 16 * config.max_row < limit < 100_000
