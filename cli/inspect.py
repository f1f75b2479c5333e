"""`systola inspect`."""

from pathlib import Path

import click

from systola.cli.console import emit, json_option, picture_file, progress, table
from systola.cli.model_options import facts_options, given_facts

__all__ = ["inspect"]

_ITEMS = 8
"""Most items of a list that a table shows whole."""


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--draw", metavar="FILE", callback=lambda ctx, param, value: value and
              picture_file("picture", value), help="Draw the graph into FILE (.svg or .png).")
@click.option("--no-presets", is_flag=True, help="Do not find out which presets can run it.")
@facts_options
@json_option
def inspect(model, draw, no_presets, as_json, **options):
    """Show what MODEL is: where each fact came from, its graph, and which presets can run it.

    MODEL is `digits`, `fashion`, a float checkpoint (a folder or file of timm or Hugging Face), or
    an integer network from `systola quantize`. A checkpoint is shown as its float graph. Bytes are
    those of the parameters in a file, and of the tensor.
    """
    from systola.model.evaluation.accuracy import open_as_is
    from systola.report.graph_picture import draw_graph
    from systola.report.graph_table import graph_table
    from systola.report.preset_table import preset_table

    with progress("reading") as update:
        graph = open_as_is(model, **given_facts(options))
        report = {"model": model, **_facts(graph), **graph_table(graph)}
        if not no_presets:
            update(0, None, "trying the presets")
            report["presets"] = preset_table(graph, progress=update)
        if draw:
            draw_graph(graph, Path(model).stem, draw)
            report["picture"] = draw
    if as_json:
        return emit(report)
    _show(report)
    if draw:
        click.echo(f"{draw}: the graph")


def _facts(graph):
    """Return what is known of a network beside its nodes, with origins."""
    facts = {name: value for name, value in graph.meta.items() if name != "source"}
    facts.setdefault("assumed", [])
    facts.setdefault("origins", {})
    scores = [node for node in graph.nodes if node.kind == "scores"]
    facts["tokens"] = graph.tensors[scores[0].name].rows if scores else None
    facts["classes"] = facts.get("classes", graph.tensors[graph.outputs[0]].channels)
    return facts


def _show(report):
    """Print facts, nodes, their sums and the presets."""
    origins = report["origins"]
    if origins:
        table("", ["fact", "value", "from"], [
            (name, _text(report[name]), origins.get(name, ""))
            for name in (*origins, "tokens") if name in report])
    for sentence in report["assumed"]:
        click.echo(f"assumed {sentence}")
    click.echo()
    table("", ["node", "kind", "inputs", "shape", "bits", "variant", "parameters", "bytes",
               "tensor bytes", "products"],
          [(row["name"], row["kind"], ", ".join(row["inputs"]), " x ".join(map(str, row["shape"])),
            row["bits"] or "float", row["variant"], row["parameters"], row["parameter_bytes"],
            row["tensor_bytes"], row["products"]) for row in report["nodes"]])
    kinds = ", ".join(f"{count} {kind}" for kind, count in report["kinds"].items())
    click.echo(f"\n{'integer' if report['integer'] else 'float'} network of "
               f"{len(report['nodes'])} nodes: {kinds}")
    click.echo(f"{report['parameters']:,} parameters in {report['parameter_bytes']:,} bytes; "
               f"{report['products']:,} products an image; largest tensor "
               f"{report['largest_tensor_bytes']:,} bytes")
    if "presets" in report:
        click.echo()
        table("", ["preset", "images at once", "with", "what stands in the way"], [
            (name, row["batch"] or "none", _needed(row["needs"]), row["why"] or "")
            for name, row in report["presets"].items()])


def _text(value):
    if isinstance(value, list):
        long = len(value) > _ITEMS
        items = [_text(item) for item in value[:3 if long else _ITEMS]]
        return ", ".join([*items, f"... ({len(value)})"] if long else items)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _needed(needs):
    if needs is None:
        return "no change of single fields"
    return ", ".join(f"{name} = {value}" for name, value in needs.items()) or "as it is"
