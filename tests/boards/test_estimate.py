from pathlib import Path

import pytest

from systola.boards.synthesis.estimate import delays, estimate_paths
from systola.boards.synthesis.timing_page import timing_tables

FIGURES = delays()
NET = FIGURES["net"]["typical"]["ns"]
OUT = {kind: figure["ns"] for kind, figure in FIGURES["clock_to_output"].items()}
SETUP = {kind: {pin: figure["ns"] for pin, figure in pins.items()}
         for kind, pins in FIGURES["setup"].items()}


def cell(kind, parameters=None, **pins):
    """Return a cell; pins called P, O, Q and DOADO are its outputs."""
    return {"type": kind, "parameters": parameters or {},
            "port_directions": {pin: "output" if pin in {"P", "O", "Q", "DOADO"} else "input"
                                for pin in pins},
            "connections": {pin: [bit] for pin, bit in pins.items()}}


def netlist(**cells):
    """Return a netlist of the cells, nets named by their numbers."""
    bits = {bit for item in cells.values() for pins in item["connections"].values()
            for bit in pins if isinstance(bit, int)}
    return {"modules": {"top": {"ports": {}, "cells": cells, "netnames": {
        f"n{bit}": {"hide_name": 0, "bits": [bit]} for bit in bits}}}}


def slowest(**cells):
    """Return the estimates by pair of kinds, without those inside a cell."""
    return {(path.start_kind, path.end_kind): path for path in estimate_paths(netlist(**cells))
            if path.nets}


DSP = {"AREG": "10", "BREG": "1", "CREG": "0", "MREG": "1", "PREG": "1"}


def test_a_path_is_clock_to_output_cells_nets_and_setup():
    found = slowest(start=cell("FDRE", Q=2, D=9), near=cell("LUT1", I0=2, O=3),
                    far=cell("LUT2", I0=3, I1=2, O=4), dsp=cell("DSP48E1", DSP, A=4, B=2, P=9))
    path = found["ff", "dsp"]
    lut = FIGURES["through"]["lut"]["ns"]
    assert path.ns == pytest.approx(
        OUT["ff"] + 2 * lut + 3 * NET + SETUP["dsp"]["A AREG"], abs=0.006)
    assert (path.levels, path.carry, path.nets, path.start, path.end) == (2, 0, 3, "n2 Q", "n9 A")
    assert path.ns_low < path.ns < path.ns_high
    assert path.ns_high - path.ns == pytest.approx(
        3 * (FIGURES["net"]["high"]["ns"] - NET), abs=0.011)
    assert path.mhz == pytest.approx(1e3 / path.ns, abs=0.06)
    assert found["dsp", "ff"].ns == pytest.approx(
        OUT["dsp"] + NET + SETUP["ff"][""], abs=0.006)


@pytest.mark.parametrize(("pin", "registers", "figure"), [
    ("A", {}, "A AREG"), ("A", {"AREG": "0"}, "A MREG"),
    ("A", {"AREG": "0", "MREG": "0"}, "A PREG"),
    ("B", {}, "B BREG"), ("B", {"BREG": "0"}, "B MREG"), ("C", {}, "C PREG"),
    ("C", {"CREG": "1"}, "C CREG"), ("CEA2", {}, "CEA"), ("CEM", {}, "CEM"), ("CEP", {}, "CEP"),
    ("OPMODE", {}, "")])
def test_a_slice_is_entered_at_its_first_register(pin, registers, figure):
    path = slowest(above=cell("DSP48E1", DSP, P=2),
                   below=cell("DSP48E1", DSP | registers, **{pin: 2}, P=3))["dsp", "dsp"]
    assert path.ns == pytest.approx(OUT["dsp"] + NET + SETUP["dsp"][figure], abs=0.006)


def test_no_net_leads_from_slice_to_slice():
    (path,) = (path for path in estimate_paths(netlist(
        above=cell("DSP48E1", DSP, P=2), below=cell("DSP48E1", DSP, PCIN=2, P=3)))
        if path.start != "inside")
    assert (path.start_kind, path.end_kind, path.nets, path.end) == ("dsp", "dsp", 0, "n3 PCIN")
    assert path.ns_low == path.ns_high == pytest.approx(
        OUT["dsp"] + SETUP["dsp"]["PCIN PREG"], abs=0.006)


@pytest.mark.parametrize(("pin", "figure"), [
    ("ADDRARDADDR", "ADDR"), ("DIADI", "DI"), ("DIPADIP", "DI"), ("WEA", "WE"), ("ENARDEN", "EN"),
    ("RSTRAMARSTRAM", "RST"), ("REGCEAREGCE", "REGCE")])
@pytest.mark.parametrize(("registered", "kind"), [("0", "bram"), ("1", "bram_reg")])
def test_block_memory_with_and_without_output_register(pin, figure, registered, kind):
    path = slowest(memory=cell("RAMB36E1", {"DOA_REG": registered}, DOADO=2, **{pin: 2}))
    assert path[kind, kind].ns == pytest.approx(OUT[kind] + NET + SETUP["bram"][figure], abs=0.006)


def test_the_inside_of_what_is_used_counts_and_other_paths_do_not():
    paths = estimate_paths(netlist(a=cell("FDRE", Q=2, D=3), b=cell("LUT1", I0=2, O=3)))
    assert paths == []
    paths = estimate_paths(netlist(a=cell("FDRE", Q=2, D=3), b=cell("DSP48E1", DSP, A=2, P=3)))
    inside = [path for path in paths if path.start == "inside"]
    assert [(path.start_kind, path.ns) for path in inside] == [
        ("dsp", FIGURES["inside"]["dsp"]["ns"])]
    assert [path.ns for path in paths] == sorted((path.ns for path in paths), reverse=True)


def test_every_figure_says_where_it_is_from():
    def figures(table):
        for value in table.values():
            yield from [value] if "ns" in value else figures(value)

    for figure in figures(FIGURES):
        origin, text = figure["from"].split(": ", 1)
        assert origin in {"checked", "data sheet", "database", "assumed"}
        assert figure["ns"] > 0
        assert text


def test_document_is_current():
    text = (Path(__file__).parents[2] / "docs/TIMING.md").read_text()
    assert timing_tables() in text, "run: make docs"
