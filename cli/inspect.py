"""`systola inspect`."""

from pathlib import Path

import click

from systola.cli.console import emit, json_option, table
from systola.cli.model_options import facts_options, given_facts

__all__ = ["inspect"]


def _picture(value):
    """Refuse now what would only be refused after the work."""
    from systola.report.diagram import FORMATS

    path = Path(value)
    if path.suffix not in FORMATS or not path.absolute().parent.is_dir():
        raise click.UsageError(f"picture must be a file that ends in {' or '.join(FORMATS)}, in an "
                               f"existing folder, not {value!r}")
    return value


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--draw", metavar="FILE", callback=lambda ctx, param, value: value and
              _picture(value), help="Draw the graph into FILE (.svg or .png).")
@facts_options
@json_option
def inspect(model, draw, as_json, **options):
    """Show the graph of MODEL: every node with its inputs, shape, bits, variant and sizes.

    MODEL is `digits`, a float checkpoint (.safetensors or .npz, timm names), or an integer network
    from `systola quantize`. Nothing is quantized: a checkpoint is shown as its float graph. Bytes
    are those of the parameters in a file, and of the tensor.
    """
    from systola.model.evaluation.accuracy import open_as_is
    from systola.report.graph_picture import draw_graph
    from systola.report.graph_table import graph_table

    graph = open_as_is(model, **given_facts(options))
    report = {"model": model, **graph_table(graph)}
    if draw:
        draw_graph(graph, Path(model).stem, draw)
        report["picture"] = draw
    if as_json:
        return emit(report)
    _show(report)
    if draw:
        click.echo(f"{draw}: the graph")


def _show(report):
    """Print the nodes and their sums."""
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
