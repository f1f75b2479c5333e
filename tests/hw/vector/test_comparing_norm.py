# amaranth: UnusedElaboratable=no
"""Layer norm codes by comparison of squares, in hardware and model."""

import random

import numpy as np
import pytest

from systola.hw.contract.latency import edge_cycles
from systola.hw.contract.numbers import epsilon_bits
from systola.hw.vector.comparing_norm import ComparingNorm
from systola.model.operators.norm_codes import norm_codes, norm_share
from systola.sim.harness import collect, drive, run
from tests.hw.vector.test_layernorm import beats, edge_rows, random_rows


def simulate(dut, made, share, epsilon=0, rng=None, wait=0, bits=None):
    """Return the cycles in which rows ended, and the codes of their kept lanes.

    Nothing is taken in the first `wait` cycles.
    """
    got, cycles, ends = [[]], [], []
    sent = [b for row in made for b in beats(row, dut.lanes, rng)]

    async def producer(ctx):
        ctx.set(dut.epsilon, epsilon)
        ctx.set(dut.share, share)
        ctx.set(dut.bits_used, bits or dut.bits)
        await drive(ctx, dut.i, sent, rng, idle=0.2)

    async def consumer(ctx):
        for _ in range(wait):
            await ctx.tick()
        out = await collect(ctx, dut.o, len(sent), rng, stall=0.2, cycles=cycles)
        for cycle, p, q in zip(cycles, out, sent, strict=True):
            assert (p.keep, p.last) == (q["keep"], q["last"])
            got[-1] += [x for k, x in enumerate(p.x) if p.keep >> k & 1]
            if p.last:
                ends.append(cycle)
                got.append([])

    run(dut, producer, consumer, max_cycles=20_000)
    assert got.pop() == []
    return ends, got


@pytest.mark.parametrize(("lanes", "max_row", "bits", "used", "epsilon"), [
    (1, 12, 2, 2, -1), (3, 40, 3, 3, 0), (2, 30, 4, 4, 2**16 + 3), (4, 130, 4, 4, 0),
    (1, 20, 4, 2, 2**16 + 3), (2, 12, 4, 3, -1), (2, 9, 3, 2, 0), (3, 9, 4, 4, -1)])
def test_matches_model(lanes, max_row, bits, used, epsilon):
    """Equal numbers, one-hot rows, extremes and random rows of all sizes, with stalls."""
    rng = random.Random(f"{lanes} {used} {epsilon}")
    made = random_rows(rng, max_row)
    dut = ComparingNorm(lanes=lanes, max_row=max_row, bits=bits)
    epsilon %= 1 << len(dut.epsilon)  # -1: the largest one
    share = norm_share(rng.choice([0.2, 0.6, 1.0]), max_row // 2)
    _, got = simulate(dut, made, share, epsilon, rng, bits=used)
    assert got == [norm_codes(np.array(row), share, used, epsilon).tolist() for row in made]


@pytest.mark.parametrize(("share", "epsilon"), [
    (0, 0), (1, -1), (2**27, 0), (2**31, -1), (2**32 - 1, 0), (2**32 - 1, -1)])
def test_extreme_shares(share, epsilon):
    """Shares of nothing and of nearly everything, beyond what a square can be; and ties."""
    made = [row for n in (2, 16, 64) for row in edge_rows(n)]
    dut = ComparingNorm(lanes=2, max_row=64, bits=4)
    epsilon %= 1 << len(dut.epsilon)
    _, got = simulate(dut, made, share, epsilon)
    assert got == [norm_codes(np.array(row), share, 4, epsilon).tolist() for row in made]


def test_many_rows_wait_for_the_output():
    """More than there is room for edges of."""
    rng = random.Random(8)
    made = [[rng.randrange(-2**rng.randrange(1, 15), 2**14) for _ in range(rng.randint(1, 6))]
            for _ in range(20)]
    share = norm_share(0.6, 4)
    _, got = simulate(ComparingNorm(lanes=2, max_row=64, bits=3), made, share, wait=1000)
    assert got == [norm_codes(np.array(row), share, 3).tolist() for row in made]


@pytest.mark.slow
def test_widest_rows():
    rng = np.random.default_rng(1)
    made = [*edge_rows(1024), rng.integers(-2**15, 2**15, 1024).tolist()]
    share = norm_share(0.35, 1024)
    for epsilon in 0, (1 << epsilon_bits(1024)) - 1:
        dut = ComparingNorm(lanes=4, max_row=1024, bits=4)
        _, got = simulate(dut, made, share, epsilon)
        assert got == [norm_codes(np.array(row), share, 4, epsilon).tolist() for row in made]


@pytest.mark.parametrize(("bits", "period"), [(2, 20), (3, 24), (4, 42)])
@pytest.mark.parametrize("lanes", [1, 4])
def test_latency_and_row_period(bits, period, lanes):
    row, count = list(range(12 * lanes)), 12
    dut = ComparingNorm(lanes=lanes, max_row=256, bits=bits)
    assert dut.period == period == edge_cycles(bits)
    ends, _ = simulate(dut, [row] * 6, norm_share(1.0, len(row)))
    assert ends == [2 * count - 1 + dut.latency + period * k for k in range(6)]


def test_long_rows_never_stall():
    dut = ComparingNorm(lanes=1, max_row=100, bits=4)
    ends, _ = simulate(dut, [list(range(100))] * 4, norm_share(1.0, 100))
    assert ends[-1] == 4 * 100 - 1 + dut.latency + 100


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 1024, not 0"),
    ({"max_row": 1025}, "max_row must be an integer from 1 to 1024, not 1025"),
    ({"bits": 5}, "bits must be an integer from 2 to 4, not 5"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ComparingNorm(**{"lanes": 1, "max_row": 8, "bits": 3, **params})
