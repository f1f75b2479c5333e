"""The self-test on simulated boards, and faults planted in their netlists."""

import pytest

from systola.hw.contract.config import PRESETS
from systola.sim.machine.device import DeviceModel
from systola.sim.soak.faulty_port import FaultyPort
from systola.sim.soak.planted_faults import FAULT_BITS, PlantedFault, choose_faults, faulty_verilog
from systola.sim.soak.selftest_runs import PLANTED, is_named, plant_and_test, run_self_test

DESIGN = """
module board(clk, rst, rx, tx, status);
  input clk, rst, rx;
  output tx;
  output [31:0] status;
  wire [31:0] found;
  unit \\accelerator (.clk(clk), .o(found));
  assign tx = rx, status = found;
endmodule
module unit(clk, o);
  input clk;
  output [31:0] o;
  reg [31:0] memory [3:0];
  assign o = memory[0];
  always @(posedge clk) memory[0] <= 0;
endmodule
"""


class ModelPort(FaultyPort):
    """A line to a model of a board."""

    def __init__(self):
        super().__init__()
        self.device, self.now = DeviceModel(PLANTED), 0.0

    def clock(self):
        return self.now

    def put(self, symbols):
        self.now += 1e-5 * len(symbols)
        self.device.feed(bytes(symbols))

    def get(self, timeout):
        self.device.work()
        data = bytes(self.device.channel.line)
        self.device.channel.line.clear()
        self.now += 1e-5 * len(data) if data else timeout
        return data

    def press(self):
        self.device = DeviceModel(PLANTED)


def test_the_model_of_a_board_passes():
    told = run_self_test(ModelPort(), PLANTED.to_dict())
    assert told["error"] is None
    assert set(told["parts"].values()) == {"passed"}
    assert len(told["parts"]) > 10
    assert told["findings"] == []


def test_a_dead_line_is_an_error(monkeypatch):
    monkeypatch.setattr(ModelPort, "put", lambda self, symbols: None)
    told = run_self_test(ModelPort(), PLANTED.to_dict())
    assert told["error"].startswith("nothing answers at")


def test_faults_are_of_all_kinds_and_repeat():
    faults = choose_faults(PLANTED, 40, 0)
    assert faults == choose_faults(PLANTED, 40, 0) != choose_faults(PLANTED, 40, 1)
    assert len({fault.kind for fault in faults}) == 12
    assert len(faults) == len({str(fault) for fault in faults}) == 40
    assert len({fault.kind for fault in choose_faults(PLANTED, 8, 5)}) == 8
    packed = choose_faults(PRESETS["arty_s7_50"], 40, 0)
    assert all(len(fault.where["columns"]) == 2 for fault in packed
               if fault.where.get("unit") == "array")


def test_only_a_finding_with_all_of_it_names_a_fault():
    where = {"unit": "array", "row": 1, "columns": [2]}
    told = [{"where": {**where, "bit": 3}}]
    assert is_named(where, told)
    assert not is_named({**where, "row": 0}, told)
    assert not is_named(where, [{"where": {"unit": "columns"}}, *told])
    assert not is_named(where, [])


def test_faults_that_the_netlist_has_no_place_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SYSTOLA_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"^faults must be at most 1023, not 1024$"):
        faulty_verilog(DESIGN, "board", [None] * (1 << FAULT_BITS))
    for fault in (PlantedFault("", "", "array.cell_0_0", pin=("A", 0, "const0")),
                  PlantedFault("", "", "memory", word=(4, 0, 0))):
        with pytest.raises(RuntimeError, match=r"^the netlist must have (one cell|a memory) "):
            faulty_verilog(DESIGN, "board", [fault])


@pytest.mark.slow
def test_planted_faults_are_found_and_named():
    result = plant_and_test(8, 5)
    assert result["good"]
    assert result["found"] == 8
    assert result["named"] >= 7, [run for run in result["runs"] if not run.get("named")]
