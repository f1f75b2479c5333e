"""Weights rounded for the least error of a layer's output (GPTQ), and the bias that goes with them.

A layer is fitted on calibration rows as the quantized network before it delivers them, to the
outputs of the float network; so it makes up for errors before it as well. The fit is a ridge
regression towards the weights it had. Its result is rounded one input channel after another, and
what rounding a channel does to the outputs is made up for by the channels that are still to come:
Frantar et al. 2022, "GPTQ".
"""

import numpy as np

from systola.model.quantization.scales import least_scales

__all__ = ["fit", "reconstructed", "round_columns", "row_scales"]

_DAMPING = 0.01  # of the mean diagonal of X'X: what keeps the inverse, and the weights, tame
_RIDGE = 0.1
_SHRINKS = np.linspace(1, 0.4, 25)
_BLOCK = 64


class Moments:
    """Sums over calibration rows that a fit needs: rows of inputs (n, K), of targets (n, N)."""

    def __init__(self, inputs, targets):
        self.x_mean, self.y_mean = (rows.mean(axis=0, dtype=np.float64)
                                    for rows in (inputs, targets))
        x, y = ((rows - mean).astype(np.float32)
                for rows, mean in ((inputs, self.x_mean), (targets, self.y_mean)))
        self.square, self.product = (x.T @ x).astype(np.float64), (y.T @ x).astype(np.float64)


def fit(inputs, targets, weight):
    """Return weights near `weight` (N, K) whose outputs are nearest to `targets`, and `Moments`.

    Parameters
    ----------
    inputs : array (n, K)
        Real values of what the layer reads in the quantized network.
    targets : array (n, N)
        What it should make of them, without or with a bias: means are taken off.
    weight : array (N, K)
    """
    moments = Moments(inputs, targets)
    ridge = _RIDGE * max(np.trace(moments.square) / len(moments.square), 1e-30)
    regular = moments.square + ridge * np.eye(len(moments.square))
    fitted = np.linalg.solve(regular, (moments.product + ridge * weight).T).T
    return fitted, moments


def reconstructed(inputs, targets, weight, source, bits):
    """Return what of a layer is nearest to `targets`, rounded: codes, their scales and the bias.

    Parameters
    ----------
    inputs, targets, weight
        As of `fit`.
    source : float
        Scale of the codes that the layer reads.
    bits : int
        Of the codes.

    Returns
    -------
    int64 array (N, K), float64 array (N,), float64 array (N,)
        The bias is a real number.
    """
    weight, moments = fit(inputs, targets, weight.astype(np.float64))
    bias = moments.y_mean - weight @ moments.x_mean
    scale = row_scales(weight, least_scales(bias, source), bits, moments)
    codes, scale = round_columns(weight, scale, bits, moments), scale.astype(np.float64)
    return codes, scale, moments.y_mean - (codes * scale[:, None]) @ moments.x_mean


def row_scales(weight, least, bits, moments):
    """Return scales of the output channels, float32 (N,), at least `least`.

    Each row's largest weight may be cut as far as the error, weighted by the energy of the input
    channels, falls.
    """
    top = (1 << bits - 1) - 1
    energy = np.diag(moments.square)
    peak = np.maximum(np.abs(weight).max(axis=1), 1e-30)
    best, scales = np.full(len(weight), np.inf), np.zeros(len(weight))
    for shrink in _SHRINKS if bits < 8 else _SHRINKS[:1]:
        scale = np.maximum(peak * shrink / top, least)
        codes = np.clip(np.rint(weight / scale[:, None]), -top, top)
        error = np.square(codes * scale[:, None] - weight) @ energy
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
    return scales.astype(np.float32)


def round_columns(weight, scales, bits, moments):
    """Return codes (N, K) of `weight`, from the input channel of most energy to that of least.

    Every code lies within ``-(2**(bits-1) - 1) .. 2**(bits-1) - 1``.
    """
    top = (1 << bits - 1) - 1
    square = moments.square
    order = np.argsort(-np.diag(square))
    damping = _DAMPING * max(np.trace(square) / len(square), 1e-30)
    regular = square[np.ix_(order, order)] + damping * np.eye(len(square))
    # The upper Cholesky factor of the inverse: row i says how the error of channel i spreads.
    spread = np.linalg.cholesky(np.linalg.inv(regular)).T
    rest, codes = weight[:, order].copy(), np.zeros(weight.shape, np.int64)
    count, step = len(order), scales.astype(np.float64)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = np.zeros((len(weight), end - start))
        for i in range(start, end):
            code = np.clip(np.rint(rest[:, i] / step), -top, top)
            codes[:, order[i]] = code
            error = (rest[:, i] - code * step) / spread[i, i]
            rest[:, i + 1:end] -= np.outer(error, spread[i, i + 1:end])
            errors[:, i - start] = error
        rest[:, end:] -= errors @ spread[start:end, end:]
    return codes
