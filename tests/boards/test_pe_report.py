# amaranth: UnusedElaboratable=no
import json

import numpy as np
import pytest

from systola.boards.power import pe_report as report_module
from systola.boards.power.activity import Activity
from systola.boards.power.gates import GateNetlist, GatePort, OptimizedAwayError
from systola.boards.power.pe_designs import MappedArray, Pass, Shape, make_design
from systola.boards.power.pe_operands import _narrow, operand_streams
from systola.boards.power.pe_report import pe_report
from systola.cli.main import main
from systola.cluster.cluster import Cluster
from systola.sim.harness import run
from systola.sim.verilog.payload_bytes import pack


class PySimulation:
    """Stands in for the compiled netlist: the component itself in Amaranth's simulator."""

    def __init__(self, component):
        self.component, self.stuck = component, False

    def run(self, inputs):
        names, seen = list(inputs), []
        array = self.component

        async def testbench(ctx):
            for cycle in range(len(inputs["swap"])):
                for name in names:
                    value = inputs[name][cycle]
                    value = int.from_bytes(value.tobytes(), "little") if value.ndim else int(value)
                    port = getattr(array, name)
                    ctx.set(port.as_value() if hasattr(port, "as_value") else port, value)
                seen.append([ctx.get(lane) for lane in array.psum])
                await ctx.tick()

        run(array, testbench)
        return Activity(len(seen), {} if self.stuck else {0: 1, 1: 1, 2: 1}, {}, {},
                        {"psum": pack([(np.array(seen), array.psum_bits)])})


def mapped(style, bits, rows, cols):
    design = make_design(style, bits, rows, cols)
    array = design.make()
    widths = {name: len(getattr(array, name).as_value()) for name in ("acts", "w", "psum")}
    ports = {name: GatePort("input", (k,) * width)
             for k, (name, width) in enumerate(widths.items())}
    return MappedArray(design, Shape.of(array), GateNetlist("array", ports, ()),
                       PySimulation(array))


@pytest.mark.parametrize(("style", "bits", "rows", "cols"), [
    ("lut", 3, 3, 2), ("dsp", 8, 2, 3), ("dsp_packed", 8, 3, 4), ("dsp_packed", 3, 3, 4),
    ("dequant_first_dsp", None, 2, 2), ("shift", 4, 3, 2), ("log2_feed", 8, 3, 4),
    ("codebook", 8, 3, 4)])
def test_passes_meet_their_tiles(style, bits, rows, cols):
    array, rng = mapped(style, bits, rows, cols), np.random.default_rng(4)
    high = 2 ** ((bits or 16) - 1) - 1
    acts = (0, 16) if style in {"shift", "log2_feed"} else (-high, high + 1)
    tiles = (0, 16) if style == "codebook" else (-high, high + 1)
    book = rng.integers(-127, 128, 16) if style == "codebook" else None
    passes = [Pass(rng.integers(*tiles, (rows, cols)), rng.integers(*acts, (length, rows)), book)
              for length in (1, 9, 20, 2)]
    _, compared = array.multiply(passes)
    tokens = array.shape.tokens
    lengths = [-(-len(item.vectors) // tokens) * tokens for item in passes]
    assert compared == sum(lengths) * cols
    assert array.pes * array.macs_per_pe == rows * cols * tokens


def test_a_netlist_that_computes_something_else_is_found(monkeypatch):
    array = mapped("shift", 4, 2, 2)
    passes = [Pass(np.ones((2, 2), int), np.arange(12).reshape(6, 2))]
    array.multiply(passes)
    monkeypatch.setattr("systola.boards.power.pe_designs.decode_shift", lambda codes: codes)
    with pytest.raises(RuntimeError, match=r"^the netlist of shift at 4 bits computes other sums "
                                           r"than the integer product$"):
        array.multiply(passes)


def test_operands_that_never_change_are_refused():
    array = mapped("dsp", 4, 2, 2)
    array.simulation.stuck = True
    with pytest.raises(OptimizedAwayError, match=r"^operands were optimized away: acts of dsp "
                                                 r"never changes in \d+ cycles, so that"):
        array.multiply([Pass(np.ones((2, 2), int), np.ones((5, 2), int))])


def test_constant_data_is_refused_by_the_command(capsys):
    assert main(["report", "pe", "--bits", "4", "--data", "constant"]) == 1
    assert "systola: operands were optimized away: the activations of linear at 4 bits are " \
        "constant" in capsys.readouterr().err


def test_streams_are_those_of_the_network():
    streams = operand_streams("deit", (2, 4, 8), rows=8, cols=4)
    assert set(streams) == {(b, o) for b in (2, 4, 8) for o in ("linear", "qk", "av")}
    for (bits, operation), stream in streams.items():
        high = 2 ** (bits - 1)
        tiles = np.stack([item.tile for item in stream.passes])
        vectors = np.concatenate([item.vectors for item in stream.passes])
        assert tiles.shape[1:] == (8, 4)
        assert len(vectors) >= 1500
        assert abs(tiles).max() < high
        assert vectors.max() <= high
        assert vectors.min() >= (0 if operation == "av" else -high)
        assert abs(tiles).max() > high // 4
        assert (tiles != 0).mean() > 0.4
        assert set(stream.coded) == {"av": {"shift", "log2_feed"}, "linear": {"codebook"},
                                     "qk": set()}[operation]
        assert 1 << 15 <= stream.act_scale < 1 << 16
    for style in "shift", "log2_feed":
        codes = np.concatenate([item.vectors for item in streams[4, "av"].coded[style]])
        assert 0 <= codes.min() < codes.max() <= 15
    for item, coded in zip(streams[8, "linear"].passes, streams[8, "linear"].coded["codebook"],
                           strict=True):
        assert np.abs(coded.book[coded.tile] - item.tile).max() < 40
        assert len(coded.book) == 16
    with pytest.raises(ValueError, match=r"^data must be digits, deit or constant, not 'x'$"):
        operand_streams("x", (2,), rows=8, cols=4)


def test_narrow_operands_have_the_step_of_least_error():
    values = np.random.default_rng(1).normal(0, 20, (400, 3)).round().astype(int)
    codes, step = _narrow(values, -3, 3, 3)
    error = ((codes * step - values) ** 2).mean()
    assert error < ((np.clip(np.rint(values / (abs(values).max() / 3)), -3, 3)
                     * abs(values).max() / 3 - values) ** 2).mean()
    channel_codes, steps = _narrow(values * [1, 2, 5], -3, 3, 3, axis=0)
    assert steps.shape == (3,)
    np.testing.assert_allclose(steps / steps[0], [1, 2, 5], rtol=0.2)
    assert abs(channel_codes).max() == 3
    assert _narrow(values, -127, 127, 8) == (pytest.approx(values), 1.0)


def test_styles_that_would_have_no_row_are_refused():
    with pytest.raises(ValueError, match=r"^style 'codebook' is measured at 8 bits, for linear: "
                                         r"choose one of these, or other styles$"):
        pe_report(widths=[4], styles=["codebook"])


@pytest.mark.slow
def test_report_of_a_small_array(monkeypatch, capsys):
    streams = operand_streams("deit", (4,), rows=2, cols=2)
    monkeypatch.setattr(report_module, "operand_streams", lambda *args, **kwargs: streams)
    result = pe_report(widths=[4], rows=2, cols=2, styles=["dsp_packed"], operations=["linear"],
                       draws=500)
    packed, base = result["rows"]
    assert (packed["style"], base["style"]) == ("dsp_packed", "dequant_first")
    assert (packed["dsp"], packed["macs"], base["dsp"], base["macs"]) == (1, 4, 1, 1)
    assert packed["dsp_ratio"] == 0.25
    assert 30 < base["edge"]["lut"] <= base["lut"]  # four scalers for four cells
    assert "ratio" not in base
    assert packed["baseline"] == "dequant_first, DSP slice"
    assert packed["ratio_low"] < packed["ratio"] < packed["ratio_high"]
    assert packed["ratio"] == pytest.approx(packed["energy_pj_per_mac"]
                                            / base["energy_pj_per_mac"])
    assert packed["ratio"] < packed["ratio_without_scalers"]
    for row in result["rows"]:
        assert row["energy_low"] < row["energy_pj_per_mac"] < row["energy_high"]
        assert sum(row["energy_parts"].values()) == pytest.approx(1)
        assert row["sums_compared"] == 2 * sum(  # the packed array takes two vectors at once
            len(item.vectors) + (len(item.vectors) % 2 if row is packed else 0)
            for item in streams[4, "linear"].passes)
        assert row["label"] == "estimate"
        assert row["toggles_per_cycle"] > 20
        # Power is energy times clock, and static.
        assert row["power_uw_per_pe"] > 90 * row["energy_pj_per_mac"] * row["macs"] * 0.5
    json.dumps(result)
    with Cluster(workers=2) as cluster:
        assert pe_report(widths=[4], rows=2, cols=2, styles=["dsp_packed"], operations=["linear"],
                         draws=500, cluster=cluster) == result


@pytest.mark.parametrize(("arguments", "message"), [
    ({"widths": [9]}, r"^bits must be one of 2, 3, 4, 5, 6, 7, 8, not 9$"),
    ({"widths": []}, r"^bits must name at least one of 2, 3"),
    ({"styles": ["fast"]}, r"^style must be one of lut, dsp, .*, shift, not 'fast'$"),
    ({"operations": ["x"]}, r"^operation must be one of linear, qk, av, not 'x'$"),
    ({"rows": 1}, r"^rows must be an integer of at least 2, not 1$"),
    ({"mhz": 0}, r"^freq must be a number of MHz from 0 to 1000, not 0$"),
])
def test_unusable_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        pe_report(**arguments)
