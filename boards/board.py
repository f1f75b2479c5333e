"""What a board is, as data, and the boards there are."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

from systola.boards.pll import Pll

__all__ = ["BOARDS", "Board", "find_board"]

BOARDS = "arty_s7_50", "ulx3s_85f"
"""Boards by name; each is ``BOARD`` of the module of its name."""


@dataclass(frozen=True)
class Board:
    """A board.

    Parameters
    ----------
    name, family, part : str
        Family ``xc7`` or ``ecp5``; the part as its tools call it.
    config : str
        Preset of the accelerator.
    clock_mhz : float
        Default frequency of the accelerator, MHz.
    platform : callable
        Makes the platform (resources, constraints, commands) for a frequency in MHz.
    source : tuple of str and float
        Clock resource, and its frequency in MHz.
    pll : Pll
        Limits of the PLL.
    reset : tuple of str and int
        Name and number of the button that resets.
    baud : int
        Bits per second of the UART.
    high : tuple
        Pins to keep high: (resource, number, subsignal).
    limits : dict
        Primitives of the part, by the names in the table of sizes.
    presets : dict
        Presets that were placed and routed for the board: by name the ``tool`` and its version,
        ``minutes`` on two cores, and ``fmax_mhz`` of each seed.
    """

    name: str
    family: str
    part: str
    config: str
    clock_mhz: float
    platform: Callable
    source: tuple
    pll: Pll
    reset: tuple
    baud: int = 1_000_000
    high: tuple = ()
    limits: dict = field(default_factory=dict)
    presets: dict = field(default_factory=dict)


def find_board(name):
    """Return the `Board` called `name`; ``ValueError`` names the known ones if there is none."""
    if name not in BOARDS:
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return importlib.import_module(f"systola.boards.{name}").BOARD
