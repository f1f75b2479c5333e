"""Area of an accelerator in microseconds, by a model that is fitted on syntheses.

Every group of units has a few terms that its size grows with, as products of the fields of the
configuration; their weights are fitted, not negative, for the least relative error on the syntheses
of ``area_samples.json``. What it is worth is measured on syntheses that the fit did not see.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from systola.hw.contract.config import AcceleratorConfig, mult_limb
from systola.hw.contract.dsp_packing import plan_packing

__all__ = ["FIGURES", "AreaModel", "area_model", "samples", "terms"]

FIGURES = "lut", "ff", "carry", "dsp", "bram36"

_FILE = Path(__file__).with_name("area_samples.json")
_FOLDS = 8
_TAIL = 90
"""Percentile of the errors of held-out syntheses that an interval goes to."""

GROUPS = {
    "array": ("matrix.array",),
    "sums": ("matrix.sums", "matrix.drain", "matrix.control", "matrix.loader"),
    "matrix.requantizer": ("matrix.requantizer",),
    "feeder": ("matrix.feeder",),
    "norm": ("vector.norm",),
    "vector.requantizer": ("vector.requantizer", "vector.scaler"),
    "vector": ("vector.softmax", "vector.gelu", "vector.reader", "vector.writer",
               "vector.control"),
    "load": ("load",),
    "scratchpad": ("scratchpad",),
    "rest": ("parameters", "factors", "dispatcher", "queues", "core", "registers"),
}
"""Units that are modelled together: small ones are in another of the same group at times."""


def terms(config):
    """Return the terms of every group, ``{group: {figure or "logic": list of float}}``."""
    c = config
    cells, word = c.rows * c.cols, 8 * c.rows
    packed, fabric = c.pe_style == "dsp_packed", c.pe_style == "lut"
    slices = dsp_slices(c)
    acc, limb = c.acc_bits, mult_limb(c.mult_bits, c.code_mult_bits)
    product = c.weight_bits * c.act_bits
    narrow, codes = bool(c.narrow_bits), c.weight_codes
    published, deferred = c.attention == "published", c.deferred
    levels, compared = bool(c.levels), c.compared_norm
    fine = c.norm == "normalised"
    table = c.gelu == "table"
    row_bits = c.max_row.bit_length()
    wide_norm, mean, copies = c.norm_bits > 8, c.pooling == "mean", c.copies
    v, n, lanes = c.vector_lanes, c.norm_lanes, c.lanes
    small = c.act_bits * c.weight_bits / 64
    return {
        "array": [1, c.rows, cells * (not fabric), cells * fabric * product,
                  cells * fabric * (c.weight_bits + c.act_bits), cells * fabric * acc,
                  cells * packed, cells * packed * acc, slices * acc, cells * narrow,
                  c.cols * acc * packed,
                  c.rows * c.act_bits * c.rows / 16],
        "sums": [1, c.cols * acc, c.cols * acc * c.acc_buffers, lanes * acc,
                 c.cols * acc * (c.token_depth > 64), c.cols * narrow * acc, word,
                 c.cols * acc * c.token_depth / 64, lanes * acc * c.cols / max(lanes, 1) / 8,
                 word * c.acc_buffers],
        "matrix.requantizer": [1, lanes, lanes * acc, lanes * limb, lanes * limb * acc / 32,
                               lanes * (not deferred and not published) * acc,
                               lanes * c.mult_bits, lanes * deferred],
        "feeder": [1, word, word * c.attention_digits, word * levels, word * narrow,
                   c.cols, c.act_bits * c.rows, word * (not deferred)],
        "norm": [compared, compared * n, compared * v * c.act_bits, not compared,
                 (not compared) * n * (1 + fine), (not compared) * c.norm_roots * (1 - fine),
                 (not compared) * n * row_bits, fine * row_bits, fine * n,
                 wide_norm * n, (not compared) * n * c.norm_roots * (1 - fine)],
        "vector.requantizer": [1, n, v, n * limb, v * limb, v * c.mult_bits, published * v * limb,
                               (not compared) * n * limb, (not table) * v * limb, wide_norm * n],
        "vector": [1, v, word, published, published * v, deferred, deferred * v, levels * v,
                   levels, (not published) * v, row_bits * v, (not table), (not table) * v,
                   table * v, mean, mean * word, copies, c.x0_bits * v * published,
                   word * v / 8, published * row_bits],
        "load": [1, word, word * word / 64, codes * c.rows, codes, copies, lanes, c.cols,
                 c.rows * c.weight_bits, copies * word],
        "scratchpad": [1, word, word * c.banks, c.banks, c.banks * word * c.bank_depth / 2048,
                       copies * word],
        "rest": [1, word, c.bus_bytes, lanes, lanes * 64, c.queue_depth,
                 word * c.weight_fifo / 64, word * c.stream_fifo / 64, c.param_ports * lanes,
                 lanes * c.param_depth / 64, word * (c.weight_fifo > 32), c.bus_bytes
                 * (c.stream_fifo > 32), mean, copies, narrow, not published,
                 deferred, published * small],
    }


def dsp_slices(config):
    """Return the DSP slices of the array, as far as they are asked for."""
    cells = config.rows * config.cols
    if config.pe_style == "lut":
        return 0
    if config.pe_style == "dsp_packed":
        plan = plan_packing(config.weight_bits, config.act_bits, config.rows, cols=config.cols)
        return cells // plan.macs_per_dsp
    return cells


def memory_blocks(config):
    """Return the terms of the block RAMs of every group, ``{group: list of float}``.

    Those of the scratchpad, which has two ports of any use, are known.
    """
    c = config
    attention = c.attention != "published"
    return {
        "sums": [c.cols * c.acc_buffers * c.token_depth * c.acc_bits / 36864,
                 (c.cols * c.acc_bits / 72) * (c.token_depth > 64), c.narrow_bits > 0],
        "norm": [_blocks(16 * c.vector_lanes, c.max_row, 72) * (c.max_row > 64),
                 _blocks(32 * c.norm_lanes, c.max_row, 72) * (c.max_row > 64), c.norm_lanes],
        "vector": [attention * c.vector_lanes, (not attention) * c.vector_lanes,
                   c.vector_lanes * (c.gelu == "table"),
                   c.vector_lanes * c.max_row / 1024, 1],
        "load": [c.weight_codes * c.rows, 1],
        "rest": [_blocks(8 * c.rows, c.weight_fifo, 72) * (c.weight_fifo > 32),
                 _blocks(9 * c.bus_bytes, c.stream_fifo, 72) * (c.stream_fifo > 32),
                 c.param_ports * _blocks(64 * c.lanes, c.param_depth, 72),
                 attention * (c.token_depth > 64), 1]}


def _blocks(width, depth, widest):
    """Return the block RAMs, in halves, of a memory that may be `widest` bits wide."""
    rows = max(512 if widest > 36 else 1024, depth)
    lines = widest * (512 if widest > 36 else 1024) // rows or 1
    halves = -(-2 * width // lines)
    return halves / 2


def samples():
    """Return the syntheses that there are: ``[(config, {group: sizes}, total, origin)]``.

    Accelerators of one space have one origin.
    """
    found = []
    for entry in json.loads(_FILE.read_text())["samples"]:
        config = AcceleratorConfig(**entry["config"])
        groups = {name: {figure: sum(entry["units"].get(unit, {}).get(figure, 0) for unit in units)
                         for figure in FIGURES} for name, units in GROUPS.items()}
        total = {figure: sum(size[figure] for size in groups.values()) for figure in FIGURES}
        found.append((config, groups, total, entry["name"]))
    return found


class AreaModel:
    """A fit, and its errors on syntheses that other fits of the same kind did not see.

    Parameters
    ----------
    known : list
        As `samples` returns them.
    check : bool
        Whether to find the errors, by leaving an eighth of the syntheses out, eight times.

    Attributes
    ----------
    errors : dict of str to ndarray
        By figure, predicted over synthesized less 1, of every synthesis when it was left out.
    """

    def __init__(self, known, *, check=True):
        self.weights = {}
        table = [terms(config) for config, *_ in known]
        for group in GROUPS:
            rows = np.array([row[group] for row in table], float)
            for figure in "lut", "ff", "carry":
                sizes = np.array([groups[group][figure] for _, groups, *_ in known], float)
                whole = np.array([total[figure] for _, _, total, _ in known], float)
                self.weights[group, figure] = _fit(rows, sizes, whole)
        blocks = [memory_blocks(config) for config, *_ in known]
        whole = np.array([total["bram36"] + 1 for _, _, total, _ in known])
        for group in blocks[0]:
            rows = np.array([row[group] for row in blocks], float)
            found = np.array([groups[group]["bram36"] for _, groups, *_ in known], float)
            self.weights[group, "bram36"] = _fit(rows, found, whole)
        self.errors, self.count = {}, len(known)
        if check:
            self._check(known)

    def _check(self, known):
        ratios = {figure: np.zeros(len(known)) for figure in FIGURES}
        # What is alike goes together: a fit must not have seen a point's neighbours.
        origins = list(dict.fromkeys(origin for *_, origin in known))
        folds = [origins.index(origin) % _FOLDS for *_, origin in known]
        for fold in range(_FOLDS):
            other = AreaModel([entry for entry, place in zip(known, folds, strict=True)
                               if place != fold], check=False)
            for index, (config, _, total, _) in enumerate(known):
                if folds[index] != fold:
                    continue
                for figure, value in other.sizes(config).items():
                    ratios[figure][index] = (value + 1) / (total[figure] + 1) - 1
        self.errors = ratios
        self._tails = {figure: float(np.percentile(np.abs(found), _TAIL))
                       for figure, found in ratios.items()}

    def sizes(self, config):
        """Return the figures of the accelerator of `config`, ``{figure: float}``."""
        rows = terms(config)
        result = {figure: sum(float(np.dot(self.weights[group, figure], rows[group]))
                              for group in GROUPS) for figure in ("lut", "ff", "carry")}
        result["dsp"] = dsp_slices(config)
        blocks = sum(float(np.dot(self.weights[group, "bram36"], row))
                     for group, row in memory_blocks(config).items())
        scratchpad = config.banks * _blocks(8 * config.rows, config.bank_depth, 36)
        result["bram36"] = scratchpad + round(2 * blocks) / 2
        return result

    def median(self, figure):
        """Return the median error of a figure, relative, of held-out syntheses."""
        return float(np.median(np.abs(self.errors[figure])))

    def tail(self, figure):
        """Return the relative error that nine in ten held-out syntheses stayed within."""
        return self._tails[figure]

    def about(self):
        """Return what it was fitted on, and its errors, as plain data."""
        return {"syntheses": self.count,
                "held_out": f"an {_FOLDS}th at a time, of one space together",
                "median_error": {figure: round(self.median(figure), 4) for figure in FIGURES},
                "interval": {figure: round(self.tail(figure), 4) for figure in FIGURES}}


def _fit(rows, sizes, whole):
    """Return weights of terms, not negative, with the least error relative to `whole`."""
    scale = rows.max(axis=0)
    scale[scale == 0] = 1
    weights = np.median(whole) / np.maximum(whole, 1)
    # A little towards 0, so that terms that always come together share what they explain.
    matrix = np.vstack([rows / scale * weights[:, None], _TOWARDS_0 * np.eye(rows.shape[1])])
    found, _ = nnls(matrix, np.concatenate([sizes * weights, np.zeros(rows.shape[1])]))
    return found / scale


_TOWARDS_0 = 0.05


@cache
def area_model():
    """Return the model of all syntheses that there are."""
    return AreaModel(samples())
