"""Look-up tables at carry chains: a netlist in which nextpnr-xilinx keeps them together."""

import copy
from collections import Counter

from systola.boards.synthesis.primitives import LUT

__all__ = ["keep_carry_luts"]

_LUT_INPUTS = 5
"""Of both LUTs at a position of a chain: one for S, one for DI, which share their inputs."""


def keep_carry_luts(module):
    """Change a flat netlist so that LUTs of carry chains are placed at them; return what it did.

    A chain takes S and DI from the two LUTs of its position. nextpnr-xilinx (``pack_carries``)
    leaves the LUT of S there if nothing else reads it and the LUTs have five inputs together, of
    which a DI from elsewhere takes one, even one that S has too. Otherwise it places the LUT
    anywhere and a second one at the chain, to pass the value on. So a DI that S has among five
    inputs gets a LUT of its own, which passes it on, and a LUT that others read gets a copy: both
    where the tool would put one anyway.

    Parameters
    ----------
    module : dict
        As Yosys' ``write_json`` writes it; new cells and nets are added to it.

    Returns
    -------
    dict
        Positions with an S: ``kept`` have their LUT beside them, after ``passed_on`` LUTs for DI
        and ``copied`` ones; ``apart`` have it elsewhere; ``registers`` have none.
    """
    cells, drivers, readers, last = module["cells"], {}, Counter(), 0
    for name, cell in cells.items():
        for pin, bits in cell["connections"].items():
            wires = [bit for bit in bits if isinstance(bit, int)]
            last = max([last, *wires])
            if cell["port_directions"][pin] == "output":
                drivers |= dict.fromkeys(wires, name)
            else:
                readers.update(wires)

    def add(name, cell):
        nonlocal last
        last += 1
        cell["connections"] = {**cell["connections"], "O": [last]}
        cells[name] = cell
        module["netnames"][name] = {"hide_name": 1, "bits": [last], "attributes": {}}
        return last

    done = Counter(kept=0, passed_on=0, copied=0, apart=0, registers=0)
    for name, cell in list(cells.items()):
        if cell["type"] != "CARRY4":
            continue
        pins = cell["connections"]
        for place, (s, di) in enumerate(zip(pins["S"], pins["DI"], strict=True)):
            if not isinstance(s, int):
                continue
            table = cells.get(drivers.get(s))
            inputs = _inputs(table)
            if inputs is None:
                done["registers"] += 1
                continue
            other = _inputs(cells.get(drivers.get(di))) if readers[di] == 1 else None
            together = len(inputs) + 1 if other is None else len(inputs | other)
            full = len(inputs) == _LUT_INPUTS and together > _LUT_INPUTS
            pass_on = full and di in inputs
            if table["type"] == "LUT6" or (full and not pass_on):
                done["apart"] += 1
                continue
            if pass_on:
                pins["DI"][place] = add(f"{name}$di{place}", {
                    "hide_name": 1, "type": "LUT1", "parameters": {"INIT": "10"},
                    "attributes": {}, "port_directions": {"I0": "input", "O": "output"},
                    "connections": {"I0": [di]}})
            if readers[s] > 1:
                pins["S"][place] = add(f"{name}$s{place}", copy.deepcopy(table))
                readers[s] -= 1
            done.update(kept=1, passed_on=pass_on, copied=pins["S"][place] != s)
    return dict(done)


def _inputs(cell):
    """Return what a LUT or inverter reads; None for any other cell."""
    if cell is None or not LUT.fullmatch(cell["type"]):
        return None
    return {bit for pin, bits in cell["connections"].items() for bit in bits
            if cell["port_directions"][pin] == "input"}
