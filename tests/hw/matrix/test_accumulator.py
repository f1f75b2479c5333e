# amaranth: UnusedElaboratable=no
import random

import pytest

from systola.hw.matrix.accumulator import Accumulators
from systola.sim.harness import run

COLS, DEPTH, DIGITS = 4, 8, 3
DELAYS = [0, 0, 1, 2]
IDLE = None


def simulate(sums, reads, *, act_bits=4, acc_bits=20, buffers=2):
    """Feed `sums` (None or (buffer, t, digit, first, last, psums)), then read `reads` (buffer, t).

    Returns the rows read and the cycles in which ``done`` was high.
    """
    dut = Accumulators(delays=DELAYS, psum_bits=12, act_bits=act_bits, digits=DIGITS,
                       acc_bits=acc_bits, depth=DEPTH, buffers=buffers)
    rows, done = [], []

    async def testbench(ctx):
        flush = [IDLE] * (DELAYS[-1] + 4)
        for cycle in range(len(sums) + len(flush)):
            now = (sums + flush)[cycle]
            ctx.set(dut.valid, now is not None)
            if now is not None:
                buffer, t, digit, first, last, _ = now
                ctx.set(dut.i, {"buffer": buffer, "t": t, "digit": digit, "first": first,
                                "last": last})
            for c in range(COLS):
                at = cycle - 1 - DELAYS[c]
                entry = sums[at] if 0 <= at < len(sums) else None
                ctx.set(dut.psum[c], entry[5][c] if entry else 777)
            if ctx.get(dut.done):
                done.append(cycle)
            await ctx.tick()
        for buffer, t in reads:
            ctx.set(dut.row_en, 1)
            ctx.set(dut.row_buffer, buffer)
            ctx.set(dut.row_t, t)
            await ctx.tick()
            ctx.set(dut.row_en, 0)
            ctx.set(dut.row_buffer, (buffer + 1) % buffers)  # the row must hold without its request
            await ctx.tick()
            rows.append([ctx.get(dut.rows[buffer][c]) for c in range(COLS)])

    run(dut, testbench)
    return rows, done


def model(sums, reads, *, act_bits=4, acc_bits=20):
    memory = {}
    for buffer, t, digit, first, _, psums in filter(None, sums):
        old = [0] * COLS if first else memory[buffer, t]
        memory[buffer, t] = [a + (b << act_bits * digit) for a, b in zip(old, psums, strict=True)]
    limit = 1 << acc_bits
    return [[(v + limit // 2) % limit - limit // 2 for v in memory[read]] for read in reads]


@pytest.mark.parametrize("seed", range(4))
def test_matches_model(seed):
    rng, buffers = random.Random(seed), 2 + seed
    edges = [-2048, 2047, 0, -1]
    sums = [(buffer, t, 0, 1, 0, [rng.choice(edges) for _ in range(COLS)])
            for t in range(DEPTH) for buffer in range(buffers)]
    while len(sums) < 400:  # two sums of one entry at least `gap` apart, otherwise any order
        entry = rng.randrange(buffers), rng.randrange(DEPTH)
        near = [other[:2] for other in sums[1 - Accumulators.gap:] if other is not IDLE]
        if entry in near or rng.random() < 0.2:
            sums.append(IDLE)
        else:
            sums.append((*entry, rng.randrange(DIGITS), rng.random() < 0.05, 0,
                         [rng.randint(-2048, 2047) for _ in range(COLS)]))
    reads = [(buffer, t) for buffer in range(buffers) for t in range(DEPTH)]
    rng.shuffle(reads)
    assert simulate(sums, reads, buffers=buffers)[0] == model(sums, reads)


def test_narrow_sums_are_added_apart():
    """Two of 6 bits in a sum, of 10 bits in an entry; carries stay in their half, others pass."""
    rng, half = random.Random(9), 6
    dut = Accumulators(delays=DELAYS, psum_bits=12, act_bits=4, digits=1, acc_bits=20, depth=DEPTH,
                       half=half, half_acc=10)
    memory, plan, got = {}, [], []
    while len(plan) < 200:
        entry = rng.randrange(DEPTH)
        if entry in [place for place, *_ in plan[1 - Accumulators.gap:]]:
            continue
        narrow = entry % 2
        plan.append((entry, entry not in memory, [
            rng.choice([-2048, 2047, -1, 0, 31, 32, rng.randint(-2048, 2047)])
            for _ in range(COLS)]))
        old = memory.get(entry, [(0, 0) if narrow else 0] * COLS)
        memory[entry] = [tuple(a + _wrapped(psum >> half * k, half) for k, a in enumerate(was))
                         if narrow else was + psum
                         for was, psum in zip(old, plan[-1][2], strict=True)]

    async def testbench(ctx):
        for cycle in range(len(plan) + DELAYS[-1] + 4):
            ctx.set(dut.valid, cycle < len(plan))
            if cycle < len(plan):
                t, first, _ = plan[cycle]
                ctx.set(dut.i, {"buffer": 0, "t": t, "digit": 0, "first": first, "last": 0,
                                "narrow": t % 2})
            for c in range(COLS):
                at = cycle - 1 - DELAYS[c]
                ctx.set(dut.psum[c], plan[at][2][c] if 0 <= at < len(plan) else 777)
            await ctx.tick()
        for t in sorted(memory):
            ctx.set(dut.row_en, 1)
            ctx.set(dut.row_t, t)
            await ctx.tick()
            got.append([ctx.get(dut.rows[0][c]) for c in range(COLS)])

    run(dut, testbench)
    for t, row in zip(sorted(memory), got, strict=True):
        assert row == [_wrapped(_wrapped(value[0], 10) % 1024 + (value[1] << 10), 20) if t % 2
                       else _wrapped(value, 20) for value in memory[t]], t


def _wrapped(value, bits):
    limit = 1 << bits
    return (value + limit // 2) % limit - limit // 2


@pytest.mark.parametrize(("half", "half_acc"), [(7, 10), (6, 11), (6, 5)])
def test_halves_must_fit(half, half_acc):
    with pytest.raises(ValueError, match=r"^half must be at most half_acc \("):
        Accumulators(delays=DELAYS, psum_bits=12, act_bits=4, digits=1, acc_bits=20, depth=DEPTH,
                     half=half, half_acc=half_acc)


def test_done_comes_when_rows_can_be_read():
    """Of one row a cycle after its write is under way, of several one before the last is in."""
    sums = [(0, 0, 0, 1, 1, [1, 2, 3, 0]), IDLE, IDLE, IDLE, (1, 0, 0, 1, 0, [7, 8, 9, 0]),
            (1, 1, 0, 1, 1, [4, 5, 6, 0])]
    assert simulate(sums, [])[1] == [0 + DELAYS[-1] + 3, 5 + DELAYS[-1] + 2]


@pytest.mark.parametrize("rows", range(1, 8))
def test_rows_are_read_as_soon_as_done(rows):
    """One a cycle from the next cycle on, in every column."""
    dut = Accumulators(delays=DELAYS, psum_bits=12, act_bits=4, digits=1, acc_bits=20, depth=DEPTH)
    got = []

    async def writer(ctx):
        psums = [[t * 10 + c for c in range(COLS)] for t in range(rows)]
        for cycle in range(rows + DELAYS[-1] + 2):
            ctx.set(dut.valid, cycle < rows)
            if cycle < rows:
                ctx.set(dut.i, {"buffer": 0, "t": cycle, "digit": 0, "first": 1,
                                "last": cycle == rows - 1})
            for c in range(COLS):
                at = cycle - 1 - DELAYS[c]
                ctx.set(dut.psum[c], psums[at][c] if 0 <= at < rows else 777)
            await ctx.tick()

    async def reader(ctx):
        while not ctx.get(dut.done):
            await ctx.tick()
        await ctx.tick()
        for t in range(rows):
            ctx.set(dut.row_en, 1)
            ctx.set(dut.row_t, t)
            await ctx.tick()
            got.append([ctx.get(dut.rows[0][c]) for c in range(COLS)])

    run(dut, writer, reader)
    assert got == [[t * 10 + c for c in range(COLS)] for t in range(rows)]


def test_a_buffer_is_read_while_another_is_added_to():
    dut = Accumulators(delays=[0], psum_bits=8, act_bits=8, digits=1, acc_bits=16, depth=4)
    rows = []

    async def testbench(ctx):
        for cycle in range(14):
            ctx.set(dut.valid, cycle < 12)
            buffer = int(cycle >= 4)
            ctx.set(dut.i, {"buffer": buffer, "t": cycle % 4, "digit": 0, "first": cycle < 8,
                            "last": 0})
            ctx.set(dut.psum[0], 9 + cycle)  # of the control before: 10 + its cycle
            ctx.set(dut.row_en, 7 <= cycle)
            ctx.set(dut.row_t, cycle % 4)
            if cycle > 7:
                rows.append(ctx.get(dut.rows[0][0]))
            await ctx.tick()
        await ctx.tick()
        for t in range(4):
            ctx.set(dut.row_buffer, 1)
            ctx.set(dut.row_t, t)
            await ctx.tick()
            rows.append(ctx.get(dut.rows[1][0]))

    run(dut, testbench)
    assert rows[:6] == [9 + 1 + t for t in (3, 0, 1, 2, 3, 0)]
    assert rows[6:] == [14 + 18 + 2 * t for t in range(4)]


def test_first_sums_leave_the_row_in_hand_alone():
    dut = Accumulators(delays=[0], psum_bits=8, act_bits=8, digits=1, acc_bits=16, depth=4)
    rows = []

    async def testbench(ctx):
        for value in 10, 50:  # the second round overwrites the buffer while it is being read
            for t in range(4):
                ctx.set(dut.valid, 1)
                ctx.set(dut.i, {"buffer": 0, "t": t, "digit": 0, "first": 1, "last": 0})
                ctx.set(dut.row_en, value == 50 and t == 0)
                ctx.set(dut.row_t, 0)
                if rows or (value, t) > (50, 0):
                    rows.append(ctx.get(dut.rows[0][0]))
                await ctx.tick()
                ctx.set(dut.psum[0], value + t)
        ctx.set(dut.valid, 0)
        await ctx.tick()

    run(dut, testbench)
    assert rows == [10, 10, 10]


@pytest.mark.parametrize("name", ["psum_bits", "act_bits", "digits", "acc_bits", "depth",
                                  "buffers"])
def test_error_names_the_parameter(name):
    good = {"delays": [0, 1], "psum_bits": 12, "act_bits": 4, "digits": 1, "acc_bits": 20,
            "depth": 8}
    with pytest.raises(ValueError, match=rf"^{name} must be a positive integer, not 0$"):
        Accumulators(**{**good, name: 0})


@pytest.mark.parametrize("delays", [[], [1, 2], [0, 2], [0, 1, 0]])
def test_delays_must_rise_by_at_most_one(delays):
    with pytest.raises(ValueError, match=r"^delays must start with 0 and rise by at most 1, not"):
        Accumulators(delays=delays, psum_bits=12, act_bits=4, digits=1, acc_bits=20, depth=8)
