# amaranth: UnusedElaboratable=no
"""Row streams narrowed and widened."""

import random

import pytest
from amaranth import signed

from systola.hw.vector.lanes import Narrow, Widen
from systola.sim.harness import collect, drive, run


def cut(row, lanes, rng=None):
    """Return the beats of `row`; lanes beyond its end hold random values if there is an `rng`."""
    beats = []
    for start in range(0, len(row), lanes):
        part = row[start:start + lanes]
        rest = [rng.randrange(-128, 128) for _ in range(lanes - len(part))] if rng else []
        beats.append({"x": part + rest, "keep": (1 << len(part)) - 1,
                      "last": int(start + lanes >= len(row))})
    return beats


def simulate(dut, rows, lanes_in, lanes_out, rng=None):
    """Return the cycles and the beats that leave, their lanes beyond the kept ones cut off."""
    sent = [beat for row in rows for beat in cut(row, lanes_in, random.Random(1))]
    count, got = sum(len(cut(row, lanes_out)) for row in rows), []

    async def producer(ctx):
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        got.extend({"x": list(p.x)[:p.keep.bit_count()], "keep": p.keep, "last": p.last}
                   for p in await collect(ctx, dut.o, count, rng))

    return run(dut, producer, consumer), got


SIZES = [(2, 1), (4, 2), (6, 2), (3, 1), (4, 4), (8, 1)]


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize(("wide", "narrow"), SIZES)
@pytest.mark.parametrize("kind", [Narrow, Widen])
def test_rows_are_cut_anew(kind, wide, narrow, stalls):
    rng = random.Random(f"{kind} {wide} {narrow}")
    rows = [[rng.randrange(-128, 128) for _ in range(rng.randint(1, 3 * wide))] for _ in range(20)]
    dut = kind(shape=signed(8), wide=wide, narrow=narrow)
    lanes = (wide, narrow) if kind is Narrow else (narrow, wide)
    _, got = simulate(dut, rows, *lanes, rng if stalls else None)
    assert got == [beat for row in rows for beat in cut(row, lanes[1])]


@pytest.mark.parametrize(("wide", "narrow"), SIZES)
def test_a_group_a_cycle(wide, narrow):
    rows = [list(range(5 * wide - 1))] * 3
    groups = 3 * -(-(5 * wide - 1) // narrow)
    for kind, latency in (Narrow, 0), (Widen, 1):
        lanes = (wide, narrow) if kind is Narrow else (narrow, wide)
        dut = kind(shape=signed(8), wide=wide, narrow=narrow)
        assert simulate(dut, rows, *lanes)[0] == groups + latency


@pytest.mark.parametrize(("wide", "narrow", "message"), [
    (0, 1, "wide must be a positive integer, not 0"),
    (4, "1", "narrow must be a positive integer, not '1'"),
    (4, 3, r"narrow must divide wide \(4\), not 3"),
])
@pytest.mark.parametrize("kind", [Narrow, Widen])
def test_errors_name_the_parameter(kind, wide, narrow, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        kind(shape=8, wide=wide, narrow=narrow)
