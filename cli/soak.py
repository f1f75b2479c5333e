"""`systola soak`."""

import click

from systola.cli.report import emit, json_option, progress, table

__all__ = ["soak"]


@click.command()
@click.option("--programs", type=click.IntRange(min=1), metavar="N",
              help="Run N random and mutated programs.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
              help="Which ones.")
@json_option
def soak(programs, seed, as_json):
    """Wear the simulated hardware out, and count what it does.

    --programs: instruction streams that are random, damaged or cut short, on small accelerators;
    after each one the accelerator must take a good program, with the right results. Ends with exit
    code 1 if one hung, touched what it must not, or computed something wrong.
    """
    if programs is None:
        raise click.UsageError("soak needs --programs N")
    return _programs(programs, seed, as_json)


def _programs(count, seed, as_json):
    from systola.sim.soak_programs import soak_programs

    with progress("preparing") as update:
        result = soak_programs(count, seed, progress=update)
    if as_json:
        emit(result)
    else:
        click.echo(f"{result['programs']:,} programs in {result['cycles']:,} cycles: "
                   f"{result['hangs']} hangs, {result['out_of_bounds']} out of bounds, "
                   f"{result['wrong_results']} wrong results")
        for title, name in ("how they ended", "ended"), ("what was done to them", "kinds"):
            table(f"\n{title}", ["", "programs"], list(result[name].items()))
        for line in result["examples"]:
            click.echo(line)
    return 1 if result["hangs"] or result["out_of_bounds"] or result["wrong_results"] else 0
