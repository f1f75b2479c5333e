from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from systola.hw.contract.numbers import BRANCH_BITS
from systola.model.operators.requant import dyadic, requantize, residual_add, round_shift, saturate

quick = settings(derandomize=True, deadline=None, max_examples=150)
products = st.builds(lambda z, drop: z >> drop, st.integers(-2**40, 2**40), st.integers(0, 40))
mults = st.builds(lambda m, drop: m >> drop, st.integers(-2**31, 2**31), st.integers(0, 31))


def reference(z, mult, shift, bits, *branch):
    """Unbounded integers; Python's round of a Fraction is half to even."""
    total = round(Fraction(z * mult, 1 << shift))
    if branch:
        total += round(Fraction(branch[0] * branch[1], 1 << branch[2]))
        for factor, scale, drop in (branch, (z, mult, shift)):
            if not -1 << BRANCH_BITS - 1 <= factor * scale >> drop < 1 << BRANCH_BITS - 1:
                total = factor * scale << 64
    return max(-1 << bits - 1, min((1 << bits - 1) - 1, total))


@quick
@given(products, mults, st.integers(0, 63), st.integers(2, 63))
def test_requantize_is_exact(z, mult, shift, bits):
    assert requantize(z, mult, shift, bits) == reference(z, mult, shift, bits)


@quick
@example(2**31 - 1, 15, 1, False)
@example(2**31 - 1, 16, 1, False)  # the first shift beyond a limb
@example(2**31 - 1, 17, -1, True)
@given(st.integers(2**30, 2**31 - 1), st.integers(1, 42), st.integers(-3, 3), st.booleans())
def test_ties_and_their_neighbours(mult, shift, step, negative):
    # The z whose product with an odd multiplier ends within `step` of a tie: many of these
    # products exceed 62 bits, and only the lowest bits of the lowest limb tell which side it is.
    mult |= 1
    z = (2 ** (shift - 1) + step) * pow(mult, -1, 2**shift) % 2**shift
    for value in (z, z - 2**shift, z + (2**42 >> shift << shift)):
        signed = -mult if negative else mult
        assert requantize(value, signed, shift, 63) == reference(value, signed, shift, 63)


@quick
@given(products, mults, st.integers(0, 63), st.integers(-2**15, 2**15 - 1), mults,
       st.integers(0, 63))
def test_residual_rounds_twice_and_saturates_once(z, mult, shift, res, res_mult, res_shift):
    want = reference(z, mult, shift, 16, res, res_mult, res_shift)
    assert requantize(z, mult, shift, 16, residual=res, res_mult=res_mult,
                      res_shift=res_shift) == want
    assert residual_add(z, mult, shift, res, res_mult, res_shift) == want


@quick
@given(products, mults, st.integers(0, 63), st.integers(2, 16))
def test_symmetric_saturation(z, mult, shift, bits):
    want = max(reference(z, mult, shift, bits), 1 - 2 ** (bits - 1))
    assert requantize(z, mult, shift, bits, symmetric=True) == want


@quick
@given(products, mults, st.integers(0, 63), st.integers(-2**15, 2**15 - 1),
       st.integers(-2**20, 2**20), st.integers(2, 16))
def test_sum_is_exact_while_the_residual_is_moderate(z, mult, shift, res, res_mult, bits):
    res_shift = 17  # at most 8 times the residual
    exact = (round(Fraction(z * mult, 1 << shift))
             + round(Fraction(res * res_mult, 1 << res_shift)))
    want = max(-1 << bits - 1, min((1 << bits - 1) - 1, exact))
    assert requantize(z, mult, shift, bits, residual=res, res_mult=res_mult,
                      res_shift=res_shift) == want


@pytest.mark.parametrize("edge", [-2**19 - 1, -2**19, 2**19 - 1, 2**19])
def test_a_branch_beyond_its_bits_decides(edge):
    sums = [int(requantize(a, 1, 0, 16, residual=b, res_mult=1, res_shift=0))
            for a, b in ((edge, 3), (edge, -3))]
    assert sums == [-2**15, -2**15] if edge < 0 else [2**15 - 1, 2**15 - 1]
    # The exact sum is 5, which comes out only if both branches fit; else the main one is first.
    y = int(requantize(edge, 1, 0, 16, residual=1, res_mult=5 - edge, res_shift=0))
    assert y == {-2**19 - 1: -2**15, -2**19: 2**15 - 1, 2**19 - 1: 5, 2**19: 2**15 - 1}[edge]


def test_symmetric_range_ends_one_above_an_exact_lowest_number():
    assert [int(requantize(-2**15, 1, c, 16 - c, symmetric=True)) for c in range(15)] == [
        1 - 2 ** (15 - c) for c in range(15)]


def test_two_roundings_differ_from_one():
    assert residual_add(1, 1, 1, 1, 1, 1) == 0  # 0.5 + 0.5, each to even
    assert residual_add(3, 1, 1, 3, 1, 1) == 4


@quick
@given(st.integers(-2**63, 2**63 - 1), st.integers(0, 63))
def test_round_shift_holds_for_every_int64(v, c):
    assert round_shift(v, c) == round(Fraction(v, 1 << c))


def test_round_shift_takes_ties_to_even():
    assert round_shift([-5, -3, -1, 1, 3, 5], 1).tolist() == [-2, -2, 0, 0, 2, 2]


def test_limbs_and_plain_product_agree_on_a_mixed_array():
    rng = np.random.default_rng(1)
    z = rng.integers(-2**31, 2**31, (50, 6)) << rng.integers(0, 12, (50, 6))
    mult, shift = rng.integers(-2**31, 2**31, 6), rng.integers(0, 64, 6)
    whole = requantize(z, mult, shift, 16)
    for (i, c), value in np.ndenumerate(whole):
        assert value == reference(int(z[i, c]), int(mult[c]), int(shift[c]), 16)


def test_saturates_at_every_width():
    for bits in range(1, 33):
        assert saturate([-2**40, 2**40], bits).tolist() == [-1 << bits - 1, (1 << bits - 1) - 1]


@quick
@given(st.floats(2.0**-20, 2.0**6), st.integers(8, 31), st.booleans())
def test_dyadic_is_the_nearest_normalised_multiplier(ratio, bits, negative):
    mult, shift = (int(a) for a in dyadic(-ratio if negative else ratio, bits))
    assert (mult < 0) == negative
    assert 1 << bits - 1 <= abs(mult) < 1 << bits
    assert abs(abs(mult) - Fraction(ratio) * 2**shift) <= Fraction(1, 2)


def test_dyadic_rounds_half_away_from_zero_and_renormalises():
    assert [int(a) for a in dyadic(1 + 2.0**-8, 8)] == [129, 7]
    assert [int(a) for a in dyadic(-1 - 2.0**-8, 8)] == [-129, 7]
    assert [int(a) for a in dyadic(2 - 2.0**-9, 8)] == [128, 6]  # 255.75 rounds up to 2**8
    assert [int(a) for a in dyadic(0.0)] == [0, 0]


def test_dyadic_takes_arrays():
    mult, shift = dyadic(np.array([0.5, 0.0, -0.75]), 8)
    assert mult.tolist() == [128, 0, -192]
    assert shift.tolist() == [8, 0, 8]


@pytest.mark.parametrize(("ratio", "bits", "message"), [
    (2.0**40, 31, "ratio must be 0 or need a shift from 0 to 63 at 31 bits, not 1099511627776.0"),
    (2.0**-40, 31, "ratio must be 0 or need a shift from 0 to 63"),
    (float("nan"), 31, "ratio must be finite, not nan"),
    (1.0, 32, "bits must be from 2 to 31, not 32"),
])
def test_dyadic_refuses(ratio, bits, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        dyadic(ratio, bits)


@pytest.mark.parametrize(("args", "message"), [
    ((1, 1, 64, 8), "shift must be from 0 to 63, not 64"),
    ((1, 1, -1, 8), "shift must be from 0 to 63, not -1"),
    ((2**46, 1, 0, 8), "z \\* mult must be of at most 46 by 32 bits"),
    ((1, 1, 0, 64), "bits must be from 1 to 63, not 64"),
])
def test_requantize_refuses(args, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        requantize(*args)
