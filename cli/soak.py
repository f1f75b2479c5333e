"""`systola soak`."""

from dataclasses import replace

import click

from systola.cli.cluster_options import chosen_cluster, cluster_options
from systola.cli.console import emit, given_options, json_option, progress, table

__all__ = ["soak"]

_BAD = "hangs", "out_of_bounds", "wrong_results", "unnoticed"
"""Counts that must be 0."""


@click.command()
@click.option("--programs", type=click.IntRange(min=1), metavar="N",
              help="Run N random and mutated programs.")
@click.option("--faults", type=click.IntRange(min=1), metavar="N",
              help="Inject at least N faults into the board's serial line.")
@click.option("--planted", type=click.IntRange(min=1, max=1000), metavar="N",
              help="Plant N faults in the netlist of a board, for `systola selftest` to name.")
@click.option("--style", type=click.Choice(["dsp", "dsp_packed", "lut"]), default="dsp",
              show_default=True, help="With --planted, the cells of its array.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S",
              help="Which ones.")
@cluster_options
@json_option
@click.pass_context
def soak(ctx, programs, faults, planted, style, seed, workers, scheduler, as_json):
    """Wear the simulated hardware out, and count what it does.

    --programs: instruction streams that are random, damaged or cut short, on small accelerators;
    after each one the accelerator must take a good program, with the right results.

    --faults: small networks on a simulated board, over a serial line that loses, damages, repeats
    and swaps bytes, while hosts die, buttons are pressed and programs are cut short; half of the
    programs are resident, some of these written over. Every run must end in the right result or in
    an error, and the next one on a good line in the right result.

    --planted: stuck and inverted bits of processing elements and memories of a small simulated
    board, one after the other; the self-test must find each, and name where it is.

    Ends with exit code 1 if one hung, touched what it must not, or computed something wrong.
    """
    if (programs, faults, planted).count(None) != 2:
        raise click.UsageError("soak needs either --programs N, --faults N or --planted N")
    if not programs and (workers or scheduler):
        raise click.UsageError("--workers and --scheduler are for --programs: what is behind a "
                               "line is simulated here")
    if not planted and "style" in given_options(ctx):
        raise click.UsageError("--style needs --planted: the others choose their accelerators")
    with progress("preparing") as update, chosen_cluster(workers, scheduler) as cluster:
        if programs:
            from systola.sim.soak.program_runs import soak_programs

            result = soak_programs(programs, seed, progress=update, cluster=cluster)
        elif planted:
            from systola.sim.soak.selftest_runs import PLANTED, plant_and_test

            result = plant_and_test(planted, seed, progress=update,
                                    config=replace(PLANTED, pe_style=style))
        else:
            from systola.sim.soak.fault_runs import soak_faults

            result = soak_faults(faults, seed, progress=update)
    if as_json:
        emit(result)
    else:
        (_show_programs if programs else _show_planted if planted else _show_faults)(result)
    if planted:
        return 0 if result["good"] and result["found"] == planted else 1
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


def _show_planted(result):
    good = "passes" if result["good"] else "FAILS"
    click.echo(f"the self-test {good} without a fault; of {result['faults']} planted faults it "
               f"finds {result['found']} and names {result['named']}")
    for run in result["runs"]:
        if run["planted"] and not run["named"]:
            told = run["error"] or "; ".join(f"{one['part']}: {one['text']}"
                                             for one in run["findings"]) or "nothing"
            click.echo(f"planted: {run['planted']['kind']}, {run['planted']['text']}; told: {told}")


def _tables(result, names):
    for title, name in names.items():
        if result[name]:
            click.echo()
            table("", [title, "number"], list(result[name].items()))
