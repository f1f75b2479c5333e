"""`systola evaluate`."""

from pathlib import Path

import click

from systola.cli.cluster_options import chosen_cluster, cluster_options
from systola.cli.console import (
    emit,
    engine_option,
    engine_text,
    json_option,
    progress,
    table,
)
from systola.cli.model_options import (
    check_data,
    check_output,
    check_source,
    chosen_settings,
    data_option,
    facts_options,
    given_facts,
    model_option,
    say_assumed,
    say_images,
    settings_options,
)

__all__ = ["evaluate"]


@click.command()
@model_option
@click.option("--quantized", metavar="FILE", help="Integer model to use, from `systola quantize`; "
              "without it the checkpoint is quantized now.")
@data_option
@click.option("--calibration", metavar="PATH", help="Training images to take ranges from, when the "
              "checkpoint is quantized now: not those of --data, which would flatter it [default: "
              "the training images of --data, where it has such].")
@facts_options
@settings_options
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, metavar="B",
              help="Images computed at a time; changes no result.")
@engine_option
@cluster_options
@click.option("--logits", metavar="FILE", callback=lambda ctx, param, value: value and _logits(
              value), help="Write `float` and `integer` logits, `scale` and `labels` (.npz).")
@click.option("--options", "measure", is_flag=True,
              help="Also measure what every arithmetic option costs (a minute or more).")
@click.option("--attention-error", is_flag=True,
              help="Also measure the attention operators on random scores of 197 tokens.")
@json_option
def evaluate(source, quantized, data, calibration, batch, engine, workers, scheduler, logits,
             measure, attention_error, as_json, **options):
    """Compare float and integer accuracy on the test images."""
    from systola.model.evaluation import accuracy
    from systola.model.evaluation import attention_error as attention
    from systola.model.evaluation.comparison import check_pair, open_reference, write_logits

    facts, settings = given_facts(options), chosen_settings(options)
    _check_evaluation(source, quantized, calibration, settings, measure)
    if logits:
        check_output(logits, data=data, calibration=calibration)
    with progress("quantizing") as update, chosen_cluster(workers, scheduler) as cluster:
        vit = open_reference(source, data=data, **facts)
        check_data(source, data, calibration, needed=measure or not quantized)
        images = accuracy.scored_images(source, vit, data)
        if quantized:
            model, ranges = accuracy.open_network(quantized), None
            check_pair(vit, model, quantized)
        else:
            ranges = accuracy.calibration_images(source, vit, calibration, scored=data)
            model = accuracy.quantized(source, vit, ranges, progress=update, **settings)
        update(0, len(images), "evaluating")
        kept = {} if logits else None
        result = accuracy.evaluate(vit, model, images, images.labels, batch=batch, progress=update,
                                   keep=kept, engine=engine, cluster=cluster)
        result |= {"assumed": vit.meta.get("assumed", []), "family": vit.meta.get("family"),
                   "left_out_epsilon": model.meta.get("left_out_epsilon", {}),
                   "quantization": model.meta.get("quantization", {}), "data": images.about()}
        if ranges is not None:
            result["calibration"] = _about_calibration(ranges, images)
        if logits:
            write_logits(logits, model, kept)
            result["logits"] = logits
        if measure:
            update(0, None, "measuring the options")
            result["options"] = accuracy.measure_options(
                source, data=data, calibration=calibration, facts=facts, progress=update)
        if attention_error:
            update(0, None, "measuring the attention operators")
            result["attention_error"] = attention.attention_error()
    if as_json:
        return emit(result)
    say_assumed(model)
    say_images(result["data"], result.get("calibration"))
    _show_accuracy(result)


def _check_evaluation(source, quantized, calibration, settings, measure):
    """Refuse options that contradict each other, or would be ignored."""
    from systola.model.data.examples import is_example
    from systola.model.graph.graph_file import is_integer_network

    check_source(source, "evaluate compares one with the float checkpoint it was made from: "
                          f"systola evaluate --model CHECKPOINT --quantized {source}")
    if quantized and (is_example(quantized) or not Path(quantized).is_file()
                      or Path(quantized).suffix != ".safetensors"
                      or not is_integer_network(quantized)):
        raise click.UsageError(f"--quantized must be an integer model from `systola quantize`, not "
                               f"{quantized!r}: a float checkpoint goes to --model")
    if quantized and settings:
        raise click.UsageError(f"--quantized is quantized already: without "
                               f"--{sorted(settings)[0].replace('_', '-')}")
    if quantized and calibration and not measure:
        raise click.UsageError("--calibration is for quantizing now, without --quantized")


def _about_calibration(ranges, images):
    """Return what ranges were taken from, and how many of its images are scored, too."""
    shared = ranges.shared_with(images)
    if shared:
        click.echo(f"{shared} of {len(ranges)} calibration images are scored, too: the result is "
                   f"flattered", err=True)
    return {**ranges.about(), "also_scored": shared}


def _logits(value):
    """Refuse now what would only be refused after the work."""
    path = Path(value)
    if path.suffix != ".npz" or not path.absolute().parent.is_dir():
        raise click.UsageError(f"--logits must be an .npz file in an existing folder, not "
                               f"{value!r}")
    return value


def _show_accuracy(result):
    """Print accuracies, and what else was measured."""
    from systola.model.evaluation import attention_error as attention

    click.echo(f"scored: {result['data']['source']}")
    if "calibration" in result:
        about = result["calibration"]
        click.echo(f"ranges: {about['source']}, {about['images']} of {about['of']}")
    click.echo(f"{result['images']} test images: float top-1 {result['float_top1']:.4f}, "
               f"integer top-1 {result['int_top1']:.4f}, equal predictions "
               f"{result['agreement']:.4f}")
    click.echo(f"integers computed by {engine_text(result['engine'])}")
    if "options" in result:
        table("Against full width; RMS errors of the logits in % of their RMS:",
              ["option", "integer top-1", "logits different", "largest", "equal predictions",
               "error to float", "to full width"],
              [(name, round(row["int_top1"], 4), round(row["logits_different"], 5),
                row["largest_difference"], round(row["agreement"], 4),
                round(100 * row["error_float"], 2), round(100 * row["error_full"], 2))
               for name, row in result["options"].items()])
    if "attention_error" in result:
        table("RMS error of A.V against float softmax, relative, on random 8-bit scores of 197 "
              "keys:", ["operator", *(f"std {value:g}" for value in attention.DEVIATIONS)],
              [(name, *(round(entry["operator"], 4) for entry in entries))
               for name, entries in result["attention_error"].items()])
