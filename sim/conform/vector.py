"""Checks of the golden files of the vector units: Shiftmax, ShiftGELU, I-LayerNorm."""

import numpy as np

from systola.hw.contract.numbers import MAX31
from systola.model.operators.requant import saturate
from systola.model.operators.shiftgelu import shiftgelu_trace
from systola.model.operators.shiftmax import shift_exp
from systola.model.quantization.uniform import exp_constant
from systola.sim.conform.golden import ARITHMETIC, JUDGED, SHOWN
from systola.sim.conform.matrix import check_dyadic

__all__ = ["check_layernorm", "check_shiftgelu", "check_shiftmax"]

_NORM_FIELDS = {"mean": "mean", "iters": "iterates", "std": "root", "factor": "factor",
                "y": "out"}
_CLAMPED = "denominator clamped: compared after saturation"


def check_shiftmax(report):
    """Shiftmax with its exponentials and factors, at both published constants."""
    golden = report.golden
    for case in golden.prefixes("_x"):
        x, n = golden.ints(f"{case}_x"), golden.integer(f"{case}_n")
        bits = golden.integer(f"{case}_obits")
        _check_constant(report, case, 1)
        x0 = golden.integer(f"{case}_x0_f64")
        got = report.trace("shiftmax", x, x0, n, bits)
        for name in "exp", "factor":
            report.stored("shiftmax", f"{case}_{name}_f64", getattr(got, name, None))
        exp = shift_exp(x - x.max(axis=-1, keepdims=True), x0, n)
        clamped = np.broadcast_to((exp.sum(axis=-1) > MAX31)[..., None], x.shape)
        _split(report, "shiftmax", f"{case}_out_f64", got.out, clamped,
               lambda out, bits=bits: saturate(out, bits))
        if f"{case}_x0_f32" in golden and not report.judged_only:
            got = report.trace("shiftmax", x, golden.integer(f"{case}_x0_f32"), n, bits)
            report.stored("shiftmax", f"{case}_factor_f32", getattr(got, "factor", None), SHOWN)
            report.stored("shiftmax", f"{case}_out_f32", got.out, SHOWN)


def check_shiftgelu(report):
    """ShiftGELU with its sigmoid and the exponential of the row maximum."""
    golden = report.golden
    for case in golden.prefixes("_x"):
        x, n = golden.ints(f"{case}_x"), golden.integer(f"{case}_n")
        bits = golden.integer(f"{case}_obits")
        _check_constant(report, case, 1.702)
        x0 = golden.integer(f"{case}_x0_f64")
        got = report.trace("shiftgelu", x, x0, n, bits)
        if f"{case}_expmax_f64" in golden:
            report.compare("shiftgelu", f"{case}_expmax_f64", getattr(got, "expmax", None),
                           np.minimum(golden.ints(f"{case}_expmax_f64"), MAX31), ARITHMETIC,
                           "published unbounded, compared after saturation")
        trace = shiftgelu_trace(x, x0, n, bits)
        clamped = trace.exp + trace.expmax[..., None] > MAX31

        def saturated_product(out, x=x, bits=bits):
            sigmoid = out // np.where(x == 0, 1, x)  # the output is x times the sigmoid
            return x * saturate(sigmoid, bits)

        _split(report, "shiftgelu", f"{case}_sig_f64", getattr(got, "sigmoid", None), clamped,
               lambda sig, bits=bits: saturate(sig, bits))
        _split(report, "shiftgelu", f"{case}_out_f64", got.out, clamped, saturated_product)
        if f"{case}_x0_f32" in golden and not report.judged_only:
            got = report.trace("shiftgelu", x, golden.integer(f"{case}_x0_f32"), n, bits)
            report.stored("shiftgelu", f"{case}_sig_f32", getattr(got, "sigmoid", None), SHOWN)
            report.stored("shiftgelu", f"{case}_out_f32", got.out, SHOWN)


def _check_constant(report, case, factor):
    if f"{case}_scale" in report.golden:
        scale = report.golden.scale(f"{case}_scale")
        for suffix, dtype, status in ("f64", np.float64, JUDGED), ("f32", np.float32, SHOWN):
            report.stored("constant", f"{case}_x0_{suffix}",
                          exp_constant(scale, factor, dtype), status)


def _split(report, operator, array, got, clamped, saturate_published):
    """Compare where no denominator was clamped; where one was, after saturation."""
    if array not in report.golden:
        return
    expected = report.golden.ints(array)
    if got is None or expected.shape != got.shape:
        report.compare(operator, array, got, expected)
        return
    if not clamped.all():
        report.compare(operator, array, got[~clamped], expected[~clamped])
    if clamped.any():
        report.compare(operator, array, got[clamped], saturate_published(expected)[clamped],
                       ARITHMETIC, _CLAMPED)


def check_layernorm(report):
    """I-LayerNorm with mean, root iterates and factor, and its requantization."""
    golden = report.golden
    for case in golden.prefixes("_x"):
        got = report.trace("layernorm", golden.ints(f"{case}_x"))
        for suffix, status in ("f64", JUDGED), ("f32", SHOWN):
            for name, field in _NORM_FIELDS.items():
                report.stored("layernorm", f"{case}_{name}_{suffix}", getattr(got, field, None),
                              status)
        if f"{case}_q8_m" in golden:
            z = got.out + golden.ints(f"{case}_bias_int")
            q8 = report.engine.requantize(z, golden.ints(f"{case}_q8_m"),
                                          golden.ints(f"{case}_q8_e"), 8)
            report.stored("layernorm requantized", f"{case}_q8_f64", q8)
            report.stored("layernorm requantized", f"{case}_q8_f32", q8, SHOWN)
            if f"{case}_q8_scale" in golden and f"{case}_outscale" in golden:
                check_dyadic(report, f"{case}_q8_", f"{case}_outscale", f"{case}_q8_scale")
