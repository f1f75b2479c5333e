"""Bytes that follow instructions: words, stationary tiles, parameter records, tables."""

import numpy as np

from systola.hw.contract.numbers import CODEBOOK_ENTRIES, RECORD_BYTES, TABLE_BYTES

__all__ = ["code_beats", "code_words", "codebook", "param_beats", "param_records", "split_planes",
           "table_beats", "tile_words", "to_beats", "words_of"]


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


def tile_words(weight, config, *, narrow=False):
    """Return the words (n, R) of stationary tiles for `weight` (N, K), zero beyond N and K.

    Column tiles outside, reduction tiles inside, one column a word, or two `narrow` ones.
    """
    channels, depth = weight.shape
    columns = config.tile_columns(narrow=narrow)
    tiles, words = -(-channels // columns), words_of(depth, config)
    padded = np.zeros((tiles * columns, words * config.rows), np.int64)
    padded[:channels, :depth] = weight
    if narrow:
        padded = padded[::2] + (padded[1::2] << config.nibble_bits)
    padded = padded.reshape(tiles, config.cols, words, config.rows).transpose(0, 2, 1, 3)
    return padded.reshape(-1, config.rows)


def code_beats(words, book, config):
    """Return the beats of LOAD_CODES for weight `words` (n, R), n even, of values in `book`."""
    entries = np.zeros(config.codebook_beats * config.rows, np.int64)
    entries[:len(book)] = book
    codes = np.searchsorted(book, words).reshape(-1, 2, config.rows)
    return np.concatenate([to_beats(entries.reshape(-1, config.rows), config),
                           to_beats(codes[:, 0] | codes[:, 1] << 4, config)])


def codebook(weight):
    """Return the values of `weight` and zero, in order, if they fit a codebook; else None."""
    values = np.unique(np.append(weight, 0))
    return values if len(values) <= CODEBOOK_ENTRIES else None


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
