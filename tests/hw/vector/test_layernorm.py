# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest

from systola.hw.vector.layernorm import ILayerNorm
from systola.model.operators.layernorm import layernorm
from systola.sim.harness import collect, drive, run

LOW, HIGH = -2**15, 2**15 - 1


def beats(row, lanes, rng=None):
    """Cut a row into beats; lanes that do not count hold anything."""
    for k in range(0, len(row), lanes):
        x = [int(v) for v in row[k:k + lanes]]
        fill = [rng.randrange(LOW, HIGH) if rng else 0 for _ in range(lanes - len(x))]
        yield {"x": x + fill, "keep": (1 << len(x)) - 1, "last": int(k + lanes >= len(row))}


def edge_rows(n):
    """One-hot, alternating extremes, constant and single-element rows."""
    return [[LOW] * (n - 1) + [HIGH], [HIGH] * (n - 1) + [LOW], [LOW, HIGH] * (n // 2),
            [HIGH] * n, [LOW] * n, [0] * n, [7], [LOW], [0] * (n - 1) + [1], [LOW, HIGH], [0, 1],
            [1] + [0] * 3, [-1, 0, 0]]


def simulate(dut, made, rng=None, max_cycles=20_000, epsilon=None):
    """Return the cycles in which rows ended, and the rows that came out, of kept lanes only."""
    lanes, got, cycles, ends = len(dut.i.p.x), [], [], []
    sent = [b for row in made for b in beats(row, lanes, rng)]

    async def producer(ctx):
        if epsilon is not None:
            ctx.set(dut.epsilon, epsilon)
        await drive(ctx, dut.i, sent, rng, idle=0.2)

    async def consumer(ctx):
        row = []
        out = await collect(ctx, dut.o, len(sent), rng, stall=0.2, cycles=cycles)
        for cycle, p, q in zip(cycles, out, sent, strict=True):
            assert (p.keep, p.last) == (q["keep"], q["last"])
            row += [x for k, x in enumerate(p.x) if p.keep >> k & 1]
            if p.last:
                ends.append(cycle)
                got.append(row)
                row = []

    run(dut, producer, consumer, max_cycles=max_cycles)
    return ends, got


@pytest.mark.parametrize(("lanes", "max_row", "roots", "steps", "variant"), [
    (1, 12, 1, 4, "published"), (1, 12, 1, 4, "leading_one"), (2, 64, 3, 2, "leading_one"),
    (3, 40, 4, 2, "published"), (4, 130, 2, 4, "leading_one")])
def test_matches_model(lanes, max_row, roots, steps, variant):
    rng = random.Random(f"{lanes} {max_row}")
    made = random_rows(rng, max_row)
    dut = ILayerNorm(lanes=lanes, max_row=max_row, variant=variant, roots=roots, steps=steps)
    _, got = simulate(dut, made, rng)
    assert got == [layernorm(np.array(row), variant).tolist() for row in made]


def random_rows(rng, max_row):
    """Return edges and random rows of all sizes, in any order."""
    made = edge_rows(max_row)
    for _ in range(10):
        scale, offset = 2**rng.randrange(1, 15), rng.randrange(-2**14, 2**14)
        made.append([offset + rng.randrange(-scale, scale)
                     for _ in range(rng.randint(1, max_row))])
    rng.shuffle(made)
    return made


@pytest.mark.parametrize("epsilon", [0, 1, 2**16 + 3, 12345678, -1])
@pytest.mark.parametrize(("lanes", "max_row"), [(1, 12), (3, 40), (4, 130)])
def test_normalised_matches_model(lanes, max_row, epsilon):
    rng = random.Random(f"{lanes} {epsilon}")
    made = random_rows(rng, max_row)
    dut = ILayerNorm(lanes=lanes, max_row=max_row, variant="normalised")
    epsilon %= 1 << len(dut.epsilon)  # -1: the largest one
    _, got = simulate(dut, made, rng, epsilon=epsilon)
    assert got == [layernorm(np.array(row), "normalised", epsilon).tolist() for row in made]


@pytest.mark.parametrize("variant", ["published", "leading_one"])
def test_output_range(variant):
    out = [layernorm(np.array(row), variant) for n in (2, 3, 5, 64, 1000) for row in edge_rows(n)]
    assert min(o.min() for o in out) >= -2**30
    assert max(o.max() for o in out) < 2**30
    assert max(o.max() for o in out) > 2**29


@pytest.mark.parametrize("variant", ["published", "normalised"])
def test_longest_rows_never_stall(variant):
    dut = ILayerNorm(lanes=1, max_row=200, variant=variant, roots=1)
    row = list(range(200))
    # Four rows go in without a gap; then the latency, and the last row comes out without a gap.
    assert simulate(dut, [row] * 4)[0][-1] == 4 * 200 - 1 + dut.latency + 200


@pytest.mark.parametrize(("roots", "period"), [(1, 142), (4, 36), (16, 35)])
def test_latency_and_row_period(roots, period):
    row, beats_in_row = list(range(48)), 12
    dut = ILayerNorm(lanes=4, max_row=1024, variant="published", roots=roots)
    assert (dut.period, dut.latency) == (period, 41 + 141 + 5)
    ends, _ = simulate(dut, [row] * (1 + 2 * roots))
    assert ends[0] == 2 * beats_in_row - 1 + 187
    # Whole rounds of the roots, so that a period that is no whole number averages out.
    assert ends[2 * roots] - ends[roots] == max(142, 35 * roots)


@pytest.mark.parametrize(("max_row", "root"), [(256, 23), (1024, 23), (16384, 24)])
def test_normalised_latency_and_row_period(max_row, root):
    row, beats_in_row = list(range(48)), 12
    dut = ILayerNorm(lanes=4, max_row=max_row, variant="normalised")
    assert (dut.period, dut.latency) == (15, 34 + root + 6)
    ends, _ = simulate(dut, [row] * 6)
    assert ends == [2 * beats_in_row - 1 + dut.latency + 15 * k for k in range(6)]


@pytest.mark.parametrize("name", ["lanes", "max_row", "roots", "steps"])
def test_error_names_the_parameter(name):
    with pytest.raises(ValueError, match=rf"^{name} must be a positive integer, not 0$"):
        ILayerNorm(**{"lanes": 1, "max_row": 8, "variant": "published", name: 0})


def test_error_names_the_variant():
    with pytest.raises(ValueError, match=r"^variant must be 'published', 'leading_one' or "
                                         r"'normalised', not 'x'$"):
        ILayerNorm(lanes=1, max_row=8, variant="x")
