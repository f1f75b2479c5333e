"""Checks of the golden file of operators that are here for ablations: I-BERT's and FQ-ViT's."""

import numpy as np

from systola.model.operators.ibert_exp import exp_constants, ibert_exp
from systola.model.operators.ibert_gelu import gelu_constants, gelu_scale, ibert_gelu
from systola.model.operators.ibert_layernorm import ibert_layernorm_trace
from systola.model.operators.ibert_softmax import ibert_softmax
from systola.model.operators.log_int_softmax import log_int_softmax
from systola.sim.conform.golden import ARITHMETIC, BOUNDED, JUDGED, SHOWN, GoldenError

__all__ = ["check_alternatives"]

_RUNS = ("f64", JUDGED), ("f32", SHOWN)

_MOST_UNEQUAL = 0.01
"""Share of a softmax's codes that may be one off, or two of few: the publication's rescaling is
float32."""


def check_alternatives(report):
    """I-BERT's softmax, GELU and layer norm, and FQ-ViT's log-int-softmax on the same scores."""
    golden = report.golden
    for case in golden.prefixes("_x"):
        kind = case.split("_")[0]
        if kind not in _CHECKS:
            raise GoldenError(f"{golden.name} array {case + '_x'!r} must start with "
                              f"{', '.join(_CHECKS)}: no other operator is known")
        _CHECKS[kind](report, case)


def _softmax(report, case):
    """Compare the softmax and, on the same scores, the exponentials and codes of FQ-ViT."""
    golden, bits = report.golden, report.golden.integer(f"{case}_obits")
    x, constants = golden.ints(f"{case}_x"), exp_constants(golden.scale(f"{case}_scale"))
    report.stored("constant", f"{case}_consts", constants)
    got = ibert_softmax(x, constants, bits)
    for run, status in _RUNS:
        name = f"{case}_actscale_{run}"
        if name in golden:
            report.compare("constant", name, np.float32(constants[2] << 30) / np.float32(32767),
                           np.float32(golden.scale(name)), status)
        name = f"{case}_out_{run}"
        if name not in golden:
            continue
        if status == SHOWN:
            report.stored("I-BERT softmax", name, got, SHOWN)
        else:
            _judge_softmax(report, name, got, bits)
    lis = case.replace("sm", "lis", 1)
    report.stored("log-int softmax", f"{lis}_exp_f64",
                  ibert_exp(x - x.max(axis=-1, keepdims=True), constants))
    for run, status in _RUNS:
        report.stored("log-int softmax", f"{lis}_code_{run}", log_int_softmax(x, constants), status)


def _judge_softmax(report, name, got, bits):
    """Compare the softmax after saturation, and where float32 rounded otherwise, to one code."""
    top = (1 << bits - 1) - 1
    published = report.golden.ints(name)
    expected = np.minimum(published, top)
    if got.shape == expected.shape and (got == expected).all():
        clamped = int((published > top).sum())
        report.compare("I-BERT softmax", name, got, expected, ARITHMETIC if clamped else JUDGED,
                       f"{clamped} published beyond full scale, compared after saturation"
                       if clamped else "")
        return
    # Off by one in a few codes: those are float32's. In many, or by more: those are not.
    many = got.shape == expected.shape and (
        (got != expected).sum() > max(_MOST_UNEQUAL * got.size, 2))
    report.compare("I-BERT softmax", name, got, expected, BOUNDED,
                   f"one code in {_MOST_UNEQUAL:.0%}: the publication rescales to 16 bits in "
                   f"float32", bound=0 if many else 1)


def _gelu(report, case):
    golden = report.golden
    scale = golden.scale(f"{case}_scale")
    constants = gelu_constants(scale)
    report.stored("constant", f"{case}_consts", constants)
    got = ibert_gelu(golden.ints(f"{case}_x"), constants)
    for run, status in _RUNS:
        report.stored("I-BERT GELU", f"{case}_out_{run}", got, status)
        name = f"{case}_outscale_{run}"
        if name in golden:
            # To float32's digits: numpy and PyTorch do not multiply in the same order.
            report.compare("constant", name, np.float32(gelu_scale(scale)),
                           np.float32(golden.scale(name)), status)


def _layernorm(report, case):
    golden = report.golden
    shift = golden.integer(f"{case}_shift") if f"{case}_shift" in golden else 0
    got = ibert_layernorm_trace(golden.ints(f"{case}_x"), shift)
    for run, status in _RUNS:
        report.stored("I-BERT LayerNorm", f"{case}_std_{run}", got.root, status)
    # The published factor is a float32 quotient: a rounding off, and then cut to an integer.
    step = got.factor[..., None] * 2.0**-23 + 1
    bound = np.abs(got.out) / np.maximum(got.factor[..., None], 1) * step + 1
    report.stored("I-BERT LayerNorm", f"{case}_y_f64", got.out, BOUNDED,
                  "what a factor makes that is one float32 rounding off, as the publication's is",
                  bound=bound)
    report.stored("I-BERT LayerNorm", f"{case}_y_f32", got.out, SHOWN)
    if f"{case}_bias_int" in golden:
        gamma, beta = golden.floats(f"{case}_gamma"), golden.floats(f"{case}_beta")
        root = np.sqrt(np.float32(len(gamma)))
        report.stored("constant", f"{case}_bias_int", np.floor(
            beta / gamma / (root / np.float32(2**30))).astype(np.int64))


_CHECKS = {"sm": _softmax, "ge": _gelu, "ln": _layernorm}
