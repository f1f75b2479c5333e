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
    leading, half = log2.encode(x, scheme)
    decoded = log2.decode(leading, half)
    if part == "code10":
        published = golden.ints(name)
        report.compare("log2 encode", name, log2.public_code(leading, half),
                       np.maximum(published, -1), note="any negative published code is zero")
    elif part == "dq":
        report.stored("log2 decode", name, decoded)
    elif part == "av":
        report.stored("log2 A.V", name, log2.attention_times_v(leading, half,
                                                               golden.ints("v_int")))
    else:
        _check_delta(report, name, x, decoded, scheme)


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
    if part == "delta":
        found = sqrt2.best_scale(x / 2 ** 15 if grid else x, scheme)
        report.compare("sqrt2 calibrate", name, np.float32(found), np.float32(delta))
        return
    codes = (sqrt2.encode_sqrt2(x, sqrt2.code_thresholds(delta), scheme) if grid
             else sqrt2.encode_real(x, delta, scheme))
    if part == "code":
        report.stored("sqrt2 encode", name, codes)
    else:
        report.compare("sqrt2 decode", name, sqrt2.real_value(codes, delta), golden.floats(name))
