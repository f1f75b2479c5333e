# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest

from systola.hw.vector.fine_moments import FineMoments
from systola.model.operators.layernorm import normalised_trace
from systola.sim.harness import collect, drive, run
from tests.hw.vector.test_row_moments import beats, check_times, rows


@pytest.mark.parametrize("epsilon", ["none", "random", "largest"])
@pytest.mark.parametrize(("lanes", "max_row"), [(1, 9), (2, 64), (3, 40), (4, 50), (1, 1)])
def test_matches_model(lanes, max_row, epsilon):
    rng = random.Random(f"{lanes} {max_row} {epsilon}")
    made = rows(rng, max_row)
    dut, got = FineMoments(lanes=lanes, max_row=max_row), []
    most = len(dut.epsilon)
    e = {"none": 0, "random": rng.getrandbits(rng.randrange(1, most)),
         "largest": (1 << most) - 1}[epsilon]

    async def producer(ctx):
        ctx.set(dut.epsilon, e)
        await drive(ctx, dut.i, [b for row in made for b in beats(row, lanes, rng)], rng, idle=0.2)

    async def consumer(ctx):
        got.extend((p.mean, p.v) for p in await collect(ctx, dut.o, len(made), rng))

    run(dut, producer, consumer, max_cycles=20_000)
    traces = [normalised_trace(np.array(row), e) for row in made]
    assert got == [(int(t.mean), int(t.variance)) for t in traces]


@pytest.mark.parametrize(("lanes", "count", "levels"), [(1, 30, 0), (4, 17, 1), (5, 3, 2),
                                                        (17, 40, 3)])
def test_latency_and_period(lanes, count, levels):
    dut = FineMoments(lanes=lanes, max_row=64)
    assert (dut.period, dut.latency) == (15, 4 + levels + 1 + 13 + 15)
    check_times(dut, lanes, count)


def test_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^max_row must be a positive integer, not 0$"):
        FineMoments(lanes=1, max_row=0)
