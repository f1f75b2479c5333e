# amaranth: UnusedElaboratable=no
import itertools
import json
import random

import pytest
from amaranth import Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.boards.synthesis.depth import logic_depth
from systola.boards.synthesis.primitives import arcs
from systola.boards.synthesis.synth import synthesize


class Netlist:
    """A flat netlist built pin by pin; nets are numbers, named ``n<number>``."""

    def __init__(self):
        self.cells, self.ports, self.count = {}, {}, itertools.count(2)

    def net(self):
        return next(self.count)

    def add(self, kind, parameters=None, **pins):
        """Add a cell; pins given as ints or lists of bits, outputs are pins in capitals `O..`."""
        outputs = {"O", "CO", "Q", "Q31", "DOA", "DOB", "DOC", "DOD", "SPO", "DPO", "P", "DOADO"}
        self.cells[f"{kind}_{len(self.cells)}"] = {
            "type": kind, "parameters": parameters or {},
            "port_directions": {pin: "output" if pin in outputs else "input" for pin in pins},
            "connections": {pin: bits if isinstance(bits, list) else [bits]
                            for pin, bits in pins.items()}}

    def lut(self, *inputs):
        out = self.net()
        self.add(f"LUT{len(inputs)}", **{f"I{k}": bit for k, bit in enumerate(inputs)}, O=out)
        return out

    def ff(self, data=None, enable="1"):
        out = self.net()
        self.add("FDRE", C=1, CE=enable, D=out if data is None else data, Q=out, R="0")
        return out

    def chain(self, select, data, carry="0", init="0"):
        """Add a CARRY4; return its sums and carries."""
        sums, carries = ([self.net() for _ in range(4)] for _ in range(2))
        self.add("CARRY4", S=select, DI=data, CI=carry, CYINIT=init, O=sums, CO=carries)
        return sums, carries

    def depth(self, **options):
        nets = {f"n{bit}": {"hide_name": 0, "bits": [bit]} for bit in range(2, next(self.count))}
        return logic_depth({"modules": {"top": {
            "ports": self.ports, "cells": self.cells, "netnames": nets}}}, **options)


def test_luts_add_up_and_the_deepest_path_is_named():
    n = Netlist()
    start, other = n.ff(), n.ff()
    first = n.lut(start, other)
    third = n.lut(n.lut(first, other), other)
    end = n.ff(third)
    n.ff(first)
    depth = n.depth()
    assert (depth.levels, depth.carry) == (3, 0)
    # Two of the start registers keep their value, at no level.
    assert depth.histogram == {0: 2, 1: 1, 3: 1}
    path = depth.worst[0]
    assert path.start in (f"n{start} Q", f"n{other} Q")
    assert path.end == f"n{end} D"
    assert path.through == tuple(f"n{bit}" for bit in (first, third - 1, third))
    assert (path.start_kind, path.end_kind) == ("ff", "ff")
    json.dumps(depth.to_dict())


def test_clock_enable_is_an_end_and_constants_are_no_start():
    n = Netlist()
    start = n.ff()
    n.ff(start, enable=n.lut(n.lut(start)))
    n.ff(n.lut(n.lut(n.lut("0", "1"))))
    depth = n.depth()
    assert depth.levels == 2
    assert depth.worst[0].end.endswith(" CE")


def test_a_chain_is_one_carry_however_long_and_two_in_a_row_are_two():
    n = Netlist()
    bits = [n.ff() for _ in range(8)]
    low, carries = n.chain([n.lut(bit) for bit in bits[:4]], bits[:4])
    high, _ = n.chain([n.lut(bit) for bit in bits[4:]], bits[4:], carry=carries[3])
    n.ff(high[3])
    assert (n.depth().levels, n.depth().carry) == (1, 1)
    n.ff(n.chain([n.lut(high[0])] * 4, bits[:4])[0][0])
    assert (n.depth().levels, n.depth().carry) == (2, 2)
    # Into the start of a chain through fabric is another chain, even from a carry output.
    n.ff(n.chain([n.lut(low[0])] * 4, bits[:4], init=carries[3])[0][0])
    assert (n.depth().levels, n.depth().carry) == (2, 2)


def test_a_chain_bit_depends_only_on_bits_below():
    n = Netlist()
    bits = [n.ff() for _ in range(4)]
    deep = n.lut(n.lut(n.lut(bits[0])))
    sums, carries = n.chain([n.lut(bits[0]), n.lut(bits[1]), n.lut(bits[2]), deep], bits)
    n.ff(sums[2])
    n.ff(carries[2])
    assert n.depth().levels == 1
    n.ff(sums[3])
    assert n.depth().levels == 3


def test_levels_decide_and_longest_counts_carries_too():
    n = Netlist()
    bits = [n.ff() for _ in range(4)]
    one = n.chain([n.lut(bits[0])] * 4, bits)[0][3]
    two = n.chain([n.lut(one)] * 4, bits)[0][3]
    n.ff(two)
    end = n.ff(n.lut(n.lut(n.lut(bits[0]))))
    depth = n.depth()
    assert (depth.levels, depth.carry, depth.worst[0].end) == (3, 0, f"n{end} D")
    assert (depth.longest.levels, depth.longest.carry) == (2, 2)


def test_wide_multiplexers_belong_to_their_luts():
    n = Netlist()
    bits = [n.ff() for _ in range(3)]
    seven = n.net()
    n.add("MUXF7", I0=n.lut(bits[0]), I1=n.lut(bits[1]), S=bits[2], O=seven)
    n.ff(seven)
    assert n.depth().levels == 1


def test_lut_memory_is_one_level_to_read_and_an_end_to_write():
    n = Netlist()
    address, data = n.ff(), n.ff()
    read, shallow, written = n.lut(address), n.net(), n.lut(n.lut(n.lut(data)))
    n.add("RAM32M", WCLK=1, WE="1", DIA=data, ADDRA=[read], ADDRD=[written], DOA=[shallow],
          DOD=[n.net()])
    end = n.ff(n.lut(shallow))
    depth = n.depth()
    assert (depth.levels, depth.worst[0].end_kind) == (3, "lutram")  # the write address
    assert [path.levels for path in depth.worst if path.end == f"n{end} D"] == [3]
    assert depth.by_start == {"ff": 3, "lutram": 2}  # what it holds: read, and the LUT behind


def test_dual_port_lut_memory_reads_its_own_address():
    n = Netlist()
    deep, flat = n.lut(n.lut(n.ff())), n.ff()
    first, second = n.net(), n.net()
    n.add("RAM64X1D", WCLK=1, WE="1", D="0", A0=flat, A1=flat, DPRA0=deep, DPRA1=flat, SPO=first,
          DPO=second)
    n.ff(first)
    assert n.depth().levels == 1
    n.ff(second)
    assert n.depth().levels == 3


def test_shift_registers_start_and_end_paths():
    n = Netlist()
    out = n.net()
    n.add("SRL16E", CLK=1, CE="1", D=n.lut(n.lut(n.ff())), A0="1", A1="0", A2="0", A3="0", Q=out)
    n.ff(n.lut(out))
    depth = n.depth()
    assert depth.by_start == {"ff": 2, "shift": 1}


@pytest.mark.parametrize(("registers", "levels"), [(1, 1), (0, 3)])
def test_dsp_output_register_cuts_the_path(registers, levels):
    n = Netlist()
    out = n.net()
    n.add("DSP48E1", {"PREG": f"{registers:032b}", "CREG": "0" * 32, "MREG": "1"}, CLK=1,
          C=[n.lut(n.ff())], A=[n.lut(n.ff())], P=[out])
    n.ff(n.lut(out))
    depth = n.depth()
    assert depth.levels == levels
    assert depth.by_start["dsp"] == 1


def test_ports_are_counted_apart():
    n = Netlist()
    inside, out = n.net(), None
    n.ports["i"] = {"direction": "input", "bits": [inside]}
    state = n.ff(n.lut(n.lut(n.lut(inside))))
    out = n.lut(n.lut(state))
    n.ports["o"] = {"direction": "output", "bits": [out, n.lut(inside)]}
    depth = n.depth()
    assert (depth.levels, depth.from_ports, depth.to_ports, depth.across) == (0, 3, 2, 1)


def test_random_logic_against_a_recursive_count():
    rng = random.Random(1)
    n, known = Netlist(), {}
    for _ in range(20):
        known[n.ff()] = 0
    for _ in range(300):
        sources = rng.sample(sorted(known), 3)
        known[n.lut(*sources)] = 1 + max(known[bit] for bit in sources)
    for bit in known:
        n.ff(bit)
    depth = n.depth(worst=400)
    assert depth.levels == max(known.values())
    assert [path.levels for path in depth.worst] == sorted(
        (path.levels for path in depth.worst), reverse=True)
    assert sum(depth.histogram.values()) == len(known) + 20


def test_unusable_netlists_are_refused():
    n = Netlist()
    loop = n.net()
    n.add("LUT1", I0=loop, O=loop)
    with pytest.raises(ValueError, match=rf"^netlist must have no loop, not one through n{loop}$"):
        n.depth()
    with pytest.raises(ValueError, match=r"^top must be one of top, not 'other'$"):
        n.depth(top="other")
    with pytest.raises(ValueError, match=r"^netlist must consist of .* primitives, not 'GTX'$"):
        arcs("x", {"type": "GTX", "connections": {}, "port_directions": {}})


class Chain(wiring.Component):
    """A sum of four terms behind an input register, in front of an output register."""

    a: In(data.ArrayLayout(12, 4))
    y: Out(14)

    def elaborate(self, platform):
        m = Module()
        held = Signal.like(self.a)
        m.d.sync += [held.eq(self.a), self.y.eq((held[0] + held[1]) ^ (held[2] + held[3]))]
        return m


@pytest.mark.slow
def test_a_synthesized_unit():
    result = synthesize(Chain(), "chain", depth=True).to_dict()
    depth = result["depth"]
    # The upper bit of a sum: propagate, the chain, and the LUT that joins both sums.
    assert (depth["levels"], depth["carry"]) == (2, 1)
    assert depth["worst"][0]["start"] == "held Q"
    assert depth["worst"][0]["end"] == "y D"
    assert depth["histogram"] == {2: 13}  # every bit of y; the inputs come from ports
    assert depth["from_ports"] == 0
