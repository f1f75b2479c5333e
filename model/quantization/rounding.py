"""Weights rounded for the least error of a layer's output (GPTQ), and the bias that goes with them.

A layer is fitted on calibration rows as the quantized network before it delivers them, to the
outputs of the float network; so it makes up for errors before it as well. The fit is a ridge
regression towards the weights it had. Its result is rounded one input channel after another, and
what rounding a channel does to the outputs is made up for by the channels that are still to come:
Frantar et al. 2022, "GPTQ".
"""

from functools import cached_property

import numpy as np

from systola.model.quantization.grid import UniformGrid
from systola.model.quantization.scales import least_scales

__all__ = ["Moments", "fit", "reconstructed", "round_columns", "row_scales"]

_DAMPING = 0.01  # of the mean diagonal of X'X: what keeps the inverse, and the weights, tame
_RIDGE = 0.1
_BLOCK = 64


class Moments:
    """Sums over calibration rows that a fit needs: rows of inputs (n, K), of targets (n, N).

    Attributes
    ----------
    x_mean, y_mean : float64 array (K,), (N,)
        Means of inputs and targets, which a bias makes up for.
    square, product : float64 array (K, K), (N, K)
        X'X and Y'X of inputs and targets less their means.
    """

    def __init__(self, inputs, targets):
        self.x_mean, self.y_mean = (rows.mean(axis=0, dtype=np.float64)
                                    for rows in (inputs, targets))
        x, y = ((rows - mean).astype(np.float32)
                for rows, mean in ((inputs, self.x_mean), (targets, self.y_mean)))
        self.square, self.product = (x.T @ x).astype(np.float64), (y.T @ x).astype(np.float64)

    @classmethod
    def of_weights(cls, weight):
        """Return those with which the error of the outputs is the one of the weights (N, K)."""
        weight = weight.astype(np.float64)
        moments = cls(np.zeros((1, weight.shape[1])), np.zeros((1, len(weight))))
        moments.square, moments.product = np.eye(weight.shape[1]), weight
        return moments

    def error(self, weight):
        """Return the squared error of outputs of `weight` (N, K), less what no weights change."""
        return float(np.sum((weight @ self.square - 2 * self.product) * weight))

    @property
    def damping(self):
        """What is added to the diagonal of ``square`` before it is inverted."""
        return _DAMPING * max(np.trace(self.square) / len(self.square), 1e-30)

    @cached_property
    def order(self):
        """Input channels from the one of most energy to that of least, int array (K,)."""
        return np.argsort(-np.diag(self.square))

    @cached_property
    def spread(self):
        """How the error of a channel spreads, a row each: the upper Cholesky factor of the inverse.

        Channels are in `order`; float64 array (K, K).
        """
        regular = self.square[np.ix_(self.order, self.order)]
        regular += self.damping * np.eye(len(regular))  # a copy
        return np.linalg.cholesky(np.linalg.inv(regular)).T


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


def reconstructed(inputs, targets, weight, source, bits, search=None):
    """Return what of a layer is nearest to `targets`, rounded: codes, scales, bias and grid.

    Parameters
    ----------
    inputs, targets, weight
        As of `fit`.
    source : float
        Scale of the codes that the layer reads.
    bits : int
        Of the codes.
    search : callable, optional
        Called as ``search(weight, least, moments)``, like `row_scales`: returns the grid that
        codes are from, instead of the uniform one of `bits`.

    Returns
    -------
    int64 array (N, K), float64 array (N,), float64 array (N,), UniformGrid or CodebookGrid
        The bias is a real number.
    """
    weight, moments = fit(inputs, targets, weight.astype(np.float64))
    bias = moments.y_mean - weight @ moments.x_mean
    least = least_scales(bias, source)
    grid = UniformGrid(bits) if search is None else search(weight, least, moments)
    scale = row_scales(weight, least, grid, moments)
    codes, scale = round_columns(weight, scale, grid, moments), scale.astype(np.float64)
    return codes, scale, moments.y_mean - (codes * scale[:, None]) @ moments.x_mean, grid


def row_scales(weight, least, grid, moments):
    """Return scales of the output channels, float32 (N,), at least `least`.

    Each row's largest weight may be cut as far as the error, weighted by the energy of the input
    channels, falls.
    """
    energy = np.diag(moments.square)
    peak = np.maximum(np.abs(weight).max(axis=1), 1e-30)
    best, scales = np.full(len(weight), np.inf), np.zeros(len(weight))
    for shrink in grid.shrinks:
        scale = np.maximum(peak * shrink / grid.top, least)
        codes = grid.nearest(weight / scale[:, None])
        error = np.square(codes * scale[:, None] - weight) @ energy
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, scale, scales)
    return scales.astype(np.float32)


def round_columns(weight, scales, grid, moments):
    """Return codes (N, K) of `weight`, from the input channel of most energy to that of least.

    Every code is one of `grid`, a `systola.model.quantization.grid.UniformGrid` or `CodebookGrid`.
    """
    order, spread = moments.order, moments.spread
    rest, codes = weight[:, order].copy(), np.zeros(weight.shape, np.int64)
    count, step = len(order), scales.astype(np.float64)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = np.zeros((len(weight), end - start))
        for i in range(start, end):
            code = grid.nearest(rest[:, i] / step)
            codes[:, order[i]] = code
            error = (rest[:, i] - code * step) / spread[i, i]
            rest[:, i + 1:end] -= np.outer(error, spread[i, i + 1:end])
            errors[:, i - start] = error
        rest[:, end:] -= errors @ spread[start:end, end:]
    return codes
