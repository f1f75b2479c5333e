"""Every bit of the tables of VECTOR, as 0 and as 1, in the memory of every pair of lanes."""

import numpy as np

from systola.hw.contract.isa import Opcode
from systola.hw.contract.numbers import CODE_BITS, LEVEL_BITS, NORMALISED_PEAK, TABLE_BYTES
from systola.model.operators.log2_exponentials import unpacked
from systola.sw_driver.selftest.compared_probe import (
    ComparedProbe,
    mask_fields,
    regions_of,
    vector_fields,
)
from systola.sw_driver.selftest.probe import Finding
from systola.sw_driver.selftest.stuck_bits import KINDS, stuck_bits

__all__ = ["ExponentialTableProbe", "GeluTableProbe"]


def _lanes(config, first):
    """Return the text of the lanes that share the table of lane `first`."""
    pair = range(first, min(first + 2, config.vector_lanes))
    return f"lane{'s' * (len(pair) > 1)} {' and '.join(map(str, pair))}"


class GeluTableProbe(ComparedProbe):
    """Random entries and their inverse, looked up by every code in every lane."""

    part, needs = "GELU table", ("scratchpad",)

    @classmethod
    def fits(cls, config):
        """Return whether GELU has a table."""
        return config.gelu == "table"

    def build(self):
        config, rng = self.config, np.random.default_rng(13)
        # As many codes of each lane in every word: all codes in so many words.
        share = config.rows // config.vector_lanes
        rows = -(-TABLE_BYTES // share)
        self.entries = (np.arange(rows)[:, None] * share
                        + np.arange(config.rows) // config.vector_lanes) % TABLE_BYTES
        table = rng.integers(TABLE_BYTES, size=TABLE_BYTES)
        self.list.load(0, self.entries - TABLE_BYTES // 2)
        for entries, label in (table, "random entries"), (~table, "their inverse"):
            self.list.load_table(0, entries)
            results = self.results(rows, rows, config.rows, planes=1)
            self.list.add(Opcode.SHIFTGELU, unit=1, out_bits=CODE_BITS,
                          **vector_fields(config, results, 0))
            self.keep(results, label)

    def diagnose(self, found):
        """Name lanes, bit, and of a single entry that as well."""
        config, findings = self.config, []
        right, got, entries = (
            np.concatenate(arrays).reshape(-1, config.vector_lanes) & 255
            for arrays in (self.numbers(self.expected), self.numbers(found), [self.entries] * 2))
        for first in range(0, config.vector_lanes, 2):
            pair = slice(first, first + 2)
            for stuck in stuck_bits(*(array[:, pair].reshape(-1, 1) for array in (right, got)),
                                    entries[:, pair].reshape(-1)):
                findings.append(_finding(self.part, config, first, stuck.bit, stuck.kind,
                                         stuck.entries, stuck.whole))
        return findings


def _finding(part, config, first, bit, kind, entries, whole):
    """Return the finding of a bit in the memory of lane `first`, in some entries or all."""
    where = {"unit": part, "lane": first, "bit": bit, "kind": kind}
    if len(entries) == 1:
        return Finding(f"{_lanes(config, first)}, entry {entries[0]}: bit {bit} {kind}",
                       {**where, "entries": list(entries)}, True)
    return Finding(f"{_lanes(config, first)}: bit {bit} {kind} in "
                   f"{'every entry' if whole else f'{len(entries)} entries'}", where, whole)


class ExponentialTableProbe(ComparedProbe):
    """Random entries and their inverse, each beside a row's largest element in every lane.

    Rows are one word: the largest element, which finds entry 0, one that finds the entry looked
    for, and others that find one that is 0, so that nothing is shifted.
    """

    part, needs = "table of exponentials", ("scratchpad",)

    @classmethod
    def fits(cls, config):
        """Return whether there is a table of exponentials."""
        return bool(config.exponential_tables)

    def build(self):
        config, rng = self.config, np.random.default_rng(14)
        wide = config.exponential_tables > 1
        self.bits = 15 if wide else LEVEL_BITS if config.levels else CODE_BITS
        table = rng.integers(1 << self.bits, size=TABLE_BYTES)
        every = np.arange(TABLE_BYTES)
        # In the last pass the entry that is 0 in the others is looked at as well.
        passes = [(table, 255, every), (~table & (1 << self.bits) - 1, 255, every), (
            np.full(TABLE_BYTES, NORMALISED_PEAK if wide else (1 << self.bits) - 1), 254,
            every if wide else every[-1:])]
        self.looked = []  # by region: lane, entries, the one of the others, table
        for entries, rest, looked in passes:
            entries = entries.copy()
            entries[rest] = 0
            self.list.load_table(1, entries & 255)
            if wide:
                self.list.load_table(2, entries >> CODE_BITS)
            for lane in range(config.vector_lanes):
                self._lane(lane, looked[looked != rest], rest, entries)

    def _lane(self, lane, looked, rest, table):
        """Look entries up in a lane, as many rows at a time as there are row factors."""
        config = self.config
        most = min(config.factor_depth, config.scratchpad_words // (1 + config.attention_digits))
        for start in range(0, len(looked), most):
            below = looked[start:start + most]
            results = self.results(len(below), len(below), config.rows,
                                   planes=config.attention_digits)
            self.list.load(0, 127 - self._below(lane, below, rest))
            self.list.add(Opcode.SHIFTMAX, unit=1, numerator=1 << 20,
                          **vector_fields(config, results, 0), **mask_fields(results, config.rows))
            self.keep(results, f"lane {lane}, entries {below[0]} to {below[-1]}")
            self.looked.append((lane, below, rest, table))

    def _below(self, lane, looked, rest):
        """Return which entries rows (n, R) find: 0 beside the one of `looked`, else `rest`."""
        below = np.full((len(looked), self.config.rows), rest)
        below[:, (lane + 1) % self.config.rows] = 0
        below[:, lane] = looked
        return below

    def numbers(self, frames):
        """Return the exponentials (rows, R) of each region, from all their digits."""
        config, regions = self.config, []
        for (results, _), words in zip(self.kept, regions_of(self.kept, frames, config.rows),
                                       strict=True):
            raw = words.reshape(results.rows, results.planes, -1)
            digits = raw.astype(np.int64)
            digits[:, :-1] = raw[:, :-1].astype(np.int8)
            value = sum(digits[:, k] << config.act_bits * k for k in range(results.planes))
            regions.append(unpacked(value.astype(np.uint8), config.rows)[:, :config.rows].astype(
                np.int64) if config.levels else value)
        return regions

    def diagnose(self, found):
        """Name lanes, bit, and of a single entry that as well."""
        config, got = self.config, self.numbers(found)
        wrong = {int(entry) for (_, below, rest, _), right, seen in zip(
            self.looked, self.numbers(self.expected), got, strict=True)
            for entry in {0, rest, *below[(right != seen).any(axis=1)].tolist()}
            if (right != seen).any()}
        choices = [None, *sorted(wrong)]
        bits = CODE_BITS * config.exponential_tables
        for entry in choices:
            for first in range(0, config.vector_lanes, 2):
                for bit in range(bits):
                    for kind in KINDS:
                        if self._explains(first, entry, bit, kind, got):
                            entries = range(TABLE_BYTES) if entry is None else [entry]
                            return [_finding(self.part, config, first, bit, kind, entries, True)]
        return super().diagnose(found)

    def _explains(self, first, entry, bit, kind, got):
        """Return whether a fault in the memory of lane `first` gives all of `got`."""
        config = self.config
        lanes = np.arange(config.rows) % config.vector_lanes // 2 * 2 == first
        for (lane, looked, rest, table), seen in zip(self.looked, got, strict=True):
            changed = table.copy()
            part = slice(None) if entry is None else slice(entry, entry + 1)
            mask = 1 << bit
            changed[part] = {KINDS[0]: changed[part] & ~mask, KINDS[1]: changed[part] | mask,
                             KINDS[2]: changed[part] ^ mask}[kind]
            below = self._below(lane, looked, rest)
            e = np.where(lanes, changed[below], table[below])
            if not (_codes(e, config) == seen).all():
                return False
        return True


def _codes(e, config):
    """Return what comes out for rows of table entries (n, R)."""
    if config.levels:
        return e & (1 << LEVEL_BITS) - 1
    if config.deferred:
        return e
    # As in `systola.model.operators.normalised`.
    e = np.minimum(e, NORMALISED_PEAK)
    total = e.sum(axis=1, keepdims=True)
    shift = sum((total > 2 * NORMALISED_PEAK << s).astype(np.int64) for s in range(16))
    return e + (1 << shift >> 1) >> shift
