# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest
from amaranth.sim import Simulator

from systola.hw.contract.numbers import MAX31
from systola.hw.vector.shiftexp import ShiftExp
from systola.model.operators.shiftmax import shift_exp

X0 = [1, 2, 3, 7, 14, 20, 21, 100, 255, 256, 367, 368, 419, 2047, 4095]


def simulate(dut, codes, x0):
    """Return the exponentials of each lane's `codes`, one row of lanes a cycle."""
    got = []

    async def bench(ctx):
        ctx.set(dut.unit, x0)
        for cycle in range(len(codes) + dut.latency):
            if cycle >= dut.latency:
                mant, shift = ctx.get(dut.mant), ctx.get(dut.shift)
                got.append([mant[k] << shift[k] >> 1 for k in range(dut.lanes)])
            if cycle < len(codes):
                ctx.set(dut.x, codes[cycle])
            await ctx.tick()

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    return got


@pytest.mark.parametrize("n", [1, 8, 12, 15, 23, 30])
@pytest.mark.parametrize("x0", X0)
def test_every_difference_of_two_codes(n, x0):
    codes = list(range(-256, 1))
    random.Random(x0).shuffle(codes)
    dut = ShiftExp(lanes=1, x_bits=9, unit_bits=12, n=n)
    assert simulate(dut, [[code] for code in codes], x0) == [
        [value] for value in shift_exp(np.array(codes), -x0, n).tolist()]


@pytest.mark.parametrize("n", [16, 23, 30])
@pytest.mark.parametrize("x0", X0)
def test_positive_codes_in_the_first_lane_saturate_as_the_model(n, x0):
    codes = [[code, -abs(code) - 1] for code in range(-255, 256)]
    got = simulate(ShiftExp(lanes=2, x_bits=9, unit_bits=12, n=n, positive=1), codes, x0)
    expected = shift_exp(np.array(codes), -x0, n)
    assert np.minimum(np.array(got, dtype=object), MAX31).tolist() == np.minimum(
        expected, MAX31).tolist()
    assert [row[1] for row in got] == expected[:, 1].tolist()


@pytest.mark.parametrize(("x_bits", "unit_bits", "x0"), [
    (3, 1, 1), (5, 4, 15), (5, 20, 2**20 - 1), (12, 6, 63), (17, 24, 2**24 - 1), (17, 24, 77)])
def test_other_widths(x_bits, unit_bits, x0):
    lowest = -(1 << x_bits - 1)
    codes = sorted({lowest, lowest + 1, -1, 0, *range(lowest, 0, max(1, -lowest // 99))})
    dut = ShiftExp(lanes=1, x_bits=x_bits, unit_bits=unit_bits, n=15)
    assert simulate(dut, [[code] for code in codes], x0) == [
        [value] for value in shift_exp(np.array(codes), -x0, 15).tolist()]


@pytest.mark.parametrize(("params", "message"), [
    ({"lanes": 0}, "lanes must be an integer from 1 to 1024, not 0"),
    ({"x_bits": 1}, "x_bits must be an integer from 2 to 17, not 1"),
    ({"unit_bits": 25}, "unit_bits must be an integer from 1 to 24, not 25"),
    ({"n": 31}, "n must be an integer from 1 to 30, not 31"),
    ({"n": 15, "positive": 1}, "n must be an integer from 16 to 30, not 15"),
    ({"positive": 3}, "positive must be an integer from 0 to 2, not 3"),
])
def test_errors_name_the_parameter(params, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ShiftExp(**{"lanes": 2, "x_bits": 9, "unit_bits": 12, "n": 23, **params})
