"""Memories that simulated programs are played from."""

from dataclasses import dataclass

from systola.boards.dram.chips import DRAMS, bandwidth, find_dram
from systola.boards.dram.controller import generate_controller
from systola.boards.dram.memory import DramMemory
from systola.hw.generate import TOP
from systola.hw.resident.block_memory import BlockMemory
from systola.hw.resident.native_memory import queue_entries
from systola.sim.runs.resident_top import ResidentTop
from systola.sim.verilog.runner import cached_verilog
from systola.sw_driver.compiler.array_times import Supply

__all__ = ["MEMORIES", "BlockRam", "ExternalRam", "find_memory", "resident_verilog"]

_SIMULATED_MHZ = 50.0
"""Frequency of the accelerator for which timing parameters of an SDR chip are computed."""


class BlockRam:
    """Block RAM, as large as is needed."""

    name, model = "bram", ""

    def supply(self, config):
        """Return nothing: it gives a beat in every cycle."""

    def size(self, config, beats):
        """Return the beats of a memory for at least so many, which other programs fit, too."""
        return 1 << (beats - 1).bit_length()

    def make(self, config, size):
        """Return the component."""
        return BlockMemory(bus_bytes=config.bus_bytes, size=size)


@dataclass(frozen=True)
class ExternalRam:
    """The memory of a board, by LiteDRAM's controller and LiteDRAM's model of the chip.

    All of it runs with the accelerator's clock: that of DDR3 is in truth a faster one, and gives
    more in a cycle of the accelerator.
    """

    board: str

    @property
    def name(self):
        """What it is called."""
        return f"dram:{self.board}"

    @property
    def _dram(self):
        return find_dram(self.board)

    @property
    def _mhz(self):
        return _SIMULATED_MHZ if self._dram.kind == "SDR" else self._dram.mhz

    @property
    def _controller(self):
        return generate_controller(self._dram, self._mhz, simulated=True)

    @property
    def model(self):
        """Verilog of the controller and of the chip."""
        return self._controller.verilog

    def supply(self, config):
        """Return how fast it gives beats."""
        dram = self._dram
        given = bandwidth(self.board, bus_bytes=config.bus_bytes, mhz=self._mhz).sustained
        pace = config.bus_bytes / given
        return None if pace <= 1 else Supply(pace, self._entries(config) * max(
            1, dram.word_bytes // config.bus_bytes))

    def _entries(self, config):
        controller = self._controller
        return queue_entries(bus_bytes=config.bus_bytes, word_bytes=self._dram.word_bytes,
                             latency=controller.latency,
                             pause=controller.refresh + controller.row)

    def size(self, config, beats):
        """Return the beats of the memory; ``ValueError`` unless there are at least so many."""
        size = self._dram.bytes // config.bus_bytes
        if size < beats:
            raise ValueError(f"program needs {beats * config.bus_bytes:,} bytes, the memory of "
                             f"{self.board} has {self._dram.bytes:,}")
        return size

    def make(self, config, size):
        """Return the component."""
        return DramMemory(self._controller, bus_bytes=config.bus_bytes)


MEMORIES = {"bram": BlockRam(), **{ram.name: ram for ram in map(ExternalRam, DRAMS)}}
"""Memories by name."""


def find_memory(name):
    """Return one of `MEMORIES`, or ``ValueError``."""
    if name not in MEMORIES:
        raise ValueError(f"memory must be one of {', '.join(MEMORIES)}, not {name!r}")
    return MEMORIES[name]


def resident_verilog(config, memory, size, *, simulator="verilator"):
    """Return the file with the Verilog of an accelerator that plays programs from a memory."""
    return cached_verilog(
        lambda: ResidentTop(config, memory.make(config, size)), name=TOP,
        key=[config.to_dict(), memory.name, size, memory.model], simulator=simulator)
