# amaranth: UnusedElaboratable=no
"""Read levelling of a memory whose data are right only where the test says."""

import random

import pytest

from systola.hw.resident.read_levelling import BEATS, REGISTERS, ReadLevelling
from systola.sim.harness import run

ADDRESSES = {name: 3 + 5 * k for k, name in enumerate(REGISTERS)}
DELAYS, SLIPS = 8, 4


class Pins:
    """A memory and the registers of its PHY.

    Byte lanes have settings (bit slip of writes, bit slip of reads, delay). A lane is written
    rightly with the bit slip `write`, and read rightly with those of `windows`, {bit slip: delays};
    a pair of bit slips, of writes and of reads, goes before.
    """

    def __init__(self, dut, rng, write, windows):
        self.dut, self.rng, self.write, self.windows = dut, rng, write, windows
        self.settings = [[9, 9, 9] for _ in write]  # nothing is as after a reset
        self.selected, self.bytes, self.written = 0, {}, set()

    async def bench(self, ctx):
        port, csr, names = self.dut.port, self.dut.csr, {v: k for k, v in ADDRESSES.items()}
        coming = []
        while True:
            ctx.set(port.write.ready, self.rng.random() < 0.7)
            ctx.set(port.read.ready, not coming and self.rng.random() < 0.7)
            ctx.set(port.data.valid, bool(coming) and self.rng.random() < 0.7)
            ctx.set(port.data.p.beat, coming[0] if coming else 0)
            *_, sets, address, value, write, beat, read, request, got = await ctx.tick().sample(
                csr.we, csr.adr, csr.dat_w, port.write.valid & port.write.ready, port.write.p,
                port.read.valid & port.read.ready, port.read.p, port.data.valid & port.data.ready)
            assert sets or address == 0
            if sets:
                self._set(names[address], value)
            if write:
                self.written.add(beat.address)
                self._write(beat.address, beat.beat)
            if read:
                coming = [self._read(request.address + k) for k in range(request.beats)]
            if got:
                coming.pop(0)

    def _set(self, name, value):
        if name == "dly_sel":
            self.selected = value
            return
        place = 0 if name.startswith("wdly") else 1 if "bitslip" in name else 2
        for lane, setting in enumerate(self.settings):
            if self.selected >> lane & 1:
                setting[place] = 0 if name.endswith("_rst") else setting[place] + 1

    def _write(self, address, beat):
        for k in range(self.dut.bus_bytes):
            lane = k % len(self.write)
            # A word that comes too late is written somewhere else.
            if self.settings[lane][0] == self.write[lane]:
                self.bytes[address, k] = beat >> 8 * k & 255

    def _read(self, address):
        beat = 0
        for k in range(self.dut.bus_bytes):
            lane = k % len(self.write)
            late, slip, delay = self.settings[lane]
            window = self.windows[lane].get(slip, ())
            right = delay in self.windows[lane].get((late, slip), window)
            beat |= (self.bytes.get((address, k), 0) if right else self.rng.randrange(256)) << 8 * k
        return beat


def level(write, windows, *, bus_bytes=4, seed=1):
    dut = ReadLevelling(bus_bytes=bus_bytes, lanes=len(write), registers=ADDRESSES, address_bits=6,
                        delays=DELAYS, bitslips=SLIPS, settle=2)
    pins = Pins(dut, random.Random(seed), write, windows)
    failed = None

    async def user(ctx):
        nonlocal failed
        await ctx.tick().repeat(20)
        assert not pins.written
        assert pins.selected == 0
        ctx.set(dut.start, 1)
        while not ctx.get(dut.done):
            await ctx.tick()
        failed = ctx.get(dut.failed)

    run(dut, user, background=[pins.bench], max_cycles=60_000)
    assert pins.written == set(range(BEATS))
    return pins.settings, failed


@pytest.mark.parametrize(("write", "windows", "settings"), [
    ([0, 0], [{1: range(2, 7)}, {2: range(3)}], [[0, 1, 4], [0, 2, 1]]),
    # The longer of two, wherever it is; a window that reaches to the last delay; one of one delay.
    ([2, 3], [{0: range(2), 3: range(4, 8)}, {1: [7]}], [[2, 3, 5], [3, 1, 7]]),
    ([1], [{0: [*range(3), *range(4, 6)], 1: range(5)}], [[1, 1, 2]]),
    ([3, 1], [{2: range(8)}, {3: range(1, 8)}], [[3, 2, 3], [1, 3, 4]]),
    # What an earlier bit slip wrote is not taken for what this one did, whose window is longer.
    ([1], [{0: range(2, 5), (2, 0): range(1, 7)}], [[1, 0, 3]]),
], ids=range(5))
def test_each_lane_is_set_amid_its_longest_window(write, windows, settings):
    assert level(write, windows) == (settings, 0)


def test_a_lane_without_a_window_is_reported():
    settings, failed = level([0, 0], [{}, {2: range(2, 5)}])
    assert (settings[1], failed) == ([0, 2, 3], 1)
    # Never written rightly.
    assert level([9, 0], [{1: range(8)}, {2: range(2, 5)}])[1] == 1


@pytest.mark.parametrize(("name", "value"), [
    ("bus_bytes", 3), ("lanes", 0), ("delays", 1), ("bitslips", 1), ("settle", 0),
    ("registers", {"dly_sel": 1})])
def test_parameters_out_of_range_are_named(name, value):
    right = {"bus_bytes": 4, "lanes": 2, "registers": ADDRESSES, "address_bits": 6}
    with pytest.raises(ValueError, match=f"^{name} must "):
        ReadLevelling(**right | {name: value})
