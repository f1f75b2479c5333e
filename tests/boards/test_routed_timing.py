"""Delays after routing: the format, and the slowest paths with what the router leaves out."""

import pytest

from systola.boards.flows.routed_timing import routed_paths
from systola.boards.flows.sdf import parse_sdf
from systola.boards.synthesis.estimate import delays

FIGURES = delays()
OUT, SETUP = FIGURES["clock_to_output"], FIGURES["setup"]


def cell(kind, inputs, outputs, **parameters):
    """Return a cell of the netlist, pins by name."""
    pins = {**inputs, **outputs}
    return {"type": kind, "parameters": parameters,
            "connections": {pin: bits if isinstance(bits, list) else [bits]
                            for pin, bits in pins.items()},
            "port_directions": dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")}


CELLS = {
    "f0": cell("FDRE", {"D": 9, "C": 1}, {"Q": 2}),
    "f1": cell("FDRE", {"D": 4, "CE": 2, "C": 1}, {"Q": 5}),
    "ram": cell("RAMB36E1", {"ADDRARDADDR": [5], "DIADI": [4], "CLKARDCLK": 1}, {"DOADO": [3]}),
    "slice": cell("DSP48E1", {"A": [3], "CEA2": 2, "CLK": 1}, {"P": [6]}, AREG="10", PREG="1"),
    "and": cell("LUT2", {"I0": 2, "I1": 3}, {"O": 4}),
    "store": cell("RAM32M", {"ADDRA": [2], "DIA": [6], "WCLK": 1}, {"DOA": [9]}),
    "other": cell("LUT1", {"I0": 5}, {"O": 10}),
}
PLACED = {"f0": "SLICE_FFX", "f1": "SLICE_FFX", "ram": "RAMB36E1_RAMB36E1",
          "slice": "DSP48E1_DSP48E1", "and": "SLICE_LUTX", "store/DPR0": "SLICE_LUTX",
          "other": "SLICE_LUTX", "pass$legal$1": "SLICE_LUTX", "clock": "BUFGCTRL"}
NETS = {  # source, sink, ps
    ("f0/Q", "and/A1"): 1000, ("f0/Q", "f1/CE"): 500, ("f0/Q", "slice/CEA2"): 400,
    ("ram/DOADO0", "pass$legal$1/A1"): 2000, ("pass$legal$1/O6", "and/A2"): 300,
    ("ram/DOADO0", "slice/A0"): 700, ("and/O6", "f1/D"): 600, ("and/O6", "ram/DIADI0"): 5000,
    ("f1/Q", "ram/ADDRARDADDRL5"): 800, ("f1/Q", "other/A3"): 100,
    ("slice/P0", "store/DPR0/DI1"): 900, ("f0/Q", "store/DPR0/A4"): 250,
    ("store/DPR0/O6", "f0/D"): 350,
    # The pins that `other` shares with `and`: neither reaches its output.
    ("and/O6", "other/A5"): 50, ("other/O5", "and/A5"): 60,
    ("clock/O", "f0/CK"): 3000, ("clock/O", "ram/CLKARDCLKL"): 3000,
}
PATHS = {"and": [("A1", "O6", 120), ("A2", "O6", 130), ("A5", "O6", 140)],
         "pass$legal$1": [("A1", "O6", 110)], "other": [("A3", "O5", 100), ("A5", "O5", 100)],
         "store/DPR0": [("A4", "O6", 150)], "f0": [("CK", "Q", 100)], "f1": [("CK", "Q", 100)]}


def placement(**pins):
    """Return the placed LUTs with the pins that are theirs; those of `CELLS` by default."""
    pins = {"and": "A1 A2", "other": "A3", "pass$legal$1": ""} | pins
    return {"cells": {name: {"attributes": {
        "X_ORIG_TYPE": "LUT2", **{f"X_ORIG_PORT_{pin}": "I0" for pin in own.split()}}}
        for name, own in pins.items()}}


def lines(scale="1ps", nets=NETS):
    def escaped(text):
        return text.replace("$", r"\$")

    found = [f"  (TIMESCALE {scale})", '(CELLTYPE "top")', "(INSTANCE )"]
    found += [f"(INTERCONNECT {escaped(a)} {escaped(b)} ({ps}:{ps}:{ps}) ({ps}:{ps}:{ps}))"
              for (a, b), ps in nets.items()]
    for name, kind in PLACED.items():
        found += ["(CELL", f'  (CELLTYPE "{kind}")', f"  (INSTANCE {escaped(name)})"]
        found += [f"(IOPATH {a} {b} ({ps}:{ps}:{ps}) ({ps}:{ps}:{ps}))"
                  for a, b, ps in PATHS.get(name, ())]
        found.append("(SETUPHOLD (posedge D) (posedge CK) (100:100:100) (100:100:100))")
    return found


def test_the_format():
    sdf = parse_sdf(lines())
    assert sdf.kinds["pass$legal$1"] == "SLICE_LUTX"
    assert sdf.nets["store/DPR0", "DI1"] == (("slice", "P0"), 0.9)
    assert sdf.paths["and", "O6"] == [(("and", "A1"), 0.12), (("and", "A2"), 0.13),
                                      (("and", "A5"), 0.14)]
    with pytest.raises(ValueError, match=r"^the unit of the delays must be 1ps, not 10ps$"):
        parse_sdf(lines("10ps"))


def test_paths():
    bram = OUT["bram"]["ns"] + 2.0 + 0.11 + 0.3 + 0.13
    expected = {
        ("bram", "bram"): (bram + 5.0 + SETUP["bram"]["DI"]["ns"], 7.3, "ram DIADI0"),
        ("bram", "ff"): (bram + 0.6 + SETUP["ff"][""]["ns"], 2.9, "f1 D"),
        ("bram", "dsp"): (OUT["bram"]["ns"] + 0.7 + SETUP["dsp"]["A AREG"]["ns"], 0.7, "slice A0"),
        ("ff", "bram"): (OUT["ff"]["ns"] + 1.0 + 0.12 + 5.0 + SETUP["bram"]["DI"]["ns"], 6.0,
                         "ram DIADI0"),
        ("ff", "ff"): (OUT["ff"]["ns"] + 1.0 + 0.12 + 0.6 + SETUP["ff"][""]["ns"], 1.6, "f1 D"),
        ("ff", "dsp"): (OUT["ff"]["ns"] + 0.4 + SETUP["dsp"]["CEA"]["ns"], 0.4, "slice CEA2"),
        ("dsp", "lutram"): (OUT["dsp"]["ns"] + 0.9 + SETUP["lutram"][""]["ns"], 0.9,
                            "store/DPR0 DI1"),
        ("lutram", "ff"): (OUT["lutram"]["ns"] + 0.35 + SETUP["ff"][""]["ns"], 0.35, "f0 D"),
    }
    found = routed_paths({"cells": CELLS}, placement(), parse_sdf(lines()))
    assert [path.ns for path in found] == sorted((path.ns for path in found), reverse=True)
    assert {(path.start_kind, path.end_kind): (path.ns, path.net_ns, path.end)
            for path in found} == {kinds: (pytest.approx(ns, abs=1e-3), pytest.approx(nets), end)
                                   for kinds, (ns, nets, end) in expected.items()}
    slowest = found[0]
    assert (slowest.start, slowest.mhz) == ("ram DOADO0", pytest.approx(1e3 / slowest.ns, rel=1e-3))


@pytest.mark.parametrize("fmax", [None, 900.0, 400.0])
def test_nets_count_by_as_much_more_as_the_router_says(fmax):
    module, sdf = {"cells": CELLS}, parse_sdf(lines())
    plain = {(path.start_kind, path.end_kind): path
             for path in routed_paths(module, placement(), sdf)}
    between = plain["ff", "ff"]  # 2.11 ns, 1.6 of nets
    more = 1 if fmax is None or 1e3 / fmax < between.ns else (
        1e3 / fmax - between.ns + between.net_ns) / between.net_ns
    assert (more > 1) == (fmax == 400.0)
    for path in routed_paths(module, placement(), sdf, fmax):
        before = plain[path.start_kind, path.end_kind]
        assert path.net_ns == pytest.approx(more * before.net_ns, abs=2e-3)
        assert path.ns == pytest.approx(before.ns + (more - 1) * before.net_ns, abs=2e-3)


def test_registers_of_memories_and_slices_count():
    cells = CELLS | {"ram": cell("RAMB36E1", {"DIADI": [4]}, {"DOADO": [3]}, DOA_REG="1"),
                     "slice": cell("DSP48E1", {"A": [3]}, {"P": [6]}, AREG="0", MREG="1")}
    found = {(path.start_kind, path.end_kind): path.ns
             for path in routed_paths({"cells": cells}, placement(), parse_sdf(lines()))}
    assert found["bram_reg", "dsp"] == pytest.approx(
        OUT["bram_reg"]["ns"] + 0.7 + SETUP["dsp"]["A MREG"]["ns"])
    assert not any("bram" in kinds for kinds in found)


def test_a_loop_is_refused():
    with pytest.raises(ValueError, match=r"^there is a loop through (and O6|other O5)$"):
        routed_paths({"cells": CELLS}, placement(**{"and": "A1 A2 A5", "other": "A3 A5"}),
                     parse_sdf(lines()))
