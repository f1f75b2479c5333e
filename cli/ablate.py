"""`systola ablate`."""

import dataclasses

import click

from systola.cli.cluster_options import chosen_cluster, cluster_options
from systola.cli.console import config_option, emit, engine_option, json_option, progress, table
from systola.cli.model_options import (
    check_data,
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

__all__ = ["ablate"]

_FEW = 8
"""Images for the ranges of a network that is only compiled."""


@click.command()
@model_option
@data_option
@click.option("--calibration", metavar="PATH", help="Training images to take ranges from: not "
              "those of --data, which would flatter it [default: the training images of --data, "
              "where it has such].")
@facts_options
@settings_options
@config_option
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True, metavar="B",
              help="Images computed at a time; changes no result.")
@engine_option
@cluster_options
@json_option
def ablate(source, data, calibration, config, batch, engine, workers, scheduler, as_json,
           **options):
    """Replace each operator alone and compare: softmax, GELU, layer norm.

    The baseline has the default operators, or those of --attention, --gelu and --norm. Weights are
    rounded to the nearest code (--method minmax) unless another method is named: better ones make
    up for a part of what an operator costs. Operators that an accelerator has come with the cycles
    that the compiler predicts for an image on --config, and with the LUTs of the unit where they
    have been measured; of all there are the additions, products, shifts and so on of a row.
    """
    from systola.hw.contract.config import AcceleratorConfig
    from systola.model.evaluation import accuracy
    from systola.model.evaluation.ablation import ablate as replaced
    from systola.model.evaluation.comparison import open_reference

    facts, settings = given_facts(options), chosen_settings(options)
    check_source(source, "ablate quantizes the float checkpoint once for every operator")
    check_data(source, data, calibration)
    baseline = {name: settings.pop(name, getattr(AcceleratorConfig, name))
                for name in ("attention", "gelu", "norm")}
    _check_settings(baseline, settings)
    with progress("reading") as update, chosen_cluster(workers, scheduler) as cluster:
        vit = open_reference(source, data=data, **facts)
        images = accuracy.scored_images(source, vit, data)
        ranges = accuracy.calibration_images(source, vit, calibration, scored=data)
        result = replaced(source, vit, ranges, images, baseline=baseline, batch=batch,
                          engine=engine, cluster=cluster, progress=update,
                          measure=_cycles(source, vit, ranges, config, settings), **settings)
    _add_sizes(result["rows"])
    shared = ranges.shared_with(images)
    if shared:
        click.echo(f"{shared} of {len(ranges)} calibration images are scored, too: the result is "
                   f"flattered", err=True)
    result |= {"model": str(source), "assumed": vit.meta.get("assumed", []),
               "data": images.about(),
               "calibration": {**ranges.about(), "also_scored": shared}}
    if as_json:
        return emit(result)
    say_assumed(vit)
    say_images(result["data"], result["calibration"])
    _show(result)


def _check_settings(baseline, settings):
    """Refuse now a setting that would be refused after the float network has run."""
    from systola.hw.contract.config import AcceleratorConfig

    AcceleratorConfig(**baseline, **_widths(settings))


def _widths(settings):
    """Return the settings that an accelerator has, too."""
    return {name: value for name, value in settings.items() if name not in ("method", "codebook")}


def _cycles(source, vit, ranges, config, settings):
    """Return a function that predicts the cycles of an image on `config` with given operators.

    The accelerator has them, and the widths that were given, instead of its own. Cycles hang on
    sizes and widths and not on the numbers, so that ranges of a few images do. Where there is no
    room, ``cycles`` is None and ``why_no_cycles`` says so.
    """
    from systola.model.evaluation.accuracy import quantized
    from systola.sw_driver.compiler.compiler import compile_network

    few = ranges.thinned(_FEW)
    widths = _widths(settings)

    def measure(operators):
        try:
            chosen = dataclasses.replace(config, **widths, **operators)
            model = quantized(source, vit, few, method="minmax", **chosen.model_settings)
            return {"cycles": compile_network(model, chosen).predicted["cycles"]}
        except ValueError as error:
            return {"cycles": None, "why_no_cycles": str(error)}

    return measure


def _add_sizes(rows):
    """Add the LUTs of units that have been measured."""
    from systola.boards.synthesis.unit_sizes import SIZES_OF, UNIT_LUTS

    for row in rows:
        luts = UNIT_LUTS.get((row["setting"], row["variant"]))
        if luts is not None:
            row |= {"luts": luts, "luts_of": SIZES_OF}


def _show(result):
    """Print the two tables: what operators do to the result, and what they cost."""
    click.echo(f"scored: {result['data']['source']}, {result['images']} images; ranges: "
               f"{result['calibration']['source']}, {result['calibration']['images']} of "
               f"{result['calibration']['of']}")
    click.echo(f"float top-1 {result['float_top1']:.4f}; baseline: "
               f"{', '.join(f'{name} {value}' for name, value in result['baseline'].items())}, "
               f"method {result['method']}\n")
    rows = [row for row in result["rows"] if not row.get("in_baseline")]
    table("Each operator replaced alone; RMS errors of the logits in % of their RMS:",
          ["operator", "top-1", "equal predictions", "the baseline's", "error to float",
           "to baseline"],
          [(row["operator"], *(f"{row[name]:.4f}" for name in (
              "int_top1", "agreement", "agreement_baseline")),
            f"{100 * row['error_float']:.2f}", f"{100 * row['error_baseline']:.2f}")
           for row in rows])
    click.echo()
    table("Operations of an element and, once, of a row; cycles of an image, predicted; LUTs of "
          "the unit (arty_s7_50). - : there is no unit, or it was not measured:",
          ["operator", "each element", "once a row", "cycles", "LUT"],
          [(row["operator"] + (" (baseline)" if row["in_baseline"] else ""),
            _counted(row["operations"]["element"]), _counted(row["operations"]["row"]),
            row.get("cycles") or "-", row.get("luts") or "-") for row in result["rows"][1:]])
    reasons = {row["why_no_cycles"] for row in result["rows"] if row.get("why_no_cycles")}
    for reason in sorted(reasons)[:1]:
        click.echo(f"\nno cycles, as --config does not hold the network: {reason}")


def _counted(count):
    return ", ".join(f"{number} {name.replace('_', ' ')}"
                     for name, number in count.items() if number) or "none"
