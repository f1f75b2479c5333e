"""Log2 codes of attention probabilities (BitLog2), and A.V by shifts and adds.

Four schemes: ``Single`` keeps the leading one of the probability, ``Half`` also the bit below it.
"""

from dataclasses import dataclass

import numpy as np

from systola.model.operators.operations import Count, Operations

__all__ = ["OPERATIONS", "SCHEMES", "Scheme", "attention_times_v", "best_delta", "decode",
           "encode", "levels", "public_code"]

ZERO = -1
"""The leading-one position that stands for a probability of zero."""

OPERATIONS = Operations(
    element=Count(add=1, shift=3),
    row=Count(),
    why="on top of Shiftmax: shift to full scale, clamp, leading one, bit below it; the channels "
        "of A.V then take two shifts and additions for each element instead of a product")
"""Of Half_16 codes of one row, beside the softmax: for each element, and once."""


@dataclass(frozen=True)
class Scheme:
    """One coding: full scale ``int_max`` of the fixed-point input, and the half-step bit."""

    int_max: int
    half: bool


SCHEMES = {
    "Single_16": Scheme(32768, False),
    "Single_17": Scheme(65536, False),
    "Half_16": Scheme(256, True),
    "Half_17": Scheme(384, True),
}


def levels(a, scheme):
    """Return the fixed-point input ``min(floor(a / 2**15 * int_max), int_max - 1)``, int64.

    Parameters
    ----------
    a : int or float array
        Integers are Shiftmax outputs, 0 to 32768 for 0 to 1. Floats are probabilities, offline;
        above 1 they saturate.
    scheme : str
        Key of `SCHEMES`.

    Raises
    ------
    ValueError
        If `scheme` is unknown or a probability is out of range.
    """
    a, top = np.asarray(a), _scheme(scheme).int_max
    integer = np.issubdtype(a.dtype, np.integer)
    full = 1 << 15 if integer else np.inf
    if a.size and not 0 <= a.min() <= a.max() <= full:
        raise ValueError(f"a must be from 0 to {full}, not {a.min()!r} to {a.max()!r}")
    if integer:
        u = a.astype(np.int64) * top >> 15
    else:
        u = np.floor(a.astype(np.float32) * np.float32(top)).astype(np.int64)
    return np.minimum(u, top - 1)


def encode(a, scheme):
    """Return ``(leading, half)``: the leading-one position (-1 for zero) and the bit below it.

    The half-step bit is 0 for the ``Single`` schemes. `a` is as for `levels`.
    """
    u = levels(a, scheme)
    leading = np.searchsorted(np.int64(1) << np.arange(17), u, side="right") - 1
    if not _scheme(scheme).half:
        return leading, np.zeros_like(leading)
    return leading, np.where(leading > 0, u >> np.maximum(leading - 1, 0) & 1, 0)


def decode(leading, half):
    """Return the integers ``2**leading + half * 2**(leading-1)``, 0 for the zero code."""
    value = (2 + np.asarray(half, np.int64)) << np.maximum(leading, 0) >> 1
    return np.where(np.asarray(leading) == ZERO, 0, value)


def public_code(leading, half):
    """Return the code number of the publication, ``10 * leading + 5 * half``; -1 for zero."""
    return np.where(np.asarray(leading) == ZERO, ZERO, 10 * leading + 5 * half)


def attention_times_v(leading, half, v):
    """Return ``sum_j decode(code_ij) * v_jd``, int64 (M, N), by shifts and adds alone.

    Parameters
    ----------
    leading, half : int array (M, K)
        Codes of `encode`.
    v : int array (K, N)
        Values.
    """
    v = np.asarray(v, np.int64)
    acc = np.zeros((*np.shape(leading)[:-1], v.shape[-1]), np.int64)
    for j, row in enumerate(v):
        shift, step = leading[..., j, None], half[..., j, None]
        term = (row << np.maximum(shift, 0)) + step * (row << np.maximum(shift - 1, 0))
        acc += np.where(shift == ZERO, 0, term)
    return acc


def best_delta(x, decoded, scheme):
    """Return the integer divisor in max(decoded)..int_max-1 with the least squared error.

    Offline: the mean of ``(x - decoded / delta)**2`` over one calibration batch; the first minimum
    wins. The minimum is flat, so the published result hangs on the order of a float32 mean; exact
    arithmetic leaves the candidates within 1e-4 of the best, that mean decides among them.

    Parameters
    ----------
    x : float array
        Probabilities, 0 to 1.
    decoded : int array of the shape of `x`
        Output of `decode`.
    scheme : str
        Key of `SCHEMES`.
    """
    x, decoded = np.ravel(x).astype(np.float32), np.ravel(decoded)
    divisors = np.arange(max(int(decoded.max()), 1), _scheme(scheme).int_max)
    wide, values = x.astype(np.float64), decoded.astype(np.float64)
    error = ((wide * wide).sum() - 2 / divisors * (wide * values).sum()
             + (1 / divisors) ** 2 * (values * values).sum())
    divisors = divisors[error <= error.min() * (1 + 1e-4)]
    losses = [_float32_mean((x - decoded.astype(np.float32) / np.float32(delta)) ** 2)
              for delta in divisors]
    return int(divisors[np.argmin(losses)])


def _float32_mean(x):
    """Average in the publication's order: 32 interleaved cascades, folded to 8 lanes and to one."""
    lanes, vectors = 8, len(x) // 8
    body, tail = x[:vectors * lanes].reshape(-1, lanes), x[vectors * lanes:]
    full = vectors // 4 * 4
    parts = _cascade(body[:full].reshape(-1, 4 * lanes)).reshape(4, lanes)
    first = parts[0]
    for row in (*body[full:], *parts[1:]):
        first = first + row
    total = np.float32(0)
    for value in (*tail, *first):
        total += value
    return total / np.float32(len(x))


def _cascade(rows):
    """Sum float32 rows in four levels of at least 16, each level flushed into the next."""
    power = max(4, (max(len(rows), 1) - 1).bit_length() // 4)
    sums = np.zeros((4, rows.shape[1]), np.float32)
    done = len(rows) >> power << power
    for i, row in enumerate(rows[:done], 1):
        sums[0] += row
        level = 1
        while level < 4 and not i & ((1 << power * level) - 1):
            sums[level] += sums[level - 1]
            sums[level - 1] = 0
            level += 1
    for row in rows[done:]:
        sums[0] += row
    for level in range(1, 4):
        sums[0] += sums[level]
    return sums[0]


def _scheme(name):
    if name not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, not {name!r}")
    return SCHEMES[name]
