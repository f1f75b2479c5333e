# amaranth: UnusedElaboratable=no
import random

import pytest
from amaranth.sim import Simulator

from systola.hw.vector.reciprocal import ReciprocalProduct

MAX31 = 2**31 - 1


def simulate(cases):
    """Return the products of `cases`, one a cycle, from the stated latency on."""
    dut, got = ReciprocalProduct(mant_bits=32), []

    async def bench(ctx):
        for cycle in range(len(cases) + dut.latency):
            if cycle >= dut.latency:
                got.append(ctx.get(dut.product))
            if cycle < len(cases):
                ctx.set(dut.den, cases[cycle][0])
                ctx.set(dut.mant, cases[cycle][1])
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return got


def test_exact_around_every_power_of_two_and_every_step_of_the_quotient():
    dens = {value + step for value in [1 << bit for bit in range(1, 31)] for step in (-1, 0, 1)}
    dens |= {MAX31 // factor + step for factor in range(1, 40) for step in (0, 1)}
    cases = [(den, mant) for den in dens if 2 <= den <= MAX31
             for mant in (1, den, 2 * den)]
    random.Random(1).shuffle(cases)
    assert simulate(cases) == [mant * (MAX31 // den) for den, mant in cases]


def test_exact_for_random_operands_of_every_size():
    rng = random.Random(2)
    dens = [max(2, rng.randrange(1 << 31) >> rng.randrange(30)) for _ in range(600)]
    cases = [(den, rng.randrange(2 * den + 1)) for den in dens]
    assert simulate(cases) == [mant * (MAX31 // den) for den, mant in cases]


@pytest.mark.parametrize("value", [0, 33, 8.0])
def test_error_names_the_parameter(value):
    with pytest.raises(ValueError, match=f"^mant_bits must be an integer from 1 to 32, "
                                         f"not {value}$"):
        ReciprocalProduct(mant_bits=value)
