"""Bytes that follow instructions: words, stationary tiles, parameter records, tables."""

from math import exp

import numpy as np

from systola.hw.contract.config import GELU_SHIFT

__all__ = ["code_words", "exp_table", "gelu_table", "param_beats", "param_records", "split_planes",
           "table_beats", "tile_beats", "to_beats", "words_of"]

_MAX31 = (1 << 31) - 1


def words_of(channels, config):
    """Return the words that `channels` lanes fill."""
    return -(-channels // config.rows)


def to_beats(words, config):
    """Return stream beats (n, bus bytes) of scratchpad words (n, R), zero above lane R."""
    beats = np.zeros((len(words), config.bus_bytes), np.uint8)
    beats[:, :config.rows] = np.asarray(words).astype(np.uint8)
    return beats


def code_words(codes, config):
    """Return the words (rows * words, R) of int8 `codes` (rows, channels), padded with zeros."""
    rows, channels = codes.shape
    lanes = np.zeros((rows, words_of(channels, config) * config.rows), np.int64)
    lanes[:, :channels] = codes
    return lanes.reshape(-1, config.rows)


def split_planes(values, config):
    """Return the words of 16-bit `values` (rows, channels): per row low bytes, then high bytes."""
    values = np.asarray(values, np.int64)
    planes = [code_words(part, config).reshape(len(values), -1, config.rows)
              for part in (values & 255, values >> 8)]
    return np.concatenate(planes, axis=1).reshape(-1, config.rows)


def tile_beats(weight, config):
    """Return the beats of stationary tiles for `weight` (N, K), zero beyond N and K.

    Column tiles outside, reduction tiles inside, one column (R lanes) a beat.
    """
    channels, depth = weight.shape
    tiles, words = -(-channels // config.cols), words_of(depth, config)
    padded = np.zeros((tiles * config.cols, words * config.rows), np.int64)
    padded[:channels, :depth] = weight
    padded = padded.reshape(tiles, config.cols, words, config.rows).transpose(0, 2, 1, 3)
    return to_beats(padded.reshape(-1, config.rows), config)


def param_records(bias, mult, shift):
    """Return records (n, 9) uint8: bias int32, multiplier int32, shift uint8, little-endian."""
    bias, mult, shift = np.broadcast_arrays(*(np.atleast_1d(np.asarray(value, np.int64))
                                              for value in (bias, mult, shift)))
    raw = np.zeros((len(bias), 9), np.uint8)
    raw[:, :4] = bias.astype("<i4").view(np.uint8).reshape(-1, 4)
    raw[:, 4:8] = mult.astype("<i4").view(np.uint8).reshape(-1, 4)
    raw[:, 8] = shift
    return raw


def param_beats(records, count, config):
    """Return the beats of `count` parameter words; words without records are zero."""
    raw = np.zeros((count * config.lanes, 9), np.uint8)
    raw[:len(records)] = records
    beats = np.zeros((count, config.param_beats * config.bus_bytes), np.uint8)
    beats[:, :9 * config.lanes] = raw.reshape(count, -1)
    return beats.reshape(-1, config.bus_bytes)


def gelu_table(x0, mult, shift, bits):
    """Return the requantized GELU of codes -128 to 127, int64 (256,).

    ShiftGELU with ``max(x, 0)`` as the row maximum, evaluated offline in Python integers.
    """
    return np.array([_gelu(x, -int(x0), int(mult), int(shift), bits) for x in range(-128, 128)])


def exp_table(x0):
    """Return ``rne(128 * exp(d / x0))`` for 0 <= d < 256, the exponentials of deferred attention.

    float64 rounds every entry correctly: none is near a tie.
    """
    return np.array([round(128 * exp(d / int(x0))) for d in range(256)])


def table_beats(table, config):
    """Return the beats of a 256-entry table, R entries a beat."""
    return to_beats(code_words(np.asarray(table).reshape(1, 256), config), config)


def _gelu(x, unit, mult, shift, bits):
    peak = max(x, 0)
    exp = _shift_exp(x - peak, unit)
    factor = _MAX31 // min(exp + _shift_exp(-peak, unit), _MAX31)
    product = x * min(exp * factor >> 24, 127) * mult
    half = 1 << shift >> 1
    rounded = product + half >> shift
    if shift and product + half == rounded << shift:  # a tie goes to the even neighbour
        rounded -= rounded & 1
    return max(min(rounded, (1 << bits - 1) - 1), -(1 << bits - 1))


def _shift_exp(x, unit):
    p = max(x + (x >> 1) - (x >> 4), -GELU_SHIFT * unit)
    octaves = -p // unit
    return (p + unit * octaves + 2 * unit << GELU_SHIFT - octaves) >> 1
