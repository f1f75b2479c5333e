# amaranth: UnusedElaboratable=no
import random

import pytest

from systola.hw.pe import ProcessingElement
from systola.sim.harness import run

WIDTHS = [(8, 8), (2, 2), (4, 4), (2, 8), (8, 2), (3, 5), (5, 3), (7, 6)]


def simulate(style, act_bits, weight_bits, steps):
    """Return psum_out and act_out of every cycle; a step is (act, psum, w, load, swap)."""
    dut = ProcessingElement(act_bits=act_bits, weight_bits=weight_bits,
                            psum_bits=act_bits + weight_bits + 3, style=style)
    seen = []

    async def testbench(ctx):
        for act, psum, w, load, swap in [*steps, *[(0, 0, 0, 0, 0)] * 3]:
            for port, value in zip((dut.act, dut.psum, dut.w, dut.load, dut.swap),
                                   (act, psum, w, load, swap), strict=True):
                ctx.set(port, value)
            seen.append((ctx.get(dut.psum_out), ctx.get(dut.act_out)))
            await ctx.tick()

    run(dut, testbench)
    return seen


@pytest.mark.parametrize("style", ["dsp", "lut"])
@pytest.mark.parametrize(("act_bits", "weight_bits"), WIDTHS)
def test_matches_multiply_accumulate(style, act_bits, weight_bits):
    rng = random.Random(act_bits * 10 + weight_bits)
    acts = [-2**(act_bits - 1), 2**act_bits - 1, 2**(act_bits - 1) - 1, -1, 0, 1]
    weights = [-2**(weight_bits - 1), 2**(weight_bits - 1) - 1, -1, 0, 1]
    psum = 2**(act_bits + weight_bits + 1)
    steps = [(act, edge, w, 1, 1) for w in weights for act in acts for edge in (-psum, psum)]
    steps += [(rng.randint(acts[0], acts[1]), rng.randint(-psum, psum),
               rng.randint(weights[0], weights[1]), rng.random() < 0.5, rng.random() < 0.3)
              for _ in range(300)]
    seen = simulate(style, act_bits, weight_bits, steps)
    shadow = active = 0
    for cycle, (act, _, w, load, swap) in enumerate(steps):
        active = shadow if swap else active
        shadow = w if load else shadow
        if cycle + 2 < len(steps):
            assert seen[cycle + 3][0] == steps[cycle + 2][1] + act * active, cycle
        assert seen[cycle + 1][1] == act


@pytest.mark.parametrize(("change", "message"), [
    ({"act_bits": 1}, r"^act_bits must be an integer from 2 to 8, not 1$"),
    ({"weight_bits": 9}, r"^weight_bits must be an integer from 2 to 8, not 9$"),
    ({"psum_bits": 15}, r"^psum_bits must be an integer of at least 16, not 15$"),
    ({"style": "fast"}, r"^style must be 'dsp' or 'lut', not 'fast'$"),
])
def test_error_names_the_parameter(change, message):
    good = {"act_bits": 8, "weight_bits": 8, "psum_bits": 20, "style": "dsp"}
    with pytest.raises(ValueError, match=message):
        ProcessingElement(**{**good, **change})
