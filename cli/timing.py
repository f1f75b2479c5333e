"""`systola timing`."""

import click

from systola.cli.console import config_option, emit, json_option, progress, table

__all__ = ["timing"]


@click.command()
@config_option
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True,
              help="Number of placements.")
@click.option("--device", type=click.Choice(["25k", "45k", "85k"]), default="85k",
              show_default=True, help="ECP5 device.")
@click.option("--speed", type=click.Choice(["6", "7", "8"]), default="6", show_default=True,
              help="Speed grade, 6 the slowest.")
@json_option
def timing(config, seeds, device, speed, as_json):
    """Place and route on an ECP5 and give the clock frequency.

    The accelerator's ports end in registers of a harness. The result is nextpnr's estimate: median
    and range over placements, and what the critical path goes through.
    """
    from systola.boards.flows.ecp5_timing import fmax_ecp5

    with progress("synthesizing for ECP5 (minutes for a large array)") as update:
        result = fmax_ecp5(config, seeds=seeds, device=device, speed=int(speed),
                           progress=lambda text: update(text=text)).to_dict()
    if as_json:
        return emit(result)
    show(result)


def show(result):
    """Print the frequency, its range, the critical path and the cells."""
    click.echo(f"{result['fmax_median']} MHz (median of {len(result['fmax'])} placements; "
               f"{result['fmax_min']} to {result['fmax_max']}) on an ECP5 {result['device']}, "
               f"speed grade {result['speed']}")
    table("critical path of that placement", ["cell", "of", "routing ns", "logic ns"],
          [(step["kind"], step["name"], step["routing"], step["logic"]) for step in result["path"]])
    click.echo("cells: " + ", ".join(f"{count:,} {kind}" for kind, count
                                     in sorted(result["cells"].items())))
