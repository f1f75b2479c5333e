# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest
from amaranth import signed, unsigned

from systola.hw.parts.threshold_search import ThresholdSearch
from systola.sim.harness import run


def simulate(dut, sets, beats, rng):
    """Return the codes of `beats`, ``(set, numbers)``; `sets` has the thresholds, by lane or not.

    The stages stand still at times, and the thresholds come in any order.
    """
    got = []

    async def bench(ctx):
        writes = [{"set": index, "level": level, "data": value,
                   **({} if dut.shared else {"lane": lane})}
                  for index, lists in enumerate(sets)
                  for lane, thresholds in enumerate([lists] if dut.shared else lists)
                  for level, value in enumerate(thresholds, 1)]
        rng.shuffle(writes)
        for write in writes:
            ctx.set(dut.w.payload, write)
            ctx.set(dut.w.valid, 1)
            assert ctx.get(dut.w.ready)
            await ctx.tick()
            ctx.set(dut.w.p.data, rng.randrange(2))  # is not written
            ctx.set(dut.w.valid, 0)
            await ctx.tick()
        for index, numbers in [*beats, *[(0, [0] * dut.lanes)] * dut.latency]:
            while rng.random() < 0.3:
                ctx.set(dut.en, 0)
                ctx.set(dut.x, [rng.randrange(2) for _ in range(dut.lanes)])
                await ctx.tick()
            ctx.set(dut.en, 1)
            ctx.set(dut.set, index)
            ctx.set(dut.x, numbers)
            got.append(list(ctx.get(dut.code)))
            await ctx.tick()

    run(dut, bench)
    return got[dut.latency:]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("lanes", "bits", "shape", "sets"), [
    (1, 1, unsigned(3), 1), (3, 2, signed(4), 3), (2, 4, unsigned(5), 2), (4, 3, signed(20), 5)])
def test_counts_the_thresholds_below(lanes, bits, shape, sets, shared):
    rng = random.Random(f"{lanes} {shared}")
    low, high = (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (
        0, (1 << shape.width) - 1)

    def thresholds():
        return sorted(rng.choice([low, high, rng.randint(low, high)]) for _ in range(2**bits - 1))

    made = [thresholds() if shared else [thresholds() for _ in range(lanes)] for _ in range(sets)]
    beats = []
    for _ in range(100):
        index = rng.randrange(sets)
        near = [rng.choice(made[index] if shared else made[index][k]) + rng.choice([0, 0, 1, -1])
                for k in range(lanes)]
        beats.append((index, [min(max(rng.choice([v, rng.randint(low, high)]), low), high)
                              for v in near]))
    expected = [[int(np.searchsorted(made[index] if shared else made[index][k], v))
                 for k, v in enumerate(numbers)] for index, numbers in beats]
    dut = ThresholdSearch(lanes=lanes, bits=bits, shape=shape, sets=sets, shared=shared)
    assert dut.latency == bits + 1
    assert simulate(dut, made, beats, rng) == expected


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be a positive integer, not 0"),
    ({"sets": 0}, "sets must be a positive integer, not 0"),
    ({"bits": 9}, "bits must be an integer from 1 to 8, not 9"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ThresholdSearch(**{"lanes": 1, "bits": 2, "shape": 4, "sets": 2, "shared": True, **params})
