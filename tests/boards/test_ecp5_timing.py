# amaranth: UnusedElaboratable=no
import json
import re

import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.boards.flows.ecp5_timing import Harness, fmax_ecp5
from systola.boards.flows.flow import ToolError
from systola.cli.main import main
from systola.hw.parts.register_slice import RegisterSlice
from systola.sim.harness import run


class Adder(wiring.Component):
    """A sum of `terms` factors, without registers of its own."""

    a: In(6)
    b: In(6)
    y: Out(12)

    def __init__(self, steps):
        self.steps = steps
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        value = self.a
        for _ in range(self.steps):
            value = (value ^ self.b) + self.b
        m.d.comb += self.y.eq(value)
        return m


@pytest.mark.slow
def test_a_longer_path_is_slower_and_ends_at_the_harness(tmp_path):
    short = fmax_ecp5(RegisterSlice(4), seeds=2, device="25k", folder=tmp_path / "short")
    long = fmax_ecp5(Adder(4), seeds=1, device="25k", folder=tmp_path / "long")
    assert len(short.fmax) == 2
    assert min(short.fmax) <= short.median <= max(short.fmax)
    assert long.median < short.median / 2
    assert [step.kind for step in long.path].count("carry") == 4
    assert (long.path[0].kind, long.path[-1].kind) == ("ff", "ff")
    period = sum(step.routing + step.logic for step in long.path)
    assert long.median == pytest.approx(1e3 / period, rel=1e-3)
    assert short.cells["TRELLIS_FF"] >= 2 * 4 + 2
    result = json.loads(json.dumps(short.to_dict()))
    assert (result["fmax_min"], result["fmax_max"]) == (min(short.fmax), max(short.fmax))
    assert (tmp_path / "short/report-2.json").exists()


def test_the_harness_shows_every_output_bit():
    dut = Adder(1)
    harness, seen = Harness(dut), []

    async def bench(ctx):
        for value in 1, 0:
            ctx.set(harness.serial_in, value)
            for _ in range(60):
                await ctx.tick()
                seen.append((ctx.get(dut.a), ctx.get(dut.b), ctx.get(harness.serial_out)))

    run(harness, bench)
    assert (seen[59][0], seen[59][1]) == (63, 63)
    assert {output for *_, output in seen} == {0, 1}


class Products(wiring.Component):
    """One multiplier more than a 25k device has."""

    a: In(18)
    y: Out(18)

    def elaborate(self, platform):
        m = Module()
        value = self.a
        for step in range(29):
            product = Signal(36, name=f"product_{step}")
            m.d.comb += product.eq(value * self.a)
            value = product[9:27]
        m.d.comb += self.y.eq(value)
        return m


def test_a_design_that_does_not_fit_is_one_line():
    with pytest.raises(ToolError, match=r"^nextpnr failed: .*MULT18X18D"):
        fmax_ecp5(Products(), seeds=1, device="25k")


@pytest.mark.parametrize(("arguments", "message"), [
    ({"seeds": 0}, "seeds must be a positive integer, not 0"),
    ({"device": "12k"}, "device must be one of 25k, 45k, 85k, not '12k'"),
    ({"speed": 5}, "speed must be 6, 7 or 8, not 5"),
])
def test_unusable_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fmax_ecp5(Adder(1), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_command(monkeypatch, capsys, as_json):
    result = fmax_ecp5(RegisterSlice(2), seeds=1, device="25k")
    calls = []

    def measure(config, **options):
        calls.append(options)
        return result

    monkeypatch.setattr("systola.boards.flows.ecp5_timing.fmax_ecp5", measure)
    arguments = ["timing", "--config", "tiny", "--seeds", "2", "--device", "45k"]
    assert main([*arguments, *(["--json"] if as_json else [])]) == 0
    output = capsys.readouterr().out
    assert (calls[0]["seeds"], calls[0]["device"], calls[0]["speed"]) == (2, "45k", 6)
    if as_json:
        assert json.loads(output) == result.to_dict()
    else:
        assert f"{result.median} MHz" in output
