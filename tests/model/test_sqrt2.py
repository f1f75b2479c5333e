import numpy as np
import pytest

from systola.model.operators.sqrt2 import (
    FRACTION,
    ZERO,
    best_scale,
    code_thresholds,
    decode_sqrt2,
    encode_real,
    encode_sqrt2,
    real_value,
    sqrt2_times_v,
)

CODES = np.arange(2**15 + 1)
DELTAS = [1.0, 0.9995958, 0.87253076, 0.5, 0.1, 2.0**-10]


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize(("scheme", "last"), [("Sqrt2_17", 15), ("Sqrt2_16", 14)])
def test_every_code(delta, scheme, last):
    codes = encode_sqrt2(CODES, code_thresholds(delta), scheme)
    assert set(np.unique(codes)) <= {ZERO, *range(last + 1)}
    assert codes[0] == ZERO
    # The integer thresholds are the published logarithm, but at ties of float32.
    published = encode_real(CODES / 2**15, delta, scheme)
    assert np.mean(codes == published) > 0.9999
    # A step is half an octave: nearer than a quarter of one, away from both ends.
    value = decode_sqrt2(codes) * delta * 2.0**-FRACTION
    inside = (codes > 0) & (codes < last)
    if inside.any():
        off = np.abs(np.log2(value[inside] / (CODES[inside] / 2**15)))
        # A threshold is an integer: a whole one of few counts.
        assert (off <= 0.25 + 1.5 / CODES[inside]).all()


def test_decoded_integers():
    assert decode_sqrt2([0, 1, 2, 15, ZERO]).tolist() == [1 << 23, 46341 << 7, 1 << 22, 46341, 0]
    real = real_value([0, 1, 2, 15, ZERO], 0.5)
    assert np.allclose(real, decode_sqrt2([0, 1, 2, 15, ZERO]) * 0.5 * 2.0**-FRACTION, rtol=1e-5)


def test_shifts_equal_the_product():
    rng = np.random.default_rng(2)
    codes, v = rng.integers(-1, 16, (9, 33)), rng.integers(-128, 128, (33, 5))
    assert (sqrt2_times_v(codes, v) == decode_sqrt2(codes) @ v).all()
    extreme = sqrt2_times_v(np.zeros((1, 1024), int), np.full((1024, 1), -128))
    assert extreme == -(1 << 23 + 10 + 7)  # 41 bits: within what a requantizer's model takes


def test_scale_is_a_high_quantile_of_least_error():
    x = np.random.default_rng(7).dirichlet(np.full(12, 0.3), 500)
    delta = best_scale(x)
    codes = [encode_real(x, value) for value in (delta, 1.0, 0.5)]
    errors = [np.square(real_value(code, value) - x).mean()
              for code, value in zip(codes, (delta, 1.0, 0.5), strict=True)]
    assert errors[0] == min(errors)
    assert np.quantile(x, 0.99) < delta <= x.max()
    assert best_scale(np.zeros(10)) == 1.0


@pytest.mark.parametrize(("call", "message"), [
    (lambda: code_thresholds(0), r"delta must be above 0 and at most 1, not 0"),
    (lambda: code_thresholds(1.5), r"delta must be above 0 and at most 1, not 1.5"),
    (lambda: encode_sqrt2([1], (3, 2, 1)), r"thresholds must be 16 that do not increase, from "),
    (lambda: encode_sqrt2([1], range(16)), r"thresholds must be 16 that do not increase, from "),
    (lambda: encode_sqrt2([-1], code_thresholds(1)), r"a must be from 0 to 32768, not -1 to -1"),
    (lambda: encode_sqrt2([1], code_thresholds(1), "Sqrt2"),
     r"scheme must be one of Sqrt2_17, Sqrt2_16, not 'Sqrt2'"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
