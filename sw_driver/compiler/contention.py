"""How engines slow each other down that share the parameters' port and port B of the scratchpad.

A first timeline without any contention says which operations run beside each other; `backgrounds`
makes of it what the ports do for others while an operation runs, as mean rates, and the functions
here how much longer its rows take then. The order of single accesses is not looked at.
"""

from dataclasses import dataclass, field

import numpy as np

from systola.hw.contract.isa import Engine, Flag, Opcode

__all__ = ["QUIET", "Background", "Use", "backgrounds", "port_use"]

_STEPS = 32
"""Rates are rounded to so many steps, so that operations beside the same work are alike."""

_TURN = 7 / 8
"""Most of a port's cycles that one who goes first can take from one who waits."""

_ROUNDS = 4
"""How often the time that an operation takes beside others is estimated from the last estimate."""

_FIRST = 4
"""Rates of an engine before those of the banks: parameters, writes, and both times their rate."""


@dataclass
class Use:
    """Accesses of an operation, between two cycles: parameter words, and by bank.

    `reads` and `writes` are those of port B. `bursts` are the sums of parameter words and of writes
    in short times, each times its rate; None if they are even.
    """

    engine: Engine
    params: int = 0
    reads: dict = field(default_factory=dict)
    writes: dict = field(default_factory=dict)
    bursts: tuple | None = None
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Background:
    """What the other engines do while an operation runs, in accesses a cycle.

    Attributes
    ----------
    params, params_square : float
        Parameter words of MATRIX, for others; of VECTOR, for MATRIX. Their mean rate, and the mean
        of its square.
    writes, writes_square : float
        The same of writes that go first.
    reads, conflicts : float
        Reads of others in the banks where this operation writes; writes where it reads.
    first : float
        Reads that go first.
    own, crowd : float
        Of the bank that is the most in use: the share of this operation's accesses that are there,
        and the others' there; zero if there are no others.
    """

    params: float = 0.0
    params_square: float = 0.0
    writes: float = 0.0
    writes_square: float = 0.0
    reads: float = 0.0
    conflicts: float = 0.0
    first: float = 0.0
    own: float = 0.0
    crowd: float = 0.0

    def row(self, alone, writing, words, planes, reads, params):
        """Return the cycles of a row of VECTOR that takes `alone` of them if nobody is beside it.

        Parameters
        ----------
        alone, writing : int
            Cycles of a row, and those that its writes would take.
        words : list of int
            Beats of each word that is written.
        planes, reads, params : int
            Writes of a word; words read and parameter words in a row.
        """
        share, rate = _bursts(self.writes, self.writes_square)
        slow = max(alone, writing + self._held(share, rate, words, planes),
                   reads * self._reading(share))
        accesses = self.own * (reads + planes * len(words))
        alone = max(1 / ((1 - share) / alone + share / slow),
                    accesses / (1 - min(self.crowd, _TURN)))
        if not params:
            return alone
        # Between two cases: rows wait for parameters; those of a burst are made up for behind it.
        share, rate = _bursts(self.params, self.params_square)
        bursts = share / max(alone, params / (1 - _TURN * rate)) + (1 - share) / alone
        even = 1 / max(alone, params / (1 - _TURN * min(self.params, 1)))
        return 2 / (bursts + even)

    def _reading(self, share):
        """Return the cycles of a read in a burst."""
        if not share:
            return 1.0
        first, conflicts = (min(rate / share, 1.0) for rate in (self.first, self.conflicts))
        return (1 + conflicts) / (1 - min(first + conflicts, _TURN))

    def _held(self, share, rate, words, planes):
        """Return the cycles that a burst of writes holds up a row.

        A write waits for k others with probability ``busy**k``, each of which may wait for a read
        in the same bank; the beats of the next word, less those of its own writes, go by meanwhile.
        """
        if not share:
            return 0.0
        reads = min(self.reads / share, 1.0)
        busy, each = min(rate + reads, _TURN), 1 + reads
        return each / (1 - busy) * sum(
            busy ** (max(beats - planes - 1, 0) / each + 1) for beats in words)

    @property
    def of_reads(self):
        """Longer reads of LOAD, in parts of theirs."""
        return self.first + self.conflicts


def _bursts(mean, square):
    """Return the share of time and the rate in it of bursts with this mean and mean square."""
    if not mean or not square:
        return 0.0, 0.0
    rate = min(square / mean, 1.0)
    return min(mean / rate, 1.0), rate


QUIET = Background()


def _banks(fields, prefix, rows, planes, config):
    """Return the bank of each plane of a region, that of its middle row."""
    middle = fields[f"{prefix}base"] + rows // 2 * fields[f"{prefix}stride"]
    plane = fields.get(f"{prefix}plane", 0)
    return [min((middle + k * plane) // config.bank_depth, config.banks - 1)
            for k in range(planes)]


def _spread(banks, count):
    found = {}
    for bank in banks:
        found[bank] = found.get(bank, 0) + count
    return found


def port_use(op, fields, config):
    """Return the `Use` of an operation whose fields are all known; None if it has none."""
    use = Use(op.engine)
    if op.opcode is Opcode.MATMUL:
        words, groups = _tile_words(fields, config)
        rows = fields["rows"]
        wide = 1 + (fields["out_bits"] > 8)
        use.params = rows * groups
        use.writes = _spread(_banks(fields, "out_", rows, wide, config), rows * words)
        if fields["flags"] & Flag.RESIDUAL:
            use.reads = _spread(_banks(fields, "res_", rows, 2, config), rows * words)
    elif op.engine is Engine.VECTOR:
        rows, words = fields["rows"], fields["words"]
        columns = (words - 1) * config.rows + fields["lanes_last"]
        mean = op.opcode is Opcode.MEAN
        wide = 1 + (op.opcode is Opcode.LAYERNORM or bool(fields.get("wide")))
        planes = (config.attention_digits if op.opcode is Opcode.SHIFTMAX
                  else 1 + (fields.get("out_bits", 0) > 8))
        use.reads = _spread(_banks(fields, "src_", rows, wide, config), rows * words)
        written = config.attention_words(words) if op.opcode is Opcode.SHIFTMAX else words
        use.writes = _spread(_banks(fields, "dst_", 1 if mean else rows, planes, config),
                             (1 if mean else rows) * written)
        if op.opcode is Opcode.LAYERNORM and not config.compared_norm:
            use.params = rows * -(-columns // config.lanes)
    elif op.opcode in (Opcode.FETCH, Opcode.STORE, Opcode.COPY):
        use.reads = _spread(_banks(fields, "", fields["rows"], 1, config),
                            fields["rows"] * fields["words"])
        if op.opcode is Opcode.COPY:
            use.writes = _spread(_banks(fields, "to_", fields["rows"], 1, config),
                                 fields["rows"] * fields["words"])
    elif op.opcode is Opcode.LOAD:
        use.writes = _spread(_banks(fields, "", fields["rows"], 1, config),
                             fields["rows"] * fields["words"])
    else:
        return None
    return use


def _tile_words(fields, config):
    """Return the words and the groups in a row of all tiles of a MATMUL."""
    words = groups = 0
    columns = (fields["words"] - 1) * config.rows + fields["lanes_last"]
    tile = config.tile_columns(narrow=bool(fields["flags"] & Flag.NARROW))
    for first in range(fields["out_group"] * config.lanes, columns, tile):
        last = min(first + tile, columns) - 1
        words += last // config.rows - first // config.rows + 1
        groups += -(-(last - first + 1) // config.lanes)
    return words, groups


class _Profile:
    """Accesses by time of one engine: their sum up to a cycle, by kind and bank."""

    def __init__(self, uses, config):
        self.width = _FIRST + 2 * config.banks
        rates = np.zeros((len(uses), self.width))
        starts, ends = (np.array([getattr(use, name) for use in uses], float)
                        for name in ("start", "end"))
        for row, use in zip(rates, uses, strict=True):
            written = sum(use.writes.values())
            length = max(use.end - use.start, 1)
            row[:_FIRST] = use.params, written, *(
                use.bursts or (use.params ** 2 / length, written ** 2 / length))
            for bank, count in use.reads.items():
                row[_FIRST + bank] = count
            for bank, count in use.writes.items():
                row[_FIRST + config.banks + bank] = count
        rates /= np.maximum(ends - starts, 1)[:, None]
        times = np.concatenate([starts, ends])
        order = np.argsort(times, kind="stable")
        self.times = times[order]
        slopes = np.cumsum(np.concatenate([rates, -rates])[order], axis=0)
        steps = slopes[:-1] * np.diff(self.times)[:, None]
        self.sums = np.concatenate([np.zeros((min(len(times), 1), self.width)),
                                    np.cumsum(steps, axis=0)])

    def between(self, starts, ends):
        """Return the mean rates between cycles, a row for each pair."""
        if not len(self.times):
            return np.zeros((len(starts), self.width))
        length = np.maximum(ends - starts, 1)
        return np.stack([(np.interp(ends, self.times, sums) - np.interp(starts, self.times, sums))
                         / length for sums in self.sums.T], axis=1)


def backgrounds(uses, config):
    """Return the `Background` of every `Use` in a list, in its order.

    Parameters
    ----------
    uses : list of Use
        Of all operations, with the cycles between which their accesses were.
    config : AcceleratorConfig
        The accelerator.
    """
    starts, ends = (np.array([getattr(use, name) for use in uses], float)
                    for name in ("start", "end"))
    profiles = {engine: _Profile([use for use in uses if use.engine is engine], config)
                for engine in Engine}
    last = _last(uses, profiles, starts, ends, config)
    rates = {engine: profile.between(starts, last) for engine, profile in profiles.items()}
    return [_background(use, {engine: rates[engine][index] for engine in Engine
                              if engine is not use.engine}, config)
            for index, use in enumerate(uses)]


def _accesses(use, config):
    """Return the accesses of a `Use` in each bank."""
    return np.array([use.reads.get(bank, 0) + use.writes.get(bank, 0)
                     for bank in range(config.banks)])


def _last(uses, profiles, starts, ends, config):
    """Return when every `Use` ends beside the others, if its busiest bank is all that it waits for.

    Others that end before do not slow it any more, so its background is that up to this cycle.
    """
    mine = np.array([_accesses(use, config) for use in uses]).reshape(-1, config.banks)
    last = ends
    for _ in range(_ROUNDS):
        crowd = sum(np.array([use.engine is not engine for use in uses])[:, None]
                    * _busy(profile.between(starts, last)) for engine, profile in profiles.items())
        needed = mine + crowd * np.maximum(last - starts, 1)[:, None]
        last = np.maximum(ends, starts + needed.max(axis=1, initial=0))
    return last


def _busy(rates):
    """Return the accesses a cycle in each bank, of rates along the last axis."""
    reads, writes = np.split(rates[..., _FIRST:], 2, axis=-1)
    return reads + writes


def _background(use, others, config):
    banks = config.banks
    nothing = np.zeros(_FIRST + 2 * banks)
    matrix, vector = (others.get(engine, nothing) for engine in (Engine.MATRIX, Engine.VECTOR))

    def share(side, first):
        """Return the mean of the others' rates in the banks of `side`."""
        total = sum(side.values())
        return total and sum(count * sum(rates[first + bank] for rates in others.values())
                             for bank, count in side.items()) / total

    def reads(rates):
        return rates[_FIRST:_FIRST + banks].sum()

    before = {Engine.MATRIX: nothing, Engine.VECTOR: matrix, Engine.LOAD: matrix + vector}
    first = before[use.engine]
    params = vector if use.engine is Engine.MATRIX else matrix
    if config.param_ports > 1:
        params = nothing
    # A port B does one access a cycle: what its bank has to do is the least time.
    mine = _accesses(use, config)
    crowd = _busy(sum(others.values()))
    busiest = int(np.argmax(mine / (1 - np.minimum(crowd, _TURN))))
    values = (params[0], params[2], first[1], first[3], share(use.writes, _FIRST),
              share(use.reads, _FIRST + banks), reads(first),
              mine[busiest] / max(mine.sum(), 1) if crowd[busiest] else 0, crowd[busiest])
    return Background(*(round(min(value, 1) * _STEPS) / _STEPS for value in values))
