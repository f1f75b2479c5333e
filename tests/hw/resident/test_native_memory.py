# amaranth: UnusedElaboratable=no
"""The adapter to a native port, whose other end is played by a memory that makes trouble."""

import random
from collections import deque
from itertools import pairwise

import pytest

from systola.hw.resident.native_memory import READ_CYCLES, NativeMemory, queue_entries
from systola.sim.harness import collect, drive, run

WIDTHS = [(8, 8), (8, 2), (16, 4), (4, 2), (8, 16), (4, 16), (32, 16)]
WORDS = 128


class Memory:
    """The other end of a native port: words in a dictionary, each read `latency` after its command.

    Like LiteDRAM it takes words to be written when it wants them, without a look at ``valid``; or
    `early`, as LiteDRAM does between clock domains, into a queue, perhaps before the commands. In
    cycles of which `pauses` is true it does not carry out commands, of which it holds `held`.
    """

    def __init__(self, dut, *, latency=6, held=9, rng=None, pauses=lambda cycle: False,
                 early=False):
        self.dut, self.latency, self.held, self.rng, self.pauses = dut, latency, held, rng, pauses
        self.early, self.taken = early, deque()
        self.words = {}

    async def bench(self, ctx):
        native = self.dut.native
        waiting, coming, cycle, offered, wanting = deque(), {}, 0, None, False
        while True:
            ready = len(waiting) < self.held and not (self.rng and self.rng.random() < 0.2)
            ctx.set(native.cmd.ready, ready)
            taking = len(self.taken) < 4 if self.early else wanting
            ctx.set(native.wdata.ready, taking)
            word = coming.pop(cycle, None)
            ctx.set(native.rdata.valid, word is not None)
            ctx.set(native.rdata.p, word or 0)
            *_, valid, command, there, write = await ctx.tick().sample(
                native.cmd.valid, native.cmd.p, native.wdata.valid, native.wdata.p)
            assert offered is None or (valid and command == offered), "the command changed"
            offered = command if valid and not ready else None
            if taking and there:
                self.taken.append(write)
            if wanting:
                assert self.taken, "a word to be written was not there"
                self._write(waiting.popleft()[1], self.taken.popleft())
            if valid and ready:
                waiting.append((command.we, command.addr))
            cycle += 1
            held_up = self.pauses(cycle) or (self.rng and self.rng.random() < 0.2)
            wanting = bool(waiting and waiting[0][0] and not held_up)
            if waiting and not wanting and not held_up:
                coming[cycle - 1 + self.latency] = self.words.get(waiting.popleft()[1], 0)

    def _write(self, address, write):
        size = self.dut.word_bytes
        old, new = (word.to_bytes(size, "little")
                    for word in (self.words.get(address, 0), write.data))
        self.words[address] = int.from_bytes(
            (new[k] if write.we >> k & 1 else old[k] for k in range(size)), "little")


@pytest.mark.parametrize(("bus_bytes", "word_bytes"), WIDTHS)
@pytest.mark.parametrize("seed", range(3))
def test_reads_see_the_writes_before_them(bus_bytes, word_bytes, seed):
    rng = random.Random(f"{bus_bytes} {word_bytes} {seed}")
    dut = NativeMemory(bus_bytes=bus_bytes, word_bytes=word_bytes, words=WORDS,
                       entries=rng.randint(2, 9))
    memory = Memory(dut, rng=random.Random(rng.random()) if seed else None, early=seed == 2,
                    held=9 - 3 * seed, pauses=lambda cycle: seed == 2 and cycle % 60 < 25)
    requests, beats = [], 0
    for _ in range(120):
        if beats or rng.random() < 0.3:  # writes in a row, more than the queue holds
            beats = rng.choice([0, 0, 1, 1, 2, 5, rng.randint(1, min(dut.size, 40))])
        # Most in a few places, so that requests meet; the last beat of all is one of them.
        address = rng.choice([rng.randrange(dut.size), rng.randrange(8), dut.size - max(beats, 1)])
        requests.append((min(address, dut.size - max(beats, 1)), beats))
    total = sum(beats for _, beats in requests)
    content, allowed, cycles, got = {}, [], [], []

    async def user(ctx):
        pace = random.Random(rng.random()) if seed == 1 else None
        for address, beats in requests:
            if beats:
                await drive(ctx, dut.port.read, [{"address": address, "beats": beats}], pace)
                allowed.extend((k, {content.get(k, 0)}) for k in range(address, address + beats))
                continue
            beat = rng.getrandbits(8 * bus_bytes)
            await drive(ctx, dut.port.write, [{"address": address, "beat": beat}], pace)
            content[address] = beat
            for place, beats_seen in allowed[len(cycles):]:  # what is under way may see it, or not
                if place == address:
                    beats_seen.add(beat)

    async def reader(ctx):
        got.extend(await collect(ctx, dut.port.data, total, random.Random(rng.random()),
                                 cycles=cycles))

    run(dut, user, reader, background=[memory.bench], max_cycles=50_000)
    assert len(allowed) == total > 50
    assert all(item.beat in seen and not item.error
               for item, (_, seen) in zip(got, allowed, strict=True))
    # Not so many that may be either that the rest would say little.
    assert sum(len(seen) == 1 for _, seen in allowed) > 0.8 * total


def sequential(dut, memory, *, beats, requests=1, stall=None):
    """Return the cycles from the first request being offered to each of the beats."""
    cycles = []

    async def user(ctx):
        await drive(ctx, dut.port.read, [{"address": k * beats, "beats": beats}
                                         for k in range(requests)])

    async def reader(ctx):
        await collect(ctx, dut.port.data, beats * requests, stall, cycles=cycles)

    run(dut, user, reader, background=[memory.bench])
    return cycles


@pytest.mark.parametrize(("bus_bytes", "word_bytes"), WIDTHS)
@pytest.mark.parametrize("latency", [1, 6, 13])
def test_latency_and_throughput_are_those_promised(bus_bytes, word_bytes, latency):
    joined = max(1, bus_bytes // word_bytes)
    entries = queue_entries(bus_bytes=bus_bytes, word_bytes=word_bytes, latency=latency)
    dut = NativeMemory(bus_bytes=bus_bytes, word_bytes=word_bytes, words=WORDS, entries=entries)
    beats = dut.size // 4
    cycles = sequential(dut, Memory(dut, latency=latency, held=32), beats=beats)
    # The request is taken in the first cycle.
    assert cycles[0] - 1 == READ_CYCLES + latency + joined - 1
    assert cycles[-1] - cycles[0] == (beats - 1) * joined


@pytest.mark.parametrize(("bus_bytes", "word_bytes"), [(8, 8), (8, 2), (8, 16)])
def test_fewer_entries_lose_bandwidth(bus_bytes, word_bytes):
    entries = queue_entries(bus_bytes=bus_bytes, word_bytes=word_bytes, latency=13)
    dut = NativeMemory(bus_bytes=bus_bytes, word_bytes=word_bytes, words=WORDS, entries=entries - 1)
    beats, joined = dut.size // 2, max(1, bus_bytes // word_bytes)
    cycles = sequential(dut, Memory(dut, latency=13, held=32), beats=beats)
    # A word of several beats is rounded up, with one more for the first word.
    assert cycles[-1] - cycles[0] > (beats - 1) * joined or word_bytes > bus_bytes


def test_a_request_follows_the_one_before_after_a_cycle():
    dut = NativeMemory(bus_bytes=8, word_bytes=8, words=WORDS, entries=16)
    cycles = sequential(dut, Memory(dut), beats=4, requests=5)
    steps = [after - before for before, after in pairwise(cycles)]
    assert steps == ([1] * 3 + [2]) * 4 + [1] * 3


@pytest.mark.parametrize("enough", [True, False])
def test_a_user_of_half_the_bandwidth_does_not_notice_pauses(enough):
    pause, period, latency = 14, 80, 6
    entries = queue_entries(bus_bytes=8, word_bytes=8, latency=latency,
                            pause=pause if enough else 0)
    dut = NativeMemory(bus_bytes=8, word_bytes=8, words=WORDS, entries=entries)
    late = 0

    async def user(ctx):
        await drive(ctx, dut.port.read, [{"address": 0, "beats": WORDS}])

    async def reader(ctx):
        nonlocal late
        await ctx.tick().repeat(40)
        for _ in range(WORDS):
            ctx.set(dut.port.data.ready, 1)
            *_, valid = await ctx.tick().sample(dut.port.data.valid)
            while not valid:
                late += 1
                *_, valid = await ctx.tick().sample(dut.port.data.valid)
            ctx.set(dut.port.data.ready, 0)
            await ctx.tick()

    memory = Memory(dut, latency=latency, pauses=lambda cycle: cycle % period < pause)
    run(dut, user, reader, background=[memory.bench])
    assert (late == 0) is enough


@pytest.mark.parametrize(("name", "value"), [
    ("bus_bytes", 3), ("bus_bytes", 0), ("bus_bytes", "8"), ("word_bytes", 6), ("words", 1),
    ("words", None), ("entries", 1), ("writes", 3), ("writes", 1),
])
def test_parameters_out_of_range_are_named(name, value):
    right = {"bus_bytes": 8, "word_bytes": 2, "words": WORDS, "entries": 4, "writes": 4}
    with pytest.raises(ValueError, match=f"^{name} must be .*, not {value!r}$"):
        NativeMemory(**right | {name: value})


def test_a_memory_of_less_than_two_beats_is_refused():
    with pytest.raises(ValueError, match=r"^words must be enough for two beats of 16 bytes, not"):
        NativeMemory(bus_bytes=16, word_bytes=2, words=4, entries=4)


@pytest.mark.parametrize(("name", "value"), [
    ("bus_bytes", 0), ("word_bytes", 0), ("latency", 0), ("pause", -1)])
def test_entries_are_not_computed_of_nonsense(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, not {value!r}$"):
        queue_entries(**{"bus_bytes": 8, "word_bytes": 2, "latency": 5, "pause": 4} | {name: value})
