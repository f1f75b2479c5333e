"""Rows of bytes in planes, assembled to words."""

import random

import pytest
from amaranth import Cat, Module, ResetInserter, Signal
from amaranth.sim import Simulator

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.vector.row_writer import RowWriter, balanced_digits
from systola.model.operators.log2_exponentials import packed
from systola.sim.harness import collect, drive, run

CONFIGS = [{}, {"act_bits": 4}, {"rows": 4, "cols": 4, "lanes": 4, "vector_lanes": 4},
           {"rows": 4, "lanes": 1, "vector_lanes": 1}, {"lanes": 2, "vector_lanes": 1},
           {"attention": "deferred"}, {"attention": "deferred", "pooling": "mean"}]


def config_of(fields):
    return AcceleratorConfig(**{"rows": 6, "cols": 4, "lanes": 2, "vector_lanes": 2, **fields})


def region(rng, n, config, rows=3, planes=None):
    words = -(-n // config.rows)
    return {"base": rng.randrange(1000), "stride": words + rng.randrange(3),
            "plane": rng.randrange(100, 120), "rows": rows, "words": words,
            "planes": planes or rng.randint(1, config.vector_planes)}


def simulate(config, regions, rows, rng=None):
    """Write `rows`, lists of bytes per plane; return cycles, writes, and when each was taken."""
    dut, lanes, done, taken = RowWriter(config), config.vector_lanes, [], []
    beats = [{"x": [(plane[k:k + lanes] + [0] * lanes)[:lanes] for plane in row],
              "last": int(k + lanes >= len(row[0]))}
             for row in rows for k in range(0, len(row[0]), lanes)]
    writes = []

    async def producer(ctx):
        await drive(ctx, dut.i, beats, rng)

    async def starter(ctx):
        await drive(ctx, dut.region, regions, rng)

    async def consumer(ctx):
        writes.extend((p.addr, list(p.data), p.mask) for p in await collect(
            ctx, dut.dst.req, sum(r["rows"] * r["words"] * r["planes"] for r in regions), rng))

    async def watch(ctx):
        cycle, count = 0, 0
        while len(done) < len(regions):
            *_, pulse, valid, ready = await ctx.tick().sample(
                dut.done, dut.dst.req.valid, dut.dst.req.ready)
            if pulse:
                done.append(count)
            if valid and ready:
                taken.append(cycle)
                count += 1
            cycle += 1

    cycles = run(dut, producer, starter, consumer, watch)
    ends = [sum(r["rows"] * r["words"] * r["planes"] for r in regions[:k + 1])
            for k in range(len(regions))]
    assert done == ends, "done must follow each region's last write"
    return cycles, writes, taken


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("fields", CONFIGS)
def test_words_and_planes(fields, stalls):
    config, rng = config_of(fields), random.Random(str(fields))
    lengths = [rng.randint(1, 20) for _ in range(6)]
    regions = [region(rng, n, config) for n in lengths]
    rows, want = [], []
    for r, n in zip(regions, lengths, strict=True):
        for t in range(r["rows"]):
            row = [[rng.randrange(256) for _ in range(n)] for _ in range(config.vector_planes)]
            rows.append(row)
            for w in range(r["words"]):
                for p in range(r["planes"]):
                    address = r["base"] + t * r["stride"] + w + p * r["plane"]
                    want.append((address, row[p][w * config.rows:(w + 1) * config.rows]))
    _, writes, _ = simulate(config, regions, rows, rng if stalls else None)
    assert [(address, data[:len(expected)]) for (address, data, _), (_, expected) in zip(
        writes, want, strict=True)] == want
    assert all(mask == (1 << config.rows) - 1 for *_, mask in writes)


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("fields", [{}, {"lanes": 1, "vector_lanes": 1},
                                    {"rows": 4, "cols": 4, "lanes": 4, "vector_lanes": 4},
                                    {"pooling": "mean"}])
def test_packed_words_have_two_codes_a_byte(fields, stalls):
    """Between regions of bytes; nibbles of a word that the row has not are 0."""
    config, rng = config_of({"attention": "half_16", **fields}), random.Random(str(fields))
    lengths, regions, rows, want = [rng.randint(1, 30) for _ in range(8)], [], [], []
    for index, n in enumerate(lengths):
        r = region(rng, n, config, planes=1) | {"packed": index % 2}
        for t in range(r["rows"]):
            codes = [rng.randrange(16 if r["packed"] else 256) for _ in range(n)]
            rows.append([codes] * config.vector_planes)
            words = packed(codes, config.rows).tolist() if r["packed"] else codes
            lanes = min(n, config.rows)  # of the last word, those that the row has anywhere
            for k in range(-(-len(words) // config.rows)):
                part = words[k * config.rows:(k + 1) * config.rows]
                left = n - k * config.rows * (1 + r["packed"])
                want.append((r["base"] + t * r["stride"] + k, part[:min(left, lanes)]))
        r["words"] = config.attention_words(r["words"]) if r["packed"] else r["words"]
        regions.append(r)
    _, writes, _ = simulate(config, regions, rows, rng if stalls else None)
    assert [(address, data[:len(expected)]) for (address, data, _), (_, expected) in zip(
        writes, want, strict=True)] == want


@pytest.mark.parametrize(("planes", "cycles"), [(1, 3), (2, 3), (3, 4), (4, 5)])
def test_a_beat_and_a_write_a_cycle(planes, cycles):
    """Three beats make a word; three planes and more take longer to write than to assemble."""
    config, rng = config_of({"act_bits": 4}), random.Random(1)
    assert config.vector_planes == 4
    row = [[0] * 30 for _ in range(4)]
    _, _, taken = simulate(config, [region(rng, 30, config, 8, planes)], [row] * 8)
    first = taken[::planes]
    assert first[0] == 1 + 3 + 1  # region, three beats, then the second cycle after the last beat
    assert (first[-1] - first[0]) == cycles * (len(first) - 1)


def test_a_reset_inside_a_word_leaves_nothing_behind():
    config, reset = config_of({"vector_lanes": 1, "lanes": 2}), Signal()
    dut, row = RowWriter(config), [3, 1, 4, 1, 5, 9]
    region = {"base": 7, "stride": 1, "plane": 0, "rows": 1, "words": 1, "planes": 1}
    writes = []

    async def bench(ctx):
        await drive(ctx, dut.region, [region])
        await drive(ctx, dut.i, [{"x": [[8]] * config.vector_planes}] * 2)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await drive(ctx, dut.region, [region])
        await drive(ctx, dut.i, [{"x": [[value]] * config.vector_planes, "last": k == 5}
                                 for k, value in enumerate(row)])
        writes.extend(await collect(ctx, dut.dst.req, 1))

    run(ResetInserter(reset)(dut), bench)
    assert [(p.addr, list(p.data)) for p in writes] == [(7, row)]


@pytest.mark.parametrize(("digit_bits", "count"), [(2, 3), (4, 2), (4, 4), (8, 2)])
def test_balanced_digits_are_signed_and_add_up(digit_bits, count):
    m, value, digits = Module(), Signal(digit_bits * count), Signal(8 * count)
    m.d.comb += digits.eq(Cat(balanced_digits(value, digit_bits, count)))
    half = 1 << digit_bits - 1
    highest = min(1 << digit_bits * count, 1 << 15) - 1  # the largest code of a softmax

    async def bench(ctx):
        for k in {*range(min(300, highest)), *range(0, highest, 97), highest - 1, highest}:
            ctx.set(value, k)
            await ctx.delay(1e-9)
            *low, top = ctx.get(digits).to_bytes(count, "little")
            low = [byte - 256 * (byte > 127) for byte in low]
            assert all(-half <= digit < half for digit in low)
            assert sum(d << digit_bits * j for j, d in enumerate([*low, top])) == k

    sim = Simulator(m)
    sim.add_testbench(bench)
    sim.run()
