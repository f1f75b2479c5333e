# amaranth: UnusedElaboratable=no
import json

import numpy as np
import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.boards.power.activity import compile_gates, port_values, read_saif
from systola.boards.power.gates import (
    Gate,
    GateNetlist,
    GatePort,
    OptimizedAwayError,
    build_gates,
    cell_models,
    check_operands,
    read_gates,
)

LUT2_AND = {"INIT": "1000"}


class Adder(wiring.Component):
    """A registered sum, in a module of its own."""

    a: In(4)
    b: In(4)
    y: Out(5)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.y.eq(self.a + self.b)
        return m


class Pair(wiring.Component):
    """Two adders, one with a constant where an operand should be, and a toggling bit."""

    a: In(4)
    b: In(4)
    w: In(4)
    y: Out(6)
    z: Out(1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.left, m.submodules.right = left, right = Adder(), Adder()
        m.d.comb += [left.a.eq(self.a), left.b.eq(self.b), right.a.eq(self.b),
                     right.b.eq(3), self.y.eq(left.y + right.y)]
        z = Signal()
        m.d.sync += z.eq(~z)
        m.d.comb += self.z.eq(z)
        return m


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return build_gates(Pair(), tmp_path_factory.mktemp("gates"), top="pair", smallest=0)


@pytest.mark.slow
def test_netlist_and_simulation(pair):
    units = {cell.unit for cell in pair.cells}
    assert units == {"", "left", "right"}
    assert pair.modules["pair.left"].total.ff == sum(
        cell.unit == "left" and cell.kind == "FDRE" for cell in pair.cells) == 5
    check_operands(pair, ["a", "b"], ["y", "z"])
    with pytest.raises(OptimizedAwayError, match=r"^operands were optimized away: .*\bw\b"):
        check_operands(pair, ["w"])

    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 16, (2, 60))
    seen = compile_gates(pair).run({"a": a, "b": b.astype(np.uint8)[:, None]}, begin=10)
    y = port_values(seen.outputs["y"], 6, signed=False)[:, 0]
    np.testing.assert_array_equal(y[1:], a[:-1] + 2 * b[:-1] + 3)
    assert seen.cycles == 50
    # Inputs are nets, too; z changes in every cycle but the first that is counted.
    for port, values in ("a", a), ("b", b):
        changes = [sum((values[10:-1] ^ values[11:]) >> k & 1) for k in range(4)]
        assert [seen.toggles[net] for net in pair.ports[port].bits] == changes
        assert [seen.high[net] for net in pair.ports[port].bits[:1]] == [sum(values[10:-1] & 1)]
    assert seen.toggles[pair.ports["z"].bits[0]] == 49
    changes = [sum((y[10:-1] ^ y[11:]) >> k & 1) for k in range(6)]
    assert [seen.toggles[net] for net in pair.ports["y"].bits] == changes


@pytest.mark.slow
def test_wrong_streams_are_refused(pair):
    simulation = compile_gates(pair)
    with pytest.raises(ValueError, match=r"^inputs must be among .*, not 'c'$"):
        simulation.run({"c": [1]})
    with pytest.raises(ValueError, match=r"^inputs must have one length above begin \(0\), not 1, "
                                         r"2$"):
        simulation.run({"a": np.zeros(1, int), "b": np.zeros(2, int)})


def test_an_operand_that_nothing_reads_is_refused():
    ports = {"a": GatePort("input", (2, 3)), "y": GatePort("output", (4, "0"))}
    gate = Gate("and", "LUT2", "", LUT2_AND, {"I0": (2,), "I1": (2,)}, {"O": (4,)})
    netlist = GateNetlist("top", ports, (gate,))
    with pytest.raises(OptimizedAwayError, match=r"^operands were optimized away: 1 of 2 bits of a "
                                                 r"are not read by any cell of top \(the first "
                                                 r"one is bit 1\)$"):
        check_operands(netlist, ["a"])
    with pytest.raises(OptimizedAwayError, match=r"1 of 2 bits of y are not driven"):
        check_operands(netlist, [], ["y"])
    with pytest.raises(OptimizedAwayError, match=r"top has no port w$"):
        check_operands(netlist, ["w"])


def test_units_follow_the_instances(tmp_path):
    def cell(kind, **pins):
        return {"type": kind, "parameters": {}, "connections": {k: [v] for k, v in pins.items()},
                "port_directions": {k: "output" if k == "O" else "input" for k in pins}}

    module = {"ports": {}, "cells": {
        "outer": cell("$scopeinfo"), "outer.inner": cell("$scopeinfo"),
        "$flatten\\outer.$flatten\\inner.$abc$1.lut": cell("LUT2", I0=2, I1=3, O=4),
        "$flatten\\outer.other.x": cell("INV", I=4, O=5), "free": cell("INV", I=5, O=6)}}
    (tmp_path / "n.json").write_text(json.dumps({"modules": {"top": module}}))
    netlist = read_gates(tmp_path / "n.json", top="top")
    assert [gate.unit for gate in netlist.cells] == ["outer.inner", "outer", ""]
    assert netlist.driver == {4: (0, "O"), 5: (1, "O"), 6: (2, "O")}
    assert netlist.sinks == {2: [(0, "I0")], 3: [(0, "I1")], 4: [(1, "I")], 5: [(2, "I")]}


def test_models_come_without_timing():
    text = cell_models({"FDRE", "DSP48E1"})
    assert "specify" not in text
    assert text.index("tracing_on") < text.index("module DSP48E1") < text.index("tracing_off")
    with pytest.raises(ValueError, match=r"^netlist must consist of primitives with a model, not "
                                         r"'MYCELL'$"):
        cell_models({"MYCELL"})


def test_saif_scopes(tmp_path):
    (tmp_path / "x.saif").write_text(
        '(SAIFILE (DURATION 9)\n (INSTANCE TOP\n (NET\n (p0 (T0 9) (T1 0) (TZ 0) (TC 1)))\n'
        '  (INSTANCE gates (NET\n   (n7 (T0 4) (T1 5) (TX 0) (TC 3))\n )\n'
        '   (INSTANCE c1 (NET\n    (P\\[12\\] (T0 1) (T1 8) (TC 6))\n )) )\n'
        '  (INSTANCE other (NET (q (T0 1) (T1 2) (TC 4))))\n))')
    assert read_saif(tmp_path / "x.saif") == {
        (("TOP",), "p0", None): (1, 0), (("TOP", "gates"), "n7", None): (3, 5),
        (("TOP", "gates", "c1"), "P", 12): (6, 8), (("TOP", "other"), "q", None): (4, 2)}
