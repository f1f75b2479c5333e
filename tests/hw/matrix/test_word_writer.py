import random

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.matrix.word_writer import WordWriter
from systola.sim.harness import collect, drive, run

CONFIG = AcceleratorConfig(rows=6, cols=4, lanes=2)
PLANE = 1000


def groups_of(words):
    """Return the groups of `words`: (addr, first lane, lanes, wide, end) with values."""
    beats = []
    for addr, first, values, wide, end in words:
        for k in range(0, len(values), 2):
            part = values[k:k + 2]
            beats.append({
                "y": [*part, 99][:2], "tag": {
                    "lane": first + k, "mask": (1 << len(part)) - 1, "addr": addr,
                    "flush": k + 2 >= len(values), "wide": wide,
                    "end": end and k + 2 >= len(values)}})
    return beats


def expected(words):
    """Return the writes of `words` as (addr, mask, the masked bytes)."""
    writes = []
    for addr, first, values, wide, _ in words:
        mask = ((1 << len(values)) - 1) << first
        writes.append((addr, mask, [v & 255 for v in values]))
        if wide:
            writes.append((addr + PLANE, mask, [v >> 8 & 255 for v in values]))
    return writes


def simulate(words, rng=None):
    """Return the writes, the cycles and the number of ``done`` pulses."""
    dut, writes, done = WordWriter(CONFIG), [], []
    count = len(expected(words))

    async def producer(ctx):
        ctx.set(dut.plane, PLANE)
        await drive(ctx, dut.i, groups_of(words), rng)

    async def consumer(ctx):
        writes.extend(await collect(ctx, dut.out.req, count, rng))
        await ctx.tick()

    async def monitor(ctx):
        while True:
            *_, pulse = await ctx.tick().sample(dut.done)
            done.append(pulse)

    cycles = run(dut, producer, consumer, background=[monitor])
    return [(w.addr, w.mask, [int(v) for k, v in enumerate(w.data) if w.mask >> k & 1])
            for w in writes], cycles, sum(done)


@pytest.mark.parametrize("seed", range(6))
def test_writes_exactly_the_valid_lanes(seed):
    rng = random.Random(seed)
    words = []
    for addr in range(40):
        first = 2 * rng.randrange(3)
        count = rng.randint(1, 6 - first)
        words.append((addr, first, [rng.randint(-2**15, 2**15 - 1) for _ in range(count)],
                      rng.random() < 0.5, rng.random() < 0.3))
    writes, _, done = simulate(words, rng if seed else None)
    assert writes == expected(words)
    assert done == sum(word[4] for word in words)


@pytest.mark.parametrize(("values", "wide", "cost"), [(6, 0, 3), (6, 1, 3), (2, 0, 1), (2, 1, 2)])
def test_rate_and_latency(values, wide, cost):
    words = [(addr, 0, list(range(values)), wide, 0) for addr in range(20)]
    cycles = simulate(words)[1]
    groups = values // 2
    # the last flush enters, 2 cycles later its (first) write is out, and one cycle of the test
    last_flush = groups + 19 * cost
    assert cycles == last_flush + 2 + wide + 1
