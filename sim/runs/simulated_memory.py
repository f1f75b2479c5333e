"""Memories that simulated programs are played from."""

from dataclasses import dataclass, field
from pathlib import Path

from systola.hw.generate import TOP
from systola.hw.resident.block_memory import BlockMemory
from systola.sim.runs.resident_top import ResidentTop
from systola.sim.verilog.runner import cached_verilog

__all__ = ["MEMORIES", "SimulatedMemory", "block_memory"]


@dataclass(frozen=True)
class SimulatedMemory:
    """A memory of ``beats`` beats for resident programs.

    ``make`` returns its component for a configuration, ``key`` is what that depends on besides, and
    ``model`` the Verilog of modules that the component instantiates.
    """

    name: str
    beats: int
    make: object = field(compare=False)
    key: tuple = ()
    model: str = ""

    def verilog(self, config, *, simulator):
        """Return the file with the Verilog of an accelerator that plays from this memory."""
        return Path(cached_verilog(
            lambda: ResidentTop(config, self.make(config)), name=TOP,
            key=[config.to_dict(), self.name, self.beats, *self.key], simulator=simulator))


def block_memory(config, beats):
    """Return block RAM for at least so many beats."""
    beats = 1 << (beats - 1).bit_length()
    return SimulatedMemory("bram", beats, lambda config: BlockMemory(
        bus_bytes=config.bus_bytes, size=beats))


MEMORIES = {"bram": block_memory}
"""Makers of memories by name: each returns, for a configuration and the beats that are needed, the
`SimulatedMemory`."""
