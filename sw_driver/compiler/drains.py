"""How long the results of a MATMUL take out of the accumulators."""

from dataclasses import dataclass

from systola.hw.contract.isa import Flag
from systola.sw_driver.compiler.costs import requant_times

__all__ = ["Drain", "drain_of"]

_PARTS = 32  # of a cycle, in which a tile's time is counted


@dataclass(frozen=True)
class Drain:
    """The back end's work for a MATMUL.

    Attributes
    ----------
    slots, latency : int
        Cycles of a group in the requantizer, and until its codes are out.
    wide, residual : bool
        The results have 16 bits; they are sums.
    accesses : int
        Of port B for a word of a row, in the bank that has most.
    tile : int
        Columns of a tile.
    turn : float
        Longer groups, in parts of theirs, as others use the parameters.
    """

    slots: int
    latency: int
    wide: bool
    residual: bool
    accesses: int
    tile: int
    turn: float = 0.0

    @property
    def twice(self):
        """Whether the next MATMUL's results wait for the last one of these."""
        return self.wide or self.residual

    def phase(self, first, config):
        """Return what the time of a full tile depends on, of its first column."""
        return first % config.rows

    def cycles(self, rows, first, columns, config):
        """Return the cycles of the tile at column `first`, with a residual those of its groups."""
        count = min(self.tile, columns - first)
        words = (first + count - 1) // config.rows - first // config.rows + 1
        groups = -(-count // config.lanes)
        slots = -(-int(_PARTS * rows * groups * self.slots * (1 + self.turn)) // _PARTS)
        return slots if self.residual else max(slots, words * self.accesses * rows)

    def accessing(self, rows, first, columns, config):
        """Return the cycles of port B that the tile at column `first` takes with its residual."""
        last = min(first + self.tile, columns) - 1
        return (last // config.rows - first // config.rows + 1) * self.accesses * rows

    def bursts(self, job, config):
        """Return the sums of parameter words and of writes, each times its rate in its tile."""
        params = writes = 0
        for first in range(job.first, job.columns, self.tile):
            count = min(self.tile, job.columns - first)
            words = (first + count - 1) // config.rows - first // config.rows + 1
            cycles = self.cycles(job.rows, first, job.columns, config)
            if self.residual:
                cycles = max(cycles, self.accessing(job.rows, first, job.columns, config))
            params += (job.rows * -(-count // config.lanes)) ** 2 / cycles
            writes += (job.rows * words * (1 + self.wide)) ** 2 / cycles
        return params, writes

    def done(self, last, job, first, config, costs):
        """Return when a MATMUL is done whose last tile, at column `first`, ends with `last`."""
        groups = job.rows * -(-(job.columns - first) // config.lanes)
        cycles = self.cycles(job.rows, first, job.columns, config)
        # Of two groups of two slots, the second one begins a cycle after the first.
        early = self.slots == 2 and groups % 2 == 0 and groups * self.slots == cycles
        return last - (self.slots - 1) - early + self.latency + costs.write_latency + self.wide


def drain_of(fields, use, background, config):
    """Return the `Drain` of a MATMUL that uses its ports so, beside what others do."""
    slots, latency = requant_times(fields, config)
    wide, residual = fields["out_bits"] > 8, bool(fields["flags"] & Flag.RESIDUAL)
    words = sum(use.writes.values()) // (1 + wide)
    banks = {bank: use.writes.get(bank, 0) + use.reads.get(bank, 0)
             for bank in (*use.writes, *use.reads)}
    accesses = max(1 + (wide or residual), max(banks.values()) // words)
    tile = config.tile_columns(narrow=bool(fields["flags"] & Flag.NARROW))
    return Drain(slots, latency, wide, residual, accesses, tile,
                 turn=min(background.params, 1 / 8) if slots == 1 else 0.0)
