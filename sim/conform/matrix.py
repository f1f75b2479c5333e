"""Checks of the golden files of the matrix path: requantization, linear, quantization."""

import re
from fractions import Fraction

import numpy as np

from systola.hw.contract.numbers import MAX_SHIFT
from systola.model.operators.requant import dyadic, saturate
from systola.model.quantization.uniform import Calibration, bias_codes, quantize, scale_for
from systola.sim.conform.golden import ARITHMETIC, SHOWN

__all__ = ["check_dyadic", "check_linear", "check_requant"]

_PUBLISHED_CLAMPS = {4, 8, 16, 32}


def check_requant(report):
    """Dyadic parameters, requantization and residual addition."""
    golden = report.golden
    for case in golden.prefixes("_z"):
        if case.endswith("_id"):
            continue
        z, mult, shift = (golden.ints(f"{case}_{name}") for name in ("z", "m", "e"))
        residual = {}
        if f"{case}_id_z" in golden:
            residual = dict(zip(("residual", "res_mult", "res_shift"), (
                golden.ints(f"{case}_id_{name}") for name in ("z", "m", "e")), strict=True))
        operator = "residual" if residual else "requantize"
        if f"{case}_out_scale" in golden:
            out = f"{case}_out_scale"
            check_dyadic(report, f"{case}_", f"{case}_pre_scale", out)
            if residual:
                check_dyadic(report, f"{case}_id_", f"{case}_id_scale", out)
        bits = golden.integer(f"{case}_bits") if f"{case}_bits" in golden else 16
        got = report.engine.requantize(z, mult, shift, bits, **residual)
        report.stored(operator, f"{case}_out_exact", got)
        if f"{case}_out_exact" in golden and f"{case}_out_f64" in golden:
            wrong = (golden.ints(f"{case}_out_f64") != golden.ints(f"{case}_out_exact")).sum()
            report.compare(operator, f"{case}_out_f64", got, _exact(z, mult, shift, bits),
                           ARITHMETIC, f"published wrong in {wrong} of {z.size}; exact integers")
        elif f"{case}_out_f64" in golden:
            _saturated(report, operator, f"{case}_out_f64", got, bits)
        report.stored(operator, f"{case}_out_f32", got, SHOWN)
    if "frexp_ratio" in golden:
        _check_frexp(report)


def _check_frexp(report):
    """Compare the multipliers of bare ratios; a shift outside 0..63 is refused here."""
    golden = report.golden
    mult, shift = _renormalised(golden.ints("frexp_m"), golden.ints("frexp_e"))
    usable = (shift >= 0) & (shift <= MAX_SHIFT)
    got = dyadic(golden.floats("frexp_ratio")[usable])
    note = "2**31 renormalised to 2**30, the same value"
    for name, value, expected in zip("me", got, (mult, shift), strict=True):
        report.compare("dyadic", f"frexp_{name}", value, expected[usable], note=note)
        if not usable.all():
            report.missing("dyadic", f"frexp_{name}",
                           f"{(~usable).sum()} ratios need a shift outside 0..{MAX_SHIFT}")


def check_dyadic(report, prefix, source, target):
    """Compare the multipliers and shifts that two stored scales give with the stored ones."""
    golden = report.golden
    ratio = (np.atleast_1d(golden.floats(source)).astype(np.float64)
             / float(golden.scale(target)))
    expected = _renormalised(golden.ints(f"{prefix}m"), golden.ints(f"{prefix}e"))
    for name, got, want in zip("me", dyadic(ratio), expected, strict=True):
        report.compare("dyadic", f"{prefix}{name}", got, want)


def _renormalised(mult, shift):
    """Bring a magnitude of 2**31 to 2**30 with a smaller shift, the same value; shift 0 for 0."""
    top = np.abs(mult) >> 31
    return mult >> top, np.where(mult == 0, 0, shift - top)


def _exact(z, mult, shift, bits):
    """Requantize with unbounded integers and no code in common with the models."""
    products = np.broadcast_arrays(z, mult, shift)
    rounded = [round(Fraction(int(a) * int(b), 1 << int(c)))
               for a, b, c in zip(*(p.ravel() for p in products), strict=True)]
    return saturate(np.array(rounded, np.int64).reshape(products[0].shape), bits)


def _saturated(report, operator, array, got, bits):
    """Compare an output; the publication does not clamp to an unusual number of bits."""
    if bits in _PUBLISHED_CLAMPS:
        report.stored(operator, array, got)
    else:
        report.compare(operator, array, got, saturate(report.golden.ints(array), bits), ARITHMETIC,
                       f"{bits} bits: published unclamped, compared after saturation")


def check_linear(report):
    """Weight and bias quantization, linear, Q.K^T, A.V, the quantizer and its calibration."""
    golden, engine = report.golden, report.engine
    for case in golden.prefixes("_w_int"):
        w, b, x = (golden.ints(f"{case}_{name}") for name in ("w_int", "b_int", "x"))
        acc = engine.linear(x, w, b)
        report.stored("linear", f"{case}_acc_exact", acc)
        report.stored("linear", f"{case}_acc_f32", acc, SHOWN)
        if f"{case}_w" in golden:
            _check_weights(report, case)
    for case in golden.prefixes("_k"):
        q, k = golden.ints(f"{case}_q"), golden.ints(f"{case}_k")
        _check_product(report, case, "matmul Q.K^T", engine.matmul(q, k), q, k.T)
    for case in golden.prefixes("_v"):
        a, v = golden.ints(f"{case}_a"), golden.ints(f"{case}_v")
        _check_product(report, case, "matmul A.V", engine.digit_matmul(a, v), a, v)
    for name in golden:
        if match := re.fullmatch(r"q(\d+)_out", name):
            bits = int(match[1])
            codes = quantize(golden.floats("q_x"), golden.scale(f"q{bits}_scale"), bits)
            report.stored("quantize", name, codes)
    if "ema_x" in golden:
        _check_calibration(report)


def _check_product(report, case, operator, acc, left, right):
    report.stored(operator, f"{case}_acc_exact", acc)
    if f"{case}_acc_exact" not in report.golden:
        report.compare(operator, f"{case}_acc", acc, np.einsum("mk,kn->mn", left, right),
                       note="no exact array in the file: against the int64 product")
    report.stored(operator, f"{case}_acc_f32", acc, SHOWN)


def _check_weights(report, case):
    golden = report.golden
    w, x_scale = golden.floats(f"{case}_w"), golden.scale(f"{case}_x_scale")
    scale = scale_for(w.min(axis=1), w.max(axis=1), 8)
    report.compare("quantize", f"{case}_w_scale", scale, golden.floats(f"{case}_w_scale"))
    report.stored("quantize", f"{case}_w_int", quantize(w, scale[:, None], 8))
    report.stored("quantize", f"{case}_b_int",
                  bias_codes(golden.floats(f"{case}_b"), scale, x_scale))
    if f"{case}_acc_scale" in golden:
        report.compare("quantize", f"{case}_acc_scale", scale * x_scale,
                       golden.floats(f"{case}_acc_scale"))


def _check_calibration(report):
    golden, running, got = report.golden, Calibration(), []
    for batch in golden.floats("ema_x"):
        running.update(batch)
        got.append([*running.range, running.scale(8)])
    for name, values in zip(("ema_min", "ema_max", "ema_scale"), np.transpose(got), strict=True):
        report.compare("calibrate", name, values, golden.floats(name))
