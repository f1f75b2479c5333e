import numpy as np
import pytest

from systola.model.operators.l1_layernorm import l1_layernorm, l1_root
from systola.model.operators.layernorm import centred


@pytest.mark.parametrize("channels", [1, 2, 3, 64, 192, 768, 4096, 2**14])
def test_layernorm_is_its_definition(channels):
    rng = np.random.default_rng(channels)
    x = np.array([np.zeros(channels), np.full(channels, -32768),
                  np.r_[32767, np.full(channels - 1, -32768)],
                  np.where(np.arange(channels) % 2, 32767, -32768),
                  *(rng.integers(-2**bits, 2**bits, channels) for bits in (1, 4, 9, 15))],
                 dtype=np.int64)
    got = l1_layernorm(x)
    assert np.abs(got).max() <= 1 << 30
    y = centred(x)[1]
    for row, found in zip(y.tolist(), got.tolist(), strict=True):
        total = sum(abs(value) for value in row)
        factor = (2**46 - 1) // total if total else 0
        assert found == [value * factor >> 16 for value in row]
    # To the real quotient: 15 bits of the factor, and the last shift.
    total = np.abs(y).sum(axis=-1, keepdims=True).astype(float)
    real = np.where(total > 0, y * 2.0**30 / np.maximum(total, 1), 0)
    assert np.abs(got - real).max() <= np.abs(real).max() * 2.0**-14 + 1


def test_gaussian_rows_have_the_deviation_of_a_layer_norm():
    x = np.rint(np.random.default_rng(1).standard_normal((50, 4096)) * 1000).astype(int)
    out = l1_layernorm(x) * l1_root(4096) / 2**30
    assert np.abs(np.sqrt((out**2).sum(axis=-1)) - 1).max() < 0.03


def test_an_outlier_is_its_weakness():
    """One large channel is of a root of squares nearly all, of a sum of magnitudes little."""
    x = np.random.default_rng(1).integers(-100, 100, (1, 64))
    x[0, 5] = 20000
    out = l1_layernorm(x) * l1_root(64) / 2**30
    assert np.sqrt((out**2).sum()) > 3
