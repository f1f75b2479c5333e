import numpy as np
import pytest

from systola.model.operators.log2 import (
    SCHEMES,
    attention_times_v,
    best_delta,
    decode,
    encode,
    levels,
    public_code,
)

CODES = np.arange(2**15)
PROBABILITIES = np.arange(2**17) / 2**17
COUNTS = {"Single_16": 16, "Single_17": 17, "Half_16": 16, "Half_17": 17}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_code(scheme):
    leading, half = encode(PROBABILITIES, scheme)
    decoded, u = decode(leading, half), levels(PROBABILITIES, scheme)
    assert len(np.unique(decoded)) == COUNTS[scheme]
    # Truncation to the leading bits: never above, and off by less than the last bit kept.
    assert (decoded <= u).all()
    kept = np.where(SCHEMES[scheme].half & (leading > 0), decoded // 4 * 2, decoded)
    assert ((u - decoded < np.maximum(kept, 1)) | (u == 0)).all()
    assert ((decoded == 0) == (u == 0)).all()
    assert (decode(*encode_again(decoded, scheme)) == decoded).all()


def encode_again(decoded, scheme):
    """Encode integers that already are levels."""
    return encode(decoded / SCHEMES[scheme].int_max, scheme)


def test_published_levels():
    assert np.unique(decode(*encode(CODES, "Half_16"))).tolist() == [
        0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192]
    assert decode(*encode(CODES, "Half_17")).max() == 256
    assert decode(*encode(CODES, "Single_16")).max() == 2**14
    assert public_code(*encode([0, 1, 2**14], "Single_16")).tolist() == [-1, 0, 140]
    assert public_code(*encode([3 << 7], "Half_16")).tolist() == [15]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_integer_and_float_probabilities_agree(scheme):
    for got, want in zip(encode(CODES, scheme), encode(CODES / 2**15, scheme), strict=True):
        assert (got == want).all()
    top = SCHEMES[scheme].int_max - 1
    assert levels([1 << 15], scheme) == levels([1.0], scheme) == top


@pytest.mark.parametrize("scheme", SCHEMES)
def test_shifts_equal_the_product(scheme):
    rng = np.random.default_rng(5)
    a, v = rng.integers(0, 2**15, (9, 12)) >> rng.integers(0, 15, (9, 12)), \
        rng.integers(-128, 128, (12, 4))
    leading, half = encode(a, scheme)
    assert (attention_times_v(leading, half, v) == decode(leading, half) @ v).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_divisor_is_least_squares(scheme):
    x = np.random.default_rng(7).dirichlet(np.full(12, 0.3), 5)
    decoded = decode(*encode(x, scheme))
    delta = best_delta(x, decoded, scheme)
    candidates = np.arange(max(decoded.max(), 1), SCHEMES[scheme].int_max)
    error = np.array([((x - decoded / d) ** 2).mean() for d in candidates])
    assert error[delta - candidates[0]] <= error.min() * (1 + 1e-5)


@pytest.mark.parametrize("a", [[-1], [2**15 + 1], [-0.5]])
def test_out_of_range(a):
    with pytest.raises(ValueError, match=r"^a must be from 0 to "):
        encode(a, "Half_16")


def test_unknown_scheme():
    with pytest.raises(ValueError, match=r"^scheme must be one of Single_16, Single_17, Half_16, "
                                         r"Half_17, not 'Half'$"):
        encode([1], "Half")
