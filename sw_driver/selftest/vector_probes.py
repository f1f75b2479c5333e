"""Softmax, activation, layer norm and mean of the VECTOR engine, and the row factors."""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.hw.contract.numbers import CODE_BITS, TABLE_BYTES
from systola.model.operators.deferred import exp_table
from systola.model.operators.layernorm import layernorm
from systola.model.operators.log2_exponentials import nearest_codes
from systola.sw_driver.selftest.compared_probe import ComparedProbe, mask_fields, vector_fields
from systola.sw_driver.selftest.matrix_probes import CORE

__all__ = ["ActivationProbe", "FactorProbe", "MeanProbe", "NormProbe", "SoftmaxProbe"]

_UNIT = 23
"""Unit of ShiftExp: the code of 1."""


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
                **vector_fields(config, results, 0), **stored.fields("dst_"),
                "unit": min(_UNIT, config.largest_unit)}, **mask_fields(results, config.rows))
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
                **vector_fields(config, results, 0), "unit": min(_UNIT, config.largest_unit)})
            self.keep(results, f"rows of {width}")


class NormProbe(ComparedProbe):
    """Layer norms of rows of several lengths, and the longest, by random parameters."""

    part, needs = "layer norm", ("scratchpad", "parameter memory",
                                    "parameter memory of VECTOR")

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
                          **vector_fields(config, results, 0, planes=2))
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
            fields = {**vector_fields(config, results, 0, planes=planes), **single.fields("dst_")}
            self.list.add(Opcode.MEAN, wide=wide, mult=config.largest_mean_mult,
                          out_bits=16, shift=config.mean_mult_bits + (2 if wide else 0), **fields)
            self.keep(single, f"{16 if wide else 8} bits, {width} channels")


class FactorProbe(ComparedProbe):
    """Every bit of the row factors: numerators and their inverse, by sums of 1, times 1.

    16 bits of a factor show at a time. In a last pass rows have sums from 1 to R, so that
    neighbouring entries differ.
    """

    part, needs = "row factors", (*CORE, "softmax")

    @classmethod
    def fits(cls, config):
        """Return whether attention is divided after A.V."""
        return bool(config.factor_depth)

    def build(self):
        config, rng = self.config, np.random.default_rng(19)
        depth, bits = config.factor_depth, config.factor_bits
        table = np.zeros(TABLE_BYTES, np.int64)
        # An entry, or the code of a level, that counts as 1.
        table[0] = config.levels.index(1) if config.levels else 1
        self.list.load_table(1, table)
        if config.exponential_tables > 1:
            self.list.load_table(2, table * 0)
        # Word 0 is zeros; in word k the first k elements are a row's largest.
        rows = np.arange(config.rows + 1)[:, None] > np.arange(config.rows)
        words = np.where(rows, 127, -128)
        words[0] = 0
        self.list.load(0, words)
        high = max(bits - 15, 0)
        for index, shift in enumerate((0, high)):
            self.list.load_params(index, np.ones(config.lanes), 1, shift)
        step = max(depth // 32, 4)
        numbers = rng.integers(0, 1 << bits, -(-depth // step))
        low = (1 << min(bits, 15)) - 1
        every = (1 << bits) - 1
        for values, index, label in ((numbers & low, 0, "low bits"),
                                     (~numbers & low, 0, "low bits inverted"),
                                     (numbers, 1, "high bits"),
                                     (numbers ^ every, 1, "high bits inverted")):
            for first, value in zip(range(0, depth, step), values, strict=True):
                self._write(value, first, min(step, depth - first), stride=0)
            self._read(index, label)
        for first in range(0, depth, config.rows):
            self._write(low, first, min(config.rows, depth - first), stride=1)
        self._read(0, "sums from 1 to R")

    def _write(self, numerator, first, count, *, stride):
        """Make `count` factors from entry `first` on, of the words from 1 on."""
        config = self.config
        results = self.results(config.rows + 1, 1, config.rows, planes=config.attention_digits)
        self.list.add(Opcode.SHIFTMAX, **{
            **vector_fields(config, results, 1), **mask_fields(results, config.rows),
            "unit": 1, "numerator": int(numerator), "factor_base": first, "rows": count,
            "src_stride": stride, "dst_stride": 0})

    def _read(self, param, label):
        """Multiply 1 by every factor."""
        config = self.config
        base = config.rows + 1
        rows = min(config.token_depth, (config.scratchpad_words - base) // 2)
        for start in range(0, config.factor_depth, rows):
            results = self.results(base, min(rows, config.factor_depth - start), config.lanes)
            self.matmul(results, Opcode.FETCH, act_stride=0, param_base=param, factor_base=start,
                        flags=Flag.BROADCAST | Flag.ROW_SCALE,
                        feed={"rows": config.lanes, "words": 1, "lanes_last": config.rows})
            self.keep(results, f"{label}, entries from {start} on")
