# amaranth: UnusedElaboratable=no
"""Requests and beats between two clocks, of any ratio, against a memory of a dictionary."""

import random

import pytest
from amaranth.sim import Simulator

from systola.hw.resident.port_crossing import PortCrossing
from systola.sim.harness import collect, drive


def simulate(dut, user_ns, memory_ns, *testbenches, background):
    """Run until the testbenches have returned, with the two clocks."""
    sim = Simulator(dut)
    sim.add_clock(user_ns * 1e-9)
    sim.add_clock(memory_ns * 1e-9, domain="memory")

    async def watchdog(ctx):
        for _ in range(20_000):
            await ctx.tick()
        raise TimeoutError("nothing more comes")

    for testbench in testbenches:
        sim.add_testbench(testbench)
    for testbench in (watchdog, *background):
        sim.add_testbench(testbench, background=True)
    sim.run()


def memory_of(dut, content, rng=None):
    async def memory(ctx):
        port, coming = dut.memory, []
        while True:
            awake = not rng or rng.random() < 0.6
            ctx.set(port.read.ready, awake and len(coming) < 4)
            ctx.set(port.write.ready, awake)
            ctx.set(port.data.valid, bool(coming) and awake)
            ctx.set(port.data.p, {"beat": coming[0] if coming else 0, "error": len(coming) % 2})
            *_, read, request, write, beat, got = await ctx.tick("memory").sample(
                port.read.valid & port.read.ready, port.read.p,
                port.write.valid & port.write.ready, port.write.p,
                port.data.valid & port.data.ready)
            if write:
                content[beat.address] = beat.beat
            if got:
                coming.pop(0)
            if read:
                coming += [content.get(request.address + k, 0) for k in range(request.beats)]

    return memory


@pytest.mark.parametrize(("user_ns", "memory_ns"), [(20, 10), (10, 20), (10, 10.7), (13, 11)])
@pytest.mark.parametrize("seed", range(2))
def test_requests_stay_in_order(user_ns, memory_ns, seed):
    rng, dut = random.Random(seed), PortCrossing(bus_bytes=8, depth=(4, 16)[seed])
    content, expected, requests = {}, [], []
    for _ in range(150):
        beats = rng.choice([0, 0, 0, 1, 3])
        requests.append((rng.randrange(6) | rng.randrange(2) << 31, beats, rng.getrandbits(64)))
        address = requests[-1][0]
        expected += [content.get(address + k, 0) for k in range(beats)]
        if not beats:
            content[address] = requests[-1][2]

    async def user(ctx):
        for address, beats, beat in requests:
            if beats:
                await drive(ctx, dut.port.read, [{"address": address, "beats": beats}])
            else:
                await drive(ctx, dut.port.write, [{"address": address, "beat": beat}])

    got = []

    async def reader(ctx):
        got.extend(await collect(ctx, dut.port.data, len(expected), rng))

    simulate(dut, user_ns, memory_ns, user, reader,
             background=[memory_of(dut, {}, random.Random(seed))])
    assert [item.beat for item in got] == expected
    assert {item.error for item in got} == {0, 1}


@pytest.mark.parametrize("memory_ns", [5, 10, 10.1])
def test_a_beat_a_cycle_of_the_slower_clock(memory_ns):
    dut, cycles = PortCrossing(bus_bytes=8), []

    async def user(ctx):
        await drive(ctx, dut.port.read, [{"address": 0, "beats": 200}])

    async def reader(ctx):
        await collect(ctx, dut.port.data, 200, cycles=cycles)

    simulate(dut, 10, memory_ns, user, reader, background=[memory_of(dut, {})])
    assert cycles[-1] - cycles[0] <= 199 * max(1, memory_ns / 10) + 1


def test_two_requests_in_a_cycle_are_both_taken():
    dut, content = PortCrossing(bus_bytes=8), {5: 7}

    async def writer(ctx):
        await drive(ctx, dut.port.write, [{"address": 5, "beat": 8}])

    async def reader(ctx):
        for beat in 7, 8:  # the read goes first
            await drive(ctx, dut.port.read, [{"address": 5, "beats": 1}])
            assert [item.beat for item in await collect(ctx, dut.port.data, 1)] == [beat]

    simulate(dut, 10, 7, writer, reader, background=[memory_of(dut, content)])


@pytest.mark.parametrize(("name", "value"), [("bus_bytes", 0), ("depth", 2), ("depth", 12)])
def test_parameters_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, not {value}$"):
        PortCrossing(**{"bus_bytes": 8} | {name: value})
