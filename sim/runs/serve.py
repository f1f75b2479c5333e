"""A simulated board: the top that goes onto boards, without PLL and pins, on a line of bits."""

import contextlib
import os
import threading
import time
from pathlib import Path

from systola.hw.host.uart import DIVISOR_MIN
from systola.hw.linked import LinkedAccelerator
from systola.sim.runs.simulated_memory import find_memory
from systola.sim.verilog.line import LINE, line_verilog
from systola.sim.verilog.runner import Session, SimulationError, build_text, cached_verilog
from systola.sim.verilog.toolcheck import posix_module

__all__ = ["board_verilog", "build_board_simulation", "serve_board"]

_TOP = "board"


def build_board_simulation(config, *, divisor=DIVISOR_MIN, memory=None, memory_bytes=0,
                           optimize="-Os"):
    """Compile an accelerator of `config` behind a UART of `divisor` cycles a bit, and its line.

    With `memory`, one of ``simulated_memory.MEMORIES``, it has that for resident programs; block
    RAM has `memory_bytes`.
    """
    return build_text(board_verilog(config, divisor=divisor, memory=memory,
                                    memory_bytes=memory_bytes) + line_verilog(_TOP, divisor),
                      top=LINE, optimize=optimize)


def board_verilog(config, *, divisor=DIVISOR_MIN, memory=None, memory_bytes=0):
    """Return the Verilog of module ``board``: an accelerator of `config` behind a UART.

    `memory` and `memory_bytes` are as of `build_board_simulation`.
    """
    memory = memory and find_memory(memory)
    size = memory.size(config, memory_bytes // config.bus_bytes) if memory else 0

    def linked():
        return LinkedAccelerator(config, divisor=divisor,
                                 memory=memory.make(config, size) if memory else None)

    model = memory.model if memory else ""
    path = cached_verilog(linked, name=_TOP, key=[config.to_dict(), divisor, size, model])
    return path.read_text() + model


@contextlib.contextmanager
def serve_board(config, link, *, memory=None, memory_bytes=0, optimize="-Os"):
    """Simulate a board whose serial port is the pseudo-terminal at `link`, while in the context.

    `memory` and `memory_bytes` are as of `build_board_simulation`.

    Yields a function that returns whether the simulation still runs. `link` is a symbolic link
    that comes and goes with it. Raises ``ValueError`` if something else is at `link`, or its folder
    does not exist, or this system has no pseudo-terminals, and `SimulationError` if the simulation
    fails.
    """
    posix_module("tty")
    link = Path(link).absolute()
    if os.path.lexists(link) and not link.is_symlink():
        raise ValueError(f"link {str(link)!r} must not be an existing file")
    if not link.parent.is_dir():
        raise ValueError(f"link {str(link)!r} must be in an existing folder")
    link.unlink(missing_ok=True)
    built = build_board_simulation(config, memory=memory, memory_bytes=memory_bytes,
                                   optimize=optimize)
    failure = []
    with Session(built, "systola.sim.benches.board") as session:

        def work():
            try:
                session.run({"job": "terminal", "path": str(link)}, {})
            except SimulationError as error:
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while not link.is_symlink() and thread.is_alive():
                time.sleep(0.02)
            yield thread.is_alive
        finally:
            session.stop()
            thread.join()
            link.unlink(missing_ok=True)
    if failure:
        raise failure[0]
