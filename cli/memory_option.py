"""The option that chooses what simulated programs are played from."""

import click

__all__ = ["memory_option"]


def _checked(ctx, param, value):
    if value is not None:
        from systola.sim.runs.simulated_memory import find_memory

        find_memory(value)
    return value


def memory_option(what):
    """Return ``--memory`` for a command whose help says `what` it does."""
    return click.option(
        "--memory", metavar="MEMORY", callback=_checked, help=f"{what}: `bram`, block RAM, or "
        "`dram:ulx3s_85f`, `dram:arty_s7_50`, a board's SDRAM or DDR3 (extra `dram`).")
