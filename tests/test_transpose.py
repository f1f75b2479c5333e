# amaranth: UnusedElaboratable=no
"""Transposer against slicing of a byte matrix."""

import random

import pytest

from systola.hw.transpose import Transposer
from systola.sim.harness import collect, drive, run


def random_blocks(rng, rows, count):
    blocks = []
    for _ in range(count):
        first = rng.choice([0, rng.randrange(rows)])
        columns = rng.randrange(1, rows - first + 1)
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


def simulate(blocks, rows, rng=None):
    dut, got = Transposer(rows=rows), []
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


@pytest.mark.parametrize("rows", [2, 4, 5, 12])
@pytest.mark.parametrize("seed", range(4))
def test_matches_slicing(rows, seed):
    rng = random.Random(seed)
    simulate(random_blocks(rng, rows, 12), rows, rng)


def test_full_blocks_take_a_cycle_a_word():
    rng = random.Random(0)
    blocks = [([[rng.randrange(256) for _ in range(4)] for _ in range(4)], 0, 4, 0, 0)] * 10
    assert simulate(blocks, 4) == 3 + 2 + 10 * 4  # the first block's last row is beat 3


def test_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^rows must be an integer of at least 2, not 1$"):
        Transposer(rows=1)
