"""Rows of bytes and of 16-bit codes, cut from words."""

import random

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.vector.row_reader import RowReader
from systola.sim.harness import collect, drive, run

SIZES = [(6, 2, 6), (4, 4, 4), (4, 1, 3), (6, 3, 3)]  # R, lanes, C


def simulate(size, regions, memory, rng=None):
    """Return the cycles and all beats of `regions`, as (kept elements, last)."""
    rows, lanes, cols = size
    dut = RowReader(AcceleratorConfig(rows=rows, cols=cols, lanes=lanes, vector_lanes=lanes,
                                      masks="key_words" in regions[0]))
    asked, beats = [], []
    # Words are cut into whole beats, as lanes divide them.
    groups = sum(-(-length(r, t, rows) // lanes) for r in regions for t in range(r["rows"]))

    async def producer(ctx):
        await drive(ctx, dut.i, regions, rng)

    async def memory_port(ctx):  # requests and responses at once, a word a cycle without stalls
        req, rsp = dut.src.req, dut.src.rsp
        valid = 0
        while True:
            ready = rng is None or rng.random() < 0.7
            ctx.set(req.ready, ready)
            if asked and not valid:
                valid = rng is None or rng.random() < 0.7
            ctx.set(rsp.valid, valid)
            if valid:
                ctx.set(rsp.payload, memory[asked[0]])
            *_, request, p, taken = await ctx.tick().sample(req.valid, req.payload, rsp.ready)
            if valid and taken:
                asked.pop(0)
                valid = 0
            if request and ready:
                asked.append(p.addr)

    async def consumer(ctx):
        beats.extend(([x for k, x in enumerate(p.x) if p.keep >> k & 1], p.last)
                     for p in await collect(ctx, dut.o, groups, rng))

    return run(dut, producer, consumer, background=[memory_port]), beats


def length(r, t, size):
    """Return the elements of row `t` of a region."""
    whole = (r["words"] - 1) * size + r["lanes_last"]
    if "key_words" not in r:
        return whole
    return min((r["key_words"] - 1) * size + r["key_last"] + t * r["key_step"], whole)


def region(rng, rows, n, wide, size):
    words = -(-n // size)
    stride = words + rng.randrange(3)
    return {"base": rng.randrange(50), "stride": stride, "plane": rng.randrange(100, 120),
            "rows": rows, "words": words, "lanes_last": n - (words - 1) * size, "wide": wide}


def expected(r, size, lanes, memory):
    for t in range(r["rows"]):
        row, n = [], length(r, t, size)
        for c in range(n):
            address = r["base"] + t * r["stride"] + c // size
            low, high = memory[address][c % size], memory[address + r["plane"]][c % size]
            row.append((low | (high - (high >> 7 << 8)) << 8) if r["wide"] else low)
        yield from ((row[k:k + lanes], int(k + lanes >= n)) for k in range(0, n, lanes))


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_rows_of_bytes_and_of_codes(size, stalls):
    rng = random.Random(str(size))
    memory = [[rng.randrange(256) for _ in range(size[0])] for _ in range(300)]
    lengths = [rng.randint(1, 20) for _ in range(8)]
    regions = [region(rng, rng.randint(1, 4), n, k % 2, size[0]) for k, n in enumerate(lengths)]
    _, beats = simulate(size, regions, memory, rng if stalls else None)
    compare(regions, size, memory, beats)


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_rows_that_end_early(size, stalls):
    rng = random.Random(str(size))
    memory = [[rng.randrange(256) for _ in range(size[0])] for _ in range(300)]
    regions = []
    for k in range(12):
        n = rng.randint(1, 20)
        first = rng.choice([1, n, rng.randint(1, n + 5)])
        regions.append({**region(rng, rng.randint(1, 8), n, k % 2, size[0]),
                        "key_words": -(-first // size[0]), "key_step": int(k % 3 > 0),
                        "key_last": (first - 1) % size[0] + 1})
    _, beats = simulate(size, regions, memory, rng if stalls else None)
    compare(regions, size, memory, beats)


def compare(regions, size, memory, beats):
    """Compare the beats of regions with what lies in the memory."""
    want = [beat for r in regions for beat in expected(r, *size[:2], memory)]
    # Bytes lie in the high half only.
    bytes_of = [r["wide"] for r in regions for _ in expected(r, *size[:2], memory)]
    got = [(x if wide else [v >> 8 & 255 for v in x], last)
           for (x, last), wide in zip(beats, bytes_of, strict=True)]
    assert got == want


@pytest.mark.parametrize(("size", "wide", "beats_a_word"), [
    ((6, 2, 6), 0, 3), ((6, 2, 6), 1, 3), ((4, 4, 4), 0, 1), ((4, 2, 4), 1, 2)])
def test_one_beat_a_cycle(size, wide, beats_a_word):
    memory = [[0] * size[0]] * 300

    def cycles(rows):
        r = {"base": 0, "stride": 5, "plane": 150, "rows": rows, "words": 5,
             "lanes_last": size[0], "wide": wide}
        return simulate(size, [r], memory)[0]

    assert cycles(20) - cycles(10) == 10 * 5 * beats_a_word
