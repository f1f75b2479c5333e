# amaranth: UnusedElaboratable=no
"""LiteDRAM's controllers behind the adapter, in simulation with LiteDRAM's own model of the chip.

What they lose is measured here; the boards' figures in boards/dram/chips.py must be these.
"""

import re
import sys
from collections import defaultdict

import numpy as np
import pytest

from systola.boards.board import BOARDS
from systola.boards.dram.chips import DRAMS, bandwidth, find_dram
from systola.boards.dram.controller import CSR_BITS, generate_controller
from systola.boards.dram.memory import DramMemory
from systola.hw.resident.native_memory import READ_CYCLES
from systola.hw.resident.read_levelling import REGISTERS
from systola.hw.verilog import to_verilog
from systola.sim.verilog.runner import Session, build_text

ALL = [dram for ways in DRAMS.values() for dram in ways]
NAMES = [f"{dram.board}-{dram.phases}" for dram in ALL]
WRITE = np.zeros((0, 2), dtype=np.int64)


@pytest.fixture(scope="module")
def litedram():
    return pytest.importorskip("litedram")


def build(dram, *, bus_bytes, core=None, **options):
    """Return the compiled simulation of a memory, and its component."""
    core = core or generate_controller(dram, dram.mhz, simulated=True)
    memory = DramMemory(core, bus_bytes=bus_bytes, **options)
    text = to_verilog(memory, "dram") + core.verilog
    return build_text(text, top="dram", optimize="-O1"), memory


class User:
    """A session with a memory; `run` returns what was read and when."""

    def __init__(self, session, bus_bytes):
        self.session, self.bus_bytes, self.started = session, bus_bytes, False

    def run(self, requests, beats=None, *, seed=None):
        empty = np.zeros((0, self.bus_bytes), dtype=np.uint8)
        _, arrays = self.session.run(
            {"seed": seed, "reset": not self.started, "patience": 1000},
            {"requests": np.array(requests, dtype=np.int64),
             "beats": empty if beats is None else beats})
        self.started = True
        return arrays


@pytest.mark.slow
@pytest.mark.parametrize(("dram", "bus_bytes"), [
    (ALL[0], 8), (ALL[0], 2), (ALL[1], 16), (ALL[2], 8), (ALL[2], 32)],
    ids=lambda value: getattr(value, "board", value))
def test_random_reads_and_writes_are_exact(litedram, dram, bus_bytes):
    rng = np.random.default_rng(bus_bytes)
    built, memory = build(dram, bus_bytes=bus_bytes)
    # Rows of all banks, the first and the last address: where two meet, reads must see writes.
    row = dram.row_bytes // bus_bytes
    places = [0, row, 5 * row - 20, memory.size // 2, memory.size - 50]
    requests = [(int(rng.choice(places)) + int(rng.integers(40)),
                 0 if rng.random() < 0.6 else int(rng.integers(1, 10))) for _ in range(800)]
    beats = rng.integers(0, 256, (sum(not count for _, count in requests), bus_bytes),
                         dtype=np.uint8)
    with Session(built, "systola.sim.benches.memory_port") as session:
        got = User(session, bus_bytes).run(requests, beats, seed=bus_bytes)
        session.stop()
        assert "violation" not in session.log
    written, read, certain = defaultdict(list), 0, 0
    for number, (address, count) in enumerate(requests):
        if not count:
            written[address].append((number, got["taken"][number],
                                     beats[sum(map(len, written.values()))].tobytes()))
    for number, (address, count) in enumerate(requests):
        for place in range(address, address + count):
            before = [beat for other, _, beat in written[place] if other < number][-1:]
            # Either may be seen of what is written while the request is under way.
            during = [beat for other, when, beat in written[place]
                      if other > number and when <= got["cycles"][read]]
            if before:
                assert got["data"][read].tobytes() in before + during
                certain += not during
            read += 1
    assert certain > 300
    # Over several refreshes, whose number is the simulated time in intervals.
    assert got["cycles"][-1] > 5 * memory.controller.timing["tREFI"]


@pytest.mark.slow
@pytest.mark.parametrize("dram", ALL, ids=NAMES)
def test_bandwidth_and_latency_are_those_computed(litedram, dram):
    bus_bytes, rng = dram.word_bytes, np.random.default_rng(1)
    built, memory = build(dram, bus_bytes=bus_bytes)
    core, beats = memory.controller, rng.integers(0, 256, (8000, bus_bytes), dtype=np.uint8)
    with Session(built, "systola.sim.benches.memory_port") as session:
        user = User(session, bus_bytes)
        user.run([(k, 0) for k in range(len(beats))], beats)
        got = user.run([(0, len(beats))])
        near = [user.run([(5, 1)]) for _ in range(3)]
    np.testing.assert_array_equal(got["data"], beats)
    gaps, many = np.unique(np.diff(got["cycles"]) - 1, return_counts=True)
    lost = dict(zip(gaps.tolist(), many.tolist(), strict=True))
    print(dram.board, dram.phases, lost)
    # The two that are there alone; the others are both, or one while the other was under way.
    common = sorted(sorted(set(lost) - {0}, key=lost.get)[-2:])
    assert common == [core.row, core.refresh] == [dram.row, dram.refresh]
    assert max(lost) <= core.row + core.refresh
    rate = (len(beats) - 1) * bus_bytes / (got["cycles"][-1] - got["cycles"][0])
    promised = bandwidth(dram.board, bus_bytes=bus_bytes, mhz=dram.mhz, phases=dram.phases)
    assert rate == pytest.approx(core.bandwidth, rel=3e-3)
    assert promised.sustained == pytest.approx(core.bandwidth, rel=1e-3)
    assert promised.peak == dram.word_bytes
    # One of the three at least met no refresh and an open row.
    assert min(run["cycles"][0] - run["taken"][0] for run in near) == READ_CYCLES + core.latency


@pytest.mark.slow
def test_a_refresh_is_hidden_from_a_slower_user(litedram):
    dram = find_dram("arty_s7_50")
    for entries, hidden in (None, True), (8, False):
        built, _ = build(dram, bus_bytes=8, entries=entries)
        with Session(built, "systola.sim.benches.memory_port") as session:
            got = User(session, 8).run([(0, 4000)])
        assert (set(np.diff(got["cycles"])) == {1}) is hidden


@pytest.mark.slow
def test_a_user_with_a_slower_clock_gets_all_that_it_can_take(litedram):
    rng, dram = np.random.default_rng(3), find_dram("arty_s7_50")
    beats = rng.integers(0, 256, (2000, 8), dtype=np.uint8)
    built, _ = build(dram, bus_bytes=8, domain="dram")  # at twice the user's frequency
    with Session(built, "systola.sim.benches.memory_port") as session:
        user = User(session, 8)
        user.run([(k, 0) for k in range(len(beats))], beats)
        got = user.run([(0, len(beats))])
    np.testing.assert_array_equal(got["data"], beats)
    assert set(np.diff(got["cycles"])) == {1}
    assert bandwidth("arty_s7_50", bus_bytes=8, mhz=dram.mhz / 2).sustained == 8


@pytest.mark.slow
def test_commands_that_come_too_early_are_seen(litedram, monkeypatch):
    dram = find_dram("ulx3s_85f")
    right = sys.modules["litedram.core"].LiteDRAMCore

    def hasty(phy, geometry, timing, clock):
        timing.tRCD = 1
        return right(phy, geometry, timing, clock)

    monkeypatch.setattr("litedram.core.LiteDRAMCore", hasty)
    built, _ = build(dram, bus_bytes=8)
    with Session(built, "systola.sim.benches.memory_port") as session:
        User(session, 8).run([(0, 100)])
        session.stop()
        assert "ACT->RD violation" in session.log


@pytest.mark.parametrize("dram", ALL, ids=NAMES)
def test_the_chip_is_started_as_litedram_says(litedram, dram):
    core = generate_controller(dram, dram.mhz)
    names = {address: name for name, address in core.registers.items()}
    steps = [(names[address], value, pause) for address, value, pause in core.steps]
    assert all(address < 1 << CSR_BITS for address in core.registers.values())
    # The controller has the chip at the end, and only then.
    assert [value & 1 for name, value, _ in steps if name == "dfii_control"][-1] == 1
    assert sum(value & 1 for name, value, _ in steps if name == "dfii_control") == 1
    assert steps[0][2] >= 200 * dram.mhz  # 200 us after power, before the clock is enabled
    issued = [pause for name, _, pause in steps if name == "dfii_pi0_command_issue"]
    assert len(issued) == (6 if dram.kind == "SDR" else 5)
    again = generate_controller(dram, dram.mhz)
    assert again == core


@pytest.mark.parametrize("dram", ALL, ids=NAMES)
def test_a_core_has_the_pins_of_its_chip(litedram, dram):
    core = generate_controller(dram, dram.mhz, name="other_name")
    ports = re.search(r"^module other_name \((.*?)^\);", core.verilog, re.M | re.S)[1]
    assert all(re.search(rf"\b{pin}\b", ports) for pin in core.pins)
    assert core.pins["dram_dq_i" if dram.kind == "SDR" else "dram_dq"] == dram.data_bits
    assert dram.words * dram.word_bytes == dram.bytes
    assert re.search(rf"\[{(dram.words - 1).bit_length() - 1}:0\] cmd_addr\b", ports)


def test_a_frequency_that_the_chip_cannot_run_at_is_named(litedram):
    with pytest.raises(ValueError, match=r"^mhz must be .* MT48LC16M16 .*, not 80$"):
        generate_controller(find_dram("ulx3s_85f"), 80)
    with pytest.raises(ValueError, match=r"^mhz must be .* MT48LC16M16 .*, not 5$"):
        generate_controller(find_dram("ulx3s_85f"), 5)


def test_without_litedram_the_missing_module_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "litedram", None)
    with pytest.raises(ModuleNotFoundError, match="litedram"):
        generate_controller(find_dram("ulx3s_85f"), 50.0)


def test_every_board_has_its_memories():
    assert set(DRAMS) <= set(BOARDS)
    assert [find_dram("ulx3s_85f", phases).phases for phases in (None, 1, 2)] == [2, 1, 2]
    with pytest.raises(ValueError, match=r"^board must be .*ulx3s_85f.*, not 'icebreaker'$"):
        find_dram("icebreaker")
    with pytest.raises(ValueError, match=r"^phases must be 1 or 2 on ulx3s_85f, not 4$"):
        find_dram("ulx3s_85f", 4)


def test_bandwidth_is_in_cycles_of_its_user():
    sdram = bandwidth("ulx3s_85f", bus_bytes=8, mhz=50)
    assert (sdram.peak, round(sdram.sustained, 2)) == (4, 3.76)
    assert round(bandwidth("ulx3s_85f", bus_bytes=8, mhz=50, phases=1).sustained, 2) == 1.92
    # Less often refreshed per cycle, and never more than a beat.
    assert bandwidth("ulx3s_85f", bus_bytes=8, mhz=60).sustained > sdram.sustained
    assert bandwidth("ulx3s_85f", bus_bytes=2, mhz=50).sustained == 2
    ddr = bandwidth("arty_s7_50", bus_bytes=32, mhz=50)
    assert (ddr.peak, round(ddr.sustained, 1)) == (32, 28.5)
    for name, value in ("mhz", 0), ("mhz", "50"), ("bus_bytes", 0):
        with pytest.raises(ValueError, match=f"^{name} must be .*, not {value!r}$"):
            bandwidth("ulx3s_85f", **{"bus_bytes": 8, "mhz": 50} | {name: value})


def test_ddr3_is_levelled_before_it_is_used(litedram):
    dram = find_dram("arty_s7_50")
    controller = generate_controller(dram, dram.mhz)
    text = to_verilog(DramMemory(controller, bus_bytes=8, domain="dram"), "memory")
    assert {"memory.started.levelling", "memory.crossing"} <= set(
        re.findall(r"module \\(\S+)", text))
    # The registers of its PHY are reset first, and are where the levelling expects them.
    assert all(name in controller.registers for name in (*REGISTERS, "rst"))
    assert [value for address, value, _ in controller.steps
            if address == controller.registers["rst"]] == [1, 0]
    dram = find_dram("ulx3s_85f")
    text = to_verilog(DramMemory(generate_controller(dram, 50.0), bus_bytes=8), "memory")
    assert "levelling" not in text
