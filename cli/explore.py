"""`systola explore`."""

from pathlib import Path

import click

from systola.cli.cluster_options import chosen_cluster, cluster_options
from systola.cli.console import emit, json_option, progress, table

__all__ = ["explore"]


@click.command()
@click.option("--space", "path", metavar="FILE", help="The design space, a .toml file "
              "(docs/EXPLORE.md).")
@click.option("--goal", metavar="TEXT", help="Instead of a space, what is wanted: "
              "`fps at least 30 on arty_s7_50 for deit_tiny`.")
@click.option("--store", metavar="FILE", help="File of results: what is in it is not computed "
              "again, whatever space it was for [default: build/explore.sqlite].")
@click.option("--points", type=click.IntRange(min=1), metavar="N",
              help="Most points that a sampler tries; replaces that of the space.")
@click.option("--minutes", type=click.FloatRange(min=0), metavar="M",
              help="Begin no measure after so many minutes; replaces that of the space.")
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), metavar="S",
              help="Of the sampler; replaces that of the space.")
@click.option("--retry-failed", is_flag=True, help="Measure again what failed before.")
@click.option("--html", "page", metavar="FILE", callback=lambda ctx, param, value: value and _html(
              value), help="Also write the front as a page (.html) that loads nothing.")
@cluster_options
@json_option
def explore(path, goal, store, points, minutes, seed, retry_failed, page, workers, scheduler,
            as_json):
    """Search a design space for the accelerators that no other one is better than.

    Points of the space are accelerators, quantizations and batch sizes. All are measured by the
    compiler and, for a trained network, on its test images; a model of the area, or a synthesis
    where that decides, says what they need of an FPGA. Finalists, some of the front, are
    synthesized and run on the simulated Verilog. Ends with exit code 1 if one of these computes
    something wrong.

    An interrupted exploration goes on where it was when it is started again.
    """
    from systola.explore.exploration import Exploration
    from systola.explore.store import Store

    if (path is None) == (goal is None):
        raise click.UsageError("explore needs either --space FILE or --goal TEXT")
    space = _space(path, goal, points=points, minutes=minutes, seed=seed)
    with progress("preparing") as update, chosen_cluster(workers, scheduler) as cluster, Store(
            _store(store)) as results:
        result = Exploration(space, results, cluster=cluster, progress=update,
                             retry=retry_failed).run()
    if page:
        from systola.report.explore_page import write_explore_page

        write_explore_page(page, result)
        result["html"] = page
    if as_json:
        emit(result)
    else:
        _show(result)
    return 1 if any(row["checked"].get("mismatches") for row in result["finalists"]) else 0


def _space(path, goal, **replaced):
    from systola.boards.board import find_board
    from systola.explore.goal import goal_space
    from systola.explore.space import Space

    def board(name):
        found = find_board(name)
        # Block RAMs of 18 kbit, and look-up tables with four inputs, are only known when routed.
        return ([f"{part} <= {most}" for part, most in found.limits.items()
                 if found.family == "xc7" or part == "dsp"], found.clock_mhz)

    space = (Space.load(path, board=board) if goal is None else
             Space.from_dict(goal_space(goal), board=board))
    space.search.update({name: value for name, value in replaced.items() if value is not None})
    return space


def _store(path):
    """Return the file of results; the default one's folder is made."""
    if path is None:
        path = Path("build", "explore.sqlite")
        path.parent.mkdir(parents=True, exist_ok=True)
    if not Path(path).absolute().parent.is_dir():
        raise click.UsageError(f"--store must be a file in an existing folder, not {path!r}")
    return path


def _html(value):
    """Refuse now what would only be refused after the work."""
    path = Path(value)
    if path.suffix != ".html" or not path.absolute().parent.is_dir():
        raise click.UsageError(f"--html must be an .html file in an existing folder, not "
                               f"{value!r}")
    return value


def _show(result):
    """Print the front, what was left out and why, and the finalists."""
    click.echo(f"{result['combinations']:,} combinations, {result['points']:,} points, "
               f"{result['compared']:,} compared")
    for title, counts in ("not valid", result["skipped"]), ("dropped", result["dropped"]):
        for reason, count in counts.items():
            click.echo(f"  {title}: {count:,} {reason}")
    if result["pruned"]:
        model, pruned = result["area_model"], result["pruned"]
        click.echo(f"area model: {model['syntheses']} syntheses, median error of held-out ones "
                   f"{model['median_error']['lut']:.1%} of LUT, nine in ten "
                   f"within {model['interval']['lut']:.1%}; here, after {pruned['synthesized']} "
                   f"syntheses, times {model['corrected']['lut']['factor']:.3f} within "
                   f"{model['corrected']['lut']['margin']:.1%}")
        click.echo(f"  not synthesized: {pruned['dominated']:,} worse than another whatever the "
                   f"error, {pruned['beyond limits']:,} beyond a limit; may be on the front: "
                   f"{pruned['candidates']:,}, of which {pruned['undecided']:,} are not "
                   f"synthesized")
    for name, work in result["work"].items():
        click.echo(f"{name}: " + ", ".join(f"{count:,} {kind}" for kind, count in work.items()))
    for row in result["failures"]:
        click.echo(f"failed: {row['measure']} of {row['point']}: {row['reason']}")
    front = result["front"]
    if not front:
        click.echo("no point is within the limits")
        return
    objectives = result["objectives"]
    axes = [name for name, values in result["axes"].items()]
    table(f"\nfront of {len(front)} points, by {', '.join(objectives)}:",
          ["point", *objectives, "area by", *axes],
          [(row["point"], *(row["figures"][name] for name in objectives), row.get("area", ""),
            *(str(row["choices"][name]) for name in axes)) for row in front])
    if result["finalists"]:
        names = sorted({name for row in result["finalists"] for name in row["checked"]
                        if name not in {"failed", "units"}})
        table("\nfinalists:", ["point", *names],
              [(row["point"], *(row["checked"].get(name, "") for name in names))
               for row in result["finalists"]])
