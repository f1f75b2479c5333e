# amaranth: UnusedElaboratable=no
import numpy as np
import pytest

from systola.hw.matrix.baselines import (
    FixedPointElement,
    OperandScalers,
    ShiftElement,
    StyledArray,
    fixed_point_array,
    shift_array,
)
from systola.model.operators.fixed_point import decode_shift, fixed_point, mantissa, shift_codes
from systola.model.operators.log2 import decode, encode
from systola.sim.harness import run


def products(dut, tile, vectors):
    """Return the sums of `vectors` (T, R) over `tile` (R, C), loaded once."""
    cols = tile.shape[1]
    seen = []

    async def testbench(ctx):
        for j in range(cols):
            ctx.set(dut.w, tile[:, j].tolist())
            ctx.set(dut.w_col, 1 << j)
            await ctx.tick()
        ctx.set(dut.w_col, 0)
        for cycle in range(len(vectors) + dut.latency + cols):
            ctx.set(dut.swap, cycle == 0)
            if cycle < len(vectors):
                ctx.set(dut.acts, vectors[cycle].tolist())
            seen.append([ctx.get(lane) for lane in dut.psum])
            await ctx.tick()

    run(dut, testbench)
    return np.array([[seen[t + dut.latency + dut.delays[c]][c] for c in range(cols)]
                     for t in range(len(vectors))])


@pytest.mark.parametrize("style", ["dsp", "lut"])
def test_fixed_point_array(style):
    rng = np.random.default_rng(2)
    tile = rng.integers(-2**15, 2**15, (2, 2))
    tile[:, 0] = -2**15
    vectors = rng.integers(-2**15, 2**15, (20, 2))
    vectors[:4], vectors[4] = -2**15, 2**15 - 1
    dut = fixed_point_array(rows=2, cols=2, style=style)
    assert dut.psum_bits == 33
    np.testing.assert_array_equal(products(dut, tile, vectors), vectors @ tile)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_shift_array(bits):
    rng = np.random.default_rng(bits)
    low, high = -2**(bits - 1), 2**(bits - 1)
    tile = rng.integers(low, high, (3, 2))
    tile[:, 0], tile[:, 1] = low, high - 1
    codes = rng.integers(0, 16, (30, 3))
    codes[:16] = np.arange(16)[:, None]
    dut = shift_array(rows=3, cols=2, weight_bits=bits)
    np.testing.assert_array_equal(products(dut, tile, codes), decode_shift(codes) @ tile)


def test_shift_codes_stand_for_the_log2_levels():
    a = np.arange(0, 32769, 7)
    leading, half = encode(a, "Half_16")
    codes = shift_codes(leading, half)
    np.testing.assert_array_equal(decode_shift(codes), decode(leading, half))
    assert set(codes.tolist()) == set(range(16))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_operand_scalers(bits):
    rng, high = np.random.default_rng(bits), 2**(bits - 1)
    dut = OperandScalers(rows=1, bits=bits)
    acts = rng.integers(-high, high + 1, (60, 1))
    acts[0], acts[1] = high, -high
    weights = rng.integers(-high, high, (60, 1))
    scales = rng.integers(2**15, 2**16 - 1, (60, 2))
    scales[:3] = 2**16 - 2
    enabled = rng.random(60) < 0.5
    got = []

    async def testbench(ctx):
        for t in range(60):
            ctx.set(dut.acts, acts[t].tolist())
            ctx.set(dut.w, weights[t].tolist())
            ctx.set(dut.act_scale, int(scales[t, 0]))
            ctx.set(dut.w_scale, int(scales[t, 1]))
            ctx.set(dut.w_en, int(enabled[t]))
            got.append([[ctx.get(lane) for lane in port] for port in (dut.acts_out, dut.w_out)])
            await ctx.tick()

    run(dut, testbench)
    held = [0, 0]
    for t in range(58):
        assert got[t + 2][0] == fixed_point(acts[t], scales[t, 0], bits).tolist()
        held = fixed_point(weights[t], scales[t, 1], bits).tolist() if enabled[t] else held
        if enabled[:t + 1].any():
            assert got[t + 2][1] == held
    assert abs(np.array(got)).max() < 2**15


def test_mantissa():
    assert mantissa([1.0, 0.75, 1 - 2**-20, 3e-5]).tolist() == [
        2**15, 3 * 2**14, 2**16 - 2, round(3e-5 * 2**31)]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: FixedPointElement(psum_bits=31, style="dsp"),
     r"^psum_bits must be an integer of at least 32, not 31$"),
    (lambda: FixedPointElement(psum_bits=40, style="x"),
     r"^style must be 'dsp' or 'lut', not 'x'$"),
    (lambda: ShiftElement(weight_bits=9, psum_bits=40), r"^weight_bits must be .* 2 to 8, not 9$"),
    (lambda: ShiftElement(weight_bits=8, psum_bits=15), r"^psum_bits .* at least 16, not 15$"),
    (lambda: OperandScalers(rows=0, bits=8), r"^rows must be a positive integer, not 0$"),
    (lambda: OperandScalers(rows=1, bits=9), r"^bits must be an integer from 2 to 8, not 9$"),
    (lambda: StyledArray(rows=1, cols=0, act=1, weight=1, psum_bits=1, cell=None),
     r"^cols must be a positive integer, not 0$"),
])
def test_error_names_the_parameter(make, message):
    with pytest.raises(ValueError, match=message):
        make()
