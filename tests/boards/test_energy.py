from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from systola.boards.power.activity import Activity
from systola.boards.power.energy import (
    coefficient_table,
    coefficients,
    count_events,
    dynamic_energy,
    estimate,
    merged,
    power_at,
    sample_coefficients,
    static_power,
)
from systola.boards.power.gates import Gate, GateNetlist, GatePort


def netlist():
    """Return a LUT, its flip-flop in the same slice, and from there twice to a DSP slice."""
    cells = (Gate("l", "LUT2", "pe", {}, {"I0": (1,), "I1": (2,)}, {"O": (3,)}),
             Gate("f", "FDRE", "pe", {}, {"C": (9,), "D": (3,), "CE": ("1",)}, {"Q": (4,)}),
             Gate("d", "DSP48E1", "dsp", {}, {"A": (4, 4), "C": (5,), "CLK": (9,)}, {"P": (6,)}),
             Gate("i", "INV", "", {}, {"I": (4,)}, {"O": (5,)}))
    return GateNetlist("top", {"a": GatePort("input", (1, 2)), "clk": GatePort("input", (9,)),
                               "y": GatePort("output", (6,))}, cells)


def test_events_belong_to_the_unit_that_drives():
    activity = Activity(10, {1: 4, 2: 2, 3: 5, 4: 6, 5: 8, 6: 3}, {},
                        {(2, "Mr", 0): 20, (2, "Mr", 42): 10, (2, "P", 0): 3, (2, "P", 7): 7,
                         (2, "Ar1", 0): 99}, {})
    events = count_events(netlist(), activity)
    assert events["pe"] == pytest.approx({"lut": 0.5, "static_lut": 1, "ff": 0.6, "ff_clock": 1,
                                          "wire": 0, "wire_register": 2 * 0.6})
    assert events["dsp"] == pytest.approx({"dsp_clock": 1, "static_dsp": 1, "wire_register": 0,
                                           "dsp_input": 0.6 + 0.6 + 0.8, "dsp_product": 3,
                                           "dsp_output": 1})
    assert events[""] == pytest.approx({"lut": 0.8, "static_lut": 1, "wire": 0.8,
                                        "wire_register": 0.4 + 0.2})
    assert merged(events)["static_lut"] == 2


def test_a_sum_from_slice_to_slice_takes_no_wire():
    """But the pins where it enters count, as those of other operands do."""
    slices = (Gate("a", "DSP48E1", "", {}, {"CLK": (9,)}, {"P": (2,), "PCOUT": (3,)}),
              Gate("b", "DSP48E1", "", {}, {"CLK": (9,), "PCIN": (3,), "A": (2,)}, {"P": (4,)}))
    netlist = GateNetlist("top", {"clk": GatePort("input", (9,))}, slices)
    events = count_events(netlist, Activity(10, {2: 5, 3: 8}, {}, {}, {}))[""]
    assert events["wire_register"] == pytest.approx(0.5)
    assert events["dsp_input"] == pytest.approx(0.5 + 0.8)


def test_block_ram_accesses():
    cell = Gate("r", "RAMB36E1", "", {"READ_WIDTH_A": "100100", "WRITE_WIDTH_B": "100100"},
                {"ENARDEN": (1,), "WEA": ("0",), "ENBWREN": ("1",), "WEBWE": (2, 2)}, {})
    activity = Activity(10, {}, {1: 8, 2: 3}, {}, {})
    events = count_events(GateNetlist("top", {}, (cell,)), activity)[""]
    assert {k: v for k, v in events.items() if v} == pytest.approx(
        {"static_bram": 1, "bram_clock": 2 * 0.2, "bram_read": 0.8 * 2, "bram_write": 0.3 * 2})


def test_unknown_cells_are_refused():
    with pytest.raises(ValueError, match=r"^cell must be a primitive with known energies, not "
                                         r"'GTPE2'$"):
        count_events(GateNetlist("t", {}, (Gate("g", "GTPE2", "", {}, {}, {}),)),
                     Activity(1, {}, {}, {}, {}))


def test_energy_is_events_times_coefficients():
    samples, items = sample_coefficients(draws=50), coefficients()
    events = Counter({"lut": 2.0, "ff_clock": 3.0, "static_lut": 5})
    energy = dynamic_energy(events, samples)
    assert energy.shape == (51,)
    assert energy[0] == pytest.approx(2 * items["lut"].value * items["glitch"].value
                                      + 3 * items["ff_clock"].value)
    assert static_power(events, samples)[0] == pytest.approx(5 * items["static_lut"].value)
    np.testing.assert_allclose(power_at(events, samples, 100),
                               100 * energy + static_power(events, samples))


def test_draws_have_the_limits_of_the_file():
    samples = sample_coefficients(draws=20000)
    for name, item in coefficients().items():
        found = estimate(samples[name])
        assert found.value == item.value
        assert found.low == pytest.approx(item.low, rel=0.1)
        assert found.high == pytest.approx(item.high, rel=0.1)
    assert (samples["wire"] == samples["wire_register"]).all()
    assert not (samples["wire"][1:] == samples["lut"][1:]).any()


def test_ratios_of_equal_things_have_no_interval():
    samples = sample_coefficients(draws=1000)
    small, large = (dynamic_energy(Counter({"lut": n, "wire": n}), samples) for n in (1, 4))
    ratio = estimate(small / large)
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((0.25, 0.25, 0.25))
    mixed = estimate(dynamic_energy(Counter({"dsp_clock": 1}), samples) / large)
    assert mixed.low < mixed.value < mixed.high


def test_every_coefficient_has_a_source_and_a_range():
    for item in coefficients().values():
        assert 0 < item.low <= item.value <= item.high, item.name
        assert item.source
        assert item.kind in {"measured", "scaled", "derived", "assumed"}
        assert item.unit in {"pJ", "uW", ""}
        assert not item.times or item.times in coefficients()


def test_the_table_of_the_documentation_is_current():
    text = (Path(__file__).parents[2] / "docs" / "POWER.md").read_text()
    assert coefficient_table() in text, "run: make docs"
