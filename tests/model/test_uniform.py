import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.model.quantization.uniform import (
    MIN_SCALE,
    Calibration,
    bias_codes,
    exp_constant,
    quantize,
    scale_for,
)

quick = settings(derandomize=True, deadline=None, max_examples=100)
reals = st.floats(-1e4, 1e4, width=32)


@quick
@given(st.lists(reals, min_size=1, max_size=20), st.integers(2, 16))
def test_codes_are_within_half_a_step(values, bits):
    x = np.array(values, np.float32)
    scale = scale_for(x.min(), x.max(), bits)
    codes = quantize(x, scale, bits)
    limit = 2 ** (bits - 1)
    assert (np.abs(codes) <= limit).all()
    inside = (codes > -limit) & (codes < limit - 1)
    error = np.abs(codes * np.float64(scale) - x)[inside]
    # half a step, and the float32 reciprocal's error on up to 2**15 of them
    assert (error <= np.float64(scale) * (0.5 + 2.0**-7)).all()


def test_scale():
    assert scale_for(-2, 1, 8) == np.float32(2) / np.float32(127)
    assert scale_for(0, 0, 8) == MIN_SCALE
    assert scale_for([-1, -3], [2, 1], 4).tolist() == [np.float32(2) / 7, np.float32(3) / 7]


def test_ties_and_clamping():
    assert quantize([0.5, 1.5, 2.5, -0.5, -1.5, 200, -200], 1, 8).tolist() == [
        0, 2, 2, 0, -2, 127, -128]
    assert quantize([3e9, -3e9], 1, 32).tolist() == [2**31 - 1, -2**31]


def test_the_reciprocal_is_rounded_first():
    scale, x = np.float32(0.001), np.float32(0.0015)
    assert quantize(x, scale, 8) == 1
    assert np.rint(x / scale) == 2  # a division would land on the other side of the tie


def test_bias_uses_the_accumulator_scale():
    assert bias_codes([1, -1], [0.5, 0.25], 0.5).tolist() == [4, -8]


@quick
@given(st.lists(st.lists(reals, min_size=3, max_size=3), min_size=1, max_size=6))
def test_calibration_is_an_exponential_average(batches):
    running, low, high = Calibration(), batches[0], batches[0]
    low, high = min(low), max(high)
    for i, batch in enumerate(batches):
        running.update(batch)
        if i:
            low, high = 0.95 * low + 0.05 * min(batch), 0.95 * high + 0.05 * max(batch)
    assert np.allclose(running.range, (low, high), rtol=1e-5, atol=1e-2)
    assert running.scale(8) == scale_for(*running.range, 8)


def test_exponential_constants():
    assert exp_constant(np.float32(0.02)) == -51
    assert exp_constant(np.float32(0.02), dtype=np.float32) == -50
    assert exp_constant(0.25) == -4
    assert exp_constant(0.3, 1.702) == -2
    assert exp_constant(1e6) == -1


@pytest.mark.parametrize(("call", "message"), [
    (lambda: scale_for(-1, 1, 1), "bits must be from 2 to 32, not 1"),
    (lambda: quantize([1], 0, 8), "scale must be finite and above 0"),
    (lambda: quantize([float("nan")], 1, 8), "x must be finite"),
    (lambda: exp_constant(0.0), "scale must be finite and above 0, not 0.0"),
    (lambda: Calibration(2), "momentum must be from 0 to 1, not 2"),
    (lambda: Calibration().range, "a calibration must see a batch before its range is read"),
])
def test_errors(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
