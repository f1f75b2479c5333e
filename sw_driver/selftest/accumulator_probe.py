"""Every bit of the accumulators, as 0 and as 1: sums, and their complements, in all buffers."""

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.model.operators.requant import round_shift, saturate
from systola.sw_driver.selftest.probe import Finding, Probe
from systola.sw_driver.selftest.stuck_bits import KINDS, apply_stuck

__all__ = ["AccumulatorProbe"]

_OUT = 16


class AccumulatorProbe(Probe):
    """The same tile once for every buffer, with as many rows as a buffer has.

    The last row of the array multiplies by 1: with all other weights negated and its own -1 instead
    of 0, a sum z becomes ``-z - 1``, which has all its bits inverted.
    """

    part, needs = "accumulators", ("scratchpad",)

    def build(self):
        config, rng = self.config, np.random.default_rng(3)
        most, high = (1 << config.weight_bits - 1) - 1, 1 << config.act_bits - 1
        acts = rng.integers(-high, high, (config.token_depth, config.rows))
        acts[:, -1] = 1
        tile = rng.integers(-most, most + 1, (config.rows, config.cols))
        tile[-1] = 0
        # Sums of at most 15 bits, so that the lowest show as they are.
        bound = np.abs(acts).astype(np.int64) @ np.abs(tile)
        while bound.max() >= 1 << _OUT - 1:
            tile = np.sign(tile) * (np.abs(tile) // 2)
            bound = np.abs(acts).astype(np.int64) @ np.abs(tile)
        inverse = -tile
        inverse[-1] = -1
        self.sums = acts @ tile
        # Through 16 bits at every eighth, no two bits look alike where they are rounded.
        top = max(config.acc_bits - _OUT, 0)
        self.shifts = (*range(0, top, _OUT // 2), top)
        width = config.cols * config.acc_buffers
        room = config.scratchpad_words // (1 + 2 * -(-width // config.rows))
        # A buffer's entries are those of the rows of one MATMUL: all of them, or as many as fit.
        self.rows = max(min(config.token_depth, room), 1)
        self.sums = self.sums[:self.rows]
        self.list.load(0, acts[:self.rows])
        for index, shift in enumerate(self.shifts):
            self.list.load_params(index, np.zeros(config.lanes), 1, shift)
        self.output = self.results(self.rows, self.rows, width)
        for index in range(len(self.shifts)):
            for weights in tile, inverse:
                self.matmul(self.output, Opcode.LOAD_WEIGHTS,
                            np.tile(weights.T, (config.acc_buffers, 1)), flags=Flag.BROADCAST,
                            param_base=index)
                self.list.store(self.output.base, self.output.size)

    def diagnose(self, found):
        """Name buffer, column and bit; of a single entry, that as well."""
        got = self.numbers(found)
        wrong = got != self.numbers(self.expected)
        config = self.config
        buffers = np.flatnonzero(wrong.any(axis=(0, 1, 2, 4)))
        columns = np.flatnonzero(wrong.any(axis=(0, 1, 2, 3)))
        if len(buffers) < config.acc_buffers:
            findings = [self._column(int(buffer), int(column), got[..., buffer, column],
                                     wrong[..., buffer, column])
                        for buffer in buffers for column in columns
                        if wrong[..., buffer, column].any()]
            if len(findings) <= config.cols:
                return findings
        return [Finding(f"{int(wrong.sum())} sums differ in all buffers, in column "
                        f"{', '.join(map(str, columns))}",
                        {"unit": "columns", "columns": columns.tolist()})]

    def _column(self, buffer, column, got, wrong):
        """Return the finding of a column of one buffer."""
        rows = np.flatnonzero(wrong.any(axis=(0, 1)))
        sums = np.stack([self.sums[:, column], ~self.sums[:, column]])
        where = {"unit": "accumulators", "buffer": buffer, "column": column}
        place = f"buffer {buffer}, column {column}"
        for bit in range(self.config.acc_bits):
            for kind in KINDS:
                same = (self.seen(sums, bit, kind) == got).all(axis=(0, 1))
                if same.all() and len(rows) > 1:
                    return Finding(f"{place}: bit {bit} {kind} in every entry",
                                   {**where, "bit": bit, "kind": kind}, True)
                if same[rows].all() and len(rows) <= 4:
                    entries = ", ".join(map(str, rows))
                    return Finding(f"{place}, entry {entries}: bit {bit} {kind}", {
                        **where, "bit": bit, "kind": kind, "entries": rows.tolist()}, True)
        return Finding(f"{place}: {len(rows)} of {self.rows} entries differ", where)

    def seen(self, sums, bit, kind):
        """Return the results (shifts, ...) of `sums` of which a bit is stuck."""
        changed = apply_stuck(sums, bit, kind, self.config.acc_bits)
        return np.stack([saturate(round_shift(changed, shift), _OUT) for shift in self.shifts])

    def numbers(self, frames):
        """Return results (shifts, signs, rows, buffers, columns)."""
        config = self.config
        words = np.concatenate(frames).reshape(2 * len(self.shifts), -1, config.rows)
        return np.stack([self.output.numbers(part, config.rows) for part in words]).reshape(
            len(self.shifts), 2, self.rows, config.acc_buffers, config.cols)
