"""`systola report allocations`."""

import click

from systola.cli.allocate_options import allocator, measure_option, precisions_option
from systola.cli.console import (
    config_option,
    emit,
    json_option,
    picture_file,
    progress,
    table,
)
from systola.cli.model_options import (
    check_output,
    check_source,
    data_option,
    facts_options,
    given_facts,
    model_option,
)
from systola.model.allocation.measures import MEASURES
from systola.model.quantization.methods import BEST, METHODS

__all__ = ["allocations"]


def _limits(value):
    from systola.model.allocation.allocate import Limit

    shares = value.split(",")
    for share in shares:
        Limit.parse("bytes", share)
    return shares


@click.command()
@model_option
@data_option
@click.option("--calibration", metavar="PATH", help="Training images to take ranges and losses "
              "from  [default: those of --data, where it has such].")
@facts_options
@config_option
@click.option("--method", type=click.Choice(list(METHODS)), default=BEST, show_default=True,
              help="Recipe of quantization.")
@click.option("--cost", type=click.Choice(["bytes", "bops", "cycles"]), default="bops",
              show_default=True, help="What is limited.")
@click.option("--limits", default="0,0.1,0.2,0.3,0.5,0.7,1", show_default=True, metavar="L,L",
              callback=lambda ctx, param, value: _limits(value),
              help="Shares or numbers, as --allocate of quantize takes them.")
@precisions_option
@measure_option
@click.option("--random", "count", type=click.IntRange(min=0), default=0, show_default=True,
              metavar="N", help="N random allocations within each limit, to compare with.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
              help="Of these.")
@click.option("-o", "--output", metavar="FILE", callback=lambda ctx, param, value: value and
              picture_file("output", value),
              help="Picture to draw (.svg or .png): accuracy over cost.")
@json_option
def allocations(source, data, calibration, config, method, cost, limits, precisions, measure, count,
                seed, output, as_json, **options):
    """Compare bits by node with the same bits everywhere, and with chance.

    For each limit, a network is allocated, quantized and scored on the test images: each takes as
    long as `systola quantize`. `error` is the mean square of what differs in the logits from the
    float network's, over their variance; of a few hundred images it says more than accuracy.
    """
    from systola.model.evaluation import accuracy
    from systola.model.evaluation.allocation_sweep import chances, scorer, sweep

    facts = given_facts(options)
    check_source(source, "allocations are made of a float checkpoint")
    if output:
        check_output(output, model=source, data=data, calibration=calibration)
    settings = {**config.model_settings, "method": method}
    with progress("reading") as update:
        vit = accuracy.open_float(source, **facts)
        images = accuracy.scored_images(source, vit, data)
        training = accuracy.calibration_images(source, vit, calibration, scored=data)
        score = scorer(vit, images)
        found = allocator(vit, training, config, precisions=precisions, progress=update,
                          measure=measure or MEASURES[0], **settings)
        rows = sweep(found, cost, limits, score, random=count, seed=seed,
                     progress=lambda done, total: update(
                         done, total, f"quantizing and scoring: {done} of {total}"))
    compared = chances(rows)
    for row in rows:
        del row["right"]
    rows.sort(key=lambda row: (row["cost"], row["kind"], row["loss"]))
    result = {"cost": cost, "images": len(images.labels), "float_top1": score.float_top1,
              "seed": seed, "method": method, "rows": rows, "chance": compared}
    if output:
        from systola.report.charts import allocation_chart

        allocation_chart(rows, cost, score.float_top1).savefig(output, dpi=150)
        result["picture"] = output
    if as_json:
        return emit(result)
    table(f"{len(images.labels)} test images, float top-1 {score.float_top1:.4f}:",
          ["bits", "limit", cost, "predicted loss", "error", "integer top-1", "equal predictions"],
          [(_bits(row), row["limit"] or "", row["cost"], f"{row['loss']:.3g}",
            f"{row['error']:.3g}", round(row["int_top1"], 4), round(row["agreement"], 4))
           for row in rows])
    for limit, found in compared.items():
        click.echo(_chance(limit, found))
    if output:
        click.echo(f"{output}: accuracy over {cost}")


def _chance(limit, found):
    """Return what `beside_chance` found at a limit, in words."""
    held_out = "" if found["held_out_top1"] is None else (
        f"; chosen by half of the images and judged on the other half it has "
        f"{found['held_out_best_top1']:.4f}, the allocated one {found['held_out_top1']:.4f}")
    return (f"limit {limit}: the best of {found['random']} random ones has top-1 "
            f"{found['best_top1']:.4f}, with {found['only_best']} images right that the allocated "
            f"one has wrong, and {found['only_allocated']} the other way round "
            f"(p = {found['p']:.2g}){held_out}")


def _bits(row):
    """Return the kind of a row, or the precision of all its nodes."""
    shared = set(row["precisions"].values())
    return f"all {shared.pop()}" if len(shared) == 1 else row["kind"]
