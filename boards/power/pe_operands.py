"""Operand streams for processing elements, taken from networks that run on real or shaped data."""

from dataclasses import dataclass

import numpy as np

from systola.boards.power.pe_designs import CODEBOOK, LOG2_FEED, SCHEME, Pass
from systola.model.data.digits import load_images
from systola.model.data.images import encode
from systola.model.data.synthetic import random_named, random_stream
from systola.model.evaluation.accuracy import open_network
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.integer_forward import forward
from systola.model.operators.fixed_point import mantissa, shift_codes
from systola.model.operators.log2 import encode as log2_encode
from systola.model.operators.log2_exponentials import nearest_codes
from systola.model.quantization.codebooks import kmeans_values

__all__ = ["DATA", "OPERATIONS", "Stream", "operand_streams"]

DATA = "digits", "deit", "constant"
"""The digits model on test scans; a random DeiT-Tiny block; operands that never change."""

OPERATIONS = "linear", "qk", "av"

_TENSORS = "norm1", "qkv", "scores", "attention"

_IMAGES = 4
_BLOCK = 1
"""Of the digits model: neither the first nor the last."""

_CYCLES = 1500
"""Cycles of a stream, about: the mean toggles of a cell change by less than 2 % beyond."""


@dataclass(frozen=True)
class Stream:
    """The operands of one operation at one width.

    Parameters
    ----------
    passes : list of Pass
        Low-bit codes: weights and channels, keys and Q, values and attention.
    act_scale : int
        16-bit mantissa of the activations' scale.
    tile_scales : list of int array (C,)
        The same of every column of the tiles.
    coded : dict of str to list of Pass
        Passes of styles whose operands are codes, of the same rows and columns: for A.V,
        attention as the codes of ``shift`` and `LOG2_FEED`; for linear layers, weights as codes of
        a `CODEBOOK`.
    """

    passes: list
    act_scale: int
    tile_scales: list
    coded: dict


def operand_streams(data, widths, *, rows, cols, seed=0):
    """Return `Stream` by bits and operation, for an array of `rows` and `cols`.

    Linear: what the first layer norm of a block sends to qkv, over its weights, or over the 16
    values nearest to them. Q.K^T and A.V: the block's heads, attention being the network's, its
    codes in Half_16, or the codes of its exponentials. Tiles are drawn with `seed`, the same at all
    widths.

    The network runs at 8 bits. Narrower operands are those tensors, requantized with the step of
    least squared error (weights: for each channel), as networks trained for few bits have them.
    Steps from the largest value, which do well at 8 bits, would leave one operand in a hundred
    other than 0 at 2 bits, and an array that nearly rests.

    Parameters
    ----------
    data : str
        One of `DATA`.
    widths : iterable of int
        Bits of the operands, 2 to 8.
    rows, cols, seed : int

    Returns
    -------
    dict of tuple to Stream
        By ``(bits, operation)``.

    Raises
    ------
    ValueError
        If `data` is not one of `DATA`.
    """
    if data not in DATA:
        raise ValueError(f"data must be {', '.join(DATA[:-1])} or {DATA[-1]}, not {data!r}")
    model, tensors, block = _run(data, seed)
    norm, qkv, scores, attention = (tensors[f"blocks.{block}.{name}"] for name in _TENSORS)
    heads = model.by_name[f"blocks.{block}.scores"].heads
    split = qkv.reshape(*qkv.shape[:2], 3, heads, -1).transpose(2, 0, 3, 1, 4)
    q, k, v = split.reshape(3, -1, *split.shape[3:])  # (images * heads, T, head_dim)
    attention = attention.reshape(-1, *attention.shape[2:])
    below = scores.max(axis=-1, keepdims=True) - scores
    table = nearest_codes(-model.by_name[f"blocks.{block}.attention"].unit, SCHEME)
    codes = {"shift": shift_codes(*log2_encode(attention, "Half_16")),
             LOG2_FEED: table[below].reshape(attention.shape)}
    layer, scales = model.by_name[f"blocks.{block}.qkv"], model.scales
    norm_scale, qkv_scale = (scales[f"blocks.{block}.{name}"] for name in ("norm1", "qkv"))
    weight_scale = layer.mult / 2.0 ** layer.shift * qkv_scale / norm_scale

    streams = {}
    for bits in widths:
        top = 2 ** (bits - 1) - 1
        x, x_step = _narrow(norm, -top - 1, top, bits)
        w, w_step = _narrow(layer.weight.T.astype(np.int64), -top, top, bits, axis=0)
        (q_, q_step), (k_, k_step), (v_, v_step) = (_narrow(value, -top, top, bits)
                                                    for value in (q, k, v))
        a, a_step = _narrow(attention, 0, top + 1, 0)
        picker = _Picker(np.random.default_rng(seed), rows, cols)
        found = {
            "linear": picker.stream([x.reshape(-1, x.shape[-1])], [w], norm_scale * x_step,
                                    weight_scale * w_step, book=kmeans_values(w, 1)),
            "qk": picker.stream(q_, k_.swapaxes(1, 2), qkv_scale * q_step, qkv_scale * k_step),
            "av": picker.stream(a, v_, a_step, qkv_scale * v_step, codes)}
        for name, stream in found.items():
            streams[bits, name] = _constant(stream) if data == "constant" else stream
    return streams


def _narrow(values, low, high, bits, axis=None):
    """Return codes from `low` to `high`, and the step that has the least squared error.

    With `axis`, a step for each slice across it. At 8 bits the codes are those that come in.
    """
    if bits == 8:
        return values, 1.0
    largest = np.maximum(np.abs(values).max(axis=axis, keepdims=axis is not None), 1)
    best = None
    for part in np.geomspace(0.05, 1.1, 40):
        step = largest * part / max(-low, high)
        codes = np.clip(np.rint(values / step), low, high)
        error = ((codes * step - values) ** 2).sum(axis=axis, keepdims=axis is not None)
        if best is None:
            best = error, np.broadcast_to(step, np.shape(error)).astype(float)
        else:
            best = np.minimum(best[0], error), np.where(error < best[0], step, best[1])
    step = best[1]
    codes = np.clip(np.rint(values / step), low, high).astype(np.int64)
    return codes, float(step) if axis is None else np.squeeze(step, axis)


def _run(data, seed):
    """Return a model, its tensors by name, with leading image axes, and the block to look at."""
    if data != "digits":
        model = random_named("deit_tiny", blocks=1, seed=seed)
        stream = random_stream(np.random.default_rng([seed, 1]), model, 1)
        names = [f"blocks.0.{name}" for name in _TENSORS]
        return model, forward(encoder_blocks(model, 1), stream, keep=names), 0
    model = open_network("digits")
    images, _ = load_images("test")
    names = [f"blocks.{_BLOCK}.{name}" for name in _TENSORS]
    return model, forward(model, encode(model, images[:_IMAGES]), keep=names), _BLOCK


class _Picker:
    """Draws tiles of an array's size from matrices."""

    def __init__(self, rng, rows, cols):
        self.rng, self.rows, self.cols = rng, rows, cols

    def stream(self, acts, weights, act_scale, weight_scale, codes=None, book=None):
        """Return a `Stream`: acts (n, T, K), weights (n, K, N), scales of N columns or of all.

        `codes` of the acts are by style; with a `book`, weights come as codes of it, too.
        """
        weight_scale = np.broadcast_to(mantissa(weight_scale), np.shape(weights[0])[1])
        codes = codes or {}
        passes, scales, cycles = [], [], 0
        coded = {style: [] for style in (*codes, *([] if book is None else [CODEBOOK]))}
        while cycles < _CYCLES:
            i = self.rng.integers(len(acts))
            k, n = (self._part(size, count) for size, count in zip(
                np.shape(weights[i]), (self.rows, self.cols), strict=True))
            tile = _padded(np.asarray(weights[i])[k][:, n], self.rows, self.cols)
            passes.append(Pass(tile, _padded(acts[i][:, k], len(acts[i]), self.rows)))
            scales.append(_padded(weight_scale[None, n], 1, self.cols, fill=1 << 15)[0])
            for style, values in codes.items():
                coded[style].append(Pass(tile, _padded(values[i][:, k], len(acts[i]), self.rows)))
            if book is not None:
                nearest = np.abs(tile[..., None] - book).argmin(axis=-1)
                coded[CODEBOOK].append(Pass(nearest, passes[-1].vectors, book))
            cycles += max(len(acts[i]), self.rows + self.cols)
        return Stream(passes, int(mantissa(act_scale)), scales, coded)

    def _part(self, size, count):
        """Return a slice of at most `count` out of `size`, in steps of `count` as tiles lie."""
        start = int(self.rng.integers(max(size // count, 1))) * count
        return slice(start, start + count)


def _padded(values, rows, cols, fill=0):
    out = np.full((rows, cols), fill, np.int64)
    out[:values.shape[0], :values.shape[1]] = values
    return out


def _constant(stream):
    """Return a stream of the same length whose operands are all 1."""
    def ones(passes):
        return [Pass(np.ones_like(item.tile), np.ones_like(item.vectors), item.book)
                for item in passes]

    return Stream(ones(stream.passes), stream.act_scale,
                  [np.full_like(scale, 1 << 15) for scale in stream.tile_scales],
                  {style: ones(passes) for style, passes in stream.coded.items()})
