"""Control sets and fan-out, of netlists by hand and of one by Yosys."""

import pytest

from systola.boards.synthesis.crowding import crowding


def cell(kind, out="Q", **pins):
    return {"type": kind, "connections": {pin: [bit] for pin, bit in pins.items()},
            "port_directions": {pin: "output" if pin == out else "input" for pin in pins}}


def netlist(**cells):
    nets = {"clock": [1], "data": [2, 3, 4], "a_longer_name": [3], "enable": [5]}
    return {"modules": {"top": {"cells": cells, "netnames": {
        name: {"bits": bits} for name, bits in nets.items()}}}}


def test_of_a_netlist_by_hand():
    flops = {f"f{k}": cell("FDRE", C=1, CE=5, R="0", D=100 + k, Q=200 + k) for k in range(9)}
    found = crowding(netlist(
        **flops, buffer=cell("BUFG", out="O", I=9, O=1),
        same=cell("FDSE", C=1, CE=5, S="0", D=3, Q=300),  # S or R: the same wire
        free=cell("FDRE", C=1, CE="1", R="0", D=3, Q=301),
        reset=cell("FDRE", C=1, CE="1", R=4, D=302, Q=303),
        asynchronous=cell("FDCE", C=1, CE="1", CLR=4, D=3, Q=304),
        own=cell("LUT2", out="O", I0=2, I1=3, O=100),
        shared=cell("LUT1", out="O", I0=3, O=101), reader=cell("LUT1", out="O", I0=101, O=400),
        carry=cell("CARRY4", out="O", S=3, O=102)))
    assert found["control_sets"] == 4
    assert found["flip_flop_slices"] == 2 + 3
    assert found["lut_ff_pairs"] == 1
    assert found["fan_out"][:2] == [{"net": "enable", "pins": 10}, {"net": "data[1]", "pins": 6}]
    assert {"net": "data[2]", "pins": 2} in found["fan_out"]
    assert not any("clock" in entry["net"] for entry in found["fan_out"])


def test_of_nothing():
    assert crowding(netlist()) == {"control_sets": 0, "flip_flop_slices": 0, "lut_ff_pairs": 0,
                                   "fan_out": []}
    with pytest.raises(ValueError, match=r"^top must be one of top, not 'other'$"):
        crowding(netlist(), top="other")
