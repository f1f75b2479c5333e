import json
import re
from dataclasses import replace

import numpy as np
import pytest

from systola.boards.power.accelerator_netlist import map_accelerator, named_units
from systola.boards.power.accelerator_power import (
    accelerator_power,
    check_frequency,
    compare_run,
    played,
)
from systola.boards.power.activity import compile_gates
from systola.boards.power.gates import Gate, GateNetlist, GatePort
from systola.boards.power.memory_models import memory_models
from systola.boards.synthesis.sizes import UNITS
from systola.cli.cases import Case
from systola.cli.main import main
from systola.hw.contract.config import AcceleratorConfig
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.sim.runs.pins import decode_pins, record_pins
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.program.image import ProgramError

CONFIG = AcceleratorConfig(
    rows=2, cols=2, lanes=1, weight_bits=4, act_bits=4, pe_style="dsp_packed", acc_bits=20,
    token_depth=4, banks=1, bank_depth=512, weight_fifo=2, stream_fifo=4, queue_depth=2,
    param_depth=128, mult_bits=8, code_mult_bits=8, attention="published", attention_bits=8,
    norm_roots=1, max_row=16, x0_bits=8)
FAULTY = "matrix.requantizer", "vector.softmax", "load"


def case():
    rng = np.random.default_rng(3)
    model = random_vit(rng, heads=1, channels=4, blocks=1, hidden=6, classes=3, tokens=4,
                       patch_dim=3, **CONFIG.model_settings)
    return model, random_codes(rng, model, 1)


def breakable(netlist):
    """Return `netlist` with an input ``fault`` that inverts one LUT in each of `FAULTY`.

    It is the one that most cells read, as others may not matter to the operands of a test.
    """
    cells, sinks = list(netlist.cells), netlist.sinks
    free = 1 + max(net for cell in cells for pins in (cell.inputs, cell.outputs)
                   for nets in pins.values() for net in nets if isinstance(net, int))
    fault = tuple(range(free, free + len(FAULTY)))
    for k, unit in enumerate(FAULTY):
        index = max((index for index, cell in enumerate(cells) if cell.unit == unit
                     and re.fullmatch("LUT[3-6]", cell.kind)),
                    key=lambda index: len(sinks.get(cells[index].outputs["O"][0], ())))
        (net,), inner = cells[index].outputs["O"], free + len(FAULTY) + k
        cells[index] = replace(cells[index], outputs={"O": (inner,)})
        cells.append(Gate(f"fault{k}", "LUT2", unit, {"INIT": "0110"},
                          {"I0": (inner,), "I1": (fault[k],)}, {"O": (net,)}))
    return replace(netlist, cells=tuple(cells),
                   ports=netlist.ports | {"fault": GatePort("input", fault)})


@pytest.fixture(scope="module")
def netlist():
    """Return the mapped accelerator with what breaks it, off unless ``fault`` is driven."""
    return breakable(named_units(map_accelerator(CONFIG)))


@pytest.mark.slow
def test_power_of_an_accelerator(netlist):
    model, codes = case()
    result = accelerator_power(model, CONFIG, codes, trace=True, draws=200, netlist=netlist)
    assert result["mismatches"] == result["pin_mismatches"] == 0
    assert result["first_difference"] is None
    assert result["elements_compared"] > 100
    assert result["label"] == "estimate"

    units = {unit["name"]: unit for unit in result["units"]}
    assert set(units) - {"input pins"} <= set(UNITS.values())
    assert {"matrix.array", "matrix.requantizer", "vector.softmax", "vector.norm", "load",
            "scratchpad", "dispatcher", "registers"} <= set(units)
    assert units["matrix.array"]["dsp"] == result["total"]["dsp"] == 2
    assert units["scratchpad"]["bram36"] == 0.5
    for unit in units.values():
        assert 0 < unit["mw_low"] < unit["mw"] < unit["mw_high"], unit
        nets = 6 * unit["lut"] + unit["ff"] + 100 * unit["dsp"] + 72 * unit["bram36"] + 200
        assert 0 < unit["toggles_per_cycle"] < nets, unit
    total = result["total"]
    for name in "lut", "ff", "dsp", "bram36", "toggles_per_cycle":
        assert sum(unit[name] for unit in units.values()) == pytest.approx(total[name]), name
    assert sum(unit["mw"] for unit in units.values()) + result["static_mw"] == pytest.approx(
        total["mw"])
    assert 0 < result["clock_mw"] < total["mw"] - result["static_mw"]
    # A megahertz is a million cycles a second: mW / MHz = nJ a cycle.
    assert result["energy_uj_per_image"] == pytest.approx(
        total["mw"] / 100 * result["cycles"] / 1000)
    assert result["energy_pj_per_mac"] == pytest.approx(
        result["energy_uj_per_image"] * 1e6 / result["macs"])


@pytest.mark.slow
def test_faults_in_a_netlist_are_found(netlist):
    model, codes = case()
    program = compile_network(model, CONFIG, trace=True)
    pins = record_pins(CONFIG, program, codes)
    expected = forward(model, codes)
    gates, inputs = compile_gates(netlist, models=memory_models()), played(netlist, pins)
    for fault, unit in enumerate(FAULTY):
        seen = gates.run(inputs | {"fault": np.full(pins.end, 1 << fault)}, begin=pins.begin)
        found = compare_run(seen, pins, program, expected)
        assert found["mismatches"], unit
        assert found["pin_mismatches"] > 100, unit
        assert found["first_difference"]["cycle"] > pins.begin, unit


def test_units_follow_the_names_of_cells():
    names = {"$flatten\\core.\\matrix.\\drain.\\requant.$abc$1$lut$2": "matrix.requantizer",
             "$flatten\\core.\\matrix.\\drain.\\walker.\\note_queue.x": "matrix.drain",
             "$flatten\\core.\\matrix.\\array.\\cell_0_0.$5": "matrix.array",
             "$flatten\\core.$auto$ff.cc:337:slice$171269": "core", "$abc$5$lut$6": "registers"}
    cells = tuple(Gate(name, "LUT1", "", {}, {}, {}) for name in names)
    assert [cell.unit for cell in named_units(GateNetlist("t", {}, cells)).cells] == list(
        names.values())


def test_results_are_read_from_the_pins():
    model, _ = case()
    program = compile_network(model, CONFIG)
    beats = sum(program.frames)
    ends = np.cumsum(program.frames) - 1
    cycles = 4 * beats + 11
    values = {"m_axis_tvalid": np.ones((cycles, 1), np.uint8),
              "m_axis_tready": np.arange(cycles, dtype=np.uint8)[:, None] % 2,
              "m_axis_tlast": np.zeros((cycles, 1), np.uint8),
              "m_axis_tdata": np.zeros((cycles, CONFIG.bus_bytes), np.uint8)}
    # A beat in every second cycle, from cycle 7 on, two runs, and nothing after them.
    at = 7 + 2 * np.arange(2 * beats)
    values["m_axis_tvalid"][at[-1] + 1:] = 0
    values["m_axis_tdata"][at] = np.arange(len(at), dtype=np.uint8)[:, None]
    for run in range(2):
        values["m_axis_tlast"][at[ends + run * beats]] = 1
    first, second = decode_pins(values, program, 6)
    assert sorted(first) == ["logits"]
    assert (second["logits"] != first["logits"]).all()
    values["m_axis_tlast"][at[ends[0]]] = 0
    with pytest.raises(ProgramError):
        decode_pins(values, program, 6)


@pytest.mark.parametrize("mhz", [0, -5, 1000, float("nan")])
def test_clocks_out_of_range_are_refused(mhz):
    with pytest.raises(ValueError, match=r"^freq must be a number of MHz between 0 and 1000, not"):
        check_frequency(mhz)


def test_wrong_options_end_with_one_line(capsys):
    assert main(["report", "power", "--freq", "0"]) == 2
    assert "freq must be a number of MHz between 0 and 1000, not 0" in capsys.readouterr().err
    assert main(["report", "power", "--config", "huge"]) == 2
    assert "'huge' is neither a preset" in capsys.readouterr().err


@pytest.mark.parametrize("mismatches", [0, 7])
def test_command_shows_units_and_fails_on_a_difference(monkeypatch, capsys, mismatches):
    def figures(name, value):
        return {name: value, f"{name}_low": value / 2, f"{name}_high": 3 * value}

    def stand_in(model, config, inputs, *, mhz, progress):
        size = {"lut": 5, "ff": 4, "dsp": 1, "bram36": 0.5, "toggles_per_cycle": 12.25}
        first = {"pin": "m_axis_tdata", "cycle": 91} if mismatches else None
        return {"units": [{"name": "matrix.array", **size, **figures("mw", 1.5)}],
                "total": {**size, **figures("mw", 2.5)}, **figures("static_mw", 0.5),
                **figures("clock_mw", 0.25), **figures("energy_uj_per_image", 6.0),
                **figures("energy_pj_per_mac", 8.0), "mismatches": mismatches,
                "elements_compared": 10, "pin_mismatches": mismatches, "first_difference": first,
                "rows": config.rows, "cols": config.cols, "freq_mhz": mhz, "note": "a note",
                "images": len(inputs), "cycles": 1234}

    def chosen(source, *, config, images, **others):
        return Case(model=None, config=AcceleratorConfig.load(config), inputs=[None] * images,
                    about={"model": source})

    monkeypatch.setattr("systola.boards.power.accelerator_power.accelerator_power", stand_in)
    monkeypatch.setattr("systola.cli.cases.choose_case", chosen)  # quantizing takes seconds
    arguments = ["report", "power", "--images", "2", "--freq", "50"]
    assert main(arguments) == (1 if mismatches else 0)
    text = " ".join(capsys.readouterr().out.split())
    assert "16 x 12 accelerator at 50 MHz: estimates" in text
    assert "matrix.array 5 4 1 0.5 12.2 1.5 (0.75 to 4.5)" in text
    assert f"2 images in 1,234 cycles: {mismatches} of 10 stored elements" in text
    assert ("first difference: m_axis_tdata in cycle 91" in text) == bool(mismatches)
    assert main([*arguments, "--json"]) == (1 if mismatches else 0)
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == "digits"
    assert result["total"]["mw"] == 2.5
