# amaranth: UnusedElaboratable=no
"""The test of a memory finds what is wrong with one."""

import random

import pytest

from systola.hw.resident.memory_checker import MemoryChecker, checked_beat
from systola.sim.harness import run

SIZE = 40


def check(bus_bytes, *, fault=None):
    """Return whether the checker complains about a memory that `fault` damages."""
    rng, dut, written, wrong = random.Random(bus_bytes), None, {}, None
    dut = MemoryChecker(bus_bytes=bus_bytes, size=SIZE)

    async def memory(ctx):
        port, coming = dut.port, []
        while True:
            ctx.set(port.write.ready, rng.random() < 0.6)
            ctx.set(port.read.ready, rng.random() < 0.6)
            ctx.set(port.data.valid, bool(coming))
            ctx.set(port.data.p, {"beat": coming[0] if coming else 0,
                                  "error": fault == "error" and len(coming) == 1})
            *_, write, beat, read, request, got = await ctx.tick().sample(
                port.write.valid & port.write.ready, port.write.p,
                port.read.valid & port.read.ready, port.read.p, port.data.ready)
            if coming and got:
                coming.pop(0)
            if write:
                address = beat.address & (0x17 if fault == "address line" else -1)
                written[address] = beat.beat
            if read:
                coming = [written.get(k & (0x17 if fault == "address line" else -1), 0)
                          for k in range(request.address, request.address + request.beats)]
                if fault == "bit":
                    coming[-1] ^= 1 << 8 * bus_bytes - 1

    async def user(ctx):
        nonlocal wrong
        while not ctx.get(dut.done):
            assert wrong is None
            await ctx.tick()
        wrong = ctx.get(dut.wrong)

    run(dut, user, background=[memory])
    if fault is None:
        assert written == {k: checked_beat(k, bus_bytes) for k in range(SIZE)}
        assert len(set(written.values())) == SIZE
    return bool(wrong)


@pytest.mark.parametrize("bus_bytes", [2, 4, 8, 16])
@pytest.mark.parametrize("fault", [None, "bit", "address line", "error"])
def test_a_fault_is_found(bus_bytes, fault):
    assert check(bus_bytes, fault=fault) is (fault is not None)


@pytest.mark.parametrize(("name", "value"), [("bus_bytes", 0), ("size", 1), ("size", 1 << 32)])
def test_parameters_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*, not {value}$"):
        MemoryChecker(**{"bus_bytes": 8, "size": SIZE} | {name: value})
