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
    assert (found["connections"], found["dsp_connections"]) == (31, 0)
    assert not any("clock" in entry["net"] for entry in found["fan_out"])


def test_of_nothing():
    assert crowding(netlist()) == {"control_sets": 0, "flip_flop_slices": 0, "lut_ff_pairs": 0,
                                   "dsp_regions": 0, "connections": 0, "dsp_connections": 0,
                                   "fan_out": []}
    with pytest.raises(ValueError, match=r"^top must be one of top, not 'other'$"):
        crowding(netlist(), top="other")


def chain(first, length):
    """Return cells of a chain of DSP slices with one pin to a net, and one output that is read."""
    return {f"d{first + k}": {
        "type": "DSP48E1", "port_directions": {
            "A": "input", "B": "input", "CLK": "input", "PCIN": "input", "P": "output",
            "PCOUT": "output"},
        "connections": {"A": [2, "0"], "B": ["1", 3], "CLK": [1],
                        "PCIN": [1000 + first + k if k else "x"],
                        "PCOUT": [1001 + first + k if k < length - 1 else "x"],
                        "P": [2000 + first + k, 3000]}} for k in range(length)}


@pytest.mark.parametrize(("lengths", "regions"), [
    ([8] * 12, 12), ([10] * 12, 12), ([1] * 60, 12), ([1] * 61, 13), ([8] * 12 + [2], 12),
    ([8] * 12 + [3], 13), ([6, 4, 6, 4], 2), ([], 0)])
def test_halves_of_clock_regions_that_chains_need(lengths, regions):
    cells = {}
    for length in lengths:
        cells |= chain(len(cells), length)
    cells["reader"] = cell("LUT1", out="O", I0=2000, O=5000)
    found = crowding(netlist(buffer=cell("BUFG", out="O", I=9, O=1), **cells))
    assert found["dsp_regions"] == regions
    slices = sum(lengths)
    assert found["dsp_connections"] == 2 * slices + (slices > 0)
    assert found["connections"] == 2 * slices + 2  # and the buffer's and the LUT's own
