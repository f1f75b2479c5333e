"""Look-up tables of carry chains, kept where nextpnr-xilinx would part them."""

import copy

import numpy as np
import pytest

from systola.boards.flows.carry_luts import keep_carry_luts

INPUT, OUTPUT = "input", "output"


def lut(output, *inputs, init):
    return {"type": f"LUT{len(inputs)}", "parameters": {"INIT": f"{init:0{2 ** len(inputs)}b}"},
            "attributes": {}, "hide_name": 1,
            "port_directions": {**{f"I{k}": INPUT for k in range(len(inputs))}, "O": OUTPUT},
            "connections": {**{f"I{k}": [bit] for k, bit in enumerate(inputs)}, "O": [output]}}


def inverter(output, bit):
    return {"type": "INV", "parameters": {}, "attributes": {}, "hide_name": 1,
            "port_directions": {"I": INPUT, "O": OUTPUT},
            "connections": {"I": [bit], "O": [output]}}


def carry(s, di, o):
    return {"type": "CARRY4", "parameters": {}, "attributes": {}, "hide_name": 1,
            "port_directions": {"CI": INPUT, "CYINIT": INPUT, "S": INPUT, "DI": INPUT, "O": OUTPUT,
                                "CO": OUTPUT},
            "connections": {"CI": ["0"], "CYINIT": ["0"], "S": s, "DI": di, "O": o, "CO": []}}


def module(cells):
    return {"cells": cells, "netnames": {}}


def value(found, bit, given):
    """Return what a net of LUTs and inverters has, for values of the nets that nothing drives."""
    if not isinstance(bit, int):
        return int(bit)
    for cell in found["cells"].values():
        pins = cell["connections"]
        if cell["type"] != "CARRY4" and pins["O"] == [bit]:
            if cell["type"] == "INV":
                return 1 - value(found, pins["I"][0], given)
            index = sum(value(found, pins[f"I{k}"][0], given) << k for k in range(len(pins) - 1))
            return int(cell["parameters"]["INIT"][-1 - index])
    return given[bit]


def is_kept(found, place):
    """Return whether ``pack_carries`` leaves the LUT of S at a position, by what it does."""
    cells = found["cells"]
    pins = cells["chain"]["connections"]

    def table(bit):
        readers = [(name, pin) for name, cell in cells.items()
                   for pin, bits in cell["connections"].items() for other in bits
                   if other == bit and cell["port_directions"][pin] == INPUT]
        cell = next((cell for cell in cells.values() if cell["type"] != "CARRY4"
                     and cell["connections"]["O"] == [bit]), None)
        return cell if len(readers) == 1 and cell and cell["type"] != "LUT6" else None

    s, di = table(pins["S"][place]), table(pins["DI"][place])
    nets = {bit for cell in (s, di) if cell for pin, bits in cell["connections"].items()
            for bit in bits if cell["port_directions"][pin] == INPUT}
    if len(nets) + (s is None) + (di is None) <= 5:
        return s is not None
    return s is not None and len(s["connections"]) - 1 <= 4


CASES = {
    # DI is an input of S: with five there is no place for it, unless a LUT of its own takes it.
    "four": (carry([20, "0", "0", "0"], [10, "0", "0", "0"], [90, 91, 92, 93]),
             [lut(20, 10, 11, 12, 13, init=0xA53C)], (1, 0, 0, 0)),
    "five": (carry([20, "0", "0", "0"], [10, "0", "0", "0"], [90, 91, 92, 93]),
             [lut(20, 10, 11, 12, 13, 14, init=0x1234ABCD)], (1, 1, 0, 0)),
    "six": (carry([20, "0", "0", "0"], [10, "0", "0", "0"], [90, 91, 92, 93]),
            [lut(20, 10, 11, 12, 13, 14, 15, init=0x0123456789ABCDEF)], (0, 0, 0, 1)),
    "five and another": (carry([20, "0", "0", "0"], [15, "0", "0", "0"], [90, 91, 92, 93]),
                         [lut(20, 10, 11, 12, 13, 14, init=0x1234ABCD)], (0, 0, 0, 1)),
    "five and its LUT": (carry([20, "0", "0", "0"], [21, "0", "0", "0"], [90, 91, 92, 93]),
                         [lut(20, 10, 11, 12, 13, 14, init=0x1234ABCD), lut(21, 10, 14, init=6)],
                         (1, 0, 0, 0)),
    "four and a larger LUT": (
        carry([20, "0", "0", "0"], [21, "0", "0", "0"], [90, 91, 92, 93]),
        [lut(20, 10, 11, 12, 13, init=0xA53C), lut(21, 12, 14, 15, init=0x96)], (1, 0, 0, 0)),
    # What others read, in a chain or elsewhere, is needed twice.
    "shared": (carry([20, 20, 22, 11], ["0", 10, "1", "0"], [90, 91, 92, 93]),
               [lut(20, 10, 11, init=6), lut(21, 20, 22, init=8), inverter(22, 12)], (3, 0, 3, 0)),
    "twice in a chain": (carry([20, 20, "0", "0"], ["0", "0", "0", "0"], [90, 91, 92, 93]),
                         [lut(20, 10, 11, init=6)], (2, 0, 1, 0)),
    "shared five": (carry([20, "0", "0", "0"], [10, "0", "0", "0"], [90, 91, 92, 93]),
                    [lut(20, 10, 11, 12, 13, 14, init=0x1234ABCD), lut(21, 20, 10, init=8)],
                    (1, 1, 1, 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_tables_stay_at_their_chain(name):
    chain, tables, expected = CASES[name]
    before = module({"chain": chain, **{f"lut{k}": cell for k, cell in enumerate(tables)}})
    after = copy.deepcopy(before)
    done = keep_carry_luts(after)
    assert (done["kept"], done["passed_on"], done["copied"], done["apart"]) == expected
    sites = [place for place, s in enumerate(chain["connections"]["S"]) if isinstance(s, int)]
    kept = [place for place in sites if is_kept(after, place)]
    assert len(kept) == done["kept"]
    assert len(kept) + done["apart"] + done["registers"] == len(sites)
    # Without the change fewer were.
    assert done["kept"] - sum(is_kept(before, place) for place in sites) >= max(
        done["passed_on"], done["copied"] and 1)
    for given in np.random.default_rng(1).integers(0, 2, (64, 16)).tolist():
        given = dict(enumerate(given))
        for pin in "S", "DI":
            for place in range(4):
                old, new = (value(found, found["cells"]["chain"]["connections"][pin][place], given)
                            for found in (before, after))
                assert old == new
    again = copy.deepcopy(after)
    assert keep_carry_luts(again) == {**done, "passed_on": 0, "copied": 0}
    assert again == after


def test_new_nets_are_named():
    chain, tables, _ = CASES["shared five"]
    found = module({"chain": copy.deepcopy(chain),
                    **{f"lut{k}": copy.deepcopy(cell) for k, cell in enumerate(tables)}})
    keep_carry_luts(found)
    bits = [bit for cell in found["cells"].values() for pin, bits in cell["connections"].items()
            for bit in bits if cell["port_directions"][pin] == OUTPUT]
    assert len(bits) == len(set(bits))
    assert {name: net["bits"] for name, net in found["netnames"].items()} == {
        "chain$di0": [94], "chain$s0": [95]}
