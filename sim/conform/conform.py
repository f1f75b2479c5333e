"""Conformance with golden vectors: every stored array against the models, or another engine.

An engine is any object with these methods of the models; arrays are int64 and broadcast alike.

- ``requantize(z, mult, shift, bits, *, residual=None, res_mult=None, res_shift=None)``
- ``linear(x, weight, bias)``, and ``matmul(x, w)`` of (..., M, K) by (..., N, K), of 8-bit codes
- ``digit_matmul(a, v)``: (M, K) non-negative codes of up to 16 bits by (K, N) 8-bit codes
- ``shiftmax(x, x0, n, bits)``, ``shiftgelu(x, x0, n, bits)``, ``layernorm(x)``
- optional ``shiftmax_trace`` and so on, with the fields of the models' traces, to show more
- optional ``search(x, thresholds)``: how many of up to 31 sorted thresholds each integer from 0 to
  2**15 exceeds: codes of attention
- optional ``offline = True``: also report quantization, calibration, constants, attention codes
  of reals and the operators that are here for ablations, which are always the models'
- optional ``judged_only = True``: skip the runs whose results are only shown
"""

from pathlib import Path

import numpy as np

from systola.hw.contract.config import digit_count
from systola.model.operators.layernorm import layernorm, layernorm_trace
from systola.model.operators.matmul import digit_matmul, linear, matmul
from systola.model.operators.requant import requantize
from systola.model.operators.shiftgelu import shiftgelu, shiftgelu_trace
from systola.model.operators.shiftmax import shiftmax, shiftmax_trace
from systola.sim.conform.alternatives import check_alternatives
from systola.sim.conform.block import check_block
from systola.sim.conform.codes import check_log2
from systola.sim.conform.golden import Golden, GoldenError, Report
from systola.sim.conform.matrix import check_linear, check_requant
from systola.sim.conform.vector import check_layernorm, check_shiftgelu, check_shiftmax

__all__ = ["ModelEngine", "conform", "passed"]

_CHECKS = {
    "requant": check_requant,
    "linear": check_linear,
    "shiftmax": check_shiftmax,
    "shiftgelu": check_shiftgelu,
    "ilayernorm": check_layernorm,
    "log2_codes": check_log2,
    "ibert_lis": check_alternatives,
}


class ModelEngine:
    """The bit-exact models as an engine."""

    offline = True
    requantize = staticmethod(requantize)
    linear = staticmethod(linear)
    matmul = staticmethod(matmul)
    shiftmax = staticmethod(shiftmax)
    shiftmax_trace = staticmethod(shiftmax_trace)
    shiftgelu = staticmethod(shiftgelu)
    shiftgelu_trace = staticmethod(shiftgelu_trace)
    layernorm = staticmethod(layernorm)
    layernorm_trace = staticmethod(layernorm_trace)

    @staticmethod
    def digit_matmul(a, v):
        """Return ``a @ v`` from the two balanced 8-bit digits of `a`."""
        return digit_matmul(a, v, digit_bits=8, digits=digit_count(16, 8))


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
    list of systola.sim.conform.golden.Row

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
