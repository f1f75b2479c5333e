"""Codes of log2 attention in hardware against the model."""

import pytest
from amaranth import Module, Signal
from amaranth.sim import Simulator

from systola.hw.contract.numbers import LEVEL_BITS, LEVELS
from systola.hw.parts.levels import exponential
from systola.model.operators.log2_exponentials import decoded


@pytest.mark.parametrize("scheme", LEVELS)
def test_every_code(scheme):
    m, code, value = Module(), Signal(LEVEL_BITS), Signal(8)
    m.d.comb += value.eq(exponential(m, LEVELS[scheme], code))
    got = []

    async def bench(ctx):
        for number in range(1 << LEVEL_BITS):
            ctx.set(code, number)
            got.append(ctx.get(value))

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()
    assert got == decoded(range(1 << LEVEL_BITS), LEVELS[scheme]).tolist()
