"""FASM: what lines may be, and what cells demand, against what the real tool wrote."""

import json
from pathlib import Path

import pytest

from systola.boards.flows.fasm import FasmError, parse_fasm
from systola.boards.flows.fasm_check import check_cells, demands

RECORDED = Path(__file__).parent / "recorded"
CELLS = json.loads((RECORDED / "cells.json").read_text())
TEXT = (RECORDED / "cells.fasm").read_text()
BAD = {"untied", "m9_4096", "m1_32768"}


class Places:
    """The places of the recorded cells."""

    def __init__(self):
        self.sites = {site: tuple(place) for site, place in CELLS["sites"].items()}

    def kind(self, tile):
        return tile.rpartition("_X")[0]


def check(name, text=TEXT, **changes):
    """Return what is wrong with a recorded cell; its parameters may be changed."""
    cell = CELLS["cells"][name]
    cell = cell | {"parameters": cell["parameters"] | changes}
    placed = {"cells": {name: {"attributes": {"NEXTPNR_BEL": cell["bel"]}}}}
    count, wrong = check_cells({"cells": {name: cell, "x": {"type": "LUT2"}}}, placed,
                               parse_fasm(text), Places())
    assert count == len(demands(cell["type"], cell["parameters"], cell["connections"], 0))
    return wrong


@pytest.mark.parametrize("name", sorted(set(CELLS["cells"]) - BAD))
def test_cells_that_the_tool_gets_right(name):
    assert check(name) == []


def test_a_slice_whose_pins_are_not_tied():
    wrong = check("untied")
    pins = [*(f"INMODE{k}" for k in range(5)), "ALUMODE2", "ALUMODE3", "OPMODE6"]
    buses = [f"{pin[:-1]}_INVERTED[{pin[-1]}]" for pin in pins]
    assert wrong == [
        f"DSP48E1 untied at DSP48_X0Y110: {feature} must be 1, as {pin} is the constant 0, but is 0"
        for pin, bus in zip(pins, buses, strict=True)
        for feature in (f"DSP_0_{pin}.DSP_GND_R", f"DSP48.DSP_0.ZIS_{bus}")]


@pytest.mark.parametrize(("name", "width"), [("m9_4096", 9), ("m1_32768", 1)])
def test_block_rams_that_lose_a_bit(name, width):
    site = CELLS["cells"][name]["bel"].split("/")[0]
    assert check(name) == [
        f"RAMB36E1 {name} at {site}: RAMB36.BRAM36_{port}_1 must be 1, as {port} is {width}, "
        "but is 0" for port in ("WRITE_WIDTH_A", "READ_WIDTH_B")]


def feature_lines(name):
    tile, number = Places().sites[CELLS["cells"][name]["bel"].split("/")[0]]
    own = {"DSP48E1": (f"DSP48.DSP_{number}.", f"DSP_{number}_"),
           "RAMB18E1": (f"RAMB18_Y{number}.",), "RAMB36E1": ("RAMB",)}
    return [line for line in TEXT.splitlines()
            if line.startswith(tuple(f"{tile}.{start}"
                                     for start in own[CELLS["cells"][name]["type"]]))]


@pytest.mark.parametrize("name", ["cell0", "cell1", "m18_2048", "m36_512", "m72_512"])
def test_every_feature_of_a_cell_matters(name):
    """Left out one by one; but for those of what is not used."""
    unused = ("PATTERN", "MASK", "ZINV_REGCLK", "ZIS_CARRYIN", "ZIS_ALUMODE_INVERTED[",
              "ZIS_OPMODE_INVERTED[", "ZINV_", "RSTREG_PRIORITY", "RDADDR_COLLISION",
              "ZAREG_2", "ZBREG_2")
    looked = 0
    for line in feature_lines(name):
        feature = line.split(" ")[0].split(".", 3)[-1]
        if feature.startswith(unused) and "_INVERTED[6]" not in feature:
            continue
        assert len(check(name, TEXT.replace(f"{line}\n", ""))) == 1, line
        looked += 1
    assert looked > 10


@pytest.mark.parametrize(("name", "changes", "feature"), [
    ("cell0", {"MREG": "0"}, "DSP48.DSP_0.ZMREG[0]"),
    ("cell0", {"PREG": "0"}, "DSP48.DSP_0.ZPREG[0]"),
    ("cell0", {"BREG": "10"}, "DSP48.DSP_0.BREG_2"),
    ("cell1", {"A_INPUT": "CASCADE"}, "DSP48.DSP_1.A_INPUT[0]"),
    ("cell1", {"USE_SIMD": "TWO24"}, "DSP48.DSP_1.USE_SIMD_FOUR12_TWO24"),
    ("m18_2048", {"WRITE_MODE_A": "NO_CHANGE"}, "RAMB18_Y0.WRITE_MODE_A_NO_CHANGE"),
    ("m18_2048", {"READ_WIDTH_B": "100100"}, "RAMB18_Y1.READ_WIDTH_B_18"),
    ("m36_512", {"DOA_REG": "1"}, "RAMB18_Y0.DOA_REG"),
    ("m9_2048", {"INIT_00": "1"}, "RAMB18_Y1.INIT_00"),
    ("m9_2048", {"WRITE_WIDTH_A": "100"}, "RAMB18_Y1.WRITE_WIDTH_A_9"),
])
def test_another_parameter_is_another_cell(name, changes, feature):
    found = {text.split(": ")[1].split(" must be ")[0] for text in check(name, **changes)}
    assert feature in found


def test_a_cell_without_a_place():
    cell = CELLS["cells"]["cell0"]
    assert check_cells({"cells": {"a": cell}}, {"cells": {}}, {}, Places()) == (
        0, ["DSP48E1 a is not placed"])


def test_lines():
    text = """
        # a comment
        INT_L_X0Y1.IMUX_L3.SS2END1
        DSP_R_X9Y40.DSP48.DSP_0.ZPREG[0] # set
        BRAM_L_X6Y30.RAMB18_Y0.INIT_00[255:0] = 256'b1010
        BRAM_L_X6Y30.RAMB18_Y0.INIT_00[259:256] = 4'b0_1
        IOB_X0Y0.PULLTYPE.NONE { .unknown = "1" }
    """
    assert parse_fasm(text) == {
        "INT_L_X0Y1": {"IMUX_L3.SS2END1": 1}, "DSP_R_X9Y40": {"DSP48.DSP_0.ZPREG[0]": 1},
        "BRAM_L_X6Y30": {"RAMB18_Y0.INIT_00": 10 | 1 << 256}, "IOB_X0Y0": {"PULLTYPE.NONE": 1}}


@pytest.mark.parametrize(("text", "message"), [
    ("A.B\n= 3", "line 2 must be a feature, or a vector .* value, not '= 3'"),
    ("A.B[3:0] = 4'hf", "line 1 must be a feature, .*"),
    ("alone", "line 1 must be a feature, .*"),
    ("A.B[3:0] = 8'b10000", r"line 1 gives B more bits than it has"),
])
def test_what_is_not_fasm(text, message):
    with pytest.raises(FasmError, match=f"^{message}$"):
        parse_fasm(text)
