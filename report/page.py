"""`systola report --html`: one page with everything that can be looked at, and its data."""

import base64
import html
import io
import json
import re
from pathlib import Path

from systola.boards.synthesis.sizes import unit_sizes
from systola.report.charts import (
    area_chart,
    energy_chart,
    option_chart,
    roofline_chart,
    timeline_chart,
)

__all__ = ["collect", "render", "write_page"]

def collect(config, *, images=8, bits=(2, 3, 4, 8), mhz=100.0, data="digits", progress):
    """Measure everything that the page shows: minutes.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    images : int
        Test scans to simulate.
    bits, mhz, data
        As `systola.boards.power.pe_report.pe_report` takes them.
    progress : callable
        ``progress(done, total, text=...)``.

    Returns
    -------
    dict
        ``config``, ``pe``, ``synth``, ``simulation`` (a `Simulation`), ``evaluate``, ``options``,
        ``roofline`` and ``attention`` (what `classification_figure` takes).
    """
    from systola.boards.power.pe_report import pe_report
    from systola.boards.synthesis.synth import synthesize
    from systola.model.data.images import encode, load_data
    from systola.model.evaluation.accuracy import (
        evaluate,
        measure_options,
        open_float,
        open_network,
    )
    from systola.sim.runs.simulate import simulate

    vit, model = open_float("digits"), open_network("digits", **config.model_settings)
    scans, labels = load_data("digits", "test")
    progress(0, None, text="evaluating")
    accuracy = evaluate(vit, model, scans, labels)
    options = measure_options(
        progress=lambda done, total: progress(done, total, text="comparing arithmetic options"))
    run = simulate(model, config, encode(model, scans[:images]), progress=progress)
    synth = synthesize(
        config, progress=lambda text: progress(0, None, text=f"synthesizing: {text}"))
    rows = pe_report(widths=tuple(bits), mhz=mhz, data=data, progress=progress)
    return {"config": config, "pe": rows, "synth": synth.to_dict(), "simulation": run,
            "evaluate": accuracy, "options": options, "roofline": _roofline(config, model, run),
            "attention": _attention(vit, model, run, scans[:images], labels[:images], config)}


def _attention(vit, model, run, images, labels, config):
    """Return what the picture of the digits needs."""
    from systola.model.data.images import float_inputs
    from systola.model.graph.float_forward import float_forward
    from systola.model.graph.nodes import Softmax

    name, float_maps = model.of(Softmax)[-1].name, {}
    float_forward(vit, float_inputs(vit, images),
                  lambda tensor, value: float_maps.setdefault(tensor, value))
    return {"images": images, "labels": labels, "predictions": run.logits.argmax(axis=1),
            "accelerator": [tensors[name] / tensors[name].sum(axis=-1, keepdims=True)
                            for tensors in run.tensors],
            "reference": list(float_maps[name]),
            "title": f"Digits on the simulated {config.rows} x {config.cols} accelerator"}


def _roofline(config, model, run):
    """Return ``(peak, stream bytes a cycle)`` and points: the digits' layers, and larger models."""
    from systola.hw.contract.isa import Opcode
    from systola.model.data.synthetic import random_named
    from systola.model.graph.encoder import encoder_blocks
    from systola.sw_driver.compiler.compiler import CompileError, compile_network

    program, tokens = compile_network(model, config), model.tensors["blocks.0.out"].rows
    points = [("digits, whole", program.macs / len(program.stream),
               program.macs / max(run.cycles, 1), True)]
    spans = {}
    for event in run.timeline.events:
        if event.opcode is Opcode.MATMUL:
            spans.setdefault(_layer(event.name), []).append((event.start, event.end))
    for row in run.bandwidth or ():
        name = _layer(row["name"])
        if name.startswith("blocks.0.") and name in spans:
            # Every byte is a weight and meets every token.
            macs = row["weight_bytes"] * tokens
            begin, end = (edge(times) for edge, times in zip(
                (min, max), zip(*spans[name], strict=True), strict=True))
            points.append((name.removeprefix("blocks.0."), float(tokens),
                           macs / (end - begin), True))
    for name in ("deit_tiny", "deit_small"):
        try:
            program = compile_network(encoder_blocks(random_named(
                name, blocks=1, **config.model_settings), 1), config)
        except CompileError:
            continue
        points.append((f"{name}, a block", program.macs / len(program.stream),
                       program.macs / program.predicted["cycles"], False))
    return (config.rows * config.cols, config.bus_bytes), points


def _layer(name):
    """Return the layer of an operation: ``blocks.0.fc1`` of ``blocks.0.fc1.3``."""
    return re.sub(r"\.\d+$", "", name)


def write_page(path, content):
    """Write the page of `content`, at once."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(render(content), encoding="utf-8")
    partial.replace(path)


def render(content):
    """Return the page: one file that loads nothing."""
    from systola.report.digits_picture import classification_figure
    from systola.report.timeline_page import COLORS

    run, config, synth = content["simulation"], content["config"], content["synth"]
    units = unit_sizes(synth["modules"], synth["top"])
    low, high = run.timeline.window
    middle, part = (low + high) // 2, max((high - low) // 16, 1)
    sections = [
        ("pe", "Processing elements: low-bit against dequantizing first",
         content["pe"]["note"], [energy_chart(content["pe"]["rows"])],
         _pe_table(content["pe"]["rows"])),
        ("area", "Area by unit", _AREA,
         [area_chart(units)], _area_table(units, synth["total"])),
        ("roofline", "Roofline", _ROOFLINE,
         [roofline_chart(*content["roofline"])], ""),
        ("timeline", "Timeline", f"One image, {run.cycles:,} cycles; below, a sixteenth of it.",
         [timeline_chart(run.timeline, COLORS, COLORS["active"]),
          timeline_chart(run.timeline, COLORS, COLORS["active"], (middle, middle + part))], ""),
        ("accuracy", "Accuracy", "The digits' test scans, float and integers only.",
         [option_chart({name: row["error_float"] for name, row in content["options"].items()})],
         _accuracy_table(content["evaluate"], content["options"])),
        ("attention", "Attention", _ATTENTION, [classification_figure(**content["attention"])], ""),
    ]
    figures = [("mismatches with the models", f"{run.mismatches:,}"),
               ("values compared", f"{run.elements_compared:,}"),
               ("cycles an image", f"{run.cycles:,}"),
               ("array utilisation", f"{run.utilisation:.1%}"),
               ("top-1, integers only", f"{content['evaluate']['int_top1']:.4f}"),
               ("LUT", f"{synth['total']['lut']:,}"), ("DSP48E1", f"{synth['total']['dsp']:,}")]
    data = {"config": config.to_dict(), "pe": content["pe"], "synth": synth,
            "evaluate": content["evaluate"], "options": content["options"],
            "simulate": run.report()}
    text = json.dumps(data, default=lambda value: value.tolist()).replace("</", "<\\/")
    body = "".join(_section(*section) for section in sections)
    links = "".join(f'<a href="#{name}">{html.escape(title.split(":")[0])}</a>'
                    for name, title, *_ in sections)
    tiles = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures)
    title = f"systola: {config.rows} x {config.cols}, {config.weight_bits}-bit weights"
    return _PAGE.format(title=html.escape(title), links=links, tiles=tiles, body=body, data=text,
                        config=html.escape(json.dumps(config.to_dict(), indent=1)))


def _section(name, title, note, charts, table):
    pictures = "".join(f"<figure>{_image(chart, f'{title}, chart')}</figure>" for chart in charts)
    return (f'<section id="{name}"><h2>{html.escape(title)}</h2><p>{html.escape(note)}</p>'
            f"{pictures}{table}</section>")


def _image(figure, text):
    """Return a figure as an image inside the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return (f'<img alt="{html.escape(text)}" src="data:image/svg+xml;base64,'
            f'{base64.b64encode(buffer.getvalue()).decode()}">')


def _table(columns, rows, kind=""):
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row)
                   + "</tr>" for row in rows)
    return f"<table class=\"{kind}\"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _pe_table(rows):
    def interval(row, name, low, high):
        if name not in row:
            return ""
        return f"{row[name]:.2f} ({row[low]:.2f} to {row[high]:.2f})"

    return _table(
        ("operation", "bits", "style", "multiplier", "LUT", "FF", "DSP", "MACs", "toggles a cycle",
         "pJ per MAC, 95 %", "uW", "of dequant_first", ""),
        [(row["operation"], row["bits"], row["style"], row["multiplier"],
          f"{row['lut']:.1f}", f"{row['ff']:.1f}",
          f"{row['dsp']:.2f}", row["macs"], f"{row['toggles_per_cycle']:.1f}",
          interval(row, "energy_pj_per_mac", "energy_low", "energy_high"),
          f"{row['power_uw_per_pe']:.0f}", interval(row, "ratio", "ratio_low", "ratio_high"),
          row.get("explanation", "")) for row in rows], kind="notes")


def _area_table(units, total):
    parts = ("lut", "ff", "carry", "dsp", "bram36")
    return _table(("unit", "LUT", "FF", "CARRY4", "DSP48E1", "RAMB36"),
                  [(name, *(f"{size[part]:,}" for part in parts)) for name, size in units]
                  + [("total", *(f"{total[part]:,}" for part in parts))])


def _accuracy_table(accuracy, options):
    first = [("float", f"{accuracy['float_top1']:.4f}", "", ""),
             ("this configuration", f"{accuracy['int_top1']:.4f}",
              f"{accuracy['agreement']:.4f}", "")]
    return _table(("arithmetic", "top-1", "equal predictions", "RMS error of logits"),
                  first + [(name, f"{row['int_top1']:.4f}", f"{row['agreement']:.4f}",
                            f"{row['error_float']:.2%}") for name, row in options.items()])


_AREA = ("Yosys, 7 series, before place and route. Modules that are equal count where they occur "
         "first.")
_ROOFLINE = ("Weights come from the host for every image, so a short sequence is bound by the "
             "stream. Layers are those of the first block.")
_ATTENTION = ("Where the class token looks, read out of the accelerator, and in the float network.")

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2733; margin: 0 auto; max-width: 1180px;
padding: 28px; }}
h1 {{ font-size: 24px; margin: 0 0 4px; }} h2 {{ font-size: 19px; margin: 0 0 4px; }}
nav {{ margin: 10px 0 22px; }}
nav a {{ color: #2684c9; margin-right: 18px; text-decoration: none; }}
#figures {{ display: flex; flex-wrap: wrap; gap: 14px 40px; padding: 16px 20px; background: #f5f7fa;
border-radius: 8px; }}
#figures div {{ color: #5b6b7d; }} #figures b {{ display: block; font-size: 21px; color: #1d2733; }}
section {{ margin-top: 40px; border-top: 1px solid #e3e7ed; padding-top: 22px; }}
section p {{ color: #5b6b7d; margin: 0 0 12px; }} figure {{ margin: 0 0 14px; }}
figure img {{ max-width: 100%; height: auto; display: block; }}
table {{ border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }}
td, th {{ padding: 3px 16px 3px 0; text-align: right; vertical-align: top; white-space: nowrap; }}
td:first-child, th:first-child, .notes td:last-child {{ text-align: left; }}
.notes td:last-child {{ white-space: normal; min-width: 14em; }}
tbody tr + tr td {{ border-top: 1px solid #eef1f5; }}
pre {{ font-size: 12px; }}
</style></head><body><h1>{title}</h1><nav>{links}</nav><div id="figures">{tiles}</div>
{body}
<section id="configuration"><h2>Configuration</h2><details><summary>all fields</summary>
<pre>{config}</pre></details></section>
<script type="application/json" id="data">{data}</script></body></html>
"""
