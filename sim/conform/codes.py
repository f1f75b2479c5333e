"""Checks of the golden files of attention codes: BitLog2, and the sqrt(2) codes of RepQ-ViT."""

import re

import numpy as np

from systola.model.operators import log2, sqrt2
from systola.sim.conform.golden import ARITHMETIC

__all__ = ["check_log2"]


def check_log2(report):
    """BitLog2 codes, decoded values, divisors and A.V; sqrt(2) codes, scales and values."""
    golden = report.golden
    for name in golden:
        match = re.fullmatch(r"BitLog2_(\w+?)_(?:(grid|float)_(code10|dq|delta)|(av))", name)
        if match and match[1] in log2.SCHEMES:
            scheme, kind, part = match[1], match[2] or "grid", match[3] or match[4]
            x = golden.ints("a_int") if kind == "grid" else golden.floats("x_float")
            _check_log2_array(report, name, x, scheme, part)
        elif match := re.fullmatch(r"(Sqrt2_1[67])_(grid|float)_(code|deq|delta)", name):
            _check_sqrt2_array(report, name, *match.groups())
        elif name.startswith(("BitLog2_", "Sqrt2_")):
            report.missing("log2", name, "no scheme of this name is known")


def _check_log2_array(report, name, x, scheme, part):
    golden = report.golden
    codes = _codes(report, x, *_bitlog2_steps(scheme), lambda: log2.encode(x, scheme))
    leading, half = codes or (None, None)
    if part == "code10":
        published = golden.ints(name)
        report.compare("log2 encode", name, codes and log2.public_code(leading, half),
                       np.maximum(published, -1), note="any negative published code is zero")
    elif part == "dq":
        report.stored("log2 decode", name, log2.decode(leading, half) if report.offline else None)
    elif part == "av":
        v = golden.ints("v_int")
        report.stored("log2 A.V", name, log2.attention_times_v(leading, half, v) if report.offline
                      else codes and report.engine.digit_matmul(log2.decode(leading, half), v))
    elif report.offline:
        _check_delta(report, name, x, log2.decode(leading, half), scheme)
    else:
        report.compare("log2 calibrate", name, None, None)


def _codes(report, x, thresholds, table, encode):
    """Return the codes of `x`: by `encode`, or else those of an engine that searches.

    `thresholds` do not decrease; `table` are the codes by how many of them a number exceeds. None
    for an engine that does not search, and for reals, which are encoded offline.
    """
    if report.offline:
        return encode()
    if not hasattr(report.engine, "search") or not np.issubdtype(x.dtype, np.integer):
        return None
    counts = report.engine.search(x, thresholds)
    return tuple(part[counts] for part in table)


def _bitlog2_steps(scheme):
    """Return where codes change between 0 and 2**15, and (leading, half) from there on."""
    whole = np.arange((1 << 15) + 1)
    table = log2.encode(whole, scheme)
    steps = np.flatnonzero(np.diff(2 * table[0] + table[1]))
    return steps, tuple(part[np.append(steps, whole[-1])] for part in table)


def _check_delta(report, name, x, decoded, scheme):
    """Compare the calibrated divisor; where float32 cannot tell two apart, either one counts."""
    published = report.golden.integer(name)
    real = x / 2 ** 15 if np.issubdtype(x.dtype, np.integer) else x
    delta = log2.best_delta(real, decoded, scheme)
    losses = [np.square(real - decoded / d).mean() for d in (delta, published)]
    if delta != published and abs(losses[0] - losses[1]) <= 2.0 ** -22 * losses[0]:
        report.compare("log2 calibrate", name, published, published, ARITHMETIC,
                       f"found {delta}, whose squared error is the same in float32")
    else:
        report.compare("log2 calibrate", name, delta, published)


def _check_sqrt2_array(report, name, scheme, kind, part):
    """Codes of the grid by integer thresholds, of floats as published; scales, decoded values."""
    golden = report.golden
    grid, stem = kind == "grid", f"{scheme}_{kind}"
    x = golden.ints("a_int") if grid else golden.floats("x_float")
    delta = float(golden.scale(f"{stem}_delta"))
    if part == "delta" and not report.offline:
        report.compare("sqrt2 calibrate", name, None, None)
        return
    if part == "delta":
        found = sqrt2.best_scale(x / 2 ** 15 if grid else x, scheme)
        report.compare("sqrt2 calibrate", name, np.float32(found), np.float32(delta))
        return
    codes = None
    if grid:
        steps = sqrt2.code_thresholds(delta)
        firsts = np.array([0, *(step + 1 for step in steps[::-1])])  # that exceed so many
        (codes,) = _codes(report, x, steps[::-1], [sqrt2.encode_sqrt2(firsts, steps, scheme)],
                          lambda: [sqrt2.encode_sqrt2(x, steps, scheme)]) or [None]
    elif report.offline:
        codes = sqrt2.encode_real(x, delta, scheme)
    if part == "code":
        report.stored("sqrt2 encode", name, codes)
    else:
        report.compare("sqrt2 decode", name, sqrt2.real_value(codes, delta) if report.offline
                       else None, golden.floats(name))
