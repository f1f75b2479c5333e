"""`systola predict`."""

import click

from systola.cli.console import emit, json_option, progress, table

__all__ = ["predict"]


@click.command()
@click.option("--random", "count", type=click.IntRange(min=1), default=30, show_default=True,
              metavar="N", help="Run N random networks, each on a random accelerator.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
              help="The first of their seeds, as `systola simulate --random --seed` takes them.")
@json_option
def predict(count, seed, as_json):
    """Compare the cycles that the compiler predicts with those of the simulated Verilog.

    Accelerators and networks vary in everything that can be chosen; half of the programs compute
    several images. Programs are small, so that fixed delays weigh as much as throughput. The
    largest error comes first. Compiling the accelerators takes most of the time; they are kept.
    """
    from systola.sim.runs.predictions import compare_predictions, summary

    with progress("preparing") as update:
        rows = list(compare_predictions(count, seed, progress=update))
    report = {"seed": seed, **summary(rows)}
    if as_json:
        return emit(report)
    _show(rows, report)


def _show(rows, report):
    """Print the cases, the largest error first, and what it comes to."""
    rows = sorted(rows, key=lambda row: -abs(row.error))
    table("", ["seed", "accelerator", "network", "images", "predicted", "measured", "error %"],
          [(row.seed, row.config, row.network, row.batch, row.predicted, row.measured,
            f"{100 * row.error:+.3f}") for row in rows])
    limits = report["limits"]
    click.echo(f"\n{len(rows)} programs: median error {report['median']:.3%}, worst "
               f"{report['worst']:.3%} ({'within' if report['within'] else 'NOT within'} "
               f"{limits['median']:.1%} and {limits['worst']:.0%})")
