"""What the log of a nextpnr says while it works, and whether its routing comes to an end."""

import re

from systola.boards.flows.flow import NotRouted
from systola.boards.synthesis.watch import tail

__all__ = ["PATIENCE", "Convergence", "doing", "follow"]

PATIENCE = 20
"""Rounds of router2 that may pass without fewer wires used twice than ever before.

Measured on `arty_s7_50`: a placement that was routed took 26 rounds in all; one that was not after
40 minutes had 200 such wires for its last 25.
"""


class Convergence:
    """Whether routing comes nearer to its end, by the lines of nextpnr's log as they come."""

    def __init__(self):
        self.round = self.fewest_at = 0
        self.fewest = None

    def given_up(self, line):
        """Return why to give up after `line`, or None."""
        found = _ROUND.search(line)
        if not found or int(found[1]) <= self.round:
            return None
        self.round, wires = int(found[1]), int(found[2])
        if self.fewest is None or wires < self.fewest:
            self.fewest, self.fewest_at = wires, self.round
        if self.round - self.fewest_at < PATIENCE:
            return None
        return (f"routing was given up after round {self.round}: {wires:,} wires are used twice, "
                f"and in none of the last {PATIENCE} rounds fewer than {self.fewest:,}")


_ROUND = re.compile(r"iter=(\d+) .*overused=(\d+)")


def doing(line):
    """Return in a few words what a `line` of nextpnr's log says of its progress; None for most."""
    if found := _ROUND.search(line):
        return f"routing, round {found[1]}, {int(found[2]):,} wires used twice"
    if found := re.search(r"at iteration #(\d+), type ALL", line):
        return f"placing, round {found[1]}"
    if found := re.search(r"at iteration #(\d+): temp", line):
        return f"refining the placement, round {found[1]}"
    return None


def follow(log, said=None):
    """Return what `run_tool` tells the last line of a nextpnr whose output is in the file `log`.

    It passes on to `said` what is being done, and raises `NotRouted` if that leads nowhere.
    """
    convergence = Convergence()

    def look(line):
        for entry in tail(log).splitlines():
            if reason := convergence.given_up(entry):
                raise NotRouted(reason)
        if said and (text := doing(line)):
            said(text)

    return look
