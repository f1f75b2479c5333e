"""Conformance with golden vectors: every stored array against the models, or another engine.

An engine is any object with these methods; arrays are int64 and broadcast as in the models.

- ``requantize(z, mult, shift, bits, *, residual=None, res_mult=None, res_shift=None)``
- ``linear(x, weight, bias)`` and ``matmul(x, w)``: (..., M, K) by (N, K) or (..., N, K) to int64
- ``shiftmax(x, x0, n, bits)``: dict with ``out``, and ``exp`` and ``factor`` if it shows them
- ``shiftgelu(x, x0, n, bits)``: dict with ``out``, and ``sig`` and ``expmax`` if it shows them
- ``layernorm(x)``: dict with ``y``, and ``mean``, ``iters``, ``std``, ``factor`` if it shows them
- ``offline``: whether quantization, calibration, constants and log2 codes, which are always the
  models', are reported too
- ``judged_only``: skip the runs whose results are only shown
"""

from pathlib import Path

import numpy as np

from systola.sim.conform_block import check_block
from systola.sim.conform_codes import check_ablation, check_log2
from systola.sim.conform_matrix import check_linear, check_requant
from systola.sim.conform_vector import check_layernorm, check_shiftgelu, check_shiftmax
from systola.sim.golden import Golden, GoldenError, Report
from systola.sim.layernorm import layernorm_trace
from systola.sim.requant import requantize
from systola.sim.shiftgelu import shiftgelu_trace
from systola.sim.shiftmax import shiftmax_trace
from systola.sim.systolic import linear, matmul

__all__ = ["ModelEngine", "conform", "passed"]

_CHECKS = {
    "requant": check_requant,
    "linear": check_linear,
    "shiftmax": check_shiftmax,
    "shiftgelu": check_shiftgelu,
    "ilayernorm": check_layernorm,
    "log2_codes": check_log2,
    "ibert_lis": check_ablation,
}


class ModelEngine:
    """The bit-exact models as an engine."""

    offline, judged_only = True, False
    requantize = staticmethod(requantize)
    linear = staticmethod(linear)
    matmul = staticmethod(matmul)

    def shiftmax(self, x, x0, n, bits):
        """Return Shiftmax with its exponentials and factors."""
        trace = shiftmax_trace(x, x0, n, bits)
        return {"out": trace.out, "exp": trace.exp, "factor": trace.factor}

    def shiftgelu(self, x, x0, n, bits):
        """Return ShiftGELU with its sigmoid and the exponential of the row maximum."""
        trace = shiftgelu_trace(x, x0, n, bits)
        return {"out": trace.out, "sig": trace.sigmoid, "expmax": trace.expmax}

    def layernorm(self, x):
        """Return I-LayerNorm before the bias, with its intermediates."""
        trace = layernorm_trace(x)
        return {"y": trace.out, "mean": trace.mean, "iters": trace.iterates, "std": trace.root,
                "factor": trace.factor}


def conform(folder, engine=None, *, progress=None):
    """Compare every array of the golden files in `folder` with what `engine` computes.

    Parameters
    ----------
    folder : path
        Folder of ``.npz`` files named and laid out like ``tests/golden``; shapes, scales, case
        letters and the choice of files are free.
    engine : object, optional
        See the module's docstring; the models by default.
    progress : callable, optional
        Called as ``progress(done, files, name)`` before each file, with the files done.

    Returns
    -------
    list of systola.sim.golden.Row

    Raises
    ------
    GoldenError
        If the folder holds no golden file, or a file is damaged, incomplete or inconsistent.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GoldenError(f"golden folder {str(folder)!r} must be a folder of .npz files")
    paths = sorted(folder.glob("*.npz"))
    if not any(_check(path) for path in paths):
        raise GoldenError(f"golden folder {str(folder)!r} must hold at least one of "
                          f"{', '.join(_CHECKS)} or block_* as .npz")
    rows = []
    for done, path in enumerate(paths):
        if progress:
            progress(done, len(paths), path.name)
        rows += _file_rows(path, engine or ModelEngine())
    return rows


def passed(rows):
    """Whether no judged row failed."""
    return not any(row.failed for row in rows)


def _check(path):
    return check_block if path.stem.startswith("block") else _CHECKS.get(path.stem)


def _file_rows(path, engine):
    report, check = Report(Golden(path), engine), _check(path)
    if check is None:
        report.missing("unknown file", "*", "no operator has golden vectors of this name")
        return report.rows
    try:
        check(report)
    except GoldenError:
        raise
    except (ValueError, IndexError, np.exceptions.AxisError) as error:
        raise GoldenError(f"{path.name} must hold arrays that fit together: {error}") from None
    if not report.rows:
        raise GoldenError(f"{path.name} must hold at least one case, but no array is known")
    return report.rows
