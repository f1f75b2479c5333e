"""Every bit of the parameter memory, as 0 and as 1, seen through the requantizers."""

import numpy as np

from systola.hw.contract.isa import Opcode
from systola.hw.contract.numbers import CODE_BITS, SHIFT_BITS
from systola.model.operators.requant import requantize
from systola.sw_driver.selftest.compared_probe import regions_of, vector_fields
from systola.sw_driver.selftest.probe import Finding, Probe, TooSmallError
from systola.sw_driver.selftest.stuck_bits import KINDS, apply_stuck

__all__ = ["ParameterProbe", "VectorParameterProbe"]

_CHANNELS = 4096
"""Most channels that one instruction writes here."""

_RECORD_BITS = 32
"""Bits of a bias in a record."""

_SHIFTS = 21, 42
"""Shifts with complementary bits."""


class ParameterProbe(Probe):
    """Products of zeros: what comes out is ``rne(bias * mult, shift)`` of every record.

    As many bits of a record show at a time as a result has: those of biases and of multipliers,
    each with the inverse, and shifts beside a product that shows if they are near, or far off.
    """

    part, needs = "parameter memory", ("scratchpad",)

    @property
    def sizes(self):
        """Bits of a result, of a bias (whose sum must fit an accumulator), of a multiplier."""
        config = self.config
        return 16, min(config.acc_bits, _RECORD_BITS), config.mult_bits + 1

    def begin(self):
        """Load what is multiplied; return the words that it takes."""
        self.list.load(0, np.zeros((1, self.config.rows), np.uint8))
        return 1

    def ask(self, results, start):
        """Append the instruction that makes `results` with the records from word `start` on."""
        # The same word of zeros for every column.
        self.matmul(results, Opcode.FETCH, param_base=start, feed={
            "rows": results.width, "words": 1, "lanes_last": self.config.rows})

    def most(self, base):
        """Return the most channels that an instruction may write from word `base` on."""
        return min(_CHANNELS, (self.config.scratchpad_words - base) // 2 * self.config.rows)

    def build(self):
        config = self.config
        channels = config.param_depth * config.lanes
        self.views = _views(*self.sizes, channels)
        base = self.begin()
        step = self.most(base) // config.lanes * config.lanes
        if step < 1:
            raise TooSmallError(f"scratchpad must have {base + 2} words for the test of the "
                                f"{self.part}, not {config.scratchpad_words}")
        self.kept = []
        for record in self.views:
            self.list.load_params(0, *record)
            for start in range(0, channels, step):
                results = self.results(base, 1, min(step, channels - start),
                                       planes=1 + (self.sizes[0] > CODE_BITS))
                self.ask(results, start // config.lanes)
                self.list.store(results.base, results.size)
                self.kept.append((results, start))

    def numbers(self, frames):
        """Return the results (views, channels) in `frames`."""
        lanes = self.config.rows
        rows = [results.numbers(words, lanes)[0] for (results, _), words in zip(
            self.kept, regions_of(self.kept, frames, lanes), strict=True)]
        return np.concatenate(rows).reshape(len(self.views), -1)

    def diagnose(self, found):
        """Name lane, field and bit; of a single word, that as well."""
        expected, got = self.numbers(self.expected), self.numbers(found)
        wrong = expected != got
        config, lanes = self.config, np.arange(expected.shape[1]) % self.config.lanes
        places = np.flatnonzero(wrong.any(axis=0))
        if len(places) == 1:
            word, lane = divmod(int(places[0]), config.lanes)
            matched = self._match(places, got)
            if matched:
                return [self._finding(*matched[0], lane, word)]
        bad, findings = np.unique(lanes[places]), []
        for lane in bad:
            matched = self._match(np.flatnonzero(lanes == lane), got)
            if matched:
                findings.append(self._finding(*matched[0], int(lane)))
        return findings or self.elsewhere(places, bad)

    def elsewhere(self, places, lanes):
        """Return the findings of what is no bit of this memory, in channels `places`."""
        config = self.config
        columns = np.unique(places % config.cols)
        # Of each of these lanes all columns, and more than one.
        if len(columns) == config.cols // config.lanes * len(lanes) > len(lanes) or (
                len(columns) == config.cols > 1):
            return [Finding(f"lane {lane} of the requantizer: {len(places)} channels differ",
                            {"unit": "requantizer", "lane": int(lane)}) for lane in lanes]
        return [Finding(f"{len(places)} channels differ, in column "
                        f"{', '.join(map(str, columns))} of the array",
                        {"unit": "columns", "columns": columns.tolist()})]

    def _finding(self, field, bit, kind, lane, word=None):
        where = {"unit": self.part, "lane": lane, "field": field, "bit": bit, "kind": kind}
        if word is None:
            return Finding(f"lane {lane}, {field} bit {bit} {kind} in every word", where, True)
        return Finding(f"word {word}, lane {lane}, {field} bit {bit} {kind}",
                       {**where, "words": [word]}, True)

    def _match(self, channels, got):
        """Return the ``(field, bit, kind)`` that explain all that `channels` give."""
        _, bias, mult = self.sizes
        views = [[array[channels] for array in record] for record in self.views]
        return [(field, bit, kind)
                for index, (field, bits) in enumerate((("bias", bias), ("multiplier", mult),
                                                       ("shift", SHIFT_BITS)))
                for bit in range(bits) for kind in KINDS
                if all((self._outputs(record, index, bit, kind, bits) == seen[channels]).all()
                       for record, seen in zip(views, got, strict=True))]

    def _outputs(self, record, index, bit, kind, bits):
        """Return the results of records of which a bit of one field is wrong."""
        changed = list(record)
        changed[index] = apply_stuck(record[index], bit, kind, bits + (index == 2))
        return requantize(*changed, self.sizes[0])


class VectorParameterProbe(ParameterProbe):
    """The same through the requantizer of VECTOR, where it has a copy of the memory for itself.

    Rows of equal numbers are normalised to zeros.
    """

    part, needs = "parameter memory of VECTOR", ("scratchpad", "parameter memory")

    @classmethod
    def fits(cls, config):
        """Return whether there is such a copy, and an operation that reads all of it."""
        return config.param_ports > 1 and not config.compared_norm

    @property
    def sizes(self):
        """Bits of a result, of a bias, and of a multiplier."""
        config = self.config
        return (config.norm_bits, _RECORD_BITS,
                min(config.code_mult_bits, config.mult_bits) + 1)

    def begin(self):
        """Load a row of zeros."""
        self.list.load(0, np.zeros((self.config.row_words, self.config.rows), np.uint8))
        return self.config.row_words

    def most(self, base):
        """Return the channels of the longest row."""
        return min(super().most(base), self.config.max_row // self.config.rows * self.config.rows)

    def ask(self, results, start):
        """Normalise a row, both of whose planes are those zeros."""
        fields = vector_fields(self.config, results, 0) | {"src_plane": 0}
        self.list.add(Opcode.LAYERNORM, **fields,
                      param_base=start, out_bits=self.sizes[0])

    def elsewhere(self, places, lanes):
        """Say which lanes differ."""
        return [Finding(f"{len(places)} channels differ, of lane {', '.join(map(str, lanes))}",
                        {"unit": self.part, "lanes": lanes.tolist()})]


def _views(out, bias_bits, mult_bits, channels):
    """Return the records of each view: bias, multiplier and shift, each (channels,)."""
    rng, ones = np.random.default_rng(2), np.ones(channels, np.int64)
    views = []
    for bits, place in (bias_bits, 0), (mult_bits, 1):
        shift = 0
        while True:
            # Bits below `shift` are random as well: they round.
            half = 1 << min(shift + out, bits) - 1
            values = rng.integers(-half, half, channels)
            for pattern in values, ~values:
                record = [ones, ones, shift * ones]
                record[place] = pattern
                views.append(record)
            if shift + out >= bits:
                break
            shift = min(shift + out - 1, bits - out)
    most = bias_bits - 2 + mult_bits - 2
    for shift in _SHIFTS:
        power = min(shift + out // 2 - 1, most)
        first = min(power, bias_bits - 2)
        views.append([ones << first, ones << power - first, shift * ones])
    return views
