# amaranth: UnusedElaboratable=no
import random
from pathlib import Path

import numpy as np
import pytest

from systola.hw.vector.shiftgelu import GeluTable, ShiftGelu
from systola.model.operators.shiftgelu import shiftgelu
from systola.sim.harness import collect, drive, run

GOLDEN = np.load(Path(__file__).parents[2] / "golden/shiftgelu.npz")
X0 = [1, 2, 11, 19, 100, 255, 256, 419, 4095]
RANGES = [(-128, 128), (-128, 0), (-128, -100), (-3, 3), (120, 128), (-128, -127), (-50, 1)]


def beats(row, lanes, rng):
    """Yield the beats of `row`; lanes beyond its end hold random codes."""
    for start in range(0, len(row), lanes):
        part = list(row[start:start + lanes])
        yield {"x": part + [rng.randrange(-128, 128) for _ in range(lanes - len(part))],
               "keep": (1 << len(part)) - 1, "last": start + lanes >= len(row)}


def simulate(dut, rows, *, rng=None, static=None, table=None):
    """Return the cycles and the rows out of `dut`; first set plain inputs or write the table."""
    sent = [beat for row in rows for beat in beats(row, dut.lanes, random.Random(1))]
    got = [[]]

    async def producer(ctx):
        for name, value in (static or {}).items():
            ctx.set(getattr(dut, name), value)
        if table is not None:
            await drive(ctx, dut.w, [{"addr": addr, "data": int(value)}
                                     for addr, value in enumerate(table)], rng)
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        for beat in await collect(ctx, dut.o, len(sent), rng):
            got[-1] += [beat.x[k] for k in range(dut.lanes) if beat.keep >> k & 1]
            if beat.last:
                got.append([])

    cycles = run(dut, producer, consumer)
    assert got.pop() == []
    return cycles, got


def model(rows, x0, **params):
    return [shiftgelu(np.array(row), -x0, **params).tolist() for row in rows]


@pytest.mark.parametrize("seed", range(len(X0)))
def test_matches_model_for_every_row_length(seed):
    rng = random.Random(seed)
    rows = [[rng.randrange(*RANGES[length % len(RANGES)]) for _ in range(length)]
            for length in rng.sample(range(1, 17), 16)]
    dut = ShiftGelu(lanes=rng.randrange(1, 4), max_row=16, unit_bits=12)
    got = simulate(dut, rows, rng=rng, static={"unit": X0[seed]})[1]
    assert got == model(rows, X0[seed])


@pytest.mark.parametrize(("n", "out_bits", "unit_bits", "x0"), [
    (16, 8, 12, 19), (30, 8, 12, 3), (23, 4, 8, 255), (23, 7, 16, 65535), (19, 2, 1, 1),
    (16, 8, 4, 8)])  # no exponential of the last is saturated
def test_other_widths(n, out_bits, unit_bits, x0):
    rng = random.Random(n)
    rows = [[rng.randrange(*limits) for _ in range(12)] for limits in RANGES]
    dut = ShiftGelu(lanes=2, max_row=12, unit_bits=unit_bits, n=n, out_bits=out_bits)
    assert simulate(dut, rows, static={"unit": x0})[1] == model(rows, x0, n=n, bits=out_bits)


@pytest.mark.parametrize("case", ["i", "j"])
def test_golden_rows(case):
    rows, x0 = GOLDEN[f"{case}_x"][-4:], -int(GOLDEN[f"{case}_x0_f64"])
    dut = ShiftGelu(lanes=2, max_row=rows.shape[1], unit_bits=12, n=int(GOLDEN[f"{case}_n"]))
    got = simulate(dut, rows.tolist(), static={"unit": x0})[1]
    sigmoid = np.minimum(GOLDEN[f"{case}_sig_f64"][-4:].astype(int) & 0xFF, 127)
    assert got == (rows.astype(int) * sigmoid).tolist()


@pytest.mark.parametrize("lanes", [1, 2])
def test_latency_and_one_extra_cycle_a_row(lanes):
    for count, rows in (4, 1), (1, 9), (4, 9):
        dut = ShiftGelu(lanes=lanes, max_row=4 * lanes, unit_bits=12)
        cycles = simulate(dut, [[3] * lanes * count] * rows, static={"unit": 20})[0]
        assert cycles == (count - 1) + 31 + count + (rows - 1) * (count + 1)
        assert dut.latency == 31


@pytest.mark.parametrize("seed", range(4))
def test_table_looks_up_every_code(seed):
    rng = random.Random(seed)
    table = [rng.randrange(-128, 128) for _ in range(256)]
    rows = [rng.sample(range(-128, 128), 256), [5], [-128, 127]]
    dut = GeluTable(lanes=rng.randrange(1, 5))
    got = simulate(dut, rows, rng=rng, table=table)[1]
    assert got == [[int(table[x + 128]) for x in row] for row in rows]


def test_table_takes_a_beat_a_cycle():
    cycles = simulate(GeluTable(lanes=2), [[1] * 40], table=[0] * 256)[0]
    assert cycles == 256 + 20 + 1


@pytest.mark.parametrize(("build", "message"), [
    (lambda: ShiftGelu(lanes=0, max_row=8, unit_bits=12),
     "lanes must be an integer from 1 to 1024, not 0"),
    (lambda: ShiftGelu(lanes=1, max_row=8, unit_bits=12, out_bits=9),
     "out_bits must be an integer from 2 to 8, not 9"),
    (lambda: ShiftGelu(lanes=1, max_row=8, unit_bits=12, n=15),
     "n must be an integer from 16 to 30, not 15"),
    (lambda: GeluTable(lanes="4"), "lanes must be a positive integer, not '4'"),
])
def test_errors_name_the_parameter(build, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build()
