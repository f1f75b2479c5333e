"""Counts of operations: every operator replayed on numbers that count what is done to them."""

import dataclasses
from collections import Counter
from math import isqrt

import numpy as np
import pytest

from systola.hw.contract.numbers import LEVELS, MAX31, NORM_NUMERATOR
from systola.model.operators import (
    deferred,
    ibert_exp,
    ibert_gelu,
    ibert_layernorm,
    ibert_softmax,
    ita_softmax,
    l1_layernorm,
    layernorm,
    log2,
    log2_exponentials,
    log_int_softmax,
    normalised,
    shiftgelu,
    shiftmax,
    sqrt2,
)
from systola.model.operators.operations import RESCALING, Count
from systola.model.operators.requant import dyadic, requantize

A = 12
"""The code of 1 of scores and of the GELU's input."""

EXP = ibert_exp.exp_constants(1 / A)
GELU = ibert_gelu.gelu_constants(0.05)
MULT, SHIFT = 12345, 30
DONE = Counter()


class Number:
    """An integer; what is done to it is counted in `DONE`."""

    def __init__(self, value):
        self.value = int(value)

    def _do(self, kind, value):
        DONE[kind] += 1
        return Number(value)

    def __add__(self, other):
        return self._do("add", self.value + plain(other))

    def __sub__(self, other):
        return self._do("add", self.value - plain(other))

    def __mul__(self, other):
        return self._do("multiply", self.value * plain(other))

    def __floordiv__(self, other):
        return self._do("divide", self.value // plain(other))

    def __rshift__(self, other):
        return self._do("shift", self.value >> plain(other))

    def __lshift__(self, other):
        return self._do("shift", self.value << plain(other))

    def over(self, constant):
        """Divide by a constant: a product and a shift."""
        DONE["multiply"] += 1
        return self._do("shift", self.value // constant)

    def most(self, other):
        return self._do("add", max(self.value, plain(other)))

    def least(self, other):
        return self._do("add", min(self.value, plain(other)))

    def leading(self):
        return self._do("shift", self.value.bit_length() - 1)

    def negative_of(self, sign):
        """Give it the sign of a number: an addition."""
        return self._do("add", self.value * ((sign > 0) - (sign < 0)))

    def when(self, condition):
        """Choose after a comparison, which is counted."""
        return self._do("add", int(condition))


def plain(number):
    return number.value if isinstance(number, Number) else int(number)


def looked_up(table, index):
    DONE["look_up"] += 1
    return Number(table[plain(index)])


def total(numbers):
    result = Number(0)
    for number in numbers:
        result = result + number
    return result


def greatest(numbers):
    result = Number(-1 << 40)
    for number in numbers:
        result = number.most(result)
    return result


def rescaled(number):
    """Rescale to 8 bits: the rounding is one addition, the clamp another."""
    value = requantize(np.array([number.value]), MULT, SHIFT, 8)[0]
    for kind, count in dataclasses.asdict(RESCALING).items():
        DONE[kind] += count
    return Number(value)


def shift_exp(x, n):
    p = (x + (x >> 1) - (x >> 4)).most(-n * A)
    q = Number(-p.value).over(A)
    r = p + q * A
    return (r + 2 * A) << (Number(n) - q) >> 1


def shiftmax_row(x):
    top = greatest(x)
    e = [shift_exp(number - top, 15) for number in x]
    factor = Number(MAX31) // total(e).least(MAX31)
    return [(number * factor >> 16).least(32767) for number in e]


def deferred_row(x):
    table, top = deferred.exp_table(-A), greatest(x)
    e = [looked_up(table, top - number) for number in x]
    total(e) // 1  # the division of the row
    return e


def leveled_row(x):
    table, top = log2_exponentials.nearest_codes(-A, "half_16"), greatest(x)
    e = [looked_up(LEVELS["half_16"], looked_up(table, top - number)) for number in x]
    total(e) // 1  # the division of the row
    return e


def normalised_row(x):
    table, top = deferred.exp_table(-A, 16), greatest(x)
    e = [looked_up(table, top - number) for number in x]
    s = max((plain(total(e)) - 1).bit_length() - 16, 0)
    DONE["shift"] += 1  # the leading one of the sum
    a = [number + (1 << s >> 1) >> s for number in e]
    total(a) // 1
    return a


def polynomial(x):
    x0, b, c = EXP
    x = x.most(30 * x0)
    q = x.over(x0)
    r = x - q * x0
    return (r * (r + b) + c).most(0), q


def ibert_row(x):
    mult, shift = (int(value) for value in dyadic(32767 / EXP[2]))
    top, e = greatest(x), []
    for number in x:
        z, q = polynomial(number - top)
        by = q + shift
        e.append((z * mult + (1 << plain(by) - 1) >> by).least(32767))  # no ties here
    factor = Number(1 << 32) // total(e)
    return [(number * factor >> 17).least(32767) for number in e]


def log_int_row(x):
    top, e, codes = greatest(x), [], []
    for number in x:
        z, q = polynomial(number - top)
        e.append(z << (Number(30) - q))
    sum_of_row = total(e)
    for number in e:
        ratio = sum_of_row // number.most(1)
        ratio = ratio + int(2 * (sum_of_row.value % number.value) > number.value)  # no ties here
        level = ratio.leading()
        # The rest beyond the leading one decides: its subtraction, and a comparison that adds.
        rest = ratio - (1 << level.value)
        level = Number(level.value + rest.when(2 * rest.value >= 1 << level.value).value)
        codes.append(Number(level.value if level.value < 16 else -1))
    return codes


def ita_row(x, s=5):
    def octaves(below):
        return (below >> s) + (below.value >> s - 1 & 1)

    top = greatest(x)  # one block: nothing is shifted when it grows
    added = total(Number(256) >> octaves(Number(top.value) - number) for number in x)
    factor = Number(65280) // added
    return [factor >> octaves(top - number) for number in x]


def half_16_row(x):
    out = []
    for share in shiftmax_row(x):
        u = (share >> 7).least(255)
        level = u.leading()
        half = (u >> max(level.value - 1, 0)).value & 1 if level.value > 0 else 0
        if level.value <= 0:
            DONE["shift"] += 1
        out.append(Number(0 if not u.value else (2 + half) << level.value >> 1))
    return out


def sqrt2_row(x):
    thresholds, out = sqrt2.code_thresholds(0.9), []
    for share in shiftmax_row(x):
        DONE["add"] += 5  # zero, and a search among sixteen
        q = sum(share.value <= one for one in thresholds)
        out.append(Number(-1 if q == 16 or not share.value else q))
    return out


def shiftgelu_row(x):
    top = greatest(x)
    e = [shift_exp(number - top, 23) for number in x]
    peak = shift_exp(Number(-top.value), 23).least(MAX31)
    out = []
    for number, exponential in zip(x, e, strict=True):
        factor = Number(MAX31) // (exponential + peak).least(MAX31)
        sigmoid = (exponential * factor >> 24).least(127)
        out.append(rescaled(number * sigmoid))
    return out


def ibert_gelu_row(x):
    b, c, one = GELU
    out = []
    for number in x:
        t = number._do("add", abs(number.value)).least(-b) + b
        u = (t * t + c).negative_of(number.value)
        out.append(rescaled(number * ((u >> 6) + one)))
    return out


def centred(x):
    mean = total(x) // len(x)
    DONE["add"] += 2  # its rounding: twice the rest, and one more
    mean = round(sum(number.value for number in x) / len(x))
    return [number - mean for number in x]


def normed(y, factor, last):
    return [rescaled((number * factor >> last) + BIAS) for number in y]


BIAS = 1 << 20


def published_norm_row(x):
    y = centred(x)
    v, k = total(number * number for number in y), Number(1 << 16)
    for _ in range(10):
        k = (k + v // k >> 1).most(1)
    return normed(y, Number(MAX31) // k, 1)


def ibert_norm_row(x):
    y = centred(x)
    v = total(number * number for number in y)
    k = Number(1 << (v.value.bit_length() + 1) // 2)
    for _ in range(4):
        k = k + v // k >> 1
    return normed(y, Number(1 << 31) // Number(isqrt(v.value)), 1)


def l1_norm_row(x):
    y = centred(x)
    d = total(number._do("add", abs(number.value)) for number in y)
    return normed(y, Number((1 << 46) - 1) // d, 16)


def normalised_norm_row(x):
    count = len(x)
    mean = Number(2 * (total(x) << 8).value) + count
    mean = mean // (2 * count)
    DONE["add"] += 1  # of the rounding: half to even would take as many
    y = [(number << 8) - mean for number in x]
    v = total(number * number for number in y) + 0
    s = 9 - sum(v.value >= 1 << bit for bit in range(0, 63, 4))
    DONE["shift"] += 1  # the row's size: a leading one
    normal = v << 4 * s if s >= 0 else v >> -4 * s
    root = Number(0)
    for bit in reversed(range(18)):
        trial = root.value | 1 << bit
        square = Number(trial) * Number(trial)
        root = Number(trial if normal.when(square.value <= normal.value).value else root.value)
    factor = Number(NORM_NUMERATOR) // root
    left, out = 2 * s + 2, []
    for number in y:
        scaled = number << left if left >= 0 else number >> -left
        out.append(rescaled((scaled * factor >> 5) + BIAS))
    return out


SCORES = {
    "deferred": (deferred_row, deferred.OPERATIONS,
                 lambda x: deferred.deferred_softmax(x, deferred.exp_table(-A))[0]),
    "log2": (leveled_row, log2_exponentials.OPERATIONS, lambda x: deferred.deferred_softmax(
        x, log2_exponentials.leveled_table(-A, "half_16"))[0]),
    "normalised": (normalised_row, normalised.OPERATIONS,
                   lambda x: normalised.normalised_softmax(x, deferred.exp_table(-A, 16))[0]),
    "Shiftmax": (shiftmax_row, shiftmax.OPERATIONS, lambda x: shiftmax.shiftmax(x, -A)),
    "I-BERT softmax": (ibert_row, ibert_softmax.OPERATIONS,
                       lambda x: ibert_softmax.ibert_softmax(x, EXP)),
    "log-int": (log_int_row, log_int_softmax.OPERATIONS,
                lambda x: log_int_softmax.log_int_softmax(x, EXP)),
    "ITA": (ita_row, ita_softmax.OPERATIONS, lambda x: ita_softmax.ita_softmax(x, 5, len(x[0]))),
    "ShiftGELU": (shiftgelu_row, shiftgelu.OPERATIONS,
                  lambda x: requantize(shiftgelu.shiftgelu(x, -A), MULT, SHIFT, 8)),
    "I-BERT GELU": (ibert_gelu_row, ibert_gelu.OPERATIONS,
                    lambda x: requantize(ibert_gelu.ibert_gelu(x, GELU), MULT, SHIFT, 8)),
}
NORMS = {
    "I-LayerNorm": (published_norm_row, layernorm.OPERATIONS["published"], layernorm.layernorm),
    "normalised": (normalised_norm_row, layernorm.OPERATIONS["normalised"],
                   lambda x: layernorm.layernorm(x, "normalised")),
    "I-BERT": (ibert_norm_row, ibert_layernorm.OPERATIONS, ibert_layernorm.ibert_layernorm),
    "L1": (l1_norm_row, l1_layernorm.OPERATIONS, l1_layernorm.l1_layernorm),
}


def replayed(row, x):
    """Return what a replay makes of numbers, and what it counted."""
    DONE.clear()
    got = [number.value for number in row([Number(value) for value in x])]
    return got, Count(**DONE)


def times(count, factor):
    return Count(**{kind: number * factor for kind, number in dataclasses.asdict(count).items()})


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("keys", [5, 31])
def test_operators_of_scores(name, keys):
    row, operations, model = SCORES[name]
    x = np.random.default_rng(keys).integers(-40, 80, keys)
    got, counted = replayed(row, x.tolist())
    assert got == model(x[None])[0].tolist()
    assert counted == times(operations.element, keys) + operations.row


@pytest.mark.parametrize(("row", "module", "model"), [
    (half_16_row, log2, lambda share: log2.decode(*log2.encode(share, "Half_16"))),
    (sqrt2_row, sqrt2, lambda share: sqrt2.encode_sqrt2(share, sqrt2.code_thresholds(0.9)))])
def test_codes_of_attention(row, module, model):
    x = np.random.default_rng(1).integers(-40, 80, 17)
    got, counted = replayed(row, x.tolist())
    assert got == model(shiftmax.shiftmax(x, -A)).tolist()
    both = shiftmax.OPERATIONS.element + module.OPERATIONS.element
    assert counted == times(both, 17) + shiftmax.OPERATIONS.row + module.OPERATIONS.row


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("channels", [7, 64])
def test_layer_norms(name, channels):
    row, operations, model = NORMS[name]
    x = np.random.default_rng(channels).integers(-3000, 3000, channels)
    got, counted = replayed(row, x.tolist())
    assert got == requantize(model(x[None])[0] + BIAS, MULT, SHIFT, 8).tolist()
    assert counted == times(operations.element, channels) + operations.row
