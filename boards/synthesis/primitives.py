"""How signals pass through Xilinx primitives: which pins start a path, pass it on, or end it."""

import re

__all__ = ["CASCADES", "FLIP_FLOP", "LUT", "arcs"]

CASCADES = "ACIN", "BCIN", "PCIN", "CARRYCASCIN", "MULTSIGNIN"
"""Inputs of a DSP slice that only its neighbour reaches, by wires of their own."""

LUT = re.compile(r"LUT[1-6]|INV")
FLIP_FLOP = re.compile(r"FD[RSCP]E(_1)?")

_CLOCKS = {"CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"}
_PASS = re.compile(r"MUXF[789]|BUFG\w*|IBUF|OBUF")
_SHIFT = re.compile(r"SRLC?(16|32)E?")
_LUT_RAM = re.compile(r"RAM(32|64)M(16|8)?|RAM\d+X1[DS](_1)?")
_CLOCKING = re.compile(r"(PLLE2|MMCME2)_(ADV|BASE)|\$scopeinfo")
_BLOCK_RAM = re.compile(r"RAMB(18|36)E[12]")
_DSP_INPUTS = {"A": "AREG", "ACIN": "AREG", "B": "BREG", "BCIN": "BREG", "D": "DREG"}
_DSP_MODES = {"OPMODE": "OPMODEREG", "ALUMODE": "ALUMODEREG", "INMODE": "INMODEREG",
              "CARRYINSEL": "CARRYINSELREG", "CARRYIN": "CARRYINREG", "C": "CREG"}


def arcs(name, cell, chained=frozenset()):
    """Return what the cell `name` of Yosys' JSON does, as ``(kind, starts, logic, ends)``.

    ``starts`` and ``ends`` are lists of ``(pin, bit)``; ``logic`` is a list of ``(bit, inputs)``
    with inputs ``(bit, levels, carries)``; bits that are tuples lie inside the cell. A carry chain
    is entered, at the cost of one carry, wherever the signal does not come from `chained`, the
    carry outputs. Clocks are left out. Raises ``ValueError`` for an unknown cell.
    """
    kind, pins = cell["type"], cell["connections"]
    inputs = [(pin, bit) for pin, bits in pins.items() for bit in bits
              if cell["port_directions"][pin] == "input" and pin not in _CLOCKS]
    outputs = [(pin, bit) for pin, bits in pins.items() for bit in bits
               if cell["port_directions"][pin] == "output"]
    if _CLOCKING.fullmatch(kind):
        return "", [], [], []
    if LUT.fullmatch(kind):
        return "", [], [(pins["O"][0], [(bit, 1, 0) for _, bit in inputs])], []
    if _PASS.fullmatch(kind):
        return "", [], [(pins["O"][0], [(bit, 0, 0) for _, bit in inputs])], []
    if kind in ("CARRY4", "CARRY8"):
        return "", [], _carry(name, pins, chained), []
    if FLIP_FLOP.fullmatch(kind):
        return "ff", outputs, [], [item for item in inputs if item[0] != "C"]
    if _BLOCK_RAM.fullmatch(kind):
        registered = any(int(cell["parameters"].get(register, "0"), 2)
                         for register in ("DOA_REG", "DOB_REG"))
        return "bram_reg" if registered else "bram", outputs, [], inputs
    if _SHIFT.fullmatch(kind):
        address = [(bit, 1, 0) for pin, bit in inputs if re.fullmatch(r"A\d*", pin)]
        return ("shift", outputs, [(bit, address) for pin, bit in outputs if pin == "Q"],
                [(pin, bit) for pin, bit in inputs if pin in ("D", "CE")])
    if _LUT_RAM.fullmatch(kind):
        return _lut_ram(kind, inputs, outputs)
    if re.fullmatch(r"DSP48E[12]", kind):
        return _dsp(cell["parameters"], inputs, outputs)
    raise ValueError(f"netlist must consist of Xilinx primitives, not {kind!r}")


def _carry(name, pins, chained):
    """Return the logic of a carry cell, bit by bit."""
    entered = [(bit, 0 if pin == "CI" and bit in chained else 1) for pin in ("CI", "CYINIT")
               for bit in pins.get(pin, ())]
    carry, logic = [(bit, 0, cost) for bit, cost in entered], []
    for index, select in enumerate(pins["S"]):
        out = (name, index)
        logic.append((pins["O"][index], [*carry, (select, 0, 1)]))
        logic.append((out, [*carry, (select, 0, 1), (pins["DI"][index], 0, 1)]))
        logic.append((pins["CO"][index], [(out, 0, 0)]))
        carry = [(out, 0, 0)]
    return logic


def _lut_ram(kind, inputs, outputs):
    """Return the arcs of a LUT memory: written at the clock, read by an address at any time."""
    if "M" in kind.removeprefix("RAM"):
        last = max(pin for pin, _ in inputs if pin.startswith("ADDR"))
        address = {pin: pin.replace("DO", "ADDR") for pin, _ in outputs}
        written = {last}
    else:
        address = {pin: "DPRA" if pin == "DPO" else "A" for pin, _ in outputs}
        written = {"A"}

    def base(pin):
        return pin.rstrip("0123456789")

    logic = [(bit, [(source, 1, 0) for read, source in inputs if base(read) == address[pin]])
             for pin, bit in outputs]
    reads = set(address.values()) - written
    return "lutram", outputs, logic, [(pin, bit) for pin, bit in inputs if base(pin) not in reads]


def _dsp(parameters, inputs, outputs):
    """Return the arcs of a DSP slice: a register behind a pin, or in the way of it, ends a path."""
    def registers(name):
        return int(parameters.get(name, "1"), 2)

    ends, open_pins = [], []
    for pin, bit in inputs:
        after = ["PREG"]
        if pin in _DSP_INPUTS:
            after += [_DSP_INPUTS[pin], "MREG"]
        elif pin in _DSP_MODES:
            after.append(_DSP_MODES[pin])
        closed = any(registers(name) for name in after) or pin.startswith(("CE", "RST"))
        (ends if closed else open_pins).append((pin, bit))
    logic = [(bit, [(source, 1, 0) for _, source in open_pins]) for _, bit in outputs]
    return "dsp", outputs, logic if not registers("PREG") else [], ends
