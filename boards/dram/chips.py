"""The boards' external memories, as data."""

from dataclasses import dataclass

from systola.hw.parts.arguments import check_positive

__all__ = ["DRAMS", "Bandwidth", "Dram", "bandwidth", "find_dram"]


@dataclass(frozen=True)
class Dram:
    """An external memory and how it is run.

    Parameters
    ----------
    board : str
        Name of the board that it is on.
    chip : str
        LiteDRAM's name of the chip, or of one that asks for no less time anywhere.
    kind : str
        ``SDR`` or ``DDR3``.
    data_bits : int
        Data pins.
    phases : int
        Cycles of the chip in a cycle of the controller.
    bytes, row_bytes : int
        Size of the memory, and of a row of a bank.
    mhz : float
        Frequency of the controller with which `refresh` and `row` were measured.
    refresh, row : int
        Cycles without a word for a refresh, and for the next row. Measured in the simulation of
        ``tests/boards/test_dram.py``, which also says that LiteDRAM gives no others.
    """

    board: str
    chip: str
    kind: str
    data_bits: int
    phases: int
    bytes: int
    row_bytes: int
    mhz: float
    refresh: int
    row: int

    @property
    def word_bytes(self):
        """Bytes of a native word: what the pins carry in a cycle of the controller."""
        return self.data_bits // 8 * self.phases * (2 if self.kind == "DDR3" else 1)

    @property
    def words(self):
        """Native words."""
        return self.bytes // self.word_bytes


@dataclass(frozen=True)
class Bandwidth:
    """What a memory gives a user of `bus_bytes` bytes a beat, in bytes per cycle of the user.

    Parameters
    ----------
    peak, sustained : float
        While words come, and on average when everything is read in order.
    source : str
        Where the numbers come from.
    """

    peak: float
    sustained: float
    source: str


DRAMS = {
    "ulx3s_85f": (
        Dram("ulx3s_85f", "MT48LC16M16", "SDR", 16, 2, 32 << 20, 1 << 10, 50.0, 13, 7),
        Dram("ulx3s_85f", "MT48LC16M16", "SDR", 16, 1, 32 << 20, 1 << 10, 50.0, 11, 5)),
    "arty_s7_50": (
        Dram("arty_s7_50", "MT41K128M16", "DDR3", 16, 4, 256 << 20, 2 << 10, 100.0, 43, 8),),
}
"""By board, the ways to run its memory, the best one first. The ULX3S comes with chips of several
makers; what LiteDRAM keeps for this one at 50 MHz is enough for all of 32 Mbyte that it knows."""

_REFRESH_US = 64e3 / 8192  # JEDEC: every row within 64 ms, 8192 commands


def bandwidth(board, *, bus_bytes, mhz, phases=None):
    """Return the `Bandwidth` of a board's memory for a user at `mhz` MHz.

    The controller of SDR memory has the user's clock, that of DDR3 memory its own.
    """
    dram = find_dram(board, phases)
    check_positive(bus_bytes=bus_bytes)
    if not isinstance(mhz, int | float) or not 0 < mhz < float("inf"):
        raise ValueError(f"mhz must be a positive number, not {mhz!r}")
    clock = mhz if dram.kind == "SDR" else dram.mhz
    words = dram.row_bytes // dram.word_bytes
    share = words / (words + dram.row) * (1 - dram.refresh / (_REFRESH_US * clock))
    peak = dram.word_bytes * clock / mhz
    return Bandwidth(
        min(peak, bus_bytes), min(peak * share, bus_bytes),
        f"{dram.kind} x{dram.data_bits} at {clock * dram.phases:g} MHz, {words} words a row; "
        f"{dram.row} cycles lost for a row and {dram.refresh} for a refresh in the simulation of "
        f"LiteDRAM at {dram.mhz:g} MHz")


def find_dram(board, phases=None):
    """Return the `Dram` of a board, by default its best; ``ValueError`` if there is none."""
    if board not in DRAMS:
        raise ValueError(f"board must be one with a memory beside the FPGA "
                         f"({', '.join(DRAMS)}), not {board!r}")
    ways = {dram.phases: dram for dram in reversed(DRAMS[board])}
    if phases is None:
        return DRAMS[board][0]
    if phases not in ways:
        raise ValueError(f"phases must be {' or '.join(map(str, ways))} on {board}, "
                         f"not {phases!r}")
    return ways[phases]
