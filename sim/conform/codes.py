"""Checks of the golden files of alternative operators: log2 codes, and those not implemented."""

import re

import numpy as np

from systola.model.operators import log2
from systola.sim.conform.golden import ARITHMETIC

__all__ = ["check_ablation", "check_log2"]


def check_log2(report):
    """BitLog2 codes, decoded values, divisors and A.V; the sqrt(2) codes do not exist here."""
    golden = report.golden
    for name in golden:
        match = re.fullmatch(r"BitLog2_(\w+?)_(?:(grid|float)_(code10|dq|delta)|(av))", name)
        if match and match[1] in log2.SCHEMES:
            scheme, kind, part = match[1], match[2] or "grid", match[3] or match[4]
            x = golden.ints("a_int") if kind == "grid" else golden.floats("x_float")
            _check_log2_array(report, name, x, scheme, part)
        elif name.startswith(("BitLog2_", "Sqrt2_")) and not name.endswith("_delta"):
            report.missing("log2", name)


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


def check_ablation(report):
    """List the arrays of operators that do not exist here."""
    names = {"sm": "I-BERT softmax", "lis": "log-int softmax", "ge": "I-BERT GELU",
             "ln": "I-BERT LayerNorm"}
    for name in report.golden:
        operator = names.get(name.split("_")[0])
        if operator and name.endswith(("_f64", "_f32", "_consts")):
            report.missing(operator, name)
