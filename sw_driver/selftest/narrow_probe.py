"""The array's second precision: the cells with two weights in the place of one."""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.sw_driver.selftest.array_probe import probing_vectors
from systola.sw_driver.selftest.compared_probe import ComparedProbe
from systola.sw_driver.selftest.matrix_probes import CORE
from systola.sw_driver.selftest.probe import Finding

__all__ = ["NarrowProbe"]


class NarrowProbe(ComparedProbe):
    """As `ArrayProbe`, with narrow operands: two weights share the place of one."""

    part, needs = "narrow products", CORE

    @classmethod
    def fits(cls, config):
        """Return whether there is a second precision."""
        return bool(config.narrow_bits)

    def build(self):
        config, rng = self.config, np.random.default_rng(12)
        most = (1 << config.narrow_bits - 1) - 1
        self.acts = probing_vectors(rng, config.narrow_bits, config.rows)
        shape = config.cols, config.rows
        pairs = [(np.full(shape, low), np.full(shape, high)) for low, high in (
            (1, 0), (0, 1), (most, -most), (-most, most))]
        pairs += [tuple(rng.integers(-most, most + 1, (2, *shape))) for _ in range(4)]
        beats = np.concatenate([low + (high << config.nibble_bits) for low, high in pairs])
        self.width = 2 * config.cols * len(pairs)
        words = -(-self.width // config.rows)
        chunk = max(min(config.token_depth, config.scratchpad_words // (1 + 2 * words)), 1)
        self.list.load_params(0, np.zeros(config.lanes), 1, 0)
        for start in range(0, len(self.acts), chunk):
            part = self.acts[start:start + chunk]
            results = self.results(len(part), len(part), self.width)
            self.list.load(0, part)
            self.matmul(results, Opcode.LOAD_NARROW, beats, flags=Flag.BROADCAST | Flag.NARROW)
            self.keep(results, f"vectors {start} to {start + len(part) - 1}")

    def diagnose(self, found):
        """Name the columns, and the row where one row multiplies."""
        right, got = (np.concatenate(self.numbers(frames)) for frames in (self.expected, found))
        wrong = right != got
        columns = np.unique(np.flatnonzero(wrong.any(axis=0)) % (2 * self.config.cols))
        rows = {int(np.flatnonzero(self.acts[t])[0]) for t in np.flatnonzero(wrong.any(axis=1))
                if np.count_nonzero(self.acts[t]) == 1}
        row = f"row {rows.pop()}, " if len(rows) == 1 else ""
        return [Finding(f"{row}columns {', '.join(map(str, columns))}: {int(wrong.sum())} sums "
                        f"differ", {"unit": self.part, "columns": columns.tolist()})]
