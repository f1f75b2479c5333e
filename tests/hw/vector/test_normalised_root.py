# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest

from systola.hw.vector.normalised_root import NormalisedRoot
from systola.model.operators.layernorm import normalised_root
from systola.sim.harness import collect, drive, run

LOWEST = 2**12
"""Below, results mean nothing."""


def simulate(dut, values, rng=None):
    got, cycles = [], []

    async def producer(ctx):
        await drive(ctx, dut.i, [{"v": v, "tag": k % 32} for k, v in enumerate(values)], rng)

    async def consumer(ctx):
        got.extend((5 - p.place, p.factor, p.tag) for p in await collect(
            ctx, dut.o, len(values), rng, cycles=cycles))

    run(dut, producer, consumer, max_cycles=50_000)
    return cycles, got


@pytest.mark.parametrize("width", [18, 40, 53, 55, 57, 63])
def test_shift_and_factor(width):
    """Powers of two and beside them, squares and beside them, and anything."""
    rng = random.Random(width)
    values = [v for bit in range(12, width) for v in (2**bit - 1, 2**bit)] + [2**width - 1]
    for _ in range(20):
        root = rng.getrandbits(rng.randrange(7, width // 2 + 1))
        values += [root**2 - 1, root**2, root**2 + 2 * root,
                   rng.getrandbits(rng.randrange(13, width + 1))]
    values = [v for v in values if v >= LOWEST]
    rng.shuffle(values)
    _, got = simulate(NormalisedRoot(width=width, tag=5), values, rng)
    shift, factor = normalised_root(np.array(values))
    assert got == [(int(s), int(f), k % 32) for k, (s, f) in enumerate(zip(
        shift, factor, strict=True))]


def test_numbers_that_mean_nothing_leave_no_trace():
    values = [0, 2**30, 1, LOWEST - 1, 2**20 + 5]
    _, got = simulate(NormalisedRoot(width=40, tag=5), values)
    for k in 1, 4:
        assert got[k][:2] == tuple(int(part) for part in normalised_root(values[k]))


@pytest.mark.parametrize(("width", "latency", "period"), [(55, 23, 14), (63, 24, 15), (18, 20, 11)])
def test_latency_and_period(width, latency, period):
    dut = NormalisedRoot(width=width, tag=5)
    assert (dut.latency, dut.period) == (latency, period)
    cycles, _ = simulate(dut, [2**17] * 4)
    assert cycles == [1 + latency + k * period for k in range(4)]


def test_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^width must be an integer from 18 to 63, not 64$"):
        NormalisedRoot(width=64)
