# amaranth: UnusedElaboratable=no
import re
from dataclasses import replace

import pytest
from amaranth import Module, Mux, Signal
from amaranth.back import rtlil
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from systola.boards.synthesis.rtlil import keep_large, merge_identical, own_wires, quote_indices
from systola.boards.synthesis.sizes import UNITS
from systola.boards.synthesis.synth import SynthesisError, array_of, synthesize
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS
from systola.hw.matrix.systolic import SystolicArray


class Leaf(wiring.Component):
    """Two registered additions in lanes, whose field names have indices."""

    def __init__(self):
        super().__init__({"a": In(data.ArrayLayout(8, 2)), "b": In(8),
                          "y": Out(data.ArrayLayout(8, 2))})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.y[k].eq(self.a[k] + self.b) for k in range(2)]
        return m


class Whole(wiring.Component):
    """Two equal leaves and one of each kind of primitive."""

    a: In(data.ArrayLayout(8, 2))
    b: In(8)
    y: Out(16)
    z: Out(32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.left, m.submodules.right = left, right = Leaf(), Leaf()
        m.submodules.block = block = Memory(shape=32, depth=512, init=[])
        m.submodules.small = small = Memory(shape=6, depth=32, init=[])
        product = Signal(24)
        m.d.comb += [left.a.eq(self.a), left.b.eq(self.b), right.a.eq(left.y), right.b.eq(self.b)]
        m.d.sync += product.eq(right.y[0] * right.y[1])
        write, read = block.write_port(), block.read_port()
        m.d.comb += [write.addr.eq(self.b), write.data.eq(product), write.en.eq(1),
                     read.addr.eq(self.a[0]), self.z.eq(read.data)]
        write, read = small.write_port(), small.read_port(domain="comb")
        m.d.comb += [write.addr.eq(self.b), write.data.eq(self.a[0]), write.en.eq(1),
                     read.addr.eq(self.a[1]), self.y.eq(read.data)]
        return m


@pytest.mark.slow
def test_sizes_of_modules_and_total(tmp_path):
    steps = []
    result = synthesize(Whole(), smallest=0, log=tmp_path / "logs/yosys.log",
                        progress=steps.append).to_dict()
    leaf, total = result["modules"]["systola.left"], result["total"]
    # Two 8-bit additions: one LUT, one flip-flop a bit, two carry cells each.
    assert leaf == {"instances": 2, "lut": 16, "ff": 16, "carry": 4, "dsp": 0, "bram36": 0,
                    "own": {"lut": 16, "ff": 16, "carry": 4, "dsp": 0, "bram36": 0}}
    assert list(result["modules"]) == ["systola", "systola.left"]
    assert (total["dsp"], total["bram36"], total["carry"]) == (1, 0.5, 8)
    assert result["modules"]["systola"]["own"]["lut"] == 4  # RAM32M: 32 words of 6 bits
    assert total["lut"] == 2 * 16 + 4
    assert total == {key: sum(size["instances"] * size["own"][key]
                              for size in result["modules"].values()) for key in total}
    assert "elaborating" in steps
    assert any(step.startswith("Yosys ") for step in steps)
    assert "Executing" in (tmp_path / "logs/yosys.log").read_text()


LATCH = "module top(input c, d, output reg q); always @* if (c) q = d; endmodule"
LOOP = """
module left(input x, output y); assign y = ~x; endmodule
module right(input x, c, output y); assign y = x & c; endmodule
module top(input c, output y);
  wire p;
  left l(.x(p), .y(y));
  right r(.x(y), .c(c), .y(p));
endmodule
"""


@pytest.mark.parametrize(("verilog", "message"), [
    (LATCH, r"the design has a latch at top\.q"),
    (LOOP, r"the design has a combinational loop through .*l\.x.*"),
    ("module top(input a, b, output y); assign y = a & b; assign y = a ^ b; endmodule",
     r"the design has multiple conflicting drivers for .*"),
    ("module top(input a", r"Yosys failed: .*syntax error.*"),
    ("module other(input a); endmodule", r"Yosys failed: .*top.*"),
])
def test_unusable_designs_are_refused_in_one_line(tmp_path, verilog, message):
    file, log = tmp_path / "design.v", tmp_path / "yosys.log"
    file.write_text(verilog)
    with pytest.raises(SynthesisError, match=f"^{message}$"):
        synthesize(file, "top", log=log)
    assert log.exists()


@pytest.mark.parametrize(("script", "code"), [
    ("echo Trap >&2; exit 3", 3), ("echo Trap; exit 0", 0), ("echo Trap; kill -9 $$", -9)])
def test_a_yosys_that_dies_is_one_line(tmp_path, monkeypatch, script, code):
    yosys = tmp_path / "yosys"
    yosys.write_text(f"#!/bin/sh\n{script}\n")
    yosys.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(yosys))
    with pytest.raises(SynthesisError, match=rf"^Yosys ended with exit code {code}; "
                                             "its last words: Trap$"):
        synthesize(Leaf())


def test_a_missing_yosys_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("YOSYS", str(tmp_path / "no-yosys"))
    with pytest.raises(FileNotFoundError, match=r"^YOSYS must name a program, not '.*no-yosys'$"):
        synthesize(Leaf())


@pytest.mark.parametrize(("arguments", "message"), [
    ({"design": "missing.v"}, "design must be a Verilog file, .*, not 'missing.v'"),
    ({"design": "missing.v", "family": "ice40"}, "family must be one of xc7, xcup, not 'ice40'"),
])
def test_unusable_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        synthesize(**arguments)


class Twice(wiring.Component):
    """Two equal trees, which Amaranth gives ports in different orders, and a different one."""

    x: In(8)
    y: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.submodules.one, m.submodules.two, m.submodules.half = one, two, half = (
            Tree(), Tree(), Leaf())
        m.d.comb += [two.b.eq(self.x), two.a.eq(one.y), one.b.eq(self.x), one.a.eq(two.y),
                     half.a.eq(two.y), self.y.eq(half.y[1])]
        return m


class Tree(Leaf):
    """A leaf inside."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.leaf = leaf = Leaf()
        m.d.comb += [leaf.a.eq(self.a), leaf.b.eq(self.b), self.y.eq(leaf.y)]
        return m


def test_identical_trees_merge_and_different_ones_stay():
    text = rtlil.convert(Twice(), name="top", emit_src=False)
    assert text.count("\nmodule ") == 6
    merged = merge_identical(text)
    assert re.findall(r"^module (\S+)", merged, re.MULTILINE) == [
        r"\top", r"\top.one", r"\top.one.leaf", r"\top.half"]
    assert merged.count("cell \\top.one ") == 2
    assert merged.count("cell \\top.one.leaf ") == 1


def test_large_and_frequent_modules_are_kept():
    text = merge_identical(rtlil.convert(Twice(), name="top", emit_src=False))
    lines = {name: body.count("\n") for name, body in
             re.findall(r"^module (\S+)\n(.*?)^end\n", text, re.MULTILINE | re.DOTALL)}
    for limit in 0, lines[r"\top.one.leaf"], 10**6:
        kept = re.findall(r"keep_hierarchy 1\nmodule (\S+)", keep_large(text, limit))
        assert kept == [name for name in lines if lines[name] >= limit]
    inside = r"\top.one.leaf"
    assert re.findall(r"keep_hierarchy 1\nmodule (\S+)", keep_large(text, 0, inline=["one"])) == [
        name for name in lines if name != inside]
    for options, kept in (({"instances": 2}, r"\top.one"), ({"always": ["half"]}, r"\top.half")):
        assert re.findall(r"keep_hierarchy 1\nmodule (\S+)",
                          keep_large(text, 10**6, **options)) == [kept]


class Adder(wiring.Component):
    """Adds one of two registers, or none, to another, called `name`."""

    def __init__(self, name):
        self.name = name
        super().__init__({"a": In(8).array(3), "select": In(2), "y": Out(8)})

    def elaborate(self, platform):
        m = Module()
        plain, *others = (Signal(8, name=f"{self.name}_{k}") for k in range(3))
        select = Signal(2, name=f"{self.name}_select")
        m.d.sync += [select.eq(self.select), self.y.eq(
            plain + Mux(select[0], 0, Mux(select[1], *others)))]
        m.d.sync += [register.eq(a) for register, a in zip((plain, *others), self.a, strict=True)]
        return m


class Adders(wiring.Component):
    """Two that differ in names only."""

    a: In(8).array(3)
    select: In(2)
    y: Out(16)

    def elaborate(self, platform):
        m = Module()
        for k, name in enumerate(("one", "other")):
            m.submodules[name] = adder = Adder(name)
            m.d.comb += [adder.select.eq(self.select), self.y[8 * k:8 * k + 8].eq(adder.y)]
            m.d.comb += [inner.eq(a) for inner, a in zip(adder.a, self.a, strict=True)]
        return m


def test_unnamed_wires_of_modules_have_names_of_their_own():
    text = rtlil.convert(Adders(), name="top", emit_src=False)
    unnamed = re.compile(r"^  wire [^\n]*(\$\S+)$", re.MULTILINE)
    assert len(set(unnamed.findall(text))) < len(unnamed.findall(text))
    found = unnamed.findall(own_wires(text))
    assert len(set(found)) == len(found) == len(unnamed.findall(text))
    assert re.sub(r"\$m\d+_", "$", own_wires(text)) == text


@pytest.mark.slow
def test_a_register_is_added_to_a_choice_in_a_table_for_each_bit():
    # Of modules after the first, too: the order of a sum's operands decides.
    modules = synthesize(Adders(), "top", smallest=0).modules
    assert {name: modules[f"top.{name}"].own.lut for name in ("one", "other")} == {
        "one": 8, "other": 8}


def test_no_name_looks_like_a_bit_of_another():
    text = rtlil.convert(Leaf(), name="top", emit_src=False)
    assert "\\a[0]" in text
    assert "\\a[0]" not in quote_indices(text)
    assert "\\a.0" in quote_indices(text)


@pytest.mark.slow
@pytest.mark.parametrize(("widths", "group", "tokens"), [
    ((8, 8), 2, 1), ((4, 8), 2, 1), ((4, 4), 2, 2), ((3, 3), 2, 3), ((2, 2), 4, 2)])
def test_bare_packed_array(widths, group, tokens, tmp_path):
    design = array_of(weight_bits=widths[0], act_bits=widths[1], rows=5, cols=4)
    log = tmp_path / "yosys.log"
    result = synthesize(design, "array", log=log).to_dict()
    assert (design.group, design.tokens) == (group, tokens)
    assert result["macs"] == 5 * 4 * tokens
    assert result["macs_per_dsp"] == group * tokens
    assert result["total"]["dsp"] == 5 * 4 // group
    assert list(result["modules"]) == ["array"]  # flat
    assert result["lut_per_mac"] == result["total"]["lut"] / result["macs"]
    assert result["ff_per_mac"] == result["total"]["ff"] / result["macs"]
    assert "XILINX_DSP pass" not in log.read_text()  # would make cascades


@pytest.mark.slow
def test_array_within_its_limits():
    result = synthesize(array_of(rows=16, cols=12), "array").to_dict()
    assert result["macs_per_dsp"] == 2
    assert result["lut_per_mac"] <= 5
    assert result["ff_per_mac"] <= 10


@pytest.mark.slow
def test_a_slice_that_is_gone_is_reported(monkeypatch):
    monkeypatch.setattr(SystolicArray, "_outputs", lambda self, m, j, psums, narrow: None)
    with pytest.raises(SynthesisError, match=r"^the array should have 4 DSP slices for 8 products, "
                                             r"but 0 are left$"):
        synthesize(array_of(rows=2, cols=4), "array")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"weight_bits": 1}, "weight_bits must be an integer from 2 to 8, not 1"),
    ({"act_bits": 9, "style": "dsp"}, "act_bits must be an integer from 2 to 8, not 9"),
    ({"rows": 0}, "rows must be a positive integer, not 0"),
    ({"cols": 7}, "8-bit weights with 8-bit activations cannot be packed: .* divide 7 columns"),
])
def test_unusable_arrays(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        array_of(**arguments)


@pytest.mark.slow
def test_each_unit_of_the_report_has_cells():
    """Paths of instances in `UNITS` are text: a renamed unit would be a row that is missing."""
    config = replace(PRESETS["tiny"], attention="deferred")
    modules = dict(re.findall(r"^module \\(\S+)\n(.*?)^end$", rtlil.convert(
        Accelerator(config), name="top", emit_src=False), re.MULTILINE | re.DOTALL))
    for path in UNITS:
        body = modules[f"top.{path}" if path else "top"]
        assert re.search(r"^  (?:cell|process|memory) ", body, re.MULTILINE), path
