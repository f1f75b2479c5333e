"""The report on processing elements: area, activity, energy and power, against dequantizing first.

Every figure is one of a whole array over its processing elements, with the skew, the field
splitting of packed sums and, for the baseline, the scalers at the edge.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import cache

import numpy as np

from systola.boards.power.energy import (
    count_events,
    dynamic_energy,
    merged,
    power_at,
    sample_coefficients,
)
from systola.boards.power.gates import OptimizedAwayError
from systola.boards.power.pe_designs import (
    BASELINES,
    CODEBOOK,
    LOG2_FEED,
    NARROW_BITS,
    OF_ALL_WIDTHS,
    ONLY_FOR,
    STYLES,
    TWO_PRECISIONS,
    make_design,
    map_design,
)
from systola.boards.power.pe_operands import OPERATIONS, operand_streams
from systola.boards.power.pe_table import Row, describe
from systola.boards.synthesis.sizes import Size
from systola.model.operators.fixed_point import fixed_point
from systola.sim.verilog.payload_bytes import pack

__all__ = ["pe_report"]

_MULTIPLIERS = {"lut": ("lut",), "shift": ("lut",), "dsp": ("dsp", "lut"),
                **dict.fromkeys(("dsp_packed", TWO_PRECISIONS, CODEBOOK, LOG2_FEED), ("dsp",))}
"""What may multiply in each style: of a `dsp` one, small products go into look-up tables."""

_BIAS = ("netlists of Yosys before place and route; simulated without delays, glitches by one "
         "factor; energies per event are estimates, see docs/POWER.md")


def pe_report(*, widths=(2, 3, 4, 8), mhz=100, rows=8, cols=4, data="digits", styles=STYLES,
              operations=OPERATIONS, draws=4000, workers=2, cluster=None, progress=None):
    """Return the table of processing elements as plain dictionaries and numbers.

    Parameters
    ----------
    widths : iterable of int
        Bits of weights and activations, 2 to 8; some styles are measured at few, see
        `systola.boards.power.pe_designs.ONLY_FOR`.
    mhz : float
        Clock for the powers.
    rows, cols : int
        Size of the arrays.
    data : str
        One of `systola.boards.power.pe_operands.DATA`.
    styles, operations : iterable of str
        What to measure; the baselines of these styles are, too.
    draws : int
        Draws of the coefficients for the intervals.
    workers : int
        Syntheses and compilations at the same time, without a `cluster`.
    cluster : systola.cluster.cluster.Cluster, optional
        Whose workers map and simulate the arrays. Changes nothing in the result.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.

    Returns
    -------
    dict
        ``rows``, and what they are of. A row has ``operation``, ``bits``, ``style``; ``lut``,
        ``ff``, ``carry``, ``dsp`` of a processing element, and ``macs`` it does in a cycle;
        ``toggles_per_cycle``; ``energy_pj_per_mac``, ``energy_low``, ``energy_high``, and
        ``energy_parts``; ``power_uw_per_pe``, ``power_low``, ``power_high``. Low-bit rows have
        ``baseline``, ``ratio`` of the energies, ``ratio_low``, ``ratio_high``, and unless all of
        that is below 1, ``explanation``; ``ratio_without_scalers``, with its interval, takes the
        baseline's operands as scaled already; ``against`` compares with another low-bit row.
        Intervals hold 95 %.

    Raises
    ------
    OptimizedAwayError
        If the operands are constant, or synthesis folded them away.
    ValueError
        If a parameter is out of range; the message names it.
    """
    widths, styles, operations = _checked(widths, mhz, rows, cols, styles, operations)
    progress = progress or (lambda done, total, text: None)
    progress(0, None, text="recording operands")
    streams = operand_streams(data, widths, rows=rows, cols=cols)
    multipliers = {kind for style in styles for kind in _MULTIPLIERS[style]}
    baselines = [style for kind, style in BASELINES.items() if kind in multipliers]
    wanted = [(style, bits, operation) for bits in widths for operation in operations
              for style in styles if _is_measured(style, bits, operation)]
    if set(styles) != set(STYLES):
        _refuse_unmeasured(styles, wanted)
    if (TWO_PRECISIONS, NARROW_BITS) in {case[:2] for case in wanted}:  # twice the columns
        narrow = operand_streams(data, [NARROW_BITS], rows=rows, cols=2 * cols)
        streams |= {(TWO_PRECISIONS, operation): stream
                    for (_, operation), stream in narrow.items()}
    designs = list(dict.fromkeys([_design_of(name, None) for name in baselines] + [
        _design_of(style, bits) for style, bits, _ in sorted(
            wanted, key=lambda case: -case[1])] + [("scalers", bits) for bits in widths]))
    _refuse_constants(streams)
    # Low-bit rows of a width and an operation above their baselines.
    tasks = [task for bits in widths for operation in operations for task in (
        *((style, bits, operation) for style in styles if (style, bits, operation) in wanted),
        *((style, bits, operation) for style in baselines))]
    shared = rows, cols, streams, sample_coefficients(draws), mhz
    if cluster is None:
        with ThreadPoolExecutor(workers) as pool:
            for done, (style, _) in enumerate(pool.map(
                    lambda design: _mapped(shared, *design), designs)):
                progress(done + 1, len(designs), text=f"mapped {style}: {done + 1} of "
                                                      f"{len(designs)}")
        table = []
        for style, bits, operation in tasks:
            progress(len(table), len(tasks), text=f"simulating {operation}: {bits} bits")
            table.append(_measured(shared, style, bits, operation))
    else:
        cluster.map(_mapped, shared, designs, done=lambda done: progress(
            done, len(designs), text=f"mapped {done} of {len(designs)} arrays"))
        table = cluster.map(_measured, shared, tasks, done=lambda done: progress(
            done, len(tasks), text=f"simulated {done} of {len(tasks)} arrays"))
    return {"rows": describe(table, mhz), "data": data, "rows_of_array": rows,
            "cols_of_array": cols, "freq_mhz": mhz, "label": "estimate", "interval": 0.95,
            "note": _BIAS}


def _checked(widths, mhz, rows, cols, styles, operations):
    widths, styles, operations = (list(dict.fromkeys(value))
                                  for value in (widths, styles, operations))
    for name, values, known in (("bits", widths, range(2, 9)), ("style", styles, STYLES),
                                ("operation", operations, OPERATIONS)):
        for value in values:
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, "
                                 f"not {value!r}")
        if not values:
            raise ValueError(f"{name} must name at least one of {', '.join(map(str, known))}")
    for name, value, least in ("rows", rows, 2), ("cols", cols, 2):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    if not 0 < mhz < 1000:
        raise ValueError(f"freq must be a number of MHz from 0 to 1000, not {mhz!r}")
    return widths, styles, operations


def _refuse_unmeasured(styles, wanted):
    """Raise ``ValueError`` if one of the chosen styles would have no row."""
    for style in styles:
        if style not in {case[0] for case in wanted}:
            widths, operations = ONLY_FOR[style]
            raise ValueError(f"style {style!r} is measured at {', '.join(map(str, widths))} bits, "
                             f"for {', '.join(operations)}: choose one of these, or other styles")


def _refuse_constants(streams):
    """Raise `OptimizedAwayError` if a stream has the same operands in all cycles.

    The simulation would tell, too, after minutes of synthesis.
    """
    for (bits, operation), stream in streams.items():
        for name, values in (("activations", [item.vectors for item in stream.passes]),
                             ("weights", [item.tile for item in stream.passes])):
            if all((value == values[0][0]).all() for value in values):
                raise OptimizedAwayError(
                    f"operands were optimized away: the {name} of {operation} at {bits} bits are "
                    f"constant, so that the array would be measured at rest")


def _is_measured(style, bits, operation):
    """Return whether there is a row of a style at so many bits for an operation."""
    if style not in ONLY_FOR:
        return True
    widths, operations = ONLY_FOR[style]
    return bits in widths and operation in operations


def _design_of(style, bits):
    """Return what `make_design` takes for a style or a baseline at so many bits."""
    return style, None if style in (*OF_ALL_WIDTHS, *BASELINES.values()) else bits


@cache
def _array(style, bits, rows, cols):
    """Return the `MappedArray` of a design; of each a process keeps one."""
    return map_design(make_design(style, bits, rows, cols))


def _mapped(shared, style, bits):
    """Map a design, which the machine keeps; return its name."""
    rows, cols, *_ = shared
    _array(style, bits, rows, cols)
    return style, bits


def _measured(shared, style, bits, operation):
    """Return the `Row` of a style or a baseline for one operation and width.

    `shared` are rows, columns, operands, samples of the coefficients and MHz.
    """
    rows, cols, streams, samples, mhz = shared
    array = _array(*_design_of(style, bits), rows, cols)
    if style not in BASELINES.values():
        narrow = style == TWO_PRECISIONS and bits == NARROW_BITS
        stream = streams[TWO_PRECISIONS if narrow else bits, operation]
        return _row(array, bits, operation, style, stream.coded.get(style, stream.passes), samples,
                    mhz, narrow=narrow)
    stream = streams[bits, operation]
    wide = [type(item)(np.stack([fixed_point(column, scale, bits) for column, scale in zip(
        item.tile.T, scales, strict=True)], axis=1), fixed_point(
            item.vectors, stream.act_scale, bits))
        for item, scales in zip(stream.passes, stream.tile_scales, strict=True)]
    return _row(array, bits, operation, style, wide, samples, mhz,
                _scaled(_array("scalers", bits, rows, cols), bits, stream))


def _row(array, bits, operation, style, passes, samples, mhz, edge=None, *, narrow=False):
    """Run `passes` on `array`, and add what sits at its edge."""
    activity, compared = array.multiply(passes, narrow=narrow)
    events = merged(count_events(array.netlist, activity))
    toggles = sum(activity.toggles.values()) / activity.cycles
    size, edge_size = Size(**asdict(array.netlist.total)), Size()
    inner = dynamic_energy(events, samples)
    if edge:
        edge_size, edge_events, edge_toggles = edge
        events, toggles = merged([events, edge_events]), toggles + edge_toggles
        size.add(edge_size)
    # A MAC is one that the operation needs; cycles of loading and draining count with them.
    macs = sum(item.vectors.size * item.tile.shape[1] for item in passes) / activity.cycles
    return Row(operation, bits, style, size, edge_size, array.pes, array.macs_per_pe << narrow,
               events, dynamic_energy(events, samples) / macs, inner / macs,
               power_at(events, samples, mhz) / array.pes, toggles / array.pes, compared,
               "dsp" if array.netlist.total.dsp else "lut")


def _scaled(array, bits, stream):
    """Run the operands through the scalers; return their size, and events and toggles a cycle."""
    columns = len(stream.tile_scales[0])
    spread = max(array.shape.rows + columns, 1)
    acts, weights, scales, enable = [], [], [], []
    for item, column_scales in zip(stream.passes, stream.tile_scales, strict=True):
        length = max(len(item.vectors), spread)
        hold = np.minimum(np.arange(length), len(item.vectors) - 1)
        acts.append(item.vectors[hold])
        column = np.minimum(np.arange(length), columns - 1)
        weights.append(item.tile.T[column])
        scales.append(np.asarray(column_scales)[column])
        enable.append(np.arange(length) < columns)
    acts, weights, scales, enable = map(np.concatenate, (acts, weights, scales, enable))
    activity = array.simulation.run({
        "acts": pack([(acts, bits + 1)]), "w": pack([(weights, bits)]), "w_scale": scales,
        "act_scale": np.full(len(acts), stream.act_scale), "w_en": enable.astype(int)})
    for name, codes, scale in (("acts_out", acts, stream.act_scale),
                               ("w_out", weights, scales[:, None])):
        expected = pack([(fixed_point(codes, scale, bits), 16)])[:-2]
        same = activity.outputs[name][2:] == expected
        if not (same if name == "acts_out" else same[enable[:-2]]).all():
            raise RuntimeError(f"the netlist of the scalers computes other {name} than the model")
    array.check_changes(activity, ["acts", "w", "acts_out", "w_out"])
    return (array.netlist.total, merged(count_events(array.netlist, activity)),
            sum(activity.toggles.values()) / activity.cycles)
