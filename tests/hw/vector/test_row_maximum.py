# amaranth: UnusedElaboratable=no
import random

import pytest

from systola.hw.vector.row_maximum import RowMaximum
from systola.sim.harness import collect, drive, run


def beats(row, lanes, rng):
    """Return the beats of `row`; lanes beyond its end hold random codes."""
    result = []
    for start in range(0, len(row), lanes):
        part = row[start:start + lanes]
        result.append({"x": part + [rng.randrange(-128, 128) for _ in range(lanes - len(part))],
                       "keep": (1 << len(part)) - 1, "last": start + lanes >= len(row)})
    return result


def simulate(rows, *, lanes=3, max_row=12, rng=None, pause=0, **params):
    dut, got = RowMaximum(lanes=lanes, max_row=max_row, **params), []
    sent = [beat for row in rows for beat in beats(row, lanes, random.Random(1))]

    async def producer(ctx):
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        for _ in range(pause):
            await ctx.tick()
        for beat in await collect(ctx, dut.o, len(sent), rng):
            got.append((list(beat.x), beat.keep, beat.last, beat.max))

    cycles = run(dut, producer, consumer)
    expected = [(beat["x"], beat["keep"], beat["last"], max(row))
                for row in rows for beat in beats(row, lanes, random.Random(1))]
    return cycles, [beat[1:] for beat in got] == [beat[1:] for beat in expected] and all(
        [x for k, x in enumerate(a[0]) if a[1] >> k & 1]
        == [x for k, x in enumerate(b[0]) if b[1] >> k & 1]
        for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("seed", range(6))
def test_beats_come_back_with_the_maximum_of_their_row(seed):
    rng = random.Random(seed)
    rows = [[rng.randrange(*rng.choice([(-128, 128), (-128, -100)])) for _ in range(length)]
            for length in (*rng.sample(range(1, 13), 12), 12, 12, 12, 1, 1, 1)]
    assert simulate(rows, lanes=rng.randrange(1, 6), rng=rng)[1]


@pytest.mark.parametrize("slots", [2, 5])
def test_rows_wait_when_nothing_is_taken(slots):
    rng = random.Random(slots)
    rows = [[rng.randrange(-128, 128) for _ in range(rng.choice([1, 1, 12]))] for _ in range(30)]
    assert simulate(rows, pause=80, slots=slots)[1]


@pytest.mark.parametrize("lanes", [1, 2, 4])
def test_rows_overlap_and_the_first_comes_two_cycles_after_its_end(lanes):
    for length in 4, 12:
        count = length // lanes
        assert simulate([[7] * length] * 20, lanes=lanes) == (count - 1 + 2 + 20 * count, True)


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer of at least 1, not 0"),
    ({"max_row": 2.0}, "max_row must be an integer of at least 1, not 2.0"),
    ({"in_bits": 1}, "in_bits must be an integer of at least 2, not 1"),
    ({"slots": 1}, "slots must be an integer of at least 2, not 1"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        RowMaximum(**{"lanes": 2, "max_row": 8, **params})
