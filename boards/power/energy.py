"""Energy and power of a gate-level netlist from its activity: estimates, with intervals.

Everything is linear: events of a kind (`count_events`) times the energy of one
(``boards/power/energy.toml``). What one does not know are the energies, so they are drawn many
times, and intervals of a ratio come from the same draws on both sides.
"""

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from systola.boards.synthesis.primitives import CASCADES, FLIP_FLOP, LUT

__all__ = ["Coefficient", "Estimate", "coefficient_table", "coefficients", "count_events",
           "dynamic_energy", "estimate", "merged", "power_at", "sample_coefficients",
           "static_power"]

_FILE = Path(__file__).with_name("energy.toml")
_LOGIC = re.compile(r"LUT[1-6]|INV|CARRY4|MUXF[78]")
_SHIFT = re.compile(r"SRLC?(16|32)E?")
_LUT_RAM = re.compile(r"RAM\d+(M|X\d+[SD]).*")
_RAM_LUTS = {"RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4}
_BLOCK_RAM = re.compile(r"RAMB(18|36)E1")
_CLOCKS = {"C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"}
_INSIDE_SLICE = {"S": LUT, "CI": re.compile("CARRY4"), "D": _LOGIC}
"""Pins of carry cells and flip-flops that what drives them reaches without leaving the slice."""

_TAIL = 97.5
"""Percentile of a coefficient's `high`, and of the upper end of an interval."""


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """An entry of ``energy.toml``, which explains the fields."""

    name: str
    counts: str
    value: float
    low: float
    high: float
    unit: str
    kind: str
    source: str
    times: str = ""
    same: str = ""


@dataclass(frozen=True)
class Estimate:
    """A figure at the coefficients' values, and the interval that holds 95 % of the draws."""

    value: float
    low: float
    high: float


@cache
def coefficients():
    """Return `Coefficient` by name, in the order of the file."""
    entries = tomllib.loads(_FILE.read_text())["coefficient"]
    return {name: Coefficient(name=name, **{**{
        key: entries[entry["same"]][key] for key in ("value", "low", "high", "unit")
        if "same" in entry}, **entry}) for name, entry in entries.items()}


def sample_coefficients(draws=4000, seed=0):
    """Return each coefficient's values, float64 (1 + draws,) by name: first its own, then draws.

    Draws are log-normal on either side of the value, with `low` and `high` as the limits of 95 %;
    coefficients are independent but for those that are the `same`.
    """
    rng, found = np.random.default_rng(seed), {}
    for name, item in coefficients().items():
        z = rng.standard_normal(draws) / 1.959964
        side = np.where(z < 0, item.value / item.low, item.high / item.value)
        found[name] = (found[item.same] if item.same
                       else np.concatenate([[item.value], item.value * side**z]))
    return found


def count_events(netlist, activity):
    """Return events per clock cycle by unit and coefficient: ``{unit: Counter}``.

    A net's changes count for the cell that drives it, and for that cell's unit; those of input
    ports for the top module, ``""``. Events named ``static_...`` are numbers of primitives.

    Parameters
    ----------
    netlist : GateNetlist
    activity : Activity
        Of that netlist.
    """
    events, sinks = {}, netlist.sinks
    driver, rate = netlist.driver, 1 / activity.cycles
    for index, cell in enumerate(netlist.cells):
        unit = events.setdefault(cell.unit, Counter())
        changes = rate * sum(activity.toggles.get(net, 0)
                             for nets in cell.outputs.values() for net in nets)
        _count_cell(unit, index, cell, changes, activity)
    for net, toggles in activity.toggles.items():
        index, _ = driver.get(net, (None, None))
        source = netlist.cells[index] if index is not None else None
        if not toggles or (source and source.kind.startswith("BUFG")):
            continue
        reached = {sink for sink, pin in sinks.get(net, ())
                   if not _is_clock(netlist.cells[sink], pin)
                   and not _local(source, pin, netlist.cells[sink])}
        logic = source and _LOGIC.fullmatch(source.kind)
        unit = events.setdefault(source.unit if source else "", Counter())
        unit["wire" if logic else "wire_register"] += rate * toggles * len(reached)
    return events


def merged(events):
    """Return the sum of events: an iterable of Counters, or a dictionary of them by unit."""
    total = Counter()
    for part in events.values() if isinstance(events, dict) else events:
        total.update(part)
    return total


def dynamic_energy(events, samples):
    """Return the energy of a clock cycle in pJ, float64 (1 + draws,), of a Counter of events."""
    items, total = coefficients(), np.zeros_like(next(iter(samples.values())))
    for name, count in events.items():
        if items[name].unit == "pJ":
            factor = samples[items[name].times] if items[name].times else 1
            total += count * samples[name] * factor
    return total


def static_power(events, samples):
    """Return the share of the device's static power in uW, float64 (1 + draws,)."""
    items, total = coefficients(), np.zeros_like(next(iter(samples.values())))
    for name, count in events.items():
        if items[name].unit == "uW":
            total += count * samples[name]
    return total


def power_at(events, samples, mhz):
    """Return dynamic and static power in uW at `mhz`, float64 (1 + draws,)."""
    return dynamic_energy(events, samples) * mhz + static_power(events, samples)


def estimate(values):
    """Return the `Estimate` of values by draw, the first one being at the coefficients' own."""
    low, high = np.percentile(values[1:], [100 - _TAIL, _TAIL])
    return Estimate(float(values[0]), float(low), float(high))


def coefficient_table():
    """Return the coefficients as a Markdown table, for docs/POWER.md."""
    lines = ["| coefficient | counts | value | 95 % | kind | source |", "|---|---|---|---|---|---|"]
    for item in coefficients().values():
        unit = f" {item.unit}" if item.unit else ""
        times = f", times `{item.times}`" if item.times else ""
        lines.append(f"| `{item.name}` | {item.counts}{times} | {item.value:g}{unit} | "
                     f"{item.low:g} to {item.high:g} | {item.kind} | {item.source} |")
    return "\n".join(lines) + "\n"


def _count_cell(unit, index, cell, changes, activity):
    """Add what happens inside one cell to `unit`; `changes` are its outputs' per cycle."""
    if LUT.fullmatch(cell.kind):
        unit.update({"lut": changes, "static_lut": 1})
    elif _LOGIC.fullmatch(cell.kind):
        unit["carry"] += changes
    elif FLIP_FLOP.fullmatch(cell.kind):
        unit.update({"ff": changes, "ff_clock": 1})
    elif _SHIFT.fullmatch(cell.kind):
        unit.update({"lut": changes, "shift_clock": 1, "static_lut": 1})
    elif _LUT_RAM.fullmatch(cell.kind):
        luts = _RAM_LUTS.get(cell.kind, 1)
        unit.update({"lut": changes, "lutram_clock": luts, "static_lut": luts})
    elif cell.kind == "DSP48E1":
        pins = sum(activity.toggles.get(net, 0) for pin, nets in cell.inputs.items()
                   if not _is_clock(cell, pin) for net in nets)
        unit.update({"dsp_clock": 1, "static_dsp": 1, "dsp_input": pins / activity.cycles,
                     "dsp_product": _inside(activity, index, "Mr", 43),
                     "dsp_output": _inside(activity, index, "P", 48)})
    elif _BLOCK_RAM.fullmatch(cell.kind):
        _count_block_ram(unit, cell, activity)
    elif not re.fullmatch(r"BUFG\w*|IBUF|OBUF|VCC|GND", cell.kind):
        raise ValueError(f"cell must be a primitive with known energies, not {cell.kind!r}")


def _count_block_ram(unit, cell, activity):
    """Add the accesses of a block RAM, in units of 18 bits from 18 kbit."""
    halves = 2 if cell.kind == "RAMB36E1" else 1
    unit["static_bram"] += halves / 2

    def high(bits):
        rates = [activity.high.get(bit, 0) / activity.cycles if isinstance(bit, int)
                 else float(bit == "1") for bit in bits]
        return max(rates, default=0.0)

    for port, enable, write in ("A", "ENARDEN", "WEA"), ("B", "ENBWREN", "WEBWE"):
        widths = [int(cell.parameters.get(f"{kind}_WIDTH_{port}", "0"), 2)
                  for kind in ("READ", "WRITE")]
        used = high(cell.inputs.get(enable, ()))
        written = min(used, high(cell.inputs.get(write, ()))) if widths[1] else 0
        unit.update({"bram_clock": halves * (1 - used) if any(widths) else 0,
                     "bram_write": written * widths[1] / 18,
                     "bram_read": (used - written) * widths[0] / 18})


def _inside(activity, index, signal, width):
    """Return the changes per cycle of a signal inside cell `index`."""
    return sum(activity.inside.get((index, signal, bit), 0)
               for bit in range(width)) / activity.cycles


def _is_clock(cell, pin):
    """Return whether `pin` is a clock; the C of a DSP slice is an operand."""
    return pin in _CLOCKS and not (pin == "C" and cell.kind == "DSP48E1")


def _local(source, pin, sink):
    """Return whether `source` reaches this pin without leaving the slice, or its column of DSPs."""
    if sink.kind == "DSP48E1" and pin in CASCADES:
        return True
    inside = sink.kind == "CARRY4" or FLIP_FLOP.fullmatch(sink.kind)
    kinds = _INSIDE_SLICE.get(pin) if inside else None
    return bool(source and kinds and kinds.fullmatch(source.kind))
