# amaranth: UnusedElaboratable=no
"""The list of register writes against itself, in every cycle."""

import random

import pytest

from systola.hw.resident.start_sequence import StartSequence
from systola.sim.harness import run


@pytest.mark.parametrize("seed", range(4))
def test_every_step_is_written_once_and_its_pause_kept(seed):
    rng = random.Random(seed)
    steps = [(rng.randrange(512), rng.getrandbits(32), rng.choice([0, 0, 1, 2, rng.randrange(40)]))
             for _ in range(1 if seed == 0 else 20)]
    dut = StartSequence(steps, address_bits=9)
    cycles = sum(2 + pause for *_, pause in steps)
    seen = []

    async def bench(ctx):
        for cycle in range(cycles + 20):
            assert ctx.get(dut.done) == (cycle >= cycles)
            assert not ctx.get(dut.csr.re)
            if ctx.get(dut.csr.we):
                seen.append((cycle, ctx.get(dut.csr.adr), ctx.get(dut.csr.dat_w)))
            await ctx.tick()

    run(dut, bench)
    cycle, expected = 1, []
    for address, value, pause in steps:
        expected.append((cycle, address, value))
        cycle += 2 + pause
    assert seen == expected


@pytest.mark.parametrize(("name", "steps"), [
    ("address", [(512, 0, 0)]), ("value", [(0, 0, 0), (0, 1 << 32, 0)]), ("pause", [(0, 0, -1)]),
    ("value", [(0, "1", 0)]), ("steps", []), ("address_bits", None)])
def test_what_is_out_of_range_is_named(name, steps):
    with pytest.raises(ValueError, match=f"^{name} must be .*, not "):
        StartSequence(steps or [(0, 0, 0)] * (name != "steps"),
                      address_bits=0 if name == "address_bits" else 9)
