"""`systola soak`."""

import click

from systola.cli.cluster_options import chosen_cluster, cluster_options
from systola.cli.console import emit, json_option, progress, table

__all__ = ["soak"]

_BAD = "hangs", "out_of_bounds", "wrong_results", "unnoticed"
"""Counts that must be 0."""


@click.command()
@click.option("--programs", type=click.IntRange(min=1), metavar="N",
              help="Run N random and mutated programs.")
@click.option("--faults", type=click.IntRange(min=1), metavar="N",
              help="Inject at least N faults into the board's serial line.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
              help="Which ones.")
@cluster_options
@json_option
def soak(programs, faults, seed, workers, scheduler, as_json):
    """Wear the simulated hardware out, and count what it does.

    --programs: instruction streams that are random, damaged or cut short, on small accelerators;
    after each one the accelerator must take a good program, with the right results.

    --faults: small networks on a simulated board, over a serial line that loses, damages, repeats
    and swaps bytes, while hosts die, buttons are pressed and programs are cut short; half of the
    programs are resident, some of these written over. Every run must end in the right result or in
    an error, and the next one on a good line in the right result.

    Ends with exit code 1 if one hung, touched what it must not, or computed something wrong.
    """
    if (programs is None) == (faults is None):
        raise click.UsageError("soak needs either --programs N or --faults N")
    if faults and (workers or scheduler):
        raise click.UsageError("--workers and --scheduler are for --programs: lines with --faults "
                               "are simulated at the same time anyway")
    with progress("preparing") as update, chosen_cluster(workers, scheduler) as cluster:
        if programs:
            from systola.sim.soak.program_runs import soak_programs

            result = soak_programs(programs, seed, progress=update, cluster=cluster)
        else:
            from systola.sim.soak.fault_runs import soak_faults

            result = soak_faults(faults, seed, progress=update)
    if as_json:
        emit(result)
    else:
        (_show_programs if programs else _show_faults)(result)
    return 1 if any(result.get(name) for name in _BAD) else 0


def _show_programs(result):
    click.echo(f"{result['programs']:,} programs in {result['cycles']:,} cycles: "
               f"{result['hangs']} hangs, {result['out_of_bounds']} out of bounds, "
               f"{result['wrong_results']} wrong results")
    _tables(result, {"how they ended": "ended", "what was done to them": "kinds"})
    for line in result["examples"]:
        click.echo(line)


def _show_faults(result):
    click.echo(f"{result['faults']:,} faults in {result['runs']:,} runs: "
               f"{result['ended_right']:,} ended right, {result['ended_in_error']:,} in an error, "
               f"{result['wrong_results']} with a wrong result, {result['hangs']} hung; "
               f"{result['resident']:,} resident programs were run, {result['spoiled']} of them "
               f"spoiled, {result['unnoticed']} unnoticed")
    _tables(result, {"faults": "by_kind", "what else happened": "by_event", "errors": "errors"})


def _tables(result, names):
    for title, name in names.items():
        if result[name]:
            click.echo()
            table("", [title, "number"], list(result[name].items()))
