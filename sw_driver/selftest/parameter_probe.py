"""Every bit of the parameter memory, as 0 and as 1, seen through the requantizer of MATRIX."""

import numpy as np

from systola.hw.contract.isa import Opcode
from systola.hw.contract.numbers import SHIFT_BITS
from systola.model.operators.requant import requantize
from systola.sw_driver.selftest.probe import Finding, Probe
from systola.sw_driver.selftest.stuck_bits import KINDS, apply_stuck

__all__ = ["ParameterProbe"]

_OUT = 16
"""Bits of a result."""

_CHANNELS = 4096
"""Most channels that one MATMUL writes here."""

_RECORD_BITS = 32
"""Bits of a bias in a record."""

_SHIFTS = 21, 42
"""Shifts with complementary bits."""


class ParameterProbe(Probe):
    """Products of zeros: what comes out is ``rne(bias * mult, shift)`` of every record.

    16 bits of a record show at a time: low and high ones of biases and of multipliers, each with
    the inverse, and shifts beside a product that shows if they are near, or far off.
    """

    part, needs = "parameter memory", ("scratchpad",)

    def build(self):
        config = self.config
        channels = config.param_depth * config.lanes
        self.views = _views(config, channels)
        room = (config.scratchpad_words - 1) // 2 * config.rows
        step = min(_CHANNELS, room) // config.lanes * config.lanes
        self.starts = range(0, channels, step)
        self.list.load(0, np.zeros((1, config.rows), np.uint8))
        for record in self.views:
            self.list.load_params(0, *record)
            for start in self.starts:
                width = min(step, channels - start)
                # The same word of zeros for every column.
                results = self.results(1, 1, width)
                self.matmul(results, Opcode.FETCH, param_base=start // config.lanes, feed={
                    "rows": width, "words": 1, "lanes_last": config.rows})
                self.list.store(results.base, results.size)

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
        bad = np.unique(lanes[places])
        findings = []
        for lane in bad:
            matched = self._match(np.flatnonzero(lanes == lane), got)
            if matched:
                findings.append(self._finding(*matched[0], int(lane)))
        if findings:
            return findings
        return self._elsewhere(places, bad)

    def _elsewhere(self, places, lanes):
        """Return the findings of what is no bit of this memory."""
        config = self.config
        columns = np.unique(places % config.cols)
        if len(columns) == config.cols // config.lanes * len(lanes) > len(lanes) or (
                len(columns) == config.cols > 1):
            return [Finding(f"lane {lane} of the requantizer: {len(places)} channels differ",
                            {"unit": "requantizer", "lane": int(lane)}) for lane in lanes]
        return [Finding(f"{len(places)} channels differ, in column "
                        f"{', '.join(map(str, columns))} of the array",
                        {"unit": "columns", "columns": columns.tolist()})]

    def _finding(self, field, bit, kind, lane, word=None):
        where = {"unit": "parameter memory", "lane": lane, "field": field, "bit": bit, "kind": kind}
        if word is None:
            return Finding(f"lane {lane}, {field} bit {bit} {kind} in every word", where, True)
        return Finding(f"word {word}, lane {lane}, {field} bit {bit} {kind}",
                       {**where, "words": [word]}, True)

    def _match(self, channels, got):
        """Return the ``(field, bit, kind)`` that explain what `channels` give, and only that."""
        views = [[array[channels] for array in record] for record in self.views]
        return [(field, bit, kind) for field, index, bits in _fields(self.config)
                for bit in range(bits) for kind in KINDS
                if all((self._outputs(record, index, bit, kind, bits) == seen[channels]).all()
                       for record, seen in zip(views, got, strict=True))]

    def _outputs(self, record, index, bit, kind, bits):
        changed = list(record)
        if index == 2:
            changed[2] = apply_stuck(record[2], bit, kind, bits + 1) & (1 << bits) - 1
        else:
            changed[index] = apply_stuck(record[index], bit, kind, bits)
        return _results(*changed, self.config)

    def numbers(self, frames):
        """Return the results (views, channels) in `frames`."""
        config, at, views = self.config, 0, []
        for _ in self.views:
            parts = []
            for start in self.starts:
                step = min(self.starts.step, config.param_depth * config.lanes - start)
                results = self.results(1, 1, step)
                count = len(frames[at])
                words = [frames[at]]
                while count < results.size:
                    at += 1
                    words.append(frames[at])
                    count += len(frames[at])
                at += 1
                parts.append(results.numbers(np.concatenate(words), config.rows)[0])
            views.append(np.concatenate(parts))
        return np.array(views)


def _fields(config):
    """Return name, place and bits of what a record has."""
    return (("bias", 0, _bias_bits(config)), ("multiplier", 1, config.mult_bits + 1),
            ("shift", 2, SHIFT_BITS))


def _bias_bits(config):
    """Return the bits of a bias that count: its sum must fit an accumulator."""
    return min(config.acc_bits, _RECORD_BITS)


def _results(bias, mult, shift, config):
    return requantize(bias, mult, shift, _OUT)


def _views(config, channels):
    """Return the records of each view: bias, multiplier and shift, each (channels,)."""
    rng, ones = np.random.default_rng(2), np.ones(channels, np.int64)

    def signed(bits):
        return rng.integers(-1 << bits - 1, 1 << bits - 1, channels)

    views = []
    for bits, place in (_bias_bits(config), 0), (config.mult_bits + 1, 1):
        for used, shift in {(min(bits, _OUT), 0), (bits, max(bits - _OUT, 0))}:
            values = signed(used)
            for pattern in values, ~values:
                record = [ones, ones, shift * ones]
                record[place] = pattern
                views.append(record)
    most = _bias_bits(config) - 2 + config.mult_bits - 1
    for shift in _SHIFTS:
        power = min(shift + _OUT // 2 - 1, most)
        first = min(power, _bias_bits(config) - 2)
        views.append([ones << first, ones << power - first, shift * ones])
    return views
