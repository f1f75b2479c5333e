"""Quantization by thresholds gives what requantization gives."""

import numpy as np
import pytest

from systola.model.operators.requant import requantize
from systola.model.operators.threshold import channel_thresholds, threshold_quantize


def compare(z, bias, mult, shift, bits, in_bits, symmetric):
    """Require equal codes of every z (N, C) or (N, 1)."""
    found = threshold_quantize(z, *channel_thresholds(bias, mult, shift, bits, in_bits,
                                                      symmetric=symmetric))
    expected = requantize(np.asarray(z, np.int64) + bias, mult, shift, bits, symmetric=symmetric)
    assert (found == expected).all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_every_input_of_ten_bits(bits, symmetric):
    """Every multiplier up to 9 and powers of two, both signs: all ties are among them."""
    z = np.arange(-512, 512)[:, None]
    for mult in [*range(-9, 10), 64, -64, 511, -512]:
        for shift in range(14):
            for bias in -700, -3, 0, 1, 250:
                compare(z, bias, mult, shift, bits, 10, symmetric)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_thresholds_and_beside_over_the_whole_range(bits, seed):
    """Multipliers and biases of 32 bits, every shift: at thresholds, beside them, at the ends."""
    rng = np.random.default_rng(seed)
    channels, in_bits = 512, int(rng.integers(2, 46))
    mult = rng.integers(-2**31, 2**31, channels) >> rng.integers(0, 32, channels)
    mult[:2] = 2**31, -2**31
    shift, bias = rng.integers(0, 64, channels), rng.integers(-2**31, 2**31, channels)
    bias >>= rng.integers(0, 32, channels)
    bias = np.clip(bias, -2**(in_bits - 1), 2**(in_bits - 1) - 1)
    low, high = -2**(in_bits - 1), 2**(in_bits - 1) - 1
    for symmetric in False, True:
        thresholds, _ = channel_thresholds(bias, mult, shift, bits, in_bits, symmetric=symmetric)
        near = (thresholds.T[:, None] + np.arange(-1, 3)[None, :, None]).reshape(-1, channels)
        ends = np.repeat([[low], [low + 1], [0], [high - 1], [high]], channels, axis=1)
        z = np.clip(np.concatenate([near, ends, rng.integers(low, high + 1, (40, channels))]),
                    low, high)
        compare(z, bias, mult, shift, bits, in_bits, symmetric)


def test_ties_go_to_the_even_side():
    thresholds, falling = channel_thresholds(0, 1, 1, 3, 8)
    assert thresholds.tolist() == [-7, -6, -3, -2, 1, 2, 5]
    assert not falling
    codes = threshold_quantize(np.array([-7, -5, -3, -1, 1, 3, 5])[:, None], thresholds[None],
                               [False])
    assert codes[:, 0].tolist() == [-4, -2, -2, 0, 0, 2, 2]


def test_thresholds_do_not_decrease_and_fit():
    rng = np.random.default_rng(1)
    args = rng.integers(-2**40, 2**40, 200), rng.integers(-2**31, 2**31, 200), rng.integers(
        0, 64, 200)
    thresholds, falling = channel_thresholds(*args, 4, 24, symmetric=True)
    assert (np.diff(thresholds) >= 0).all()
    assert thresholds.min() >= -2**23 - 1
    assert thresholds.max() <= 2**23 - 1
    assert (falling == (args[1] < 0)).all()


@pytest.mark.parametrize(("args", "message"), [
    ((0, 1, 0, 9, 24), "bits must be from 2 to 8, not 9"),
    ((0, 1, 0, 4, 49), "in_bits must be from 2 to 48, not 49"),
    ((0, 1, 64, 4, 24), "shift must be from 0 to 63, not 64"),
])
def test_errors_name_the_parameter(args, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        channel_thresholds(*args)
