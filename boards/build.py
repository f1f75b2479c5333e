"""A configuration to a bitstream for a board."""

from pathlib import Path

from systola.boards.board import find_board
from systola.boards.board_memory import BoardMemory
from systola.boards.flows.ecp5 import build_ecp5, check_tools
from systola.boards.flows.flow import check_folder
from systola.boards.flows.spartan7 import build_spartan7
from systola.boards.top import BoardTop, plan_clock
from systola.hw.contract.config import AcceleratorConfig
from systola.hw.resident.block_memory import BlockMemory

__all__ = ["MEMORIES", "ROUTERS", "build_board"]

ROUTERS = "router1", "router2"
"""Routers of nextpnr."""

MEMORIES = "bram", "dram"
"""Memories for resident programs."""

_FLOWS = {"xc7": build_spartan7, "ecp5": build_ecp5}


def build_board(board, config=None, *, output=None, mhz=None, baud=None, memory=None,
                memory_bytes=65536, seeds=3, router=None, minutes=120, progress=None):
    """Build the accelerator of a configuration for a board; return the `BoardResult`.

    Parameters
    ----------
    board : str
        Name of a board.
    config : AcceleratorConfig, optional
        By default the board's preset.
    output : str or Path, optional
        Folder of the results, by default ``build/synth/<board>``.
    mhz : float, optional
        Clock frequency, by default the board's.
    baud : int, optional
        Bits per second of the serial link, by default the board's.
    memory : str, optional
        Memory for resident programs: ``bram``, block RAM, or ``dram``, that beside the FPGA.
    memory_bytes : int
        Bytes of that block RAM.
    seeds : int
        Number of placements.
    router : str, optional
        One of `ROUTERS`; by default the one that the family's nextpnr prefers.
    minutes : float
        Most minutes that one run of a tool may take.
    progress : callable, optional
        Called with one short text whenever the step changes.

    Raises
    ------
    ToolError, SynthesisError
        If a tool fails.
    ValueError
        If an argument is out of range; the message names it.
    """
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a positive integer, not {seeds!r}")
    if router not in (None, *ROUTERS):
        raise ValueError(f"router must be {' or '.join(ROUTERS)}, not {router!r}")
    if not 0 < minutes < float("inf"):
        raise ValueError(f"minutes must be a positive number, not {minutes!r}")
    if memory not in (None, *MEMORIES):
        raise ValueError(f"memory must be {' or '.join(MEMORIES)}, not {memory!r}")
    board = find_board(board)
    output = Path("build", "synth", board.name) if output is None else Path(output)
    # Before anything is made that would complain of not having been used.
    check_folder(output)
    if board.family == "ecp5":
        check_tools()
    plan_clock(board, mhz, baud)
    config = config or AcceleratorConfig.load(board.config)
    if memory == "bram":
        memory = BlockMemory(bus_bytes=config.bus_bytes, size=memory_bytes // config.bus_bytes)
    elif memory == "dram":
        memory = BoardMemory(board, mhz=mhz)
    top = BoardTop(board, config, mhz=mhz, baud=baud, memory=memory)
    return _FLOWS[board.family](top, output, seeds=seeds, router=router, limit=60 * minutes,
                                 progress=progress)
