# amaranth: UnusedElaboratable=no
"""Transposer against slicing of a byte matrix."""

import random
from math import gcd

import pytest

from systola.hw.load.transposer import Transposer
from systola.sim.harness import collect, drive, run


def random_blocks(rng, rows, cols, count):
    blocks = []
    for _ in range(count):
        first = rng.choice([0, rng.randrange(0, rows, gcd(rows, cols))])
        columns = rng.randrange(1, min(rows - first, cols) + 1)
        blocks.append(([[rng.randrange(256) for _ in range(rows)]
                        for _ in range(rng.choice([1, rows, rng.randrange(1, rows + 1)]))],
                       first, columns, rng.randrange(rows - columns + 1), rng.randrange(2)))
    return blocks


def expected(blocks, rows):
    words = []
    for block, first, count, pad, final in blocks:
        height = rows - len(block)
        out = [[row[c] for row in block] + [0] * height for c in range(first, first + count)]
        out += [[0] * rows] * pad
        words += [(word, final and k == len(out) - 1) for k, word in enumerate(out)]
    return words


def simulate(blocks, rows, cols, rng=None):
    dut, got = Transposer(rows=rows, cols=cols), []
    beats = [{"word": row, "last": k == len(block) - 1,
              "tag": {"first": first, "count": count, "pad": pad, "final": final}}
             for block, first, count, pad, final in blocks for k, row in enumerate(block)]
    words = expected(blocks, rows)

    async def feed(ctx):
        await drive(ctx, dut.i, beats, rng)

    async def take(ctx):
        got.extend(await collect(ctx, dut.o, len(words), rng))

    cycles = run(dut, feed, take)
    assert [(list(beat.word), bool(beat.final)) for beat in got] == [
        (word, bool(final)) for word, final in words]
    return cycles


@pytest.mark.parametrize(("rows", "cols"), [
    (2, 2), (2, 1), (4, 4), (5, 3), (12, 8), (12, 4), (8, 8), (6, 5), (4, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_matches_slicing(rows, cols, seed):
    rng = random.Random(seed)
    simulate(random_blocks(rng, rows, cols, 12), rows, cols, rng if seed else None)


@pytest.mark.parametrize(("rows", "cols"), [(4, 4), (12, 4), (6, 4), (5, 3)])
def test_full_blocks_take_a_cycle_a_row(rows, cols):
    blocks = [([[k] * rows for k in range(rows)], 0, cols, 0, 0)] * 10
    bubbles = 4 if rows == cols else 0
    assert simulate(blocks, rows, cols) == 10 * rows + bubbles + 3 + cols - 1


def test_a_block_of_few_rows_takes_as_many_cycles_as_columns():
    blocks = [([[k] * 12 for k in range(height)], 0, 4, 0, 0) for height in (12, 1, 12, 3, 12)]
    assert simulate(blocks, 12, 4) <= 3 * 12 + 2 * 4 + 3 + 4 - 1 + 2


def test_errors_name_the_parameter():
    with pytest.raises(ValueError, match=r"^rows must be an integer of at least 2, not 1$"):
        Transposer(rows=1, cols=1)
    with pytest.raises(ValueError, match=r"^cols must be an integer from 1 to 4, not 5$"):
        Transposer(rows=4, cols=5)
