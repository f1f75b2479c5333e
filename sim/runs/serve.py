"""A simulated board: the top that goes onto boards, without PLL and pins, on a line of bits."""

import contextlib
import os
import threading
import time
from pathlib import Path

from systola.hw.host.uart import DIVISOR_MIN
from systola.hw.linked import LinkedAccelerator
from systola.sim.verilog.line import LINE, line_verilog
from systola.sim.verilog.runner import Session, SimulationError, build_text, cached_verilog
from systola.sim.verilog.toolcheck import posix_module

__all__ = ["board_verilog", "build_board_simulation", "serve_board"]

_TOP = "board"


def build_board_simulation(config, *, divisor=DIVISOR_MIN, optimize="-Os"):
    """Compile an accelerator of `config` behind a UART of `divisor` cycles a bit, and its line."""
    return build_text(board_verilog(config, divisor=divisor) + line_verilog(_TOP, divisor),
                      top=LINE, optimize=optimize)


def board_verilog(config, *, divisor=DIVISOR_MIN):
    """Return the Verilog of module ``board``: an accelerator of `config` behind a UART."""
    path = cached_verilog(lambda: LinkedAccelerator(config, divisor=divisor), name=_TOP,
                          key=[config.to_dict(), divisor])
    return path.read_text()


@contextlib.contextmanager
def serve_board(config, link, *, optimize="-Os"):
    """Simulate a board whose serial port is the pseudo-terminal at `link`, while in the context.

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
    built, failure = build_board_simulation(config, optimize=optimize), []
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
