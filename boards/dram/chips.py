"""The boards' external memories, as data."""

from dataclasses import dataclass

__all__ = ["DRAMS", "Dram", "find_dram"]


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
    bytes : int
        Size.
    """

    board: str
    chip: str
    kind: str
    data_bits: int
    phases: int
    bytes: int

    @property
    def word_bytes(self):
        """Bytes of a native word: what the pins carry in a cycle of the controller."""
        return self.data_bits // 8 * self.phases * (2 if self.kind == "DDR3" else 1)

    @property
    def words(self):
        """Native words."""
        return self.bytes // self.word_bytes


DRAMS = {
    "ulx3s_85f": (Dram("ulx3s_85f", "MT48LC16M16", "SDR", 16, 2, 32 << 20),
                  Dram("ulx3s_85f", "MT48LC16M16", "SDR", 16, 1, 32 << 20)),
    "arty_s7_50": (Dram("arty_s7_50", "MT41K128M16", "DDR3", 16, 4, 256 << 20),),
}
"""By board, the ways to run its memory, the best one first."""


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
