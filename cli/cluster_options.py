"""Options of commands whose work is shared among workers."""

import contextlib

import click

__all__ = ["chosen_cluster", "cluster_options"]


def cluster_options(command):
    """Give a command ``--workers`` and ``--scheduler``."""
    command = click.option(
        "--scheduler", metavar="ADDRESS",
        help="Share the work among the workers of this Dask scheduler, as tcp://host:8786; "
             "changes no result.")(command)
    return click.option(
        "--workers", type=click.IntRange(min=1), metavar="N",
        help="Share the work among N processes of this machine; changes no result.")(command)


def chosen_cluster(workers, scheduler):
    """Return a context manager whose value is the cluster that was asked for, or None."""
    if workers is not None and scheduler is not None:
        raise click.UsageError("--workers starts processes here and --scheduler names others: "
                               "one of them")
    if workers is None and scheduler is None:
        return contextlib.nullcontext()
    from systola.cluster.cluster import Cluster

    return Cluster(workers=workers, scheduler=scheduler)
