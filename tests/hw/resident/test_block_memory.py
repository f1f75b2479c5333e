# amaranth: UnusedElaboratable=no
"""Block RAM behind the port for resident programs: order, time, and writes before reads."""

import random

import pytest

from systola.hw.parts.memory_port import MemoryPort
from systola.hw.resident.block_memory import BlockMemory
from systola.sim.harness import collect, drive, run

SIZE = 37


def requests(pairs):
    return [{"address": address, "beats": beats} for address, beats in pairs]


@pytest.mark.parametrize("seed", range(4))
def test_what_was_written_is_read_in_order(seed):
    rng = random.Random(seed)
    dut, words = BlockMemory(bus_bytes=2, size=SIZE), {}
    assert dut.port.signature.flip().members == MemoryPort(bus_bytes=2).members
    pairs = [(0, SIZE), (SIZE - 1, 1), *((rng.randrange(20), rng.randrange(1, 17))
                                         for _ in range(8))]
    got = []

    async def user(ctx):
        places = [*range(SIZE), *rng.choices(range(SIZE), k=9)]
        beats = [rng.getrandbits(16) for _ in places]
        words.update(zip(places, beats, strict=True))
        await drive(ctx, dut.port.write, [{"address": at, "beat": beat} for at, beat in
                                          zip(places, beats, strict=True)], rng)
        await drive(ctx, dut.port.read, requests(pairs), rng)

    async def listen(ctx):
        got.extend(await collect(ctx, dut.port.data, sum(beats for _, beats in pairs), rng))

    run(dut, user, listen)
    assert [beat.beat for beat in got] == [
        words[at] for first, beats in pairs for at in range(first, first + beats)]
    assert not any(beat.error for beat in got)


def test_the_first_beat_takes_three_cycles_and_the_others_one():
    dut, cycles = BlockMemory(bus_bytes=4, size=SIZE), []

    async def user(ctx):
        await drive(ctx, dut.port.read, requests([(3, 20), (0, 5)]))

    async def listen(ctx):
        await collect(ctx, dut.port.data, 25, cycles=cycles)

    run(dut, user, listen)
    first = cycles[0]
    # Taken in the first cycle; from the request behind it a beat is missing.
    assert first == 1 + 3
    assert cycles[:20] == list(range(first, first + 20))
    assert cycles[20:] == list(range(cycles[20], cycles[20] + 5))
    assert cycles[20] - cycles[19] == 2


@pytest.mark.parametrize("options", [{"bus_bytes": 0, "size": 4}, {"bus_bytes": 4, "size": 0}])
def test_parameters_are_checked(options):
    with pytest.raises(ValueError, match=r"must be a positive integer, not 0$"):
        BlockMemory(**options)
