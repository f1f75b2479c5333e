# amaranth: UnusedElaboratable=no
"""Rows extended with zeros."""

import random

import pytest
from amaranth import signed

from systola.hw.vector.row_extender import RowExtender
from systola.sim.harness import collect, drive, run

SIZES = [(6, 2), (4, 4), (4, 1), (12, 3)]  # elements of a word and of a beat


def beats_of(row, lanes, rng=None):
    """Return the beats of `row`; elements that are not kept hold anything."""
    beats = []
    for start in range(0, len(row), lanes):
        part = row[start:start + lanes]
        rest = [rng.randrange(-128, 128) if rng else 0 for _ in range(lanes - len(part))]
        beats.append({"x": part + rest, "keep": (1 << len(part)) - 1,
                      "last": int(start + lanes >= len(row))})
    return beats


def simulate(size, lanes, rows, length, rng=None):
    """Return the cycles and the beats of `rows` extended to `length` elements."""
    dut, got = RowExtender(shape=signed(8), lanes=lanes, size=size, max_words=5), []
    sent = [beat for row in rows for beat in beats_of(row, lanes, random.Random(1))]

    async def producer(ctx):
        words = -(-length // size)
        ctx.set(dut.words, words)
        ctx.set(dut.lanes_last, length - (words - 1) * size)
        await drive(ctx, dut.i, sent, rng)

    async def consumer(ctx):
        got.extend({"x": list(p.x), "keep": p.keep, "last": p.last}
                   for p in await collect(ctx, dut.o, len(rows) * -(-length // lanes), rng))

    return run(dut, producer, consumer), got


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize(("size", "lanes"), SIZES)
def test_zeros_behind_the_end_of_rows(size, lanes, stalls):
    rng = random.Random(f"{size} {lanes}")
    for length in 1, size, size + 1, 3 * size - 1, 5 * size:
        rows = [[rng.randrange(-128, 128) for _ in range(rng.choice([1, length, rng.randint(
            1, length)]))] for _ in range(8)]
        _, got = simulate(size, lanes, rows, length, rng if stalls else None)
        assert got == [beat for row in rows
                       for beat in beats_of(row + [0] * (length - len(row)), lanes)]


@pytest.mark.parametrize(("size", "lanes"), SIZES)
def test_a_beat_a_cycle_whatever_is_there(size, lanes):
    length = 4 * size
    short, whole = ([[1] * count] * 9 for count in (1, length))
    assert simulate(size, lanes, short, length)[0] == simulate(size, lanes, whole, length)[0]
    assert simulate(size, lanes, whole, length)[0] == pytest.approx(9 * length // lanes, abs=3)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"lanes": 4, "size": 6, "max_words": 1}, r"lanes must divide size \(6\), not 4"),
    ({"lanes": 0, "size": 6, "max_words": 1}, "lanes must be a positive integer"),
    ({"lanes": 2, "size": 6, "max_words": 0}, "max_words must be a positive integer"),
])
def test_errors_name_the_parameter(arguments, message):
    with pytest.raises(ValueError, match=message):
        RowExtender(shape=signed(8), **arguments)
