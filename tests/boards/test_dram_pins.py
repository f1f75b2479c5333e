# amaranth: UnusedElaboratable=no
"""SDR memory from the user to the chip's pins, with the delays of buffers and chip."""

import dataclasses
import re

import numpy as np
import pytest
from amaranth import ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from sdram_chip import SdramChip

from systola.boards.board import find_board
from systola.boards.dram.chips import find_dram
from systola.boards.dram.controller import generate_controller
from systola.boards.dram.ddr3_pins import ddr3_clocks
from systola.boards.dram.memory import DramMemory
from systola.boards.dram.sdr_pins import DATA_NS, chip_phase, clock_outputs
from systola.boards.flows.ecp5 import core_fmax, nextpnr
from systola.boards.memory_top import MEMORY_LEDS, MemoryTop
from systola.boards.pll import PllPlan, pll_instance
from systola.boards.synthesis.synth import run_yosys
from systola.hw.parts.memory_port import MemoryPort
from systola.hw.verilog import to_verilog
from systola.sim.verilog.runner import Session, build_text

MHZ = 50.0
PINS = "cke", "cs_n", "ras_n", "cas_n", "we_n", "ba", "a", "dm"


class Board(wiring.Component):
    """A controller and a chip; the bench is the clocks, and the wires from chip to FPGA."""

    def __init__(self, controller, bus_bytes):
        self.controller, self.bus_bytes = controller, bus_bytes
        super().__init__({
            "port": In(MemoryPort(bus_bytes=bus_bytes)), "works": Out(1), "double_clock": In(1),
            "chip_clk": In(1), "chip_data": Out(16), "fpga_data": In(16), "errors": Out(16),
            "mode": Out(13), "refreshes": Out(16)})

    def elaborate(self, platform):
        m = Module()
        m.domains.chip = ClockDomain(reset_less=True)
        m.submodules.chip = chip = SdramChip()
        connections = {f"o_dram_{pin}": getattr(chip, pin) for pin in PINS}
        if self.controller.dram.phases == 2:
            connections |= {"i_sys2x_clk": self.double_clock, "i_sys2x_rst": ResetSignal()}
        connections |= {"i_dram_dq_i": self.fpga_data, "o_dram_dq_o": chip.written,
                        "o_dram_dq_t": Signal(16)}
        m.submodules.memory = memory = DramMemory(self.controller, bus_bytes=self.bus_bytes,
                                                  connections=connections)
        wiring.connect(m, wiring.flipped(self.port), memory.port)
        m.d.comb += [self.works.eq(memory.works), self.chip_data.eq(chip.data),
                     self.errors.eq(chip.errors), self.mode.eq(chip.mode),
                     self.refreshes.eq(chip.refreshes), ClockSignal("chip").eq(self.chip_clk)]
        return m


@pytest.mark.slow
@pytest.mark.parametrize(("phases", "bus_bytes"), [(1, 8), (2, 8), (2, 2)])
def test_data_are_exact_with_the_phase_that_is_computed(phases, bus_bytes):
    pytest.importorskip("litedram")
    dram, rng = find_dram("ulx3s_85f", phases), np.random.default_rng(phases)
    controller = generate_controller(dram, MHZ, simulated="pins")
    # The chip of the test needs no hundreds of microseconds.
    short = dataclasses.replace(controller, steps=tuple(
        (address, value, min(pause, 60)) for address, value, pause in controller.steps))
    built = build_text(to_verilog(Board(short, bus_bytes), "pins") + controller.verilog, top="pins",
                       optimize="-O1")
    beats = rng.integers(0, 256, (400, bus_bytes), dtype=np.uint8)
    requests = np.array([*((k, 0) for k in range(400)), (0, 400)], dtype=np.int64)
    right = chip_phase(dram, MHZ)
    for degrees, exact in (right, True), ((right + 180) % 360, False):
        with Session(built, "systola.sim.benches.memory_pins") as session:
            results, arrays = session.run(
                {"seed": None, "reset": True, "patience": 3000, "phases": phases,
                 "degrees": degrees, "data_ps": [int(1000 * ns) for ns in DATA_NS]},
                {"requests": requests, "beats": beats})
        assert (arrays["data"].tolist() == beats.tolist()) is exact
        if exact:
            assert results["errors"] == 0
            assert results["mode"] == 2 << 4 | phases - 1  # CAS latency 2, bursts of the phases
            # Two at the start, and then as often as LiteDRAM has it.
            cycles = int(arrays["cycles"][-1])
            assert abs(results["refreshes"] - 2 - cycles / controller.timing["tREFI"]) < 2


def test_the_phase_is_that_of_litex_at_50_mhz_and_leaves_time_at_others():
    assert [chip_phase(find_dram("ulx3s_85f", phases), MHZ) for phases in (1, 2)] == [90, 180]
    gone, there = DATA_NS
    for phases in 1, 2:
        dram = find_dram("ulx3s_85f", phases)
        for mhz in 12.5, 25, 40, 50, 60, 66:
            period = 1e3 / mhz / phases
            behind = chip_phase(dram, mhz) / 360 * period
            assert behind + there < phases * period < behind + period + gone
            assert 2 < behind < period - 1.5
        with pytest.raises(ValueError, match=r"^mhz must leave .* with [12] phases, not 100$"):
            chip_phase(dram, 100)


@pytest.mark.parametrize("phases", [1, 2])
def test_the_clocks_are_those_of_the_controller_and_of_the_chip(phases):
    dram, plan = find_dram("ulx3s_85f", phases), PllPlan(25.0, 1, 24, 12)
    clocks, others = clock_outputs(dram, plan)
    assert list(clocks) == ["chip", "double"][:phases]
    assert [(divide, phase) for _, divide, phase in others] == [
        (12 // phases, 90 * phases), (6, 0)][:phases]


def test_phases_of_a_pll_are_counted_in_its_oscillator():
    plan, clock = PllPlan(25.0, 1, 24, 12), Signal()
    wires = {name: Signal() for name in ("source", "output", "feedback", "locked")}
    ecp5 = pll_instance("ecp5", plan, **wires, others=[(clock, 12, 90), (clock, 6, 135)])
    # 90 degrees of 12 periods are 3; 135 of 6 are 2 and 2 eighths.
    assert [ecp5.parameters[f"CLKOS{n}_{kind}"] for n in (2, 3)
            for kind in ("DIV", "CPHASE", "FPHASE")] == [12, 14, 0, 6, 7, 2]
    assert ecp5.parameters["CLKOS_CPHASE"] == 11
    xc7 = pll_instance("xc7", plan, **wires, others=[(clock, 3, 90)])
    assert [xc7.parameters[f"CLKOUT1_{kind}"] for kind in ("DIVIDE", "PHASE")] == [3, 90.0]
    with pytest.raises(ValueError, match=r"^phase must be a multiple of 45 / 6 degrees, not 10$"):
        pll_instance("ecp5", plan, **wires, others=[(clock, 6, 10)])
    with pytest.raises(ValueError, match=r"^others must be at most 2, not 3$"):
        pll_instance("ecp5", plan, **wires, others=[(clock, 6, 0)] * 3)


def test_a_board_that_tests_its_memory_has_its_pins_and_its_controller():
    pytest.importorskip("litedram")
    board = find_board("ulx3s_85f")
    top = MemoryTop(board)
    assert (top.plan.output, top.memory.dram.phases) == (50.0, 2)
    files = board.platform(top.plan.output).prepare(top, "top").files
    assert "read_rtlil top.il\nread_verilog dram_core.v\nhierarchy" in files["run.ys"]
    assert files["dram_core.v"] == top.memory.controller.verilog
    located = re.findall(r'LOCATE COMP "(\w+)', files["top.lpf"])
    assert sum(name.startswith("sdram") for name in located) == 39
    assert sum(name.startswith("led") for name in located) == len(MEMORY_LEDS)


@pytest.mark.slow
def test_the_memory_of_a_ulx3s_is_placed_and_routed(tmp_path):
    pytest.importorskip("litedram")
    board = find_board("ulx3s_85f")
    top = MemoryTop(board)
    platform = board.platform(top.plan.output)
    platform.prepare(top, "top").extract(tmp_path)
    run_yosys(tmp_path, None, lambda text: None)
    report = nextpnr(tmp_path, "top", platform.command_lines("top")[0], 1)
    assert {round(clock["constraint"]) for clock in report["fmax"].values()} == {50, 100}
    assert core_fmax(report) > 50
    # The registers of commands and data are beside their pins, those of directions with them.
    assert report["utilization"]["IOLOGIC"]["used"] == 39


def test_a_board_with_ddr3_memory_has_five_clocks_of_one_oscillator():
    pytest.importorskip("litedram")
    board = find_board("arty_s7_50")
    top = MemoryTop(board)
    assert (top.plan.output, top.plan.vco, top.memory.controller.mhz) == (50.0, 1200.0, 100.0)
    files = board.platform(top.plan.output).prepare(top, "top").files
    assert "read_rtlil top.il\nread_verilog dram_core.v\nhierarchy" in files["run.ys"]
    dividers = re.findall(r"parameter \\CLKOUT(\d)_DIVIDE (\d+)", files["top.il"])
    assert sorted(dividers) == [("0", "24"), ("1", "12"), ("2", "3"), ("3", "3"), ("4", "6")]
    located = re.findall(r'set_property LOC \w+ \[get_ports "(\w+)', files["top.xdc"])
    assert sum(name.startswith("ddr3") for name in located) == 48
    with pytest.raises(ValueError, match=r"^mhz must be of an oscillator that also gives 400 MHz"):
        ddr3_clocks(Module(), PllPlan(100.0, 1, 9, 18), find_dram("arty_s7_50"))


def test_a_frequency_is_one_that_all_clocks_of_a_pll_keep_up_with():
    def path(start, end, *delays):
        return {"from": start, "to": end, "path": [{"delay": ns} for ns in delays]}

    one = {"fmax": {"clk": {"achieved": 61.25, "constraint": 50}}}
    assert core_fmax(one) == 61.25
    two = {"fmax": one["fmax"] | {"double": {"achieved": 120, "constraint": 100}},
           "critical_paths": [path("<async>", "posedge clk", 30.0),
                              path("posedge clk", "posedge clk", 16.3)]}
    assert core_fmax(two) == 60
    # In a cycle of the faster clock, whichever is the first.
    two["critical_paths"].append(path("posedge clk", "posedge double", 3.0, 5.0))
    assert core_fmax(two) == 60
    two["critical_paths"].append(path("negedge double", "posedge clk", 4.0, 5.0))
    assert core_fmax(two) == 55.56
