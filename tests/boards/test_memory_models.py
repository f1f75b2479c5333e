import numpy as np
import pytest

from systola.boards.power.activity import compile_gates
from systola.boards.power.gates import Gate, GateNetlist, GatePort
from systola.boards.power.memory_models import check_memories, memory_models

CYCLES = 600
CASES = [  # kind, mode, read A, write A, read B, write B, write modes, filled
    ("RAMB18E1", "TDP", 9, 0, 9, 9, ("READ_FIRST", "READ_FIRST"), False),
    ("RAMB18E1", "TDP", 4, 2, 18, 1, ("WRITE_FIRST", "READ_FIRST"), True),
    ("RAMB18E1", "TDP", 18, 18, 9, 0, ("NO_CHANGE", "WRITE_FIRST"), True),
    ("RAMB36E1", "TDP", 36, 0, 36, 36, ("READ_FIRST", "WRITE_FIRST"), True),
    ("RAMB36E1", "TDP", 18, 36, 1, 0, ("WRITE_FIRST", "READ_FIRST"), False),
    ("RAMB18E1", "SDP", 36, 0, 0, 36, ("READ_FIRST", "READ_FIRST"), True),
    ("RAMB18E1", "SDP", 9, 0, 0, 36, ("WRITE_FIRST", "WRITE_FIRST"), False),
    ("RAMB36E1", "SDP", 72, 0, 0, 72, ("READ_FIRST", "READ_FIRST"), True),
    ("RAMB36E1", "SDP", 36, 0, 0, 18, ("READ_FIRST", "READ_FIRST"), False),
]
DATA = {"RAMB18E1": 16, "RAMB36E1": 32}


def pins(kind):
    """Return the width of every input and output pin."""
    data, ways = DATA[kind], "AB"
    parity = data // 8
    inputs = {"ENARDEN": 1, "ENBWREN": 1, "RSTRAMARSTRAM": 1, "RSTRAMB": 1,
              "WEA": parity, "WEBWE": 2 * parity,
              "ADDRARDADDR": 14 if data == 16 else 16, "ADDRBWRADDR": 14 if data == 16 else 16}
    inputs |= {f"DI{way}DI": data for way in ways} | {f"DIP{way}DIP": parity for way in ways}
    outputs = {f"DO{way}DO": data for way in ways} | {f"DOP{way}DOP": parity for way in ways}
    return inputs, outputs


def content(kind, rng):
    """Return initial values as parameters, and as bits of data and of parity."""
    bits = {"INIT": rng.integers(0, 2, DATA[kind] * 1024), "INITP": rng.integers(0, 2,
                                                                            DATA[kind] * 128)}
    parameters = {}
    for name, values in bits.items():
        for index, part in enumerate(values.reshape(-1, 256)):
            parameters[f"{name}_{index:02X}"] = "".join(map(str, part[::-1]))
    return parameters, bits


class Plain:
    """Bits of data and parity in arrays, as UG473 numbers them, and what two ports do to them."""

    def __init__(self, case, bits, starts, resets):
        self.kind, self.mode, *widths, self.modes, _ = case
        self.read, self.write = widths[::2], widths[1::2]
        self.data, self.parity = bits["INIT"].copy(), bits["INITP"].copy()
        self.latch, self.resets = list(starts), resets

    def places(self, width, addr):
        """Return where the bits of a word lie, data first: ``(array, index)``, and their lanes."""
        addr %= len(self.data)
        start = addr - addr % (width if width < 9 else width // 9 * 8)
        count = width if width < 9 else width // 9 * 8
        found = [("data", start + k, k // 8) for k in range(count)]
        if width >= 9:
            found += [("parity", start // 8 + k, k) for k in range(width // 9)]
        return found

    def cycle(self, enabled, reset, addr, word, strobes):
        """Take one cycle of both ports; words are lists of bits, data first."""
        wanted = [{}, {}]
        for port in range(2):
            if enabled[port] and self.write[port]:
                wanted[port] = {(array, index): word[port][k] for k, (array, index, lane)
                                in enumerate(self.places(self.write[port], addr[port]))
                                if strobes[port] >> lane & 1}
        latch = list(self.latch)
        for port in range(2):
            if not enabled[port] or not self.read[port]:
                continue
            other, mode = 1 - port, self.modes[port]
            if reset[port]:
                latch[port] = self.resets[port]
            elif mode != "NO_CHANGE" or not self.write[port] or not strobes[port]:
                latch[port] = []
                for array, index, _ in self.places(self.read[port], addr[port]):
                    bit = getattr(self, array)[index]
                    if (array, index) in wanted[other] and self.modes[other] != "READ_FIRST":
                        bit = 1 - bit
                    if mode == "WRITE_FIRST":
                        bit = wanted[port].get((array, index), bit)
                    latch[port].append(int(bit))
        for changes in wanted:
            for (array, index), bit in changes.items():
                getattr(self, array)[index] = bit
        self.latch = latch


def bits_of(value, count):
    """Return the lowest bits of a number."""
    return [int(value) >> k & 1 for k in range(count)]


def number(bits):
    """Return the number with these bits."""
    return sum(int(bit) << k for k, bit in enumerate(bits))


def word(case, way, values, t):
    """Return the bits that a port writes, data first, from the values at its pins."""
    kind, mode, _, write_a, _, write_b = case[:6]
    width, wide = (write_a, write_b)["AB".index(way)], DATA[kind]
    data = bits_of(values[f"DI{way}DI"][t], wide)
    parity = bits_of(values[f"DIP{way}DIP"][t], wide // 8)
    if mode == "SDP" and width > 9 * wide // 8:
        data = bits_of(values["DIADI"][t], wide) + data
        parity = bits_of(values["DIPADIP"][t], wide // 8) + parity
    return data[:width] if width < 9 else data[:width // 9 * 8] + parity[:width // 9]


def latches(case, rng):
    """Return random bits that the read ports could show, data first; zeros if not filled."""
    return [[int(bit) for bit in rng.integers(0, 1 + case[7], width)] for width in case[2:6:2]]


def halves(case, group):
    """Return the parameters of both ports for these latches, as bits."""
    wide = DATA[case[0]]
    if case[1] == "TDP" or len(group[0]) <= 9 * wide // 8:
        return group
    data, parity = group[0][:2 * wide], group[0][2 * wide:]
    return [data[wide * k:][:wide] + parity[wide // 8 * k:][:wide // 8] for k in range(2)]


def expected(case, plain, values):
    """Return what the output pins show at the end of each cycle."""
    kind, mode, read_a, _, read_b, _ = case[:6]
    wide, shown = DATA[kind], {name: [] for name in pins(kind)[1]}
    for t in range(CYCLES):
        for port, (way, width) in enumerate(zip("AB", (read_a, read_b), strict=True)):
            latch, count = plain.latch[port], width if width < 9 else width // 9 * 8
            if mode == "SDP" and way == "B":
                continue
            data, parity = latch[:count], latch[count:]
            halves = [(way, 0)] + ([("B", 1)] if mode == "SDP" else [])
            for name, half in halves:
                shown[f"DO{name}DO"].append(number(data[wide * half:][:wide]))
                shown[f"DOP{name}DOP"].append(number(parity[wide // 8 * half:][:wide // 8]))
        plain.cycle(*([values[name][t] for name in names] for names in (
            ("ENARDEN", "ENBWREN"), ("RSTRAMARSTRAM", "RSTRAMB"),
            ("ADDRARDADDR", "ADDRBWRADDR"))), [word(case, way, values, t) for way in "AB"],
            [values["WEA"][t], values["WEBWE"][t]])
    return shown


@pytest.fixture(scope="module")
def played():
    """All cases in one netlist, on random streams: ``(case, plain memory, inputs, outputs)``."""
    rng, ports, cells, streams, found, net = np.random.default_rng(5), {}, [], {}, [], 3
    ports["clk"] = GatePort("input", (2,))
    for index, case in enumerate(CASES):
        kind, mode, read_a, write_a, read_b, write_b, modes, filled = case
        nets = {}
        for direction, widths in zip(("input", "output"), pins(kind), strict=True):
            for name, width in widths.items():
                nets[name] = tuple(range(net, net + width))
                net += width
                ports[f"{name}_{index}"] = GatePort(direction, nets[name])
        init, bits = content(kind, rng)
        starts, resets = [], []
        parameters = {"RAM_MODE": mode, "WRITE_MODE_A": modes[0], "WRITE_MODE_B": modes[1],
                      "READ_WIDTH_A": f"{read_a:032b}", "READ_WIDTH_B": f"{read_b:032b}",
                      "WRITE_WIDTH_A": f"{write_a:032b}", "WRITE_WIDTH_B": f"{write_b:032b}"}
        for group, name in (starts, "INIT"), (resets, "SRVAL"):
            group += latches(case, rng)
            for way, value in zip("AB", halves(case, group), strict=True):
                parameters[f"{name}_{way}"] = "".join(map(str, value[::-1])) or "0"
        if filled:
            parameters |= init
        else:
            bits = {name: 0 * value for name, value in bits.items()}
        parameters |= {"DOA_REG": "0", "DOB_REG": "0", "RAM_EXTENSION_A": "NONE"}
        clocked = {"CLKARDCLK": (2,), "CLKBWRCLK": (2,)}
        outputs = pins(kind)[1]
        cells.append(Gate(f"ram{index}", kind, "", parameters, clocked | {
            name: value for name, value in nets.items() if name not in outputs},
            {name: nets[name] for name in outputs}))
        values = {name: rng.integers(0, 1 << width, CYCLES) for name, width in
                  pins(kind)[0].items()}
        # Few words, so that they are written, read and hit at the same time; nine tenths enabled.
        for name in "ADDRARDADDR", "ADDRBWRADDR":
            values[name] &= 0x807F if DATA[kind] == 32 else 0x7F
        for name in "ENARDEN", "ENBWREN":
            values[name] = rng.integers(0, 10, CYCLES) > 0
        for name in "RSTRAMARSTRAM", "RSTRAMB":
            values[name] = rng.integers(0, 10, CYCLES) == 0
        if write_a and write_b:  # both at one place is undefined
            values["WEA"][values["WEBWE"] != 0] = 0
        streams |= {f"{name}_{index}": value.astype(np.int64) for name, value in values.items()}
        found.append((case, Plain(case, bits, starts, resets), values))
    netlist = GateNetlist("memories", ports, tuple(cells))
    check_memories(netlist)
    seen = compile_gates(netlist, models=memory_models()).run(streams)
    return [(*item, {name: seen.outputs[f"{name}_{index}"] for name in pins(item[0][0])[1]})
            for index, item in enumerate(found)]


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda k: "-".join(map(str, CASES[k][:6])))
def test_memory_is_a_plain_array(played, index):
    case, plain, values, outputs = played[index]
    shown = expected(case, plain, values)
    for name, wanted in shown.items():
        width = outputs[name].shape[1]
        got = (outputs[name].astype(np.int64) << 8 * np.arange(width)).sum(axis=1)
        if wanted:
            np.testing.assert_array_equal(got, wanted, err_msg=name)
    read = [name for name, wanted in shown.items() if len(set(wanted)) > 3]
    assert read, "nothing was read"


@pytest.mark.parametrize(("name", "value", "message"), [
    ("DOA_REG", "1", "must be 0, not 1"),
    ("READ_WIDTH_A", "100100", "must be 0 or 1 or 2 or 4 or 9 or 18, not 36"),
    ("IS_ENARDEN_INVERTED", "1", "must be 0, not 1"),
    ("WRITE_MODE_B", "NEVER", "must be READ_FIRST or WRITE_FIRST or NO_CHANGE, not 'NEVER'")])
def test_other_modes_are_refused(name, value, message):
    cell = Gate("r", "RAMB18E1", "", {name: value}, {}, {})
    with pytest.raises(ValueError, match=f"^{name} of RAMB18E1 r {message}$"):
        check_memories(GateNetlist("t", {}, (cell,)))


def test_two_clocks_are_refused():
    cell = Gate("r", "RAMB36E1", "", {"READ_WIDTH_A": "1", "WRITE_WIDTH_B": "1"},
                {"CLKARDCLK": (2,), "CLKBWRCLK": (3,)}, {})
    with pytest.raises(ValueError, match=r"^RAMB36E1 r must have one clock, not 2 different ones$"):
        check_memories(GateNetlist("t", {}, (cell,)))
