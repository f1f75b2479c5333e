"""Bit-exact model of ``hw/matrix/systolic.py`` and its accumulators: products, digit split.

Products run in floating-point BLAS wherever a bound proves them exact. Every partial sum, in any
order and with or without fused multiply-add, is an integer of magnitude at most
``K * max|x| * max|w|``. Below 2**24 (float32) or 2**53 (float64) all such integers are
representable, so no operation rounds.
"""

import numpy as np

__all__ = ["digit_matmul", "exact_dtype", "linear", "matmul", "split_digits"]


def exact_dtype(bound):
    """Return the fastest dtype that holds all integers up to `bound`; ``ValueError`` past int64."""
    for dtype, limit in (np.float32, 24), (np.float64, 53), (np.int64, 63):
        if bound < 1 << limit:
            return dtype
    raise ValueError(f"the largest product sum must be below 2**63, not {bound!r}")


def matmul(x, w):
    """Return ``x @ w.T`` exactly, as int64.

    Parameters
    ----------
    x : int array (..., M, K)
        Streamed operand.
    w : int array (N, K) or (..., N, K)
        Stationary operand, one output channel a row; leading axes broadcast.

    Returns
    -------
    int64 array (..., M, N)
    """
    x, w = np.asarray(x), np.asarray(w)
    dtype = exact_dtype(x.shape[-1] * _magnitude(x) * _magnitude(w))
    return (x.astype(dtype) @ np.swapaxes(w.astype(dtype), -1, -2)).astype(np.int64)


def linear(x, weight, bias=None):
    """Return ``x @ weight.T + bias``: the accumulators of a layer, int64 (..., M, N)."""
    acc = matmul(x, weight)
    return acc if bias is None else acc + np.asarray(bias, np.int64)


def split_digits(a, digit_bits, digits):
    """Split non-negative integers into balanced radix-2**digit_bits digits.

    Returns
    -------
    int64 array (digits, ...)
        Least significant digit first. All but the last lie in ``-2**(b-1) .. 2**(b-1)-1``; the last
        is unsigned and at most ``2**b - 1``. ``sum(d[i] << b*i) == a``.

    Raises
    ------
    ValueError
        If an element is negative or needs more digits.
    """
    rest = np.array(a, np.int64)
    if _magnitude(rest) != (int(rest.max()) if rest.size else 0):
        raise ValueError(f"a must not be negative, not {int(rest.min())!r}")
    half, planes = 1 << digit_bits - 1, []
    for _ in range(digits - 1):
        digit = ((rest + half) & (2 * half - 1)) - half
        planes.append(digit)
        rest = (rest - digit) >> digit_bits
    if _magnitude(rest) >= 2 * half:
        raise ValueError(f"a must fit {digits} digits of {digit_bits} bits, "
                         f"not {int(np.max(a))!r}")
    return np.stack([*planes, rest])


def digit_matmul(a, v, *, digit_bits, digits):
    """Return ``a @ v`` as the array computes it: one pass a digit plane, weighted and summed.

    Parameters
    ----------
    a : int array (..., M, K)
        Attention probabilities, non-negative.
    v : int array (..., K, N)
        Values.
    digit_bits, digits : int
        As in `split_digits`.
    """
    w = np.swapaxes(np.asarray(v), -1, -2)
    return sum(matmul(plane, w) << digit_bits * i
               for i, plane in enumerate(split_digits(a, digit_bits, digits)))


def _magnitude(a):
    return max(-int(a.min()), int(a.max())) if a.size else 0
