"""Tables, softmax, activation, layer norm and mean of the VECTOR engine, and the row factors."""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.hw.contract.numbers import CODE_BITS, LEVEL_BITS, NORMALISED_PEAK, TABLE_BYTES
from systola.model.operators.deferred import exp_table
from systola.model.operators.layernorm import layernorm
from systola.model.operators.log2_exponentials import nearest_codes, unpacked
from systola.sw_driver.selftest.compared_probe import ComparedProbe
from systola.sw_driver.selftest.matrix_probes import CORE
from systola.sw_driver.selftest.probe import Finding
from systola.sw_driver.selftest.stuck_bits import stuck_bits

__all__ = ["ActivationProbe", "ExponentialTableProbe", "FactorProbe", "GeluTableProbe", "MeanProbe",
           "NormProbe", "SoftmaxProbe"]

_UNIT = 23
"""Unit of ShiftExp: the code of 1."""


def _vector(config, results, source, *, planes=1, **fields):
    """Return the fields of an operation from rows like `results` at `source`."""
    return {"src_base": source, "src_stride": planes * results.words, "src_plane": results.words,
            "rows": results.rows, "words": results.words,
            "lanes_last": results.width - (results.words - 1) * config.rows,
            **results.fields("dst_"), **fields}


def _masks(results, lanes):
    """Return the fields by which every row has all its elements, if there are masks."""
    return {"key_words": results.words, "key_last": results.width - (results.words - 1) * lanes}


def _table_findings(name, right, got, entries, config, *, bits):
    """Return findings of a table that lanes of VECTOR read, two of them from one memory.

    `right` and `got` (n, lanes of VECTOR) are what was read of the table's `entries` (n, lanes).
    """
    findings = []
    for first in range(0, config.vector_lanes, 2):
        pair = slice(first, first + 2)
        lanes = "lane " + " and ".join(
            str(first + k) for k in range(min(2, config.vector_lanes - first)))
        for stuck in stuck_bits(right[:, pair].reshape(-1, 1), got[:, pair].reshape(-1, 1),
                                entries[:, pair].reshape(-1), bits):
            where = {"unit": name, "lane": first, "bit": stuck.bit, "kind": stuck.kind}
            if len(stuck.entries) == 1:
                findings.append(Finding(
                    f"{lanes}, entry {stuck.entries[0]}: bit {stuck.bit} {stuck.kind}",
                    {**where, "entries": list(stuck.entries)}, True))
            else:
                findings.append(Finding(
                    f"{lanes}: bit {stuck.bit} {stuck.kind} in {len(stuck.entries)} entries",
                    where, stuck.whole))
    return findings


class GeluTableProbe(ComparedProbe):
    """Random entries and their inverse, looked up by every code in every lane."""

    part, needs = "GELU table", ("scratchpad",)

    @classmethod
    def fits(cls, config):
        """Return whether GELU has a table."""
        return config.gelu == "table"

    def build(self):
        config, rng = self.config, np.random.default_rng(13)
        place = np.arange(config.rows)
        # As many codes of each lane in every word: all codes in so many words.
        share = config.rows // config.vector_lanes
        rows = -(-TABLE_BYTES // share)
        self.codes = (np.arange(rows)[:, None] * share
                      + place // config.vector_lanes) % TABLE_BYTES - TABLE_BYTES // 2
        table = rng.integers(TABLE_BYTES, size=TABLE_BYTES)
        self.list.load(0, self.codes)
        for entries, label in (table, "random entries"), (~table, "their inverse"):
            self.list.load_table(0, entries)
            results = self.results(rows, rows, config.rows, planes=1)
            self.list.add(Opcode.SHIFTGELU, unit=1, out_bits=CODE_BITS,
                          **_vector(config, results, 0))
            self.keep(results, label)

    def diagnose(self, found):
        """Name lanes, bit, and of a single entry that as well."""
        right, got = (np.concatenate(self.numbers(frames)).reshape(
            -1, self.config.vector_lanes) & 255 for frames in (self.expected, found))
        entries = np.tile(self.codes.reshape(-1, self.config.vector_lanes), (2, 1))
        return _table_findings(self.part, right, got, entries, self.config, bits=CODE_BITS)


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
        # In the last pass the entry that is 0 in the others is looked at as well.
        passes = [(table, 255), (~table & (1 << self.bits) - 1, 255), (np.full(
            TABLE_BYTES, NORMALISED_PEAK if wide else (1 << self.bits) - 1), 254)]
        self.looked, self.rest = [], []
        for index, (entries, rest) in enumerate(passes):
            entries = entries.copy()
            entries[rest] = 0
            looked = np.arange(TABLE_BYTES) if index < 2 or wide else np.array([0, 253, 255])
            looked = np.array([k for k in looked if k != rest])
            self.list.load_table(1, entries & 255)
            if wide:
                self.list.load_table(2, entries >> CODE_BITS)
            for lane in range(config.vector_lanes):
                self._lane(lane, looked, rest)

    def _lane(self, lane, looked, rest):
        """Look entries up in a lane, as many rows at a time as there are row factors."""
        config = self.config
        most = min(config.factor_depth,
                   (config.scratchpad_words) // (1 + config.attention_digits))
        for start in range(0, len(looked), most):
            below = looked[start:start + most]
            codes = np.full((len(below), config.rows), 127 - rest)
            codes[:, (lane + 1) % config.rows] = 127
            codes[:, lane] = 127 - below
            self.list.load(0, codes)
            results = self.results(len(below), len(below), config.rows,
                                   planes=config.attention_digits)
            self.list.add(Opcode.SHIFTMAX, unit=1, numerator=1 << 20,
                          **_vector(config, results, 0), **_masks(results, config.rows))
            self.keep(results, f"lane {lane}, entries {below[0]} to {below[-1]}")
            self.looked.append((lane, below))

    def numbers(self, frames):
        """Return the exponentials (rows, R) of each region, from all their digits."""
        config, at, regions = self.config, 0, []
        for results, _ in self.kept:
            words, count = [], 0
            while count < results.size:
                words.append(frames[at])
                count += len(frames[at])
                at += 1
            raw = np.concatenate(words).reshape(results.rows, results.planes, -1)
            digits = raw.astype(np.int64)
            if results.planes > 1:
                digits[:, :-1] = raw[:, :-1].astype(np.int8)
            value = sum(digits[:, k] << config.act_bits * k for k in range(results.planes))
            regions.append(unpacked(value.astype(np.uint8), config.rows)[:, :config.rows].astype(
                np.int64) if config.levels else value)
        return regions

    def diagnose(self, found):
        """Name lanes, bit, and of a single entry that as well."""
        config, findings = self.config, []
        regions = list(zip(self.looked, self.numbers(self.expected), self.numbers(found),
                           strict=True))
        if all((right[:, lane] == got[:, lane]).all() for (lane, _), right, got in regions):
            return super().diagnose(found)
        for first in range(0, config.vector_lanes, 2):
            chosen = [(right[:, lane], got[:, lane], below) for (lane, below), right, got in regions
                      if first <= lane < first + 2]
            right, got, entries = (np.concatenate(arrays)[:, None]
                                   for arrays in zip(*chosen, strict=True))
            findings += [
                Finding(one.text.replace("lane 0 and 1", f"lane {first} and {first + 1}"),
                        {**one.where, "lane": first}, one.certain)
                for one in _table_findings(self.part, right, got, entries, config,
                                           bits=max(self.bits + 1, CODE_BITS))]
        return findings or super().diagnose(found)


class SoftmaxProbe(ComparedProbe):
    """Rows of several lengths, and the longest, of scores that are spread and that are alike."""

    part, needs = "softmax", ("scratchpad", "table of exponentials")

    def build(self):
        config, rng = self.config, np.random.default_rng(15)
        self._tables()
        longest = min(config.max_row, (config.scratchpad_words // (
            4 * (1 + config.attention_digits))) * config.rows)
        for width in sorted({1, config.rows - 1, config.rows + 1, longest // 2 + 1, longest}):
            if not 1 <= width <= longest:
                continue
            words = -(-width // config.rows)
            rows = 4 if width < longest else 3
            codes = rng.integers(-128, 128, (rows, words, config.rows))
            codes[0] //= 16
            codes[2] = ~codes[1]
            self.list.load(0, codes.reshape(-1, config.rows))
            results = self.results(rows * words, rows, width, planes=config.attention_digits)
            stored = results
            if config.levels:
                stored = self.results(rows * words, rows, config.attention_words(words)
                                      * config.rows, planes=1)
            self.list.add(Opcode.SHIFTMAX, numerator=(1 << 30) - 1, **{
                **_vector(config, results, 0), **stored.fields("dst_"),
                "unit": min(_UNIT, config.largest_unit)}, **_masks(results, config.rows))
            self.keep(stored, f"rows of {width}")

    def _tables(self):
        config = self.config
        if not config.exponential_tables:
            return
        if config.levels:
            self.list.load_table(1, nearest_codes(-_UNIT, config.attention))
            return
        table = exp_table(-_UNIT, CODE_BITS * config.exponential_tables).astype(np.int64)
        self.list.load_table(1, table & 255)
        if config.exponential_tables > 1:
            self.list.load_table(2, table >> CODE_BITS)


class ActivationProbe(ComparedProbe):
    """Published ShiftGELU of all codes, in rows of several lengths."""

    part, needs = "ShiftGELU", ("scratchpad", "parameter memory")

    @classmethod
    def fits(cls, config):
        """Return whether GELU is computed."""
        return config.gelu == "published"

    def build(self):
        config, rng = self.config, np.random.default_rng(16)
        self.list.load_params(0, np.zeros(config.lanes), 1 << config.code_mult_bits - 1,
                              config.code_mult_bits + 6)
        longest = min(config.max_row, config.scratchpad_words // 8 * config.rows)
        for width in {config.rows, longest}:
            words = -(-width // config.rows)
            rows = max(1, min(256 // width, config.scratchpad_words // (2 * words)))
            codes = rng.integers(-128, 128, (rows * words, config.rows))
            self.list.load(0, codes)
            results = self.results(rows * words, rows, width, planes=1)
            self.list.add(Opcode.SHIFTGELU, out_bits=CODE_BITS, **{
                **_vector(config, results, 0), "unit": min(_UNIT, config.largest_unit)})
            self.keep(results, f"rows of {width}")


class NormProbe(ComparedProbe):
    """Layer norms of rows of several lengths, and the longest, by random parameters."""

    part, needs = "layer norm", ("scratchpad",)

    def build(self):
        config, rng = self.config, np.random.default_rng(17)
        longest = min(config.max_row, config.scratchpad_words // 24 * config.rows,
                      config.param_depth * config.lanes // config.rows * config.rows)
        records = -(-longest // config.rows) * config.rows
        bits = min(config.mult_bits, config.code_mult_bits)
        out = config.largest_norm_bits
        for width in sorted({config.rows - 1, longest // 2 + 1, longest}):
            if not 2 <= width <= longest:
                continue
            words = -(-width // config.rows)
            x = rng.integers(-1 << 15, 1 << 15, (4, words * config.rows))
            x[0] //= 256
            x[3] = ~x[2]
            planes = np.stack([x & 255, x >> 8 & 255], axis=1)
            self.list.load(0, planes.reshape(-1, config.rows))
            if not config.compared_norm:
                most = int(np.abs(layernorm(x[:, :width], config.norm)).max())
                bias = rng.integers(-most // 4, most // 4 + 1, records)
                mult = rng.integers(1 << bits - 1, 1 << bits, records) * rng.choice((-1, 1),
                                                                                    records)
                shift = max(most.bit_length() + bits - out, 0)
                self.list.load_params(0, bias, mult, shift)
            results = self.results(8 * words, 4, width, planes=1 + (out > CODE_BITS))
            self.list.add(Opcode.LAYERNORM, out_bits=out, epsilon_low=77 << 8,
                          share=min((1 << 32) // (4 * width), (1 << 32) - 1),
                          **_vector(config, results, 0, planes=2))
            self.keep(results, f"rows of {width}")


class MeanProbe(ComparedProbe):
    """Means of rows of bytes and of 16 bits, with as many channels as a row may have."""

    part, needs = "mean", ("scratchpad",)

    @classmethod
    def fits(cls, config):
        """Return whether there are means."""
        return config.pooling == "mean"

    def build(self):
        config, rng = self.config, np.random.default_rng(18)
        longest = min(config.max_row, config.scratchpad_words // 24 * config.rows)
        for wide, width in (0, longest), (1, longest), (1, max(config.rows - 1, 1)):
            words = -(-width // config.rows)
            rows, planes = 5, 1 + wide
            self.list.load(0, rng.integers(256, size=(rows * planes * words, config.rows)))
            results = self.results(rows * planes * words, rows, width)
            # One row comes out of them.
            single = self.results(rows * planes * words, 1, width)
            fields = {**_vector(config, results, 0, planes=planes), **single.fields("dst_")}
            self.list.add(Opcode.MEAN, wide=wide, mult=config.largest_mean_mult,
                          out_bits=16, shift=config.mean_mult_bits + (2 if wide else 0), **fields)
            self.keep(single, f"{16 if wide else 8} bits, {width} channels")


class FactorProbe(ComparedProbe):
    """Every bit of the row factors: numerators and their inverse, by sums of 1, times 1."""

    part, needs = "row factors", (*CORE, "softmax")

    @classmethod
    def fits(cls, config):
        """Return whether attention is divided after A.V."""
        return bool(config.factor_depth)

    def build(self):
        config, rng = self.config, np.random.default_rng(19)
        depth, bits = config.factor_depth, config.factor_bits
        one = 1 if not config.levels else next(
            code for code, level in enumerate(config.levels) if level == 1)
        table = np.zeros(TABLE_BYTES, np.int64)
        table[0] = one
        self.list.load_table(1, table)
        if config.exponential_tables > 1:
            self.list.load_table(2, table * 0)
        # Word 0: one largest element; word 1 of zeros, whose products are 0.
        row = np.full((1, config.rows), -128)
        row[0, 0] = 127
        self.list.load(0, np.concatenate([row, row * 0]))
        shifts = dict.fromkeys((0, max(bits + 1 - 16, 0)))
        for index, shift in enumerate(shifts):
            self.list.load_params(index, np.ones(config.lanes), 1, shift)
        step = max(depth // 32, 4)
        numbers = rng.integers(0, 1 << bits, -(-depth // step))
        rows = min(config.token_depth, (config.scratchpad_words - 8) // 2)
        for values, label in (numbers, "numerators"), (numbers ^ (1 << bits) - 1, "their inverse"):
            for index, value in enumerate(values):
                count = min(step, depth - index * step)
                results = self.results(2, 1, config.rows, planes=config.attention_digits)
                self.list.add(Opcode.SHIFTMAX, unit=1, numerator=int(value), **{
                    **_vector(config, results, 0), "rows": count, "src_stride": 0,
                    "dst_stride": 0, "factor_base": index * step},
                    **_masks(results, config.rows))
            for index in range(len(shifts)):
                for start in range(0, depth, rows):
                    results = self.results(8, min(rows, depth - start), config.lanes)
                    self.matmul(results, Opcode.FETCH, act_base=1, act_stride=0,
                                flags=Flag.BROADCAST | Flag.ROW_SCALE, factor_base=start,
                                param_base=index, feed={
                                    "base": 1, "rows": config.lanes, "words": 1,
                                    "lanes_last": config.rows})
                    self.keep(results, f"{label}, from entry {start} on")
