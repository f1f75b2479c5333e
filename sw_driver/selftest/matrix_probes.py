"""What MATRIX does beside plain products: reads of all banks, rescaling, residuals, other weights.

All of these need the array; what they name is what is around it.
"""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.hw.contract.numbers import CODEBOOK_ENTRIES
from systola.sw_driver.selftest.compared_probe import ComparedProbe
from systola.sw_driver.selftest.probe import Finding
from systola.sw_driver.selftest.stuck_bits import stuck_bits

__all__ = ["CORE", "CodeProbe", "CopyProbe", "FetchProbe", "ReadProbe", "RequantizerProbe",
           "WeightFifoProbe"]

CORE = "accumulators", "activation reads", "parameter memory", "array"
"""Parts that every product is computed with; the first that explains what is wrong is believed."""

_ROWS = 12
"""Rows of a random product."""

_FIFO_TURNS = 4
"""How often every word of the weight FIFO is used."""


def _random(rng, bits, shape):
    """Return codes of `bits` bits without the lowest, which packed slices have no room for."""
    half = 1 << bits - 1
    return rng.integers(1 - half, half, shape)


def _rows(config):
    return min(_ROWS, config.token_depth)


class ReadProbe(ComparedProbe):
    """Words of every bank, through the port of MATRIX and unchanged through the array."""

    part, needs = "activation reads", ("scratchpad",)

    def build(self):
        config, rng = self.config, np.random.default_rng(5)
        depth = config.bank_depth
        self.count = min(16, config.token_depth, depth)
        stride = (depth - 1) // max(self.count - 1, 1)
        stride -= 1 - stride % 2 if stride > 1 else 0  # odd: addresses differ in every bit
        words = _random(rng, config.act_bits, (config.banks, self.count, config.rows))
        words[:, 1::2] = ~words[:, :self.count // 2 * 2:2]
        columns = -(-config.rows // config.cols) * config.cols
        tiles = np.zeros((columns, config.rows), np.int64)
        tiles[:config.rows] = np.eye(config.rows, dtype=np.int64)
        self.list.load_params(0, np.zeros(config.lanes), 1, 0)
        for bank in range(config.banks):
            # Results go to the next bank, whose words come after them.
            base = bank * depth
            results = self.results((bank + 1) % config.banks * depth + (config.banks == 1),
                                   self.count, config.rows, planes=1)
            self.list.add(Opcode.LOAD, words[bank], base=base, stride=stride, rows=self.count,
                          words=1)
            self.matmul(results, Opcode.LOAD_WEIGHTS, tiles, out_bits=8, act_base=base,
                        act_stride=stride, flags=Flag.BROADCAST)
            self.keep(results, f"bank {bank}")

    def diagnose(self, found):
        """Name bank, lane and bit if one of several banks alone reads wrong."""
        regions = [(right & 255, got & 255) for right, got in zip(
            self.numbers(self.expected), self.numbers(found), strict=True)]
        wrong = [bank for bank, (right, got) in enumerate(regions) if (right != got).any()]
        if len(wrong) > 1 or self.config.banks == 1:
            return super().diagnose(found)
        bank, (right, got) = wrong[0], regions[wrong[0]]
        where = {"unit": self.part, "bank": bank}
        bits = stuck_bits(right, got)
        if all(bit.whole for bit in bits):
            return [Finding(f"bank {bank}, lane {bit.lane} bit {bit.bit} {bit.kind} where MATRIX "
                            f"reads", {**where, "lane": bit.lane, "bit": bit.bit,
                                       "kind": bit.kind}, True) for bit in bits]
        words = int((right != got).any(axis=1).sum())
        return [Finding(f"bank {bank}: {words} of {self.count} words differ where MATRIX reads",
                        where, 2 * words > self.count)]


class RequantizerProbe(ComparedProbe):
    """Random sums, parameters and residuals, with every option of MATMUL but other weights."""

    part, needs = "requantizer", CORE

    def build(self):
        config, rng = self.config, np.random.default_rng(6)
        rows, words = _rows(config), 2
        count = min(config.rows // config.lanes + 1, config.param_depth // 2)
        records = count * config.lanes
        self.width = min(config.rows + config.lanes, records)
        acts = _random(rng, config.act_bits, (rows * words, config.rows))
        self.list.load(0, acts)
        # Numbers of 16 bits in two planes, one behind the other.
        self.residual = rows * words
        self.list.load(self.residual, rng.integers(256, size=(rows * 4, config.rows)))
        most = 2 * config.rows << config.act_bits + config.weight_bits - 2
        typical = most // 4 // int(np.sqrt(2 * config.rows)) + 1
        spare = max((1 << config.acc_bits - 1) - most - 1, 0)
        bias = rng.integers(-min(spare, typical), min(spare, typical) + 1, records)
        code = min(config.mult_bits, config.code_mult_bits)
        for index, (bits, out) in enumerate(((config.mult_bits, 14), (code, 6))):
            mult = rng.integers(1 << bits - 1, 1 << bits, records) * rng.choice((-1, 1), records)
            shift = bits + typical.bit_length() - out + rng.integers(-2, 2, records)
            self.list.load_params(index * count, bias, mult, np.maximum(shift, 0))
        self.base = rows * 6
        wide, narrow = {"out_bits": 16}, {"out_bits": 8, "param_base": count}
        residual = {"res_base": self.residual, "res_stride": 4, "res_plane": 2,
                    "res_mult": (1 << config.mult_bits - 1) * 5 // 7, "res_shift":
                        config.mult_bits}
        self._case("per channel", **wide)
        self._case("results of 8 bits", **narrow)
        self._case("residual", **wide, **residual, flags=Flag.RESIDUAL)
        self._case("symmetric", **{**narrow, "out_bits": 6}, flags=Flag.SYMMETRIC)
        self._case("residual and 8 bits", **narrow, **residual,
                   flags=Flag.RESIDUAL | Flag.SYMMETRIC)
        self._case("one record", **wide, flags=Flag.BROADCAST)
        if config.rows <= records:
            self._case("from the last group on", **narrow, out_group=config.last_group)
        self._digits(rng, typical)

    def _case(self, label, *, out_bits, **fields):
        config, rng = self.config, np.random.default_rng(7)
        first = fields.get("out_group", 0) * config.lanes
        width = self.width if not first else first + config.lanes
        results = self.results(self.base, _rows(config), width, planes=1 + (out_bits > 8))
        tiles = -(-(width - first) // config.cols)
        weights = _random(rng, config.weight_bits, (2 * tiles * config.cols, config.rows))
        if first:  # lanes before the group stay as they are
            self.list.load(results.base, np.zeros((results.size, config.rows), np.uint8))
        self.matmul(results, Opcode.LOAD_WEIGHTS, weights, out_bits=out_bits, act_stride=2,
                    act_words=2, **fields)
        self.keep(results, label)

    def _digits(self, rng, typical):
        """Multiply attention, its top digit unsigned, in all its planes."""
        config = self.config
        rows, digits = _rows(config), config.attention_digits
        width = config.lanes
        planes = _random(rng, min(config.act_bits + 1, 8), (digits, rows, config.rows))
        planes[:-1] = _random(rng, config.act_bits, (digits - 1, rows, config.rows))
        # The top digit of attention is at most 128.
        planes[-1] = rng.integers(0, (1 << config.act_bits - 1) + 1, (rows, config.rows))
        self.list.load(0, planes.reshape(-1, config.rows))
        bits = typical.bit_length() + config.act_bits * (digits - 1)
        self.list.load_params(0, np.zeros(config.lanes), 1, max(bits - 12, 0))
        results = self.results(digits * rows, rows, width)
        self.matmul(results, Opcode.LOAD_WEIGHTS,
                    _random(rng, config.weight_bits, (config.cols, config.rows)) // 4,
                    act_plane=rows, digits=digits, flags=Flag.BROADCAST | Flag.UNSIGNED)
        self.keep(results, "attention digits")

    def diagnose(self, found):
        """Name the lane, if it is one of several columns."""
        lanes, columns = set(), set()
        for right, got in zip(self.numbers(self.expected), self.numbers(found), strict=True):
            places = np.flatnonzero((right != got).any(axis=0))
            lanes |= set((places % self.config.lanes).tolist())
            columns |= set((places % self.config.cols).tolist())
        findings = super().diagnose(found)
        if len(lanes) == 1 and len(columns) * self.config.lanes == self.config.cols:
            lane = lanes.pop()
            where = {"unit": self.part, "lane": lane}
            return [Finding(f"lane {lane}: {'; '.join(one.text for one in findings)}", where)]
        return findings


class FetchProbe(ComparedProbe):
    """Weights from the scratchpad: rows as columns, and transposed."""

    part, needs = "fetched weights", CORE

    def build(self):
        config, rng = self.config, np.random.default_rng(8)
        rows = _rows(config)
        self.list.load(0, _random(rng, config.act_bits, (rows * 2, config.rows)))
        tall, at = config.rows + 3, rows * 2
        bits = min(config.weight_bits, 8)
        self.list.load(at, _random(rng, bits, (tall * 2, config.rows)))
        self.list.load_params(0, np.zeros(config.lanes), 1, config.weight_bits
                              + config.act_bits + config.rows.bit_length() // 2 - 14)
        last = config.rows - config.lanes or config.rows
        base = at + tall * 2
        for flags, width, label in (
                (0, tall - tall % config.lanes, "plain"),
                (Flag.TRANSPOSE, config.rows + last, "transposed")):
            results = self.results(base, rows, width)
            fields = {"base": at, "stride": 2, "rows": width if not flags else tall, "words": 2,
                      "lanes_last": last, "flags": flags}
            self.matmul(results, Opcode.FETCH, act_stride=2, act_words=2, flags=Flag.BROADCAST,
                        feed=fields)
            self.keep(results, label)


class WeightFifoProbe(ComparedProbe):
    """More weights than the weight FIFO has words, each seen as it is."""

    part, needs = "weight FIFO", CORE

    def build(self):
        config = self.config
        count = max(_FIFO_TURNS * config.weight_fifo, 2 * config.cols)
        room = (config.scratchpad_words - config.rows) // config.rows
        self.width = min(-(-count // config.rows), max(room, 0)) * config.rows
        rows = min(config.rows, config.token_depth)
        results = self.results(config.rows, rows, self.width, planes=1)
        tiles = -(-self.width // config.cols)
        weights = _random(np.random.default_rng(9), config.weight_bits,
                          (tiles * config.cols, config.rows))
        self.list.load_params(0, np.zeros(config.lanes), 1, 0)
        for start in range(0, config.rows, rows):
            # One row of the array at a time multiplies, by 1.
            part = np.eye(config.rows, dtype=np.int64)[start:start + rows]
            self.list.load(0, part)
            results = self.results(config.rows, len(part), self.width, planes=1)
            self.matmul(results, Opcode.LOAD_WEIGHTS, weights, out_bits=8, flags=Flag.BROADCAST)
            self.keep(results, f"rows {start} to {start + len(part) - 1}")

    def diagnose(self, found):
        """Name the lane and bit if words of it are wrong at one distance."""
        right, got = (np.concatenate(self.numbers(frames)) for frames in (self.expected, found))
        depth = self.config.weight_fifo
        for distance in range(max(depth - 2, 1), depth + 3):
            bits = stuck_bits(right.T & 255, got.T & 255, np.arange(self.width) % distance)
            if len(bits) == 1 and len(bits[0].entries) == 1:
                bit = bits[0]
                return [Finding(f"lane {bit.lane} bit {bit.bit} {bit.kind} in every {distance}th "
                                f"word", {"unit": self.part, "lane": bit.lane, "bit": bit.bit,
                                          "kind": bit.kind}, True)]
        return super().diagnose(found)


class CodeProbe(ComparedProbe):
    """Weights as codes of a codebook."""

    part, needs = "weight codes", CORE

    @classmethod
    def fits(cls, config):
        """Return whether weights may be codes."""
        return config.weight_codes

    def build(self):
        config, rng = self.config, np.random.default_rng(10)
        rows, width = _rows(config), 2 * config.rows
        tiles = -(-width // config.cols)
        self.list.load(0, _random(rng, config.act_bits, (rows, config.rows)))
        self.list.load_params(0, np.zeros(config.lanes), 1, config.weight_bits
                              + config.act_bits + config.rows.bit_length() // 2 - 14)
        results = self.results(rows, rows, width)
        for label in "codes", "another codebook":
            book = np.zeros(config.codebook_beats * config.rows, np.int64)
            book[:CODEBOOK_ENTRIES] = _random(rng, config.weight_bits, CODEBOOK_ENTRIES)
            codes = rng.integers(256, size=(tiles * config.cols // 2, config.rows))
            self.matmul(results, Opcode.LOAD_CODES, np.concatenate(
                [book.reshape(-1, config.rows), codes]), flags=Flag.BROADCAST)
            self.keep(results, label)


class CopyProbe(ComparedProbe):
    """Rows moved within the scratchpad, with strides."""

    part, needs = "copies", ("scratchpad",)

    @classmethod
    def fits(cls, config):
        """Return whether rows can be moved."""
        return config.copies

    def build(self):
        config, rng = self.config, np.random.default_rng(11)
        half = config.scratchpad_words // 2
        rows = min(16, half // 6)
        self.list.load(0, rng.integers(256, size=(rows * 3, config.rows)))
        self.list.load(half, np.zeros((rows * 5, config.rows), np.uint8))
        self.list.add(Opcode.COPY, base=0, stride=3, rows=rows, words=2, to_base=half,
                      to_stride=5)
        results = self.results(half, rows * 5, config.rows, planes=1)
        self.keep(results, "rows of 2 words")
