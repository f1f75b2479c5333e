"""Charts of the HTML report, as matplotlib figures: they draw what they are given."""

import matplotlib.figure
import matplotlib.patches
import numpy as np

from systola.hw.contract.isa import Engine

__all__ = ["allocation_chart", "area_chart", "energy_chart", "option_chart", "roofline_chart",
           "timeline_chart"]

_INK, _MUTED = "#1f2a44", "#8a94a6"
_STYLES = {"dequant_first in fabric": "#c3c9d3", "dequant_first in DSP slice": "#8a94a6",
           "lut": "#2684c9",
           "dsp": "#1a7f4b", "dsp_packed": "#6fbf73", "two_precisions": "#b3d89c",
           "codebook": "#7d5ba6", "log2_feed": "#b9a3d4", "shift": "#d9822b"}
_PARTS = {"lut": "#2684c9", "ff": "#9cc9ea"}


def _axes(width, height, count=1, **options):
    figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False, **options)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=_INK, labelsize=9)
    return figure, axes


def energy_chart(rows):
    """Return bars of the energy per multiply-accumulate with their 95 % intervals.

    `rows` are those of `systola.boards.power.pe_report.pe_report`; one panel an operation, one
    group of bars a width, on a logarithmic scale.
    """
    operations = list(dict.fromkeys(row["operation"] for row in rows))
    styles = list(dict.fromkeys(map(_style, rows)))
    figure, axes = _axes(4.1 * len(operations), 3.6, len(operations), sharey=True)
    for axis, operation in zip(axes, operations, strict=True):
        mine = [row for row in rows if row["operation"] == operation]
        widths = sorted({row["bits"] for row in mine})
        shown = [style for style in styles if style in map(_style, mine)]
        step = 0.82 / len(shown)
        for place, style in enumerate(shown):
            chosen = {row["bits"]: row for row in mine if _style(row) == style}
            at = [widths.index(bits) - 0.41 + step * (place + 0.5) for bits in chosen]
            value = np.array([row["energy_pj_per_mac"] for row in chosen.values()])
            low = np.array([row["energy_low"] for row in chosen.values()])
            high = np.array([row["energy_high"] for row in chosen.values()])
            axis.bar(at, value, width=0.9 * step, color=_STYLES[style], label=style)
            axis.errorbar(at, value, yerr=[np.maximum(value - low, 0), np.maximum(high - value, 0)],
                          fmt="none", ecolor=_INK, elinewidth=0.9, capsize=2)
        axis.set_xticks(range(len(widths)), [f"{bits} bits" for bits in widths])
        axis.set_yscale("log")
        axis.set_title({"linear": "Linear", "qk": "Q·Kᵀ", "av": "A·V"}.get(operation, operation),
                       color=_INK, fontsize=11)
        axis.grid(axis="y", color="#e3e7ed", linewidth=0.8)
        axis.set_axisbelow(True)
    axes[0].set_ylabel("pJ per multiply-accumulate (estimate)", color=_INK, fontsize=9)
    handles = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5,
                  frameon=False, fontsize=9)
    return figure


def _style(row):
    """Return the style of a row; there are two baselines, of either kind of multiplier."""
    base = row["style"] == "dequant_first"
    return f"dequant_first in {row['multiplier']}" if base else row["style"]


def area_chart(units):
    """Return bars of LUT and flip-flops by unit; `units` is ``[(name, {"lut": .., "ff": ..})]``."""
    figure, (axis,) = _axes(8.6, 0.36 * len(units) + 1.1)
    at = np.arange(len(units))[::-1]
    for place, (part, color) in enumerate(_PARTS.items()):
        axis.barh(at + 0.2 - 0.4 * place, [size[part] for _, size in units], height=0.38,
                  color=color, label={"lut": "LUT", "ff": "flip-flops"}[part])
    axis.set_yticks(at, [name for name, _ in units])
    axis.grid(axis="x", color="#e3e7ed", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, fontsize=9)
    return figure


def roofline_chart(roof, points):
    """Return a roofline of multiply-accumulates a cycle over those a byte from the host.

    Parameters
    ----------
    roof : (float, float)
        The array's multiply-accumulates a cycle, and the stream's bytes a cycle.
    points : list of (str, float, float, bool)
        Name, multiply-accumulates a byte, a cycle, and whether measured (else predicted).
    """
    peak, width = roof
    figure, (axis,) = _axes(7.4, 4.2)
    x = np.geomspace(min([point[1] for point in points] + [peak / width]) / 3,
                     max([point[1] for point in points] + [peak / width]) * 3, 200)
    axis.plot(x, np.minimum(peak, x * width), color=_INK, linewidth=1.6)
    axis.annotate(f"array: {peak:g} a cycle", (x[-1], peak), xytext=(-4, 5), ha="right",
                  textcoords="offset points", fontsize=9, color=_INK)
    axis.annotate(f"stream: {width:g} bytes a cycle", (x[0], x[0] * width), xytext=(8, -4),
                  textcoords="offset points", fontsize=9, color=_INK)
    for measured, face in (True, "#1a7f4b"), (False, "white"):
        mine = [point for point in points if point[3] is measured]
        if mine:
            axis.scatter([point[1] for point in mine], [point[2] for point in mine], s=34,
                         facecolor=face, edgecolor="#1a7f4b", zorder=3,
                         label="measured" if measured else "predicted by the compiler")
    _spread_labels(axis, points)
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("multiply-accumulates a byte from the host", color=_INK, fontsize=9)
    axis.set_ylabel("multiply-accumulates a cycle", color=_INK, fontsize=9)
    axis.grid(which="major", color="#e3e7ed", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _spread_labels(axis, points):
    """Write the names beside the points, those close together below one another."""
    taken = []
    for name, x, y, _ in sorted(points, key=lambda point: -point[2]):
        line = np.log(y)
        while any(abs(line - other) < 0.13 and abs(np.log(x / place)) < 1.6
                  for place, other in taken):
            line -= 0.04
        taken.append((x, line))
        axis.annotate(name, (x, y), xytext=(x * 1.12, np.exp(line)), fontsize=8, color=_INK,
                      va="center", arrowprops={"arrowstyle": "-", "color": "#c3cad5", "lw": 0.6})


def timeline_chart(timeline, colors, active, span=None):
    """Return what the engines and the array did from cycle to cycle.

    Parameters
    ----------
    timeline : systola.sim.runs.timeline.Timeline
        The run.
    colors : dict of Opcode to str
        Of the operations.
    active : str
        Colour of the array at work.
    span : (int, int), optional
        Cycles to show; by default all.
    """
    low, high = span or (0, timeline.cycles)
    figure, (axis,) = _axes(11.5, 2.7)
    lanes = [("LOAD", Engine.LOAD), ("MATRIX", Engine.MATRIX), ("array", None),
             ("VECTOR", Engine.VECTOR)]
    used = {}
    for place, (_, engine) in enumerate(lanes):
        bars = {}
        if engine is None:
            start = timeline.window[0]
            for gap in timeline.gaps:
                bars.setdefault(active, []).append((start, gap.start - start))
                start = gap.end
            bars.setdefault(active, []).append((start, timeline.window[1] - start))
        else:
            for event in timeline.of(engine):
                color = colors[event.opcode]
                bars.setdefault(color, []).append((event.start, event.end - event.start))
                if event.start < high and event.end > low:
                    used[event.opcode.name.lower()] = color
        for color, spans in bars.items():
            axis.broken_barh([item for item in spans if item[0] < high and sum(item) > low],
                             (-place - 0.4, 0.8), facecolor=color, linewidth=0, rasterized=True)
    axis.set_yticks([-place for place in range(len(lanes))], [name for name, _ in lanes])
    axis.set_xlim(low, high)
    axis.set_ylim(0.6 - len(lanes), 0.6)
    axis.set_xlabel("cycle", color=_INK, fontsize=9)
    marks = [matplotlib.patches.Patch(color=color, label=name) for name, color in used.items()]
    figure.legend(handles=[*marks, matplotlib.patches.Patch(color=active, label="array at work")],
                  loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    return figure


def option_chart(options):
    """Return bars of the logits' RMS error by arithmetic option; `options` maps names to shares."""
    figure, (axis,) = _axes(8.6, 0.32 * len(options) + 0.9)
    at = np.arange(len(options))[::-1]
    axis.barh(at, [100 * value for value in options.values()], height=0.62, color="#2684c9")
    axis.set_yticks(at, list(options))
    axis.set_xlabel("RMS error of the logits against float, % of their range", color=_INK,
                    fontsize=9)
    axis.grid(axis="x", color="#e3e7ed", linewidth=0.8)
    axis.set_axisbelow(True)
    return figure


def allocation_chart(rows, cost, float_top1):
    """Return accuracy, and the logits' error, over cost: a point an allocation.

    `rows` are those of `systola.model.evaluation.allocation_sweep.sweep`, `cost` names what is
    limited; a line is at `float_top1`.
    """
    figure, axes = _axes(11.0, 4.2, 2)
    styles = (("random", "o", 16, "#c3c9d3"), ("the same bits everywhere", "s", 34, "#d9822b"),
              ("allocated", "o", 34, "#1a7f4b"))
    for axis, figures in zip(axes, ("int_top1", "error"), strict=True):
        for kind, marker, size, color in styles:
            mine = sorted((row["cost"], row[figures]) for row in rows if row["kind"] == kind)
            if mine:
                axis.scatter(*zip(*mine, strict=True), s=size, marker=marker, color=color,
                             zorder=3, label=kind)
            if mine and kind == "allocated":
                axis.plot(*zip(*mine, strict=True), color=color, linewidth=1, zorder=2)
        axis.set_xlabel(cost, color=_INK, fontsize=9)
        axis.grid(color="#e3e7ed", linewidth=0.8)
        axis.set_axisbelow(True)
    axes[0].axhline(float_top1, color=_MUTED, linewidth=0.8, linestyle="--", label="float network")
    axes[0].set_ylabel("top-1 on the test images", color=_INK, fontsize=9)
    axes[0].legend(frameon=False, fontsize=9, loc="lower right")
    axes[1].set_ylabel("error of the logits", color=_INK, fontsize=9)
    axes[1].set_yscale("log")
    return figure
