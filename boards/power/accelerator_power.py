"""Power of a whole accelerator, by unit, while its mapped netlist runs a network.

The Verilog of the accelerator runs the program first, in the harness that `systola simulate` uses,
and every pin is recorded. Played to the netlist of Yosys, the record drives it as the harness drove
the Verilog; all pins have to answer alike in every cycle, and the results decoded from the
netlist's pins have to be those of the integer model. The toggles of that very run, from the first
busy cycle to the last, become energy with ``boards/power/energy.toml``.
"""

from collections import Counter
from dataclasses import asdict

import numpy as np

from systola.boards.power.accelerator_netlist import map_accelerator, named_units
from systola.boards.power.activity import compile_gates
from systola.boards.power.energy import (
    count_events,
    dynamic_energy,
    estimate,
    merged,
    sample_coefficients,
    static_power,
)
from systola.boards.power.memory_models import memory_models
from systola.boards.synthesis.sizes import module_sizes
from systola.model.graph.integer_forward import forward
from systola.sim.runs.pins import decode_pins, record_pins
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.program.image import ProgramError

__all__ = ["accelerator_power", "check_frequency", "compare_run", "played"]

_CLOCKED = ("ff_clock", "shift_clock", "lutram_clock", "dsp_clock", "bram_clock")
"""Events that happen in every cycle, whatever the data."""

_WHILE = {"m_axis_tdata": "m_axis_tvalid", "m_axis_tlast": "m_axis_tvalid",
          "s_axil_rdata": "s_axil_rvalid", "s_axil_rresp": "s_axil_rvalid",
          "s_axil_bresp": "s_axil_bvalid"}
"""Pins that mean something only while another one is high."""

_NOTE = ("netlist of Yosys before place and route, simulated without delays, glitches by one "
         "factor; energies per event are estimates, see docs/POWER.md; static power is that of "
         "the primitives in use; input and output pins are not counted")


def accelerator_power(model, config, inputs, *, mhz=100, trace=False, draws=4000, netlist=None,
                      progress=None):
    """Run `model` on the mapped netlist of an accelerator, and return its power by unit.

    Parameters
    ----------
    model : Graph
        The network; quantized as `config` wants it.
    config : AcceleratorConfig
        The accelerator.
    inputs : dict of str to int array (images, rows, channels)
        Its input codes by name.
    mhz : float
        Clock for the powers, above 0 and below 1000.
    trace : bool
        Run the program that stores every intermediate tensor; the default stores the logits.
    draws : int
        Draws of the coefficients for the intervals.
    netlist : GateNetlist, optional
        The mapped accelerator, by default that of `map_accelerator`.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.

    Returns
    -------
    dict
        ``units``, each with ``name``, ``lut``, ``ff``, ``dsp``, ``bram36``, ``toggles_per_cycle``,
        and ``mw``, ``mw_low``, ``mw_high`` without static power; ``total``, the same of everything
        with static power; ``static_mw`` and ``clock_mw`` (a part of what the units have) with their
        intervals; ``energy_uj_per_image`` and ``energy_pj_per_mac`` with theirs; ``mismatches``,
        stored elements that differ from the integer model, and ``pin_mismatches``, cycles in which
        a pin differs from the Verilog's; what was run. Intervals hold 95 %.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the netlist has cells without a model.
    CompileError
        If the model does not fit the accelerator.
    SimulationError
        If a simulation fails.
    """
    check_frequency(mhz)
    progress = progress or (lambda done, total, text: None)
    progress(0, None, text="compiling the program")
    program = compile_network(model, config, trace=trace)
    if netlist is None:
        netlist = map_accelerator(config, progress=progress)
    netlist = named_units(netlist)
    progress(0, None, text="recording the pins")
    pins = record_pins(config, program, inputs)
    progress(0, None, text="compiling the netlist")
    gates = compile_gates(netlist, models=memory_models())
    progress(0, None, text="simulating the netlist")
    activity = gates.run(played(netlist, pins), begin=pins.begin)
    progress(0, None, text="comparing")
    images = len(next(iter(inputs.values())))
    checked = compare_run(activity, pins, program, forward(model, inputs))
    return {**_measured(netlist, activity, pins, sample_coefficients(draws), mhz,
                        program.macs * images, images), **checked,
            "rows": config.rows, "cols": config.cols, "freq_mhz": mhz, "images": images,
            "cycles": pins.end - pins.begin, "busy_cycles": pins.busy, "macs": program.macs,
            "label": "estimate", "interval": 0.95, "note": _NOTE}


def check_frequency(mhz):
    """Raise ``ValueError`` unless `mhz` is a clock that an FPGA of 7 series may have."""
    if not 0 < mhz < 1000:
        raise ValueError(f"freq must be a number of MHz between 0 and 1000, not {mhz!r}")


def played(netlist, pins):
    """Return the inputs of `netlist` by port: the record `pins` up to the last busy cycle."""
    return {name: pins.values[name][:pins.end] for name, port in netlist.ports.items()
            if port.direction == "input" and name != "clk" and name in pins.values}


def compare_run(activity, pins, program, expected):
    """Return how often the netlist differs from the model and from the Verilog, and where first.

    Parameters
    ----------
    activity : Activity
        Of the netlist, with the pins of `pins` as its inputs.
    pins : Pins
        Record of the Verilog.
    program : Program
        What ran.
    expected : dict of str to int array (images, ...)
        Every tensor that the program stores, from the integer model.

    Returns
    -------
    dict
        ``mismatches``, ``elements_compared``, ``pin_mismatches`` and ``first_difference``, None or
        ``pin`` and ``cycle``. If whole results are missing, all elements count as different.
    """
    differing, first = 0, None
    for name, shown in activity.outputs.items():
        wrong = (shown != pins.values[name][:len(shown)]).any(axis=1)
        if name in _WHILE:
            wrong &= (pins.values[_WHILE[name]][:len(shown), 0] & 1).astype(bool)
        differing += int(wrong.sum())
        if wrong.any() and (first is None or wrong.argmax() < first["cycle"]):
            first = {"pin": name, "cycle": int(wrong.argmax())}
    outputs = activity.outputs | {"m_axis_tready": pins.values["m_axis_tready"][:pins.end]}
    total = sum(int(np.prod(tensor.shape)) for tensor in program.outputs) * len(pins.tensors)
    try:
        runs = decode_pins(outputs, program, pins.begin)
        if len(runs) != len(pins.tensors):
            raise ProgramError("runs are missing")
        wrong = sum(int((values != expected[name][image]).sum())
                    for image, tensors in enumerate(runs) for name, values in tensors.items())
    except ProgramError:
        wrong = total
    recorded = sum(int((values != expected[name][image]).sum())
                   for image, tensors in enumerate(pins.tensors)
                   for name, values in tensors.items())
    return {"mismatches": wrong + recorded, "elements_compared": total,
            "pin_mismatches": differing, "first_difference": first}


def _measured(netlist, activity, pins, samples, mhz, macs, images):
    """Return units, total and energies."""
    events = count_events(netlist, activity)
    driver, toggles = netlist.driver, {}
    for net, changes in activity.toggles.items():
        index, _ = driver.get(net, (None, None))
        name = netlist.cells[index].unit if index is not None else ""
        toggles[name] = toggles.get(name, 0) + changes / activity.cycles
    sizes = {}
    for cell in netlist.cells:
        sizes.setdefault(cell.unit, Counter())[cell.kind] += 1
    units = [{"name": name or "input pins", **_size(sizes, [name]),
              "toggles_per_cycle": toggles.get(name, 0.0),
              **_figure("mw", dynamic_energy(part, samples) * mhz / 1000)}
             for name, part in events.items() if part.total()]
    units.sort(key=lambda unit: -unit["mw"])
    whole = merged(events)
    static = static_power(whole, samples) / 1000
    power = dynamic_energy(whole, samples) * mhz / 1000 + static
    clock = dynamic_energy({name: whole[name] for name in _CLOCKED}, samples) * mhz / 1000
    energy = power / mhz * 1000 * (pins.end - pins.begin)  # pJ, of the whole run
    return {"units": units, "total": {**_size(sizes, sizes),
                                      "toggles_per_cycle": sum(toggles.values()),
                                      **_figure("mw", power)},
            **_figure("static_mw", static), **_figure("clock_mw", clock),
            **_figure("energy_uj_per_image", energy / images / 1e6),
            **_figure("energy_pj_per_mac", energy / macs)}


def _size(kinds, units):
    """Return the primitives of some units, from the kinds of all units' cells."""
    cells = merged(kinds.get(unit, Counter()) for unit in units)
    return asdict(module_sizes({"all": {"num_cells_by_type": cells}}, "all")["all"].total)


def _figure(name, values):
    """Return a figure and the ends of its interval."""
    found = estimate(values)
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
