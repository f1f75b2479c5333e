"""Whether a bitstream configures DSP slices and block RAMs as the netlist says.

Place and route has left out bits of these cells in silence before, with netlist, simulation and
timing clean: so what is in the FASM is compared with what parameters and pins of the netlist
demand. The tables are from:

- UG479 (DSP48E1) and UG473 (block RAM) for parameters and their default values;
- Project X-Ray's fuzzers 025, 026, 027, 100 and 101 for the features that stand for them;
- pull request 159 of openXC7/nextpnr-xilinx for the ties of a DSP48E1 (what Vivado sets of a
  constant pin, measured on an XC7S50), and its issue 94 for the widths of a RAMB36E1.
"""

import re

from systola.boards.flows.fabric import CONSTANT_WIRES, Routing

__all__ = ["check_cells", "check_pins", "demands"]

_KINDS = {"DSP48E1": "DSP48", "RAMB18E1": "RAMB18", "RAMB36E1": "RAMB36"}
"""Cells that are looked at, and what their sites are called."""

_TIES = {
    "D": range(25), "INMODE": range(5), "ALUMODE": range(2, 4), "OPMODE": range(6, 7),
    "CARRYINSEL": range(2, 3), "RSTD": None, "CED": None, "CEAD": None, "CEINMODE": None,
    "CEALUMODE": None}
"""Pins of a DSP48E1, and which of their bits, that its tile ties to a constant."""

_DSP_BUSES = {"ALUMODE": 4, "INMODE": 5, "OPMODE": 7}
_DSP_REGISTERS = ("ADREG", "ALUMODEREG", "CARRYINREG", "CARRYINSELREG", "CREG", "DREG",
                  "INMODEREG", "MREG", "OPMODEREG", "PREG")
_CASCADES = ("ACIN", "BCIN", "PCIN", "CARRYCASCIN", "MULTSIGNIN")

_RAM_PINS = ("CLKARDCLK", "CLKBWRCLK", "ENARDEN", "ENBWREN", "RSTRAMARSTRAM", "RSTRAMB",
             "RSTREGARSTREG", "RSTREGB")
"""Pins of a block RAM that may be inverted."""

_WIDTHS = 2, 4, 9, 18
"""Of half a block RAM; 1 is what has none of these features."""


def _number(parameters, name, default=0):
    """Return an integer parameter, in Yosys' JSON a string of bits; undefined ones count as 0."""
    text = re.sub("[xz]", "0", str(parameters.get(name, "")))
    return int(text, 2) if text else default


def demands(kind, parameters, pins, number):
    """Return what a cell demands of the features of its tile.

    Parameters
    ----------
    kind : str
        ``DSP48E1``, ``RAMB18E1`` or ``RAMB36E1``.
    parameters, pins : dict
        The cell's, as Yosys' ``write_json`` writes them.
    number : int
        Of the site among those of its kind in the tile; the upper one is 1.

    Returns
    -------
    dict of str to tuple
        By feature its value and the reason, in words for a message.
    """
    if kind == "DSP48E1":
        return _dsp(parameters, pins, number)
    halves = (0, 1) if kind == "RAMB36E1" else (number,)
    found = {}
    for half in halves:
        for name, demand in _block_ram(kind, parameters, pins, half).items():
            found[f"RAMB18_Y{half}.{name}"] = demand
    if kind == "RAMB36E1":
        for port in "AB":
            for access in "READ", "WRITE":
                width = _number(parameters, f"{access}_WIDTH_{port}")
                if width in (1, 9):
                    # What tells ports of these widths from those of half a bit, and of 8.
                    found[f"RAMB36.BRAM36_{access}_WIDTH_{port}_1"] = (
                        1, f"{access}_WIDTH_{port} is {width}")
    return found


def _dsp(parameters, pins, number):
    found, prefix = {}, f"DSP48.DSP_{number}."

    def demand(feature, value, why):
        found[prefix + feature] = int(value), why

    for port in "AB":
        registers = _number(parameters, f"{port}REG", 1)
        for count in 0, 2:
            demand(f"{port}REG_{count}", registers == count, f"{port}REG is {registers}")
        source = parameters.get(f"{port}_INPUT", "DIRECT")
        demand(f"{port}_INPUT[0]", source == "CASCADE", f"{port}_INPUT is {source}")
        if any(isinstance(bit, int) for bit in pins.get(f"{port}COUT", ())):
            before = _number(parameters, f"{port}CASCREG", 1)
            demand(f"Z{port}REG_2_{port}CASCREG_1", (registers, before) != (2, 1),
                   f"{port}REG is {registers} and {port}CASCREG {before}")
    for name in _DSP_REGISTERS:
        value = _number(parameters, name, 1)
        demand(f"Z{name}[0]", not value, f"{name} is {value}")
    preadder, simd = parameters.get("USE_DPORT", "FALSE"), parameters.get("USE_SIMD", "ONE48")
    demand("USE_DPORT[0]", preadder == "TRUE", f"USE_DPORT is {preadder}")
    demand("USE_SIMD_FOUR12", simd == "FOUR12", f"USE_SIMD is {simd}")
    demand("USE_SIMD_FOUR12_TWO24", simd in ("FOUR12", "TWO24"), f"USE_SIMD is {simd}")
    demand("ZIS_CLK_INVERTED", not _number(parameters, "IS_CLK_INVERTED"), "CLK is not inverted")
    for pin, places in _TIES.items():
        for place in (0,) if places is None else places:
            bits, name = pins.get(pin, ()), pin if places is None else f"{pin}{place}"
            bit = bits[place] if place < len(bits) else "x"
            if bit == "x":
                continue
            why = f"{name} is {'the constant ' + bit if isinstance(bit, str) else 'a signal'}"
            for tie, constant in ("GND", "0"), ("VCC", "1"):
                found[f"DSP_{number}_{name}.DSP_{tie}"] = int(bit == constant), why
            if pin in _DSP_BUSES:
                inverted = _number(parameters, f"IS_{pin}_INVERTED") >> place & 1
                demand(f"ZIS_{pin}_INVERTED[{place}]", not inverted, why)
    return found


def _block_ram(kind, parameters, pins, half):
    """Return what half a tile must be for a block RAM, in the whole or one half."""
    whole, found = kind == "RAMB36E1", {"IN_USE": (1, f"a {kind} is there")}
    for access in "READ", "WRITE":
        widths = {port: _number(parameters, f"{access}_WIDTH_{port}") for port in "AB"}
        wide = max(widths.values()) == (72 if whole else 36)
        why = f"{access}_WIDTH_A is {widths['A']}, {access}_WIDTH_B {widths['B']}"
        found[f"SDP_{access}_WIDTH_36"] = int(wide), why
        for port, width in widths.items():
            if not width and not wide:
                continue  # a port that is not used
            if wide:  # the data pins of both ports; only the upper RAMB18E1 says so of port A
                own = 1 if (access, port, whole or half) == ("READ", "A", 0) else 18
            else:
                own = max(width // 2, 1) if whole else width
            for count in _WIDTHS:
                found[f"{access}_WIDTH_{port}_{count}"] = int(count == own), why
    for port in "AB":
        mode = parameters.get(f"WRITE_MODE_{port}", "WRITE_FIRST")
        for value in "READ_FIRST", "NO_CHANGE":
            found[f"WRITE_MODE_{port}_{value}"] = int(mode == value), f"WRITE_MODE_{port} is {mode}"
        register = _number(parameters, f"DO{port}_REG")
        found[f"DO{port}_REG"] = register, f"DO{port}_REG is {register}"
        for name in "INIT", "SRVAL":
            value = str(parameters.get(f"{name}_{port}", "0"))
            if "1" not in value:
                found[f"Z{name}_{port}"] = (1 << 18) - 1, f"{name}_{port} is 0"
    for pin in _RAM_PINS:
        if any(isinstance(bit, int) for bit in pins.get(pin, ())):
            inverted = _number(parameters, f"IS_{pin}_INVERTED")
            found[f"ZINV_{pin}"] = int(not inverted), f"{pin} is a signal"
    for name, value in sorted(parameters.items()):
        if match := re.fullmatch(r"INIT(P?)_([0-9A-F]{2})", name):
            bits = str(value)[::-1].replace("x", "0").replace("z", "0").ljust(256, "0")
            place = int(match[2], 16)
            if whole:  # its bits go to both halves by turns, two parameters to one row
                bits, place = bits[half::2], divmod(place, 2)
                row, shift = f"INIT{match[1]}_{place[0]:02X}", 128 * place[1]
            else:
                row, shift = name, 0
            found[row] = (found.get(row, (0,))[0] | int(bits[::-1], 2) << shift,
                          f"what {row} holds")
    return found


def check_cells(module, placed, features, fabric):
    """Compare how DSP slices and block RAMs are configured with the parameters of the netlist.

    Parameters
    ----------
    module : dict
        The flat module of the netlist that was placed, as Yosys' ``write_json`` writes it.
    placed : dict
        The module that place and route wrote, whose cells have the attribute ``NEXTPNR_BEL``.
    features : dict
        What `systola.boards.flows.fasm.parse_fasm` found.
    fabric : Fabric
        Where the cells are.

    Returns
    -------
    (int, list of str)
        How many features were looked at, and what is wrong: each a line with the cell, its place,
        the feature and the reason.
    """
    count, wrong = 0, []
    for name, cell, site in _cells(module, placed):
        where = f"{cell['type']} {name}"
        if site not in fabric.sites:
            wrong.append(f"{where} is not placed")
            continue
        tile, number = fabric.sites[site]
        side, has = fabric.kind(tile)[-1], features.get(tile, {})
        demanded = demands(cell["type"], cell["parameters"], cell["connections"], number)
        count += len(demanded)
        for feature, (value, why) in demanded.items():
            full = f"{feature}_{side}" if feature.endswith((".DSP_GND", ".DSP_VCC")) else feature
            if has.get(full, 0) != value:
                wrong.append(f"{where} at {site}: {full} must be {_shown(value)}, as {why}, but is "
                             f"{_shown(has.get(full, 0))}")
    return count, wrong


def check_pins(module, placed, features, fabric):
    """Compare what reaches the pins of DSP slices and block RAMs with the nets of the netlist.

    Each pin is followed back to where its signal comes from. What drives it is not looked up: two
    pins of a net must have their source in one tile, two of different nets different ones, and a
    constant pin that constant. Cells that are not placed are left out; arguments and what is
    returned are those of `check_cells`, with pins for features.
    """
    wrong = []
    trace = _Trace(fabric, Routing(fabric, features), wrong)
    count = sum(trace.cell(f"{cell['type']} {name}", cell, *fabric.sites[site],
                           features.get(fabric.sites[site][0], {}))
                for name, cell, site in _cells(module, placed) if site in fabric.sites)
    trace.finish()
    return count, wrong


def _cells(module, placed):
    """Yield name, cell and site (empty if not placed) of each DSP slice and block RAM."""
    for name, cell in sorted(module["cells"].items()):
        if cell["type"] in _KINDS:
            bel = placed["cells"].get(name, {}).get("attributes", {}).get("NEXTPNR_BEL", "")
            yield name, cell, bel.partition("/")[0]


class _Trace:
    """What `check_pins` knows of nets and sources, from the cells that it has looked at."""

    def __init__(self, fabric, routing, wrong):
        self._fabric, self._routing, self._wrong = fabric, routing, wrong
        self._nets, self._sources = {}, {}

    def cell(self, where, cell, tile, number, features):
        """Look at the pins of a cell; return how many."""
        kind, count = cell["type"], 0
        wires = _pin_wires(kind, self._fabric.pins(self._fabric.kind(tile)), number)
        simple = _number(cell["parameters"], "WRITE_WIDTH_B") >= (72 if kind == "RAMB36E1" else 36)
        for pin, bits in cell["connections"].items():
            for place, bit in enumerate(bits):
                if bit == "x" or (isinstance(bit, str) and not _routed(kind, pin, place)):
                    continue
                what = f"{where}: pin {pin}{place if len(bits) > 1 else ''}"
                inverted = _inverted(pin, place, number, features)
                for wire in wires(pin, place, len(bits), simple):
                    count += 1
                    try:
                        source = self._routing.source(tile, wire)
                    except ValueError as error:
                        self._wrong.append(f"{what}: {error}")
                        continue
                    if source is not None:
                        self._note(what, bit, source, inverted)
                    elif cell["port_directions"][pin] == "input":
                        self._wrong.append(f"{what} is not connected")
        return count

    def _note(self, what, bit, source, inverted):
        """Compare the source of a pin with its constant, or keep it with its net."""
        wire, constant = "/".join(source), self._routing.constant(*source)
        if isinstance(bit, str):
            if constant != "01"[(bit == "1") != inverted]:
                self._wrong.append(f"{what} must be {bit}, but what reaches it is {wire}"
                                   f"{', inverted' if inverted else ''}")
        elif constant and source[1] in CONSTANT_WIRES:
            self._wrong.append(f"{what} must be a signal, but what reaches it is {wire}")
        else:
            self._nets.setdefault(source, {}).setdefault(bit, what)
            self._sources.setdefault(bit, {}).setdefault(source[0], what)

    def finish(self):
        """Note where pins of two nets have one source, or pins of one net two."""
        for source, nets in self._nets.items():
            if len(nets) > 1:
                first, second, *_ = nets.values()
                self._wrong.append(f"{second} must have another source than {first}, but "
                                   f"{'/'.join(source)} reaches both")
        for tiles in self._sources.values():
            if len(tiles) > 1:
                (one, first), (other, second), *_ = tiles.items()
                self._wrong.append(f"{second} must have the source of {first}, which is in {one}, "
                                   f"but what reaches it is in {other}")


def _inverted(pin, place, number, features):
    """Return whether the site inverts a pin of a DSP slice."""
    bit = f"[{place}]" if pin in _DSP_BUSES else ""
    return (pin in (*_DSP_BUSES, "CARRYIN")
            and not features.get(f"DSP48.DSP_{number}.ZIS_{pin}_INVERTED{bit}", 0))


def _routed(kind, pin, place):
    """Return whether a constant comes to a pin by wires, and not by a tie in the tile."""
    if kind != "DSP48E1" or pin in _CASCADES:
        return False
    return pin not in _TIES or (_TIES[pin] is not None and place not in _TIES[pin])


def _pin_wires(kind, pins, number):
    """Return a function from a pin of the netlist to the wires of the tile that it stands for."""
    by_pin = {pin: wire for pin, (wire, _) in pins[_KINDS[kind], number].items()}
    # The lower half of a block RAM has the names of a FIFO for its pins, but not for its wires.
    by_wire = {wire.split("_", 2)[2]: wire for wire in by_pin.values()}

    def wires(pin, place, bits, simple):
        index = str(place) if bits > 1 else ""
        if kind == "DSP48E1":
            names = [pin + index]
        elif kind == "RAMB18E1" and (pin == "WEA" or (pin == "WEBWE" and simple)):
            names = [f"{pin}{2 * place}", f"{pin}{2 * place + 1}"]
        elif kind == "RAMB18E1":
            return [by_wire[pin + index]]
        elif pin + index in by_pin:
            names = [pin + index]
        elif pin == "RSTRAMARSTRAM":
            names = ["RSTRAMARSTRAMLRST", "RSTRAMARSTRAMU"]
        else:  # bit 15 of an address is for cascades, and only below
            names = [name for half in "LU" if (name := f"{pin}{half}{index}") in by_pin]
        return [by_pin[name] for name in names]

    return wires


def _shown(value):
    return str(value) if value < 10 else f"0x{value:x}"[:24]
