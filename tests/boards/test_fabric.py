"""Following wires through a small made-up device, in the format of Project X-Ray's database."""

import json

import pytest

from systola.boards.flows.fabric import Fabric, Routing
from systola.boards.flows.fasm_check import check_pins

PINS = ["A0", "A1", "INMODE0", "P0", "PCOUT0", "PCIN0"]


def tile_type(sites, pips=()):
    """Return a kind of tile: ``{(prefix, y): {pin: wire}}`` and ``(source, destination)``."""
    return {"sites": [{"prefix": prefix, "type": kind, "x_coord": 0, "y_coord": y,
                       "site_pins": {pin: {"wire": wire} for pin, wire in pins.items()}}
                      for (prefix, kind, y), pins in sites.items()],
            "pips": {f"{a}->{b}": {"src_wire": a, "dst_wire": b} for a, b in pips}}


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """Return a device: a slice (two LUTs), an interconnect tile, and a tile of two DSP slices."""
    folder = tmp_path_factory.mktemp("spartan7")
    (folder / "toy").mkdir()
    grid = {"CLBLL_L_X0Y0": ("CLBLL_L", 0, ["SLICE_X0Y0"]), "INT_L_X0Y0": ("INT_L", 1, []),
            "DSP_L_X0Y0": ("DSP_L", 2, ["DSP48_X0Y1", "DSP48_X0Y0"])}
    slices = {("DSP48", "DSP48E1", y): {pin: f"DSP_{y}_{pin}" for pin in PINS} for y in (0, 1)}
    files = {
        "toy/tilegrid.json": {tile: {"type": kind, "grid_x": x, "grid_y": 0,
                                     "sites": dict.fromkeys(sites, "")}
                              for tile, (kind, x, sites) in grid.items()},
        "toy/tileconn.json": [
            {"tile_types": ["CLBLL_L", "INT_L"], "grid_deltas": [1, 0],
             "wire_pairs": [["CLBLL_LL_A", "LOGIC_OUTS0"], ["CLBLL_LL_B", "LOGIC_OUTS1"]]},
            {"tile_types": ["DSP_L", "INT_L"], "grid_deltas": [-1, 0],
             "wire_pairs": [["DSP_0_A0", "IMUX0"], ["DSP_0_A1", "IMUX1"], ["DSP_1_A0", "IMUX2"],
                            ["DSP_1_A1", "IMUX3"], ["DSP_BYP", "BYP"]]}],
        "tile_type_CLBLL_L.json": tile_type({("SLICE", "SLICEL", 0): {
            "A": "CLBLL_LL_A", "B": "CLBLL_LL_B", "A1": "CLBLL_LL_A1"}}),
        "tile_type_INT_L.json": tile_type({("TIEOFF", "TIEOFF", 0): {
            "HARD0": "GND_WIRE", "HARD1": "VCC_WIRE"}}, [
            (source, f"IMUX{k}") for k in range(4)
            for source in ("LOGIC_OUTS0", "LOGIC_OUTS1", "VCC_WIRE", "GFAN0")]),
        "tile_type_DSP_L.json": tile_type(slices, [
            ("DSP_0_PCOUT0", "DSP_1_PCIN0"), ("DSP_BYP", "DSP_0_INMODE0"),
            ("DSP_GND_L", "DSP_0_INMODE0")]),
        "site_type_SLICEL.json": {"site_pins": {pin: {"direction": "OUT"} for pin in "AB"}
                                  | {"A1": {"direction": "IN"}}},
        "site_type_TIEOFF.json": {"site_pins": {f"HARD{k}": {"direction": "OUT"}
                                                for k in (0, 1)}},
        "site_type_DSP48E1.json": {"site_pins": {
            pin: {"direction": "OUT" if pin in ("P0", "PCOUT0") else "IN"} for pin in PINS}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "ppips_int_l.db").write_text(
        "".join(f"INT_L.IMUX{k}.VCC_WIRE default\n" for k in range(4))
        + "INT_L.GFAN0.GND_WIRE always\nINT_L.BYP.LOGIC_OUTS1 always\n")
    (folder / "ppips_dsp_l.db").write_text("DSP_L.DSP_1_PCIN0.DSP_0_PCOUT0 always\n")
    (folder / "segbits_dsp_l.db").write_text("DSP_L.DSP_0_INMODE0.DSP_GND_L 27_1\n")
    (folder / "segbits_int_l.db").write_text("".join(
        f"INT_L.IMUX{k}.{source} 0{k}_0{n}\n" for k in range(4)
        for n, source in enumerate(("LOGIC_OUTS0", "LOGIC_OUTS1", "GFAN0"))))
    return Fabric(folder, "toy")


def slices(first, second):
    """Return netlist and placement of two DSP slices with these bits at their pins."""
    cells = {name: {"type": "DSP48E1", "parameters": {}, "connections": pins,
                    "port_directions": {pin: "output" if pin in ("P", "PCOUT") else "input"
                                        for pin in pins}}
             for name, pins in (("low", first), ("high", second))}
    placed = {"cells": {name: {"attributes": {"NEXTPNR_BEL": f"DSP48_X0Y{y}/DSP48E1"}}
                        for y, name in enumerate(cells)}}
    return {"cells": cells}, placed


GOOD = {"INT_L_X0Y0": {"IMUX0.LOGIC_OUTS0": 1, "IMUX1.GFAN0": 1, "IMUX2.LOGIC_OUTS0": 1},
        "CLBLL_L_X0Y0": {"SLICEL_X0.ALUT.INIT": 5, "SLICEL_X0.BLUT.INIT": 6},
        "DSP_L_X0Y0": {"DSP48.DSP_0.ZIS_INMODE_INVERTED[0]": 1}}
NETS = ({"A": [7, "0"], "INMODE": [8, "x"], "PCOUT": [9, "x"], "P": [10, "x"]},
        {"A": [7, "1"], "PCIN": [9, "x"]})


def changed(features, tile, **names):
    """Return features without those of `tile` that are None, and with the others."""
    names = {name.replace("__", "."): value for name, value in names.items()}
    merged = features[tile] | names
    return features | {tile: {name: value for name, value in merged.items() if value is not None}}


def test_places(device):
    assert device.sites == {"SLICE_X0Y0": ("CLBLL_L_X0Y0", 0), "DSP48_X0Y0": ("DSP_L_X0Y0", 0),
                            "DSP48_X0Y1": ("DSP_L_X0Y0", 1)}
    assert (device.kind("DSP_L_X0Y0"), device.kind("X")) == ("DSP_L", None)
    assert device.node("INT_L_X0Y0", "LOGIC_OUTS0") == {
        ("INT_L_X0Y0", "LOGIC_OUTS0"), ("CLBLL_L_X0Y0", "CLBLL_LL_A")}


def test_sources(device):
    routing = Routing(device, GOOD)
    assert routing.source("DSP_L_X0Y0", "DSP_0_A0") == ("CLBLL_L_X0Y0", "CLBLL_LL_A")
    assert routing.source("DSP_L_X0Y0", "DSP_1_PCIN0") == ("DSP_L_X0Y0", "DSP_0_PCOUT0")
    assert routing.source("DSP_L_X0Y0", "DSP_0_INMODE0") == ("CLBLL_L_X0Y0", "CLBLL_LL_B")
    constants = [routing.constant(*routing.source("DSP_L_X0Y0", f"DSP_{y}_A1")) for y in (0, 1)]
    assert constants == ["0", "1"]
    assert routing.source("DSP_L_X0Y0", "DSP_1_INMODE0") is None


@pytest.mark.parametrize(("table", "constant"), [
    ({}, "0"), ({"SLICEL_X0.ALUT.INIT": 0}, "0"), ({"SLICEL_X0.ALUT.INIT": 2**64 - 1}, "1"),
    ({"SLICEL_X0.ALUT.INIT": 1}, None), ({"SLICEL_X1.ALUT.INIT": 1}, "0")])
def test_a_lut_may_be_a_constant(device, table, constant):
    assert Routing(device, {"CLBLL_L_X0Y0": table}).constant(
        "CLBLL_L_X0Y0", "CLBLL_LL_A") == constant


def test_pins_as_in_the_netlist(device):
    assert check_pins(*slices(*NETS), GOOD, device) == (8, [])
    low = changed(GOOD, "DSP_L_X0Y0", **{"DSP48.DSP_0.ZIS_INMODE_INVERTED[0]": None})
    assert check_pins(*slices(*NETS), low, device) == (8, [])  # of a signal `demands` says so


@pytest.mark.parametrize(("tile", "names", "message"), [
    ("INT_L_X0Y0", {"IMUX0__LOGIC_OUTS0": None},
     "DSP48E1 low: pin A0 must be a signal, but what reaches it is INT_L_X0Y0/VCC_WIRE"),
    ("INT_L_X0Y0", {"IMUX2__LOGIC_OUTS0": None, "IMUX2__LOGIC_OUTS1": 1},
     ("DSP48E1 low: pin INMODE0 must have another source than DSP48E1 high: pin A0, but "
     "CLBLL_L_X0Y0/CLBLL_LL_B reaches both")),
    ("INT_L_X0Y0", {"IMUX1__GFAN0": None},
     "DSP48E1 low: pin A1 must be 0, but what reaches it is INT_L_X0Y0/VCC_WIRE"),
    ("INT_L_X0Y0", {"IMUX3__LOGIC_OUTS1": 1},
     "DSP48E1 high: pin A1 must be 1, but what reaches it is CLBLL_L_X0Y0/CLBLL_LL_B"),
    ("DSP_L_X0Y0", {"DSP_0_INMODE0__DSP_GND_L": 1},
     "DSP48E1 low: pin INMODE0 is not connected"),
    ("INT_L_X0Y0", {"IMUX0__LOGIC_OUTS1": 1},
     "DSP48E1 low: pin A0: several connections drive the wire DSP_L_X0Y0/DSP_0_A0"),
    ("DSP_L_X0Y0", {"DSP_0_A0__DSP_BYP": 1},
     r"DSP48E1 low: pin A0: several connections drive the wire DSP_L_X0Y0/DSP_0_A0"),
])
def test_faults_of_routing_are_found(device, tile, names, message):
    _, wrong = check_pins(*slices(*NETS), changed(GOOD, tile, **names), device)
    assert message in wrong


def test_one_net_from_two_tiles(device):
    nets = ({"A": [7, "x"], "PCOUT": [7, "x"]}, {})
    _, wrong = check_pins(*slices(*nets), GOOD, device)
    assert wrong == [("DSP48E1 low: pin PCOUT0 must have the source of DSP48E1 low: pin A0, which "
                     "is in CLBLL_L_X0Y0, but what reaches it is in DSP_L_X0Y0")]


@pytest.mark.parametrize("bit", ["0", "1"])
def test_a_constant_through_an_inverter(device, bit):
    """OPMODE[0] of this device is at the wire of A1 of the upper slice, which is 1."""
    kept = device.pins("DSP_L")["DSP48", 1]
    kept["OPMODE0"] = kept["A1"]
    netlist, placed = slices({}, {"OPMODE": [bit, "x"]})
    inverted = [] if bit == "0" else [
        "DSP48E1 high: pin OPMODE0 must be 1, but what reaches it is INT_L_X0Y0/VCC_WIRE, inverted"]
    assert check_pins(netlist, placed, GOOD, device) == (1, inverted)
    plain = changed(GOOD, "DSP_L_X0Y0", **{"DSP48.DSP_1.ZIS_OPMODE_INVERTED[0]": 1})
    assert bool(check_pins(netlist, placed, plain, device)[1]) == (bit == "0")


def test_a_circle_ends(device):
    loop = changed(GOOD, "INT_L_X0Y0", LOGIC_OUTS0__IMUX0=1)
    with pytest.raises(ValueError, match=r"^the wires before DSP_L_X0Y0/DSP_0_A0 are a circle$"):
        Routing(device, loop).source("DSP_L_X0Y0", "DSP_0_A0")
