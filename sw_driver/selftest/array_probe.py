"""Every cell of the array: each bit of both operands, of products and of sums, both ways."""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.sw_driver.selftest.array_faults import ArrayFaults
from systola.sw_driver.selftest.compared_probe import regions_of
from systola.sw_driver.selftest.probe import Finding, Probe

__all__ = ["ArrayProbe", "probing_vectors"]

_RANDOM = 6
"""Tiles of random weights."""

_DENSE = 12
"""Vectors in which every row multiplies."""

_SHIFTS = 0, 8
"""Right shifts through which 16 bits of each sum are seen."""


class ArrayProbe(Probe):
    """Vectors in which only one row multiplies, by tiles of extremes and of random weights.

    So a result is one product, and what differs tells the row as well as the column. Dense vectors
    add products up over all rows.
    """

    part, needs = "array", ("scratchpad",)

    def build(self):
        config, rng = self.config, np.random.default_rng(4)
        self.acts = probing_vectors(rng, config.act_bits, config.rows)
        self.tiles = _tiles(rng, config)
        tiles = len(self.tiles)
        width = tiles * config.cols
        words = -(-width // config.rows)
        chunk = max(min(config.token_depth, config.scratchpad_words // (1 + 2 * words)), 1)
        for index, shift in enumerate(_SHIFTS):
            self.list.load_params(index, np.zeros(config.lanes), 1, shift)
        self.kept = []
        for start in range(0, len(self.acts), chunk):
            part = self.acts[start:start + chunk]
            results = self.results(len(part), len(part), width)
            self.list.load(0, part)
            for index in range(len(_SHIFTS)):
                self.matmul(results, Opcode.LOAD_WEIGHTS,
                            self.tiles.transpose(0, 2, 1).reshape(-1, config.rows),
                            flags=Flag.BROADCAST, param_base=index)
                self.list.store(results.base, results.size)
                self.kept.append((results, index))

    def diagnose(self, found):
        """Name row, columns, signal and bit of the cell; or at least columns, and the row."""
        expected, got = self.numbers(self.expected), self.numbers(found)
        wrong = (expected != got).any(axis=(0, 1, 2))
        columns = np.flatnonzero(wrong)
        faults = ArrayFaults(self.config, self.acts, self.tiles, _SHIFTS)
        named = faults.explain(got, columns.tolist())
        if named is not None:
            return [named]
        group = faults.group
        slices = sorted({column // group for column in columns.tolist()})
        findings = []
        for index in slices:
            part = slice(index * group, (index + 1) * group)
            row = self._row((expected != got)[..., part].any(axis=(0, 2, 3)))
            text = " and ".join(map(str, range(self.config.cols)[part]))
            where = {"unit": "columns", "columns": list(range(self.config.cols)[part])}
            if row is not None:
                where |= {"unit": "array", "row": row}
            findings.append(Finding(
                f"{f'row {row}, ' if row is not None else ''}column{'s' * (group > 1)} {text}: "
                f"{int((expected != got)[..., part].sum())} sums differ, not as one stuck bit "
                f"would have it", where))
        return findings

    def _row(self, wrong):
        """Return the row that alone is wrong where one row multiplies, or None."""
        alone = np.count_nonzero(self.acts, axis=1) == 1
        rows = {int(np.flatnonzero(self.acts[t])[0]) for t in np.flatnonzero(wrong & alone)}
        idle = ~self.acts.any(axis=1)
        return rows.pop() if len(rows) == 1 and not (wrong & idle).any() else None

    def numbers(self, frames):
        """Return results (shifts, vectors, tiles, columns)."""
        lanes = self.config.rows
        parts = [results.numbers(words, lanes) for (results, _), words in zip(
            self.kept, regions_of(self.kept, frames, lanes), strict=True)]
        shifted = [np.concatenate(parts[index::len(_SHIFTS)]) for index in range(len(_SHIFTS))]
        return np.array(shifted).reshape(len(_SHIFTS), len(self.acts), -1, self.config.cols)


def probing_vectors(rng, bits, rows):
    """Return activation vectors (n, rows) int64 of `bits` bits: none, one, or all rows multiply."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    odd = 0x55 & high
    values = list(dict.fromkeys([1, -1, low, high, odd, ~odd,
                                 *(1 << bit for bit in range(bits - 1))]))
    alone = [value * np.eye(rows, dtype=np.int64)[row] for row in range(rows) for value in values]
    dense = rng.integers(low, high + 1, (_DENSE, rows))
    dense[0], dense[1], dense[2, ::2] = low, high, low
    return np.array([np.zeros(rows, np.int64), *alone, *dense])


def _tiles(rng, config):
    """Return the tiles (n, rows, cols) int64: all weights alike, then random ones."""
    most = (1 << config.weight_bits - 1) - 1
    least = -most - (config.pe_style != "dsp_packed")  # which has no room for the lowest
    odd, shape = 0x55 & most, (config.rows, config.cols)
    alike = [np.full(shape, value) for value in (1, -1, most, least, odd, max(~odd, least))]
    return np.array([*alike, *(rng.integers(least, most + 1, shape) for _ in range(_RANDOM))])
