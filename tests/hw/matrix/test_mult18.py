# amaranth: UnusedElaboratable=no
"""Cells made of MULT18X18D against plain logic, by Yosys for all inputs."""

import re

import pytest
from amaranth import Signal, signed
from amaranth.back import rtlil

from systola.hw.contract.dsp_packing import DSP48E1, ECP5, PackingError, plan_packing
from systola.hw.matrix.mult18 import mult18x18d
from systola.hw.matrix.pe import PackedElement, ProcessingElement
from systola.hw.parts.target import Primitives

PLANS = {f"{bits}-bit": plan_packing(bits, bits, 8, cols=8, dsp=ECP5) for bits in (2, 4)}
CELLS = {"plain": lambda: ProcessingElement(act_bits=8, weight_bits=8, psum_bits=19, style="dsp"),
         **{f"{name} {place}": lambda plan=plan, link=link: PackedElement(plan, link=link)
            for name, plan in PLANS.items()
            for place, link in (("top", "none"), ("inner", "fabric"))}}

SLICE = """
module MULT18X18D({ports},
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CLK1, CLK2, CLK3, CE0, CE1, CE2, CE3,
    input RST0, RST1, RST2, RST3);
  parameter REG_INPUTA_CLK = "NONE"; parameter REG_INPUTA_CE = "CE0";
  parameter REG_INPUTB_CLK = "NONE"; parameter REG_INPUTB_CE = "CE0";
  parameter REG_OUTPUT_CLK = "NONE"; parameter REG_OUTPUT_CE = "CE0";
  parameter GSR = "ENABLED"; parameter RESETMODE = "SYNC";
  wire signed [17:0] a = {{ {a} }}, b = {{ {b} }};
  reg signed [17:0] ra = 0, rb = 0;
  reg signed [35:0] p = 0;
  wire signed [17:0] xa = REG_INPUTA_CLK == "CLK0" ? ra : a;
  wire signed [17:0] xb = REG_INPUTB_CLK == "CLK0" ? rb : b;
  wire signed [35:0] product = SIGNEDA & SIGNEDB ? xa * xb : 36'sbx;
  always @(posedge CLK0) begin
    if (RST0) ra <= 0; else if (REG_INPUTA_CE == "CE1" ? CE1 : CE0) ra <= a;
    if (RST0) rb <= 0; else if (REG_INPUTB_CE == "CE1" ? CE1 : CE0) rb <= b;
    if (RST0) p <= 0; else if (REG_OUTPUT_CE == "CE1" ? CE1 : CE0) p <= product;
  end
  assign {{ {p} }} = REG_OUTPUT_CLK == "CLK0" ? p : product;
endmodule
"""
"""What Lattice's documents say of the registers that are used: clock, enable and reset by name."""

def slice_model():
    """Return the Verilog of the slice with a port for every pin."""
    pins = {name: [f"{name}{k}" for k in reversed(range(bits))]
            for name, bits in (("A", 18), ("B", 18), ("C", 18), ("P", 36))}
    ports = "input " + ", ".join(pins["A"] + pins["B"] + pins["C"]) + ", output " + ", ".join(
        pins["P"])
    return SLICE.format(ports=ports, a=", ".join(pins["A"]), b=", ".join(pins["B"]),
                        p=", ".join(pins["P"]))


def equivalent(make, folder, prove, fault=("", "")):
    """Return whether the cell with the slice equals the one without."""
    (folder / "slice.v").write_text(slice_model())
    plain, primitive = (rtlil.convert(make(), name=name, platform=platform, emit_src=False)
                        for name, platform in (("plain", None), ("slice", Primitives("ecp5"))))
    assert [text.count("cell \\MULT18X18D") for text in (plain, primitive)] == [0, 1]
    return prove(plain, re.sub(*fault, primitive) if fault[0] else primitive, "slice.v")


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_of_the_slice_equals_plain_logic(cell, tmp_path, equal_to_plain):
    assert equivalent(CELLS[cell], tmp_path, equal_to_plain)


@pytest.mark.parametrize("fault", [
    (r'REG_INPUTB_CE "CE1"', 'REG_INPUTB_CE "CE0"'), (r'REG_OUTPUT_CLK "CLK0"',
                                                     'REG_OUTPUT_CLK "NONE"')])
def test_a_wrong_slice_is_found(fault, tmp_path, equal_to_plain):
    assert not equivalent(CELLS["2-bit inner"], tmp_path, equal_to_plain, fault)


def test_how_many_products_fit():
    assert {name: plan.macs_per_dsp for name, plan in PLANS.items()} == {"2-bit": 4, "4-bit": 2}
    with pytest.raises(PackingError, match="ECP5 MULT18X18D have 18 and 18 bits"):
        plan_packing(8, 8, 8, dsp=ECP5)


def test_a_plan_for_wider_ports_is_plain_logic():
    for bits, slices in (8, 0), (4, 1):
        dsp = DSP48E1 if bits == 8 else ECP5
        text = rtlil.convert(PackedElement(plan_packing(bits, bits, 8, cols=8, dsp=dsp)),
                             platform=Primitives("ecp5"), emit_src=False)
        assert text.count("cell \\MULT18X18D") == slices


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"^factors must have at most 18 bits, not 19 and 8$"):
        mult18x18d(Signal(signed(19)), Signal(signed(8)), enable_b=Signal())
