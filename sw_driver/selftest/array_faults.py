"""What single faults of a processing element do to the sums of its column: a fault dictionary."""

import numpy as np

from systola.hw.contract.dsp_packing import plan_packing
from systola.model.operators.requant import round_shift, saturate
from systola.sw_driver.selftest.probe import Finding
from systola.sw_driver.selftest.stuck_bits import KINDS, apply_stuck

__all__ = ["ArrayFaults"]

_OUT = 16

_SIGNALS = "activation", "weight", "product", "sum", "activation pin", "weight pin"
"""Where a bit may be stuck. The pins are those of the multiplier's operands from the sign on: ports
are wider than operands, and what happens to one pin does not to the other copies of the sign."""

_SAMPLES = 48
"""Results that are looked at first: a candidate that they refuse is not computed in full."""


class ArrayFaults:
    """Candidates of a stuck bit in one cell, or in what all cells of a row take.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    acts : int array (vectors, rows)
        Activation vectors.
    tiles : int array (tiles, rows, cols)
        Weights.
    shifts : sequence of int
        Right shifts with which the sums are seen, as 16 bits.

    Attributes
    ----------
    group : int
        Columns that share a slice.
    """

    def __init__(self, config, acts, tiles, shifts):
        self.config, self.acts, self.tiles, self.shifts = config, acts, tiles, shifts
        self.packing = plan_packing(config.weight_bits, config.act_bits, config.rows,
                                    cols=config.cols) if config.pe_style == "dsp_packed" else None
        self.group = self.packing.group if self.packing else 1
        self.act_bits = config.act_bits + 1
        if self.packing:
            self.weight_bits, self.sum_bits = self.packing.weight_span, self.packing.packed_bits
        else:
            self.weight_bits = config.weight_bits
            self.sum_bits = config.act_bits + config.weight_bits + (config.rows - 1).bit_length()

    def explain(self, seen, columns):
        """Return a certain `Finding` that explains all differences in `columns`, or None.

        Parameters
        ----------
        seen : int array (shifts, vectors, tiles, cols)
            The sums as they came out.
        columns : list of int
            Where they are wrong.
        """
        slices = sorted({column // self.group for column in columns})
        if not slices:
            return None
        if len(slices) == 1:
            return self._one_slice(slices[0], seen)
        return self._shared(slices, seen)

    def every(self, index):
        """Yield every ``(row, signal, bit, kind)`` of slice column `index`, and what it gives.

        That is (shifts, vectors, tiles, group).
        """
        column = _Column(self, self._packed(index))
        for fault in column.faults_of(_SIGNALS):
            yield fault, column.results(column.every, fault).reshape(
                len(self.shifts), len(self.acts), -1, self.group)

    def _one_slice(self, index, seen):
        part = slice(index * self.group, (index + 1) * self.group)
        column = _Column(self, self._packed(index))
        found = list(column.search(seen[..., part], _SIGNALS))
        if not found:
            return None
        row, signal, bit, kind = found[0]
        rows = sorted({fault[0] for fault in found})
        columns = list(range(self.config.cols)[part])
        where = {"unit": "array", "row": row, "columns": columns, "signal": signal, "bit": bit,
                 "kind": kind}
        if len(rows) > 1:  # the topmost bit of a sum, inverted in any row
            where["row"] = None
        return Finding(
            f"row{'s' * (len(rows) > 1)} {' or '.join(map(str, rows))}, "
            f"column{'s' * (len(columns) > 1)} {' and '.join(map(str, columns))}: "
            f"{signal} bit {bit} {kind}", where, True)

    def _shared(self, slices, seen):
        """Explain several slices by what passes from cell to cell, or comes to all of a row."""
        last = self.config.cols // self.group - 1
        explained = None
        for index in slices:
            part = slice(index * self.group, (index + 1) * self.group)
            column = _Column(self, self._packed(index))
            names = {(row, signal, bit, kind) for row, signal, bit, kind in
                     column.search(seen[..., part], ("activation", "weight"))}
            explained = names if explained is None else explained & names
        if not explained or slices != list(range(slices[0], last + 1)):
            return None
        row, signal, bit, kind = sorted(explained)[0]
        where = {"unit": "array", "row": row, "signal": signal, "bit": bit, "kind": kind,
                 "columns": list(range(slices[0] * self.group, self.config.cols))}
        if slices[0] and signal == "activation":
            return Finding(f"row {row}, from column {slices[0] * self.group} on: activation bit "
                           f"{bit} {kind}", where, True)
        return Finding(f"row {row}, all columns: {signal} bit {bit} {kind}, before the array",
                       {**where, "unit": "array row"}, True)

    def _packed(self, index):
        """Return the weights (tiles, rows) of a slice column, side by side."""
        offsets = self.packing.weight_offsets if self.packing else (0,)
        return sum(self.tiles[:, :, index * self.group + k].astype(np.int64) << offset
                   for k, offset in enumerate(offsets))


class _Column:
    """One column of slices: its sums under every candidate."""

    def __init__(self, faults, weights):
        self.faults, self.weights = faults, weights
        rng = np.random.default_rng(0)
        self.every = np.indices((len(faults.acts), len(weights))).reshape(2, -1)
        self.pick = rng.permutation(self.every.shape[1])

    def search(self, seen, signals):
        """Yield every ``(row, signal, bit, kind)`` that gives `seen`.

        That is (shifts, vectors, tiles, group).
        """
        seen = seen.reshape(len(seen), -1, seen.shape[-1])
        right = self.results(self.every)
        # Half of the first look where results are wrong, half where they are not.
        wrong = (right != seen).any(axis=(0, 2))
        order = self.pick
        some = np.concatenate([order[wrong[order]][:_SAMPLES // 2],
                               order[~wrong[order]][:_SAMPLES // 2]])
        for fault in self.faults_of(signals):
            if (self.results(self.every[:, some], fault) == seen[:, some]).all() and (
                    self.results(self.every, fault) == seen).all():
                yield fault

    def faults_of(self, signals):
        """Return every candidate at these signals."""
        return [(row, signal, bit, kind) for row in range(self.faults.config.rows)
                for signal in signals for bit in self._bits(signal) for kind in KINDS]

    def _bits(self, signal):
        """Return the bits that may be stuck; the last one is the sign."""
        faults = self.faults
        product = faults.act_bits + faults.weight_bits
        return {"activation": range(faults.act_bits), "weight": range(faults.weight_bits),
                "product": range(product), "sum": range(faults.sum_bits),
                "activation pin": range(faults.act_bits - 1, product),
                "weight pin": range(faults.weight_bits - 1, product)}[signal]

    def results(self, places, fault=None):
        """Return the results (shifts, n, group) of vectors and tiles `places`, with a fault."""
        faults = self.faults
        acts, weights = faults.acts[places[0]], self.weights[places[1]]
        products = acts * weights
        if fault is not None:
            row, signal, bit, kind = fault
            here = {"activation": acts, "weight": weights}.get(signal.partition(" ")[0], products)
            wrong = apply_stuck(here[:, row], bit, kind, self._bits(signal).stop)
            if here is acts:
                wrong = wrong * weights[:, row]
            elif here is weights:
                wrong = wrong * acts[:, row]
            if signal != "sum":
                products[:, row] = _wrapped(wrong, self._bits("product").stop)
        sums = products.cumsum(axis=1)
        if fault is not None and signal == "sum":
            sums[:, row:] += (apply_stuck(sums[:, row], bit, kind, faults.sum_bits)
                              - sums[:, row])[:, None]
        fields = self._fields(_wrapped(sums, faults.sum_bits))
        fields = _wrapped(fields, faults.config.acc_bits)
        return np.stack([saturate(round_shift(fields, shift), _OUT) for shift in faults.shifts])

    def _fields(self, sums):
        """Return the sums of each product (n, group) from a column's sums (n, rows).

        See `systola.hw.contract.dsp_packing`: tops of fields are followed down the column.
        """
        packing = self.faults.packing
        if packing is None:
            return sums[:, -1:]
        total, below, fields = sums[:, -1], 0, []
        for index, field in enumerate(packing.fields):
            if index == len(packing.fields) - 1:
                whole, count = total >> field.offset, None
            else:
                count = _count(packing, index, sums)
                whole = (total >> field.offset & (1 << field.width) - 1) + (count << field.width)
            fields.append(_wrapped(whole - below, packing.sum_bits))
            below = count
        return np.stack(fields, axis=1)


def _count(packing, index, sums):
    """Return how often field `index` wrapped around at the end of a column's `sums` (n, rows)."""
    field = packing.fields[index]
    seen = max(field.seen, 1)
    top = field.offset + field.width

    def look(rows):
        return sums[:, rows - 1] >> top - seen & (1 << seen) - 1

    before, half = look(field.first), 1 << seen - 1
    count = -(before >> seen - 1)
    low, high = packing.count_range(index, packing.rows)
    bits = max(-low - 1, high).bit_length() + 1
    for rows in field.taps:
        now = look(rows)
        change = ((now - before + half) & (2 * half - 1)) - half
        count = count + (before + change >> seen)
        before = now
    return _wrapped(count, bits)


def _wrapped(values, bits):
    half = np.int64(1) << bits - 1
    return ((values + half) & (2 * half - 1)) - half
