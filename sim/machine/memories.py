"""What each instruction does to the memories, on whole regions at once."""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode, Region
from systola.hw.contract.numbers import (
    CODE_BITS,
    CODEBOOK_ENTRIES,
    GELU_SHIFT,
    LEVEL_BITS,
    MAX_SHIFT,
    RECORD_BYTES,
    SOFTMAX_SHIFT,
    TABLE_BYTES,
)
from systola.model.operators.deferred import deferred_softmax, row_factors
from systola.model.operators.layernorm import layernorm_requant
from systola.model.operators.log2_exponentials import decoded, packed, unpacked
from systola.model.operators.matmul import matmul, split_digits
from systola.model.operators.norm_codes import norm_codes
from systola.model.operators.normalised import normalised_softmax
from systola.model.operators.requant import requantize
from systola.model.operators.row_mean import row_mean
from systola.model.operators.shiftgelu import shiftgelu
from systola.model.operators.shiftmax import shiftmax
from systola.sim.machine.refusals import columns, extent, operands, outputs, weight_words

__all__ = ["Memories"]


def _wrap(values, bits):
    """Keep the low `bits` of `values`, read as two's complement."""
    half = 1 << bits - 1
    return ((values + half) & (2 * half - 1)) - half


def _bytes(values, bits):
    """Return the planes of results of `bits` bits: their bytes, the lowest first."""
    return np.stack([values, values >> 8] if bits > CODE_BITS else [values])


def _narrow_pair(lanes, config):
    """Return the weights w0 and w1 of lanes ``w0 + (w1 << weight_bits / 2)``."""
    both = _wrap(lanes.astype(np.int64), config.weight_bits)
    low = _wrap(both, config.nibble_bits)
    return low, both - low >> config.nibble_bits


class Memories:
    """Scratchpad, parameters, tables and row factors of one accelerator.

    ``words`` (scratchpad words, R) uint8; ``bias``, ``mult``, ``shift`` (parameter words, lanes)
    int64; ``tables`` (tables, 256) uint8: GELU, int8 by code + 128, and bytes of exponentials;
    ``factors`` (factor_depth,) int64. `rng` fills them with noise, as after power-up.
    """

    def __init__(self, config, rng=None):
        self.config = config
        self.words = np.zeros((config.scratchpad_words, config.rows), np.uint8)
        shape = config.param_depth, config.lanes
        self.bias, self.mult, self.shift = (np.zeros(shape, np.int64) for _ in range(3))
        self.tables = np.zeros((config.last_table + 1, TABLE_BYTES), np.uint8)
        self.factors = np.zeros(config.factor_depth, np.int64)
        if rng is not None:
            for memory in self.words, self.mult, self.tables, self.factors:
                memory[:] = rng.integers(256, size=memory.shape)

    def addresses(self, fields, prefix, words, planes=1):
        """Return the addresses (planes, rows, words) of a region."""
        plane = fields.get(f"{prefix}plane", 0)
        return (fields[f"{prefix}base"] + np.arange(planes)[:, None, None] * plane
                + np.arange(fields["rows"])[:, None] * fields[f"{prefix}stride"]
                + np.arange(words))

    def read(self, fields, prefix, words, planes=1):
        """Return the bytes (planes, rows, words * R) of a region."""
        addresses = self.addresses(fields, prefix, words, planes)
        return self.words[addresses].reshape(planes, fields["rows"], -1)

    def write(self, fields, prefix, values, planes=1, first=0):
        """Write the low bytes of `values` (planes, rows, N) from lane `first` of each row on.

        The other lanes keep their bytes.
        """
        addresses = self.addresses(fields, prefix, fields["words"], planes)
        lanes = self.words[addresses].reshape(planes, fields["rows"], -1)
        lanes[:, :, first:first + values.shape[-1]] = values & 255
        self.words[addresses] = lanes.reshape(*addresses.shape, -1)

    def load(self, fields, beats):
        """Execute LOAD."""
        self.words[self.addresses(fields, "", fields["words"])[0].reshape(-1)] = (
            beats[:, :self.config.rows])

    def copy(self, fields):
        """Execute COPY, of regions that do not overlap."""
        target, source = (self.addresses(fields, prefix, fields["words"])[0]
                          for prefix in ("to_", ""))
        self.words[target] = self.words[source]

    def load_params(self, fields, beats):
        """Execute LOAD_PARAMS; multipliers and shifts keep the bits the memory has."""
        config = self.config
        raw = beats.reshape(fields["count"], -1)[:, :RECORD_BYTES * config.lanes]
        raw = raw.reshape(-1, RECORD_BYTES)
        part = slice(fields["base"], fields["base"] + fields["count"])
        shape = fields["count"], config.lanes
        self.bias[part] = raw[:, :4].copy().view("<i4").reshape(shape)
        mult = raw[:, 4:8].copy().view("<i4").astype(np.int64).reshape(shape)
        self.mult[part] = _wrap(mult, config.mult_bits + 1)
        self.shift[part] = raw[:, 8].reshape(shape) & MAX_SHIFT

    def load_table(self, fields, beats):
        """Execute LOAD_TABLE."""
        self.tables[fields["table"]] = beats[:, :self.config.rows].reshape(-1)[:TABLE_BYTES]

    def fetch(self, fields):
        """Return the weight words (n, R) uint8 of FETCH."""
        config, width = self.config, columns(fields, self.config)
        tile = self.read(fields, "", fields["words"])[0, :, :width]
        if fields["flags"] & Flag.TRANSPOSE:
            tile = tile.T
        count, depth = -(-tile.shape[0] // config.cols), -(-tile.shape[1] // config.rows)
        padded = np.zeros((count * config.cols, depth * config.rows), np.uint8)
        padded[:tile.shape[0], :tile.shape[1]] = tile
        padded = padded.reshape(count, config.cols, depth, config.rows).transpose(0, 2, 1, 3)
        return padded.reshape(-1, config.rows)

    def codes(self, beats):
        """Return the weight words (n, R) uint8 of LOAD_CODES."""
        config, lanes = self.config, beats[:, :self.config.rows]
        book, packed = np.split(lanes, [config.codebook_beats])
        pairs = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1, config.rows)
        # Without all of its codebook an instruction has no codes.
        return book.reshape(-1)[:CODEBOOK_ENTRIES][pairs] if len(pairs) else pairs

    def store(self, fields):
        """Return the result frame (beats, R) of STORE."""
        return self.read(fields, "", fields["words"]).reshape(-1, self.config.rows)

    def activations(self, fields):
        """Return the streamed operand of MATMUL, its digit planes (digits, rows, K) int64."""
        raw = self._streamed(fields).astype(np.int64)
        if fields["flags"] & Flag.NARROW:
            return _wrap(raw, self.config.narrow_bits)
        # Codes are sign-extended, but in an unsigned top digit: the bit above them is the sign.
        planes = _wrap(raw, min(self.config.act_bits + 1, 8))
        if fields["flags"] & Flag.UNSIGNED and self.config.act_bits == 8:
            planes[-1] = raw[-1]
        return planes

    def _streamed(self, fields):
        """Return the bytes (digits, rows, K) of the streamed operand; codes are decoded."""
        config, words = self.config, fields["act_words"]
        if not (config.levels and fields["flags"] & Flag.UNSIGNED):
            return self.read(fields, "act_", words, fields["digits"])
        pairs = self.read(fields, "act_", config.attention_words(words), fields["digits"])
        codes = unpacked(pairs, config.rows)[..., :words * config.rows]
        return decoded(codes, config.levels)

    def accumulate(self, fields, planes, weights):
        """Return the accumulators (rows, N) of activation `planes` and weight words."""
        config = self.config
        assert len(weights) == weight_words(fields, config)
        tiles = weights.reshape(-1, fields["act_words"], config.cols, config.rows)
        tiles = tiles.transpose(0, 2, 1, 3).reshape(-1, planes.shape[-1])
        narrow = bool(fields["flags"] & Flag.NARROW)
        digit_bits = 0 if narrow else config.act_bits
        if narrow:
            tiles = np.stack(_narrow_pair(tiles, config), axis=1).reshape(-1, planes.shape[-1])
        stationary = _wrap(tiles[:outputs(fields, config)].astype(np.int64), config.weight_bits)
        total = sum(matmul(plane, stationary) << digit_bits * index
                    for index, plane in enumerate(planes))
        return _wrap(total, config.sum_bits(narrow=narrow))

    def drain_operands(self, fields):
        """Return what the second half of MATMUL reads: parameters, residual (or None)."""
        config, flags, base = self.config, fields["flags"], fields["param_base"]
        width = outputs(fields, config)
        params = self.record(base) if flags & Flag.BROADCAST else self.records(base, width)
        bias, mult, shift = (np.copy(array) for array in params)
        if flags & Flag.ROW_SCALE:
            first = fields["factor_base"]
            mult = self.factors[first:first + fields["rows"], None].copy()
        else:
            mult = _wrap(mult, self._mult_bits(fields["out_bits"]) + 1)
        residual = None
        if flags & Flag.RESIDUAL:
            first = fields["out_group"] * config.lanes
            residual = self.wide(fields, "res_", first + width)[:, first:]
        return (bias, mult, shift), residual

    def _mult_bits(self, out_bits):
        """Return the multiplier bits that the requantizer takes for results of `out_bits`."""
        config = self.config
        if out_bits > CODE_BITS:
            return config.mult_bits
        return min(config.mult_bits, config.code_mult_bits)

    def finish_matmul(self, fields, acc, operands):
        """Requantize accumulators with `drain_operands` and write them."""
        (bias, mult, shift), residual = operands
        extra = {"symmetric": bool(fields["flags"] & Flag.SYMMETRIC)}
        if residual is not None:
            extra |= {"residual": residual, "res_shift": fields["res_shift"],
                      "res_mult": _wrap(fields["res_mult"], self.config.mult_bits + 1)}
        y = requantize(acc + bias, mult, shift, fields["out_bits"], **extra)
        planes = _bytes(y, fields["out_bits"])
        self.write(fields, "out_", planes, len(planes), fields["out_group"] * self.config.lanes)

    def record(self, base):
        """Return bias, multiplier and shift of lane 0 of a parameter word."""
        return self.bias[base, 0], self.mult[base, 0], self.shift[base, 0]

    def records(self, base, count):
        """Return bias, multiplier and shift of `count` channels, each (count,)."""
        words = slice(base, base + -(-count // self.config.lanes))
        return (array[words].reshape(-1)[:count] for array in (self.bias, self.mult, self.shift))

    def wide(self, fields, prefix, width):
        """Return the 16-bit numbers (rows, width) of two planes."""
        low, high = self.read(fields, prefix, fields["words"], 2)[:, :, :width]
        return low.astype(np.int64) + (high.view(np.int8).astype(np.int64) << 8)

    def vector_source(self, opcode, fields):
        """Return the rows (rows, N) that a VECTOR operation reads."""
        width = columns(fields, self.config)
        source, _ = operands(opcode, fields, self.config, Region)
        if extent(source, fields, self.config)[0] == 2:
            return self.wide(fields, "src_", width)
        codes = self.read(fields, "src_", fields["words"])[0, :, :width]
        return codes.view(np.int8).astype(np.int64)

    def finish_vector(self, opcode, fields, x):
        """Evaluate a VECTOR operation on rows `x` and write the result."""
        config = self.config
        if opcode is Opcode.MEAN:
            y = row_mean(x, fields["mult"], fields["shift"], fields["out_bits"])
            y = _bytes(y, fields["out_bits"])[:, None]
            fields = fields | {"rows": 1}
        elif opcode is Opcode.SHIFTMAX:
            y = self._softmax(fields, x)
            if config.levels:
                y = packed(y, config.rows)
                fields = fields | {"words": config.attention_words(fields["words"])}
        elif opcode is Opcode.LAYERNORM and config.compared_norm:
            epsilon = fields["epsilon_low"] | fields["epsilon_high"] << 32
            y = norm_codes(x, fields["share"], fields["out_bits"], epsilon)[None]
        elif opcode is Opcode.LAYERNORM:
            bias, mult, shift = self.records(fields["param_base"], x.shape[-1])
            mult = _wrap(mult, self._mult_bits(CODE_BITS) + 1)
            epsilon = fields["epsilon_low"] | fields["epsilon_high"] << 32
            y = layernorm_requant(x, bias, mult, shift, fields["out_bits"], config.norm, epsilon)
            y = _bytes(y, fields["out_bits"])
        elif config.gelu == "table":
            y = self.tables[0].view(np.int8)[x + 128].astype(np.int64)[None]
        else:
            bias, mult, shift = self.record(fields["param_base"])
            mult = _wrap(mult, self._mult_bits(fields["out_bits"]) + 1)
            y = requantize(shiftgelu(x, -fields["unit"], GELU_SHIFT) + bias, mult, shift,
                           fields["out_bits"])[None]
        self.write(fields, "dst_", y, len(y))

    def _softmax(self, fields, x):
        """Return the planes of the attention of rows `x`, and write the rows' factors, if any."""
        config = self.config
        keys, y = _keys(fields, x.shape, config), np.zeros((config.attention_digits, *x.shape),
                                                           np.int64)
        for count in np.unique(keys):
            rows = keys == count
            y[:, rows, :count], sums = self._attention(fields, x[rows, :count])
            if config.factor_depth:
                self.factors[fields["factor_base"] + np.flatnonzero(rows)] = row_factors(
                    sums, fields["numerator"], config.factor_bits)
        return y

    def _attention(self, fields, x):
        """Return the planes of the attention of rows `x`, and of exponentials their sums."""
        config = self.config
        if config.levels:
            codes, _ = deferred_softmax(x, self.tables[1] & (1 << LEVEL_BITS) - 1)
            return codes[None], decoded(codes, config.levels).sum(axis=-1)
        if config.deferred:
            codes, sums = deferred_softmax(x, self.tables[1])
            return codes[None], sums
        if config.factor_depth:
            low, high = self.tables[1:].astype(np.int64)
            codes, sums = normalised_softmax(x, low + (high << CODE_BITS))
        else:
            codes = shiftmax(x, -fields["unit"], SOFTMAX_SHIFT, config.attention_bits)
            sums = None
        return split_digits(codes, config.act_bits, config.attention_digits), sums


def _keys(fields, shape, config):
    """Return how many elements each of the rows of a SHIFTMAX has."""
    rows, most = shape
    if not config.masks:
        return np.full(rows, most)
    first = (fields["key_words"] - 1) * config.rows + fields["key_last"]
    return np.minimum(first + fields["key_step"] * np.arange(rows), most)
