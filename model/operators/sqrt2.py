"""Sqrt2 codes of attention probabilities (RepQ-ViT): steps of half an octave below a scale.

`Sqrt2_17` has 16 steps and zero, `Sqrt2_16` 15 and zero, which 4 bits hold. For ablations.
"""

import numpy as np

from systola.model.operators.operations import Count, Operations

__all__ = ["FRACTION", "OPERATIONS", "ZERO", "best_scale", "check_thresholds", "code_thresholds",
           "decode_sqrt2", "encode_real", "encode_sqrt2", "real_value", "sqrt2_times_v"]

ZERO = -1
"""Code of a probability below half a step under the last one."""

FRACTION = 23
"""Decoded integers have the scale ``delta * 2**-23``: 8 octaves, and 15 bits of sqrt 2."""

_STEPS, _OCTAVES = 16, 8
_ROOT = 46341
"""sqrt 2 in units of 2**-15."""

_SCHEMES = {"Sqrt2_17": 15, "Sqrt2_16": 14}
_QUANTILES = (0.999, 0.9999, 0.99999)

OPERATIONS = Operations(
    element=Count(add=5),
    row=Count(),
    why="on top of Shiftmax: zero, and a search among 16 thresholds (four); the channels of A.V "
        "take a shift and an addition for each element instead of a product, in two sums, of which "
        "the odd one is multiplied by sqrt 2 at the end")
"""Of one row, beside the softmax: for each element, and once."""


def code_thresholds(delta):
    """Return the largest probabilities, in units of 2**-15, above which a code is lower, 16 ints.

    ``floor(delta * 2**15 * 2**(-(q + 1/2) / 2))`` for q from 0 to 15; offline.
    """
    if not 0 < delta <= 1:
        raise ValueError(f"delta must be above 0 and at most 1, not {delta!r}")
    steps = -(np.arange(_STEPS) + 0.5) / 2
    return tuple(int(value) for value in np.floor(float(delta) * 2.0**15 * 2.0**steps))


def check_thresholds(thresholds):
    """Raise ``ValueError`` unless `thresholds` are 16 from 2**15 down to 0, equal ones allowed."""
    falling = np.array(tuple(thresholds), np.int64)
    if len(falling) != _STEPS or (np.diff(falling) > 0).any() or not (
            0 <= falling[-1] <= falling[0] <= 1 << 15):
        raise ValueError(f"thresholds must be {_STEPS} that do not increase, from 32768 down, not "
                         f"{thresholds!r}")


def encode_sqrt2(a, thresholds, scheme="Sqrt2_17"):
    """Return the codes of probabilities in units of 2**-15, int64 of the shape of `a`.

    ``q = #{t : a <= t}``; 16 is `ZERO`, as is a probability of 0, and ``Sqrt2_16`` has 14 for 15.

    Parameters
    ----------
    a : int array
        Shiftmax outputs, 0 to 2**15.
    thresholds : tuple of int
        Of `code_thresholds`, not increasing.
    scheme : str
        ``Sqrt2_17`` or ``Sqrt2_16``.
    """
    check_thresholds(thresholds)
    a, rising = np.asarray(a, np.int64), np.array(thresholds, np.int64)[::-1]
    if a.size and not 0 <= a.min() <= a.max() <= 1 << 15:
        raise ValueError(f"a must be from 0 to 32768, not {a.min()} to {a.max()}")
    q = _STEPS - np.searchsorted(rising, a, side="left")
    return _clipped(np.where(a == 0, _STEPS, q), scheme)


def encode_real(x, delta, scheme="Sqrt2_17"):
    """Return the codes of real probabilities, as published: ``round(-2 log2(x / delta))``.

    Offline, in float32; zero and what rounds to 16 or more are `ZERO`, above `delta` it is 0.
    """
    x = np.asarray(x, np.float32)
    with np.errstate(divide="ignore"):
        q = np.rint(-np.log2(x / np.float32(delta)) * np.float32(2))
    return _clipped(np.clip(q, 0, _STEPS).astype(np.int64), scheme)


def _clipped(q, scheme):
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}, not {scheme!r}")
    return np.where(q >= _STEPS, ZERO, np.clip(q, 0, _SCHEMES[scheme]))


def decode_sqrt2(codes):
    """Return ``2**(8 - ceil(q / 2))``, times sqrt 2 for odd q, in units of 2**-15, int64.

    From 2**15 to 2**23, 0 for `ZERO`; times ``delta * 2**-23`` it is the probability.
    """
    codes = np.asarray(codes, np.int64)
    weight = np.int64(1) << _OCTAVES - np.maximum(codes + 1, 0) // 2
    return np.where(codes == ZERO, 0, weight * np.where(codes & 1, _ROOT, 1 << 15))


def sqrt2_times_v(codes, v):
    """Return ``sum_j decode_sqrt2(q_ij) v_jd`` by shifts: two sums, of even and of odd codes.

    Parameters
    ----------
    codes : int array (M, K)
        Of `encode_sqrt2`.
    v : int array (K, N)
        Values.
    """
    codes, v = np.asarray(codes, np.int64), np.asarray(v, np.int64)
    sums = np.zeros((2, *codes.shape[:-1], v.shape[-1]), np.int64)
    for j, row in enumerate(v):
        code = codes[..., j, None]
        term = np.where(code == ZERO, 0, row << _OCTAVES - np.maximum(code + 1, 0) // 2)
        for odd in 0, 1:
            sums[odd] += np.where(code & 1 == odd, term, 0)
    return (sums[0] << 15) + sums[1] * _ROOT


def real_value(codes, delta):
    """Return the probabilities that codes stand for, float32, as published."""
    codes = np.asarray(codes, np.int64)
    q = np.maximum(codes, 0)
    value = np.float32(delta) * np.exp2(-((q + 1) // 2).astype(np.float32))
    root = np.where(q & 1, np.float32(np.sqrt(2)), np.float32(1))
    return np.where(codes == ZERO, np.float32(0), value * root)


def best_scale(x, scheme="Sqrt2_17"):
    """Return the scale delta: the quantile of `x` with the least squared error, a float; offline.

    Candidates are the 0.999, 0.9999 and 0.99999 quantiles of the probabilities of a batch,
    interpolated in float32 as the publication does.
    """
    x = np.sort(np.ravel(x).astype(np.float32))
    found = [_quantile(x, np.float32(share)) for share in _QUANTILES]
    found = [delta for delta in found if delta > 0] or [1.0]
    errors = [np.square(real_value(encode_real(x, delta, scheme), delta) - x).mean(
        dtype=np.float64) for delta in found]
    return found[int(np.argmin(errors))]


def _quantile(rising, share):
    place = share * np.float32(len(rising) - 1)
    low = int(place)
    step = rising[min(low + 1, len(rising) - 1)] - rising[low]
    return float(rising[low] + np.float32(place - np.float32(low)) * step)
