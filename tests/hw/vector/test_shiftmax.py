# amaranth: UnusedElaboratable=no
import random
from pathlib import Path

import numpy as np
import pytest

from systola.hw.vector.shiftmax import Shiftmax
from systola.model.operators.shiftmax import shiftmax
from systola.sim.harness import collect, drive, run

GOLDEN = np.load(Path(__file__).parents[2] / "golden/shiftmax.npz")
X0 = [1, 2, 14, 20, 100, 333, 4095]


def beats(row, lanes, rng):
    """Yield the beats of `row`; lanes beyond its end hold random codes."""
    for start in range(0, len(row), lanes):
        part = list(row[start:start + lanes])
        yield {"x": part + [rng.randrange(-128, 128) for _ in range(lanes - len(part))],
               "keep": (1 << len(part)) - 1, "last": start + lanes >= len(row)}


def simulate(rows, x0, *, lanes=3, rng=None, **params):
    dut = Shiftmax(**{"lanes": lanes, "max_row": 24, "unit_bits": 12, **params})
    sent = [beat for row in rows for beat in beats(row, lanes, random.Random(1))]
    got = [[]]

    async def producer(ctx):
        ctx.set(dut.unit, x0)
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        for beat in await collect(ctx, dut.o, len(sent), rng):
            got[-1] += [beat.x[k] for k in range(lanes) if beat.keep >> k & 1]
            if beat.last:
                got.append([])

    cycles = run(dut, producer, consumer)
    assert got.pop() == []
    return cycles, got


def model(rows, x0, **params):
    return [shiftmax(np.array(row), -x0, **params).tolist() for row in rows]


def random_rows(rng, longest):
    """Return rows of every length and of several spreads, in random order."""
    rows = []
    for length in rng.sample(range(1, longest + 1), longest):
        low = rng.choice([-128, -20, 100, 127])
        rows.append([rng.randrange(low, 128) for _ in range(length)])
    return rows


@pytest.mark.parametrize("seed", range(len(X0)))
def test_matches_model_for_every_row_length(seed):
    rng = random.Random(seed)
    rows = random_rows(rng, 24)
    assert simulate(rows, X0[seed], lanes=rng.randrange(1, 6), rng=rng)[1] == model(rows, X0[seed])


@pytest.mark.parametrize(("out_bits", "n", "unit_bits", "x0"), [
    (8, 15, 12, 20), (2, 15, 12, 20), (16, 12, 8, 30), (16, 30, 12, 1), (16, 1, 4, 15),
    (12, 23, 12, 4095)])
def test_other_widths(out_bits, n, unit_bits, x0):
    rows = random_rows(random.Random(x0), 24)
    got = simulate(rows, x0, out_bits=out_bits, n=n, unit_bits=unit_bits)[1]
    assert got == model(rows, x0, bits=out_bits, n=n)


@pytest.mark.parametrize("x0", [65535, 65536, 70000, 2**20 - 1])
def test_clamped_sums_saturate(x0):
    rows = [[127] * 24, [-128] * 24, [5], [127, -128], [0, -10, -20, -30]]
    got = simulate(rows, x0, unit_bits=20)[1]
    assert got == model(rows, x0)
    assert got[0] == [min(x0 >> 1, 32767)] * 24  # the factor is 1, rows no longer sum to one


@pytest.mark.parametrize("case", ["a", "k"])
def test_golden_rows(case):
    rows, x0 = GOLDEN[f"{case}_x"][-14:], -int(GOLDEN[f"{case}_x0_f64"])
    n, bits = int(GOLDEN[f"{case}_n"]), int(GOLDEN[f"{case}_obits"])
    got = simulate(rows.tolist(), x0, lanes=8, max_row=rows.shape[1], n=n, out_bits=bits,
                   in_bits=12)[1]
    expected = np.minimum(GOLDEN[f"{case}_out_f64"][-14:], (1 << bits - 1) - 1)
    assert got == expected.tolist()


@pytest.mark.parametrize(("lanes", "latency"), [(1, 33), (2, 34), (4, 35), (5, 36)])
def test_latency(lanes, latency):
    for count in 1, 20:
        cycles = simulate([[3] * lanes * count], 20, lanes=lanes, max_row=20 * lanes)[0]
        assert cycles == (count - 1) + (latency + count) + count
    assert Shiftmax(lanes=lanes, max_row=8, unit_bits=12).latency == latency


@pytest.mark.parametrize("count", [1, 9, 17, 40])
def test_rows_overlap(count):
    cycles = [simulate([[3] * 2 * count] * rows, 20, lanes=2, max_row=2 * count)[0]
              for rows in (4, 12)]
    assert cycles[1] - cycles[0] == 8 * max(count, 17)


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 1024, not 0"),
    ({"max_row": 0}, "max_row must be an integer from 1 to 1048576, not 0"),
    ({"unit_bits": 25}, "unit_bits must be an integer from 1 to 24, not 25"),
    ({"out_bits": 17}, "out_bits must be an integer from 2 to 16, not 17"),
    ({"n": 0}, "n must be an integer from 1 to 30, not 0"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Shiftmax(**{"lanes": 2, "max_row": 8, "unit_bits": 12, **params})
