"""Bytes that follow instructions: words, stationary tiles, parameter records, tables."""

import numpy as np

from systola.hw.contract.numbers import RECORD_BYTES, TABLE_BYTES

__all__ = ["code_words", "param_beats", "param_records", "split_planes", "table_beats",
           "tile_beats", "to_beats", "words_of"]


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
    raw = np.zeros((len(bias), RECORD_BYTES), np.uint8)
    raw[:, :4] = bias.astype("<i4").view(np.uint8).reshape(-1, 4)
    raw[:, 4:8] = mult.astype("<i4").view(np.uint8).reshape(-1, 4)
    raw[:, 8] = shift
    return raw


def param_beats(records, count, config):
    """Return the beats of `count` parameter words; words without records are zero."""
    raw = np.zeros((count * config.lanes, RECORD_BYTES), np.uint8)
    raw[:len(records)] = records
    beats = np.zeros((count, config.param_beats * config.bus_bytes), np.uint8)
    beats[:, :RECORD_BYTES * config.lanes] = raw.reshape(count, -1)
    return beats.reshape(-1, config.bus_bytes)


def table_beats(table, config):
    """Return the beats of a table, R entries a beat."""
    return to_beats(code_words(np.asarray(table).reshape(1, TABLE_BYTES), config), config)
