import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from systola.hw.contract.config import digit_count
from systola.model.operators.matmul import digit_matmul, exact_dtype, linear, matmul, split_digits

quick = settings(derandomize=True, deadline=None, max_examples=100)


def test_bounds_are_where_integers_stop_being_exact():
    for dtype, bits in (np.float32, 24), (np.float64, 53):
        assert exact_dtype((1 << bits) - 1) is dtype
        assert exact_dtype(1 << bits) is not dtype
        assert dtype((1 << bits) - 1) - dtype((1 << bits) - 2) == 1
        assert dtype(1 << bits) + dtype(1) == dtype(1 << bits)  # the first integer it loses
    assert exact_dtype(2**63 - 1) is np.int64
    with pytest.raises(ValueError, match=r"^the largest product sum must be below 2\*\*63, not 9"):
        exact_dtype(2**63)


@pytest.mark.parametrize(("size", "x", "w"), [
    (1032, 127, 128), (1033, 128, 128), (2**10 - 1, 2**7, 2**7), (2**10, 2**7, 2**7),  # float32
    (2**9 - 1, 2**22, 2**22), (2**9, 2**22, 2**22),  # float64 and one past it
])
def test_extremes_around_the_bounds(size, x, w):
    rng = np.random.default_rng(size)
    left = np.where(rng.random((3, size)) < 0.9, x, rng.integers(-x, x + 1, (3, size)))
    right = np.where(rng.random((4, size)) < 0.9, w, rng.integers(-w, w + 1, (4, size)))
    left[0], right[0] = x, w  # the sum that meets the bound
    want = [[sum(int(a) * int(b) for a, b in zip(row, col, strict=True)) for col in right]
            for row in left]
    assert matmul(left, right).tolist() == want


def test_beyond_float64_is_still_exact():
    x, w = np.array([[2**30 + 1, 1]]), np.array([[2**30 + 1, 1]])
    assert matmul(x, w).tolist() == [[(2**30 + 1) ** 2 + 1]]


def test_batches_broadcast():
    rng = np.random.default_rng(0)
    x, w = rng.integers(-128, 128, (2, 3, 5, 7)), rng.integers(-128, 128, (3, 4, 7))
    assert (matmul(x, w) == np.einsum("bhmk,hnk->bhmn", x, w)).all()
    assert (linear(x, w[0], np.arange(4)) == np.einsum("bhmk,nk->bhmn", x, w[0])
            + np.arange(4)).all()
    assert linear(x, w[0]).dtype == np.int64


@quick
@given(st.integers(2, 16), st.integers(2, 8), st.data())
def test_digits_are_balanced_and_rebuild_the_number(bits, digit_bits, draw):
    top = 2 ** (bits - 1) - 1
    digits = digit_count(bits, digit_bits)
    a = np.array([0, top, *draw.draw(st.lists(st.integers(0, top), max_size=20))])
    planes = split_digits(a, digit_bits, digits)
    assert planes.shape == (digits, len(a))
    assert (sum(plane << digit_bits * i for i, plane in enumerate(planes)) == a).all()
    half = 2 ** (digit_bits - 1)
    assert (planes[:-1] >= -half).all()
    assert (planes[:-1] < half).all()
    assert (planes[-1] >= 0).all()
    assert (planes[-1] < 2 * half).all()


def test_every_attention_code_in_two_digits():
    a = np.arange(2**15)
    low, high = split_digits(a, 8, 2)
    assert (low.min(), low.max(), high.min(), high.max()) == (-128, 127, 0, 128)
    assert (low + 256 * high == a).all()


@pytest.mark.parametrize("digit_bits", [2, 3, 5, 8])
def test_digit_passes_equal_the_whole_product(digit_bits):
    rng = np.random.default_rng(digit_bits)
    a, v = rng.integers(0, 2**15, (2, 6, 9)), rng.integers(-128, 128, (2, 9, 4))
    a[:, 0], v[:, :, 0] = 2**15 - 1, -128
    got = digit_matmul(a, v, digit_bits=digit_bits, digits=digit_count(16, digit_bits))
    assert (got == a @ v).all()


def test_digits_refuse_what_they_cannot_hold():
    with pytest.raises(ValueError, match=r"^a must fit 2 digits of 4 bits, not 248$"):
        split_digits([248], 4, 2)
    with pytest.raises(ValueError, match=r"^a must not be negative, not -1$"):
        split_digits([0, -1], 8, 2)
