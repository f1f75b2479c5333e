"""openXC7's tools: what they are called with, where their databases are, what they say."""

import os
import re
import shutil
from pathlib import Path

__all__ = ["DOCUMENTATION", "PATIENCE", "TIMING_NOTE", "TOOLS", "Convergence", "bit_options",
           "core_fmax", "doing", "frames_options", "missing_tools", "nextpnr_options"]

TOOLS = "nextpnr-xilinx", "fasm2frames", "xc7frames2bit"
"""What a bitstream needs on PATH."""

DOCUMENTATION = "https://github.com/openXC7"
"""Where these tools and their databases are described."""

TIMING_NOTE = (
    "nextpnr-xilinx gives the ports of DSP48E1 and block RAM no timing and every flip-flop a fixed "
    "0.1 ns: its Fmax counts paths through LUTs and carry chains only, routed_mhz all paths")


def nextpnr_options(name, *, mhz, seed, router=None, chipdb):
    """Return the options of nextpnr-xilinx for the design `name`."""
    return ["--chipdb", chipdb, "--xdc", f"{name}.xdc", "--json", f"{name}.json",
            "--fasm", f"{name}-{seed}.fasm", "--write", f"{name}-{seed}.json",
            "--sdf", f"{name}-{seed}.sdf",
            "--freq", f"{mhz:g}", "--seed", str(seed), "--timing-allow-fail",
            *(["--router", router] if router else [])]


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


def frames_options(name, part, *, seed, database):
    """Return the options of fasm2frames, which writes to its standard output."""
    return ["--part", part, "--db-root", database, f"{name}-{seed}.fasm"]


def bit_options(name, part, *, database):
    """Return the options of xc7frames2bit."""
    return ["--part_file", f"{database}/{part}/part.yaml", "--part_name", part,
            "--frm_file", f"{name}.frames", "--output_file", f"{name}.bit"]


def missing_tools(part):
    """Return ``(missing, chipdb, database)``: what a bitstream lacks, and the two databases.

    ``CHIPDB_DIR`` must have the chip database of the part (its name, the same without speed grade,
    or the device's, and ``.bin``), ``DB_DIR`` the Project X-Ray database with ``spartan7`` in it.
    """
    missing = [name for name in TOOLS if shutil.which(name) is None]
    folder, device = os.environ.get("CHIPDB_DIR"), re.match(r"xc7s\d+", part)[0]
    names = [f"{name}.bin" for name in (part, part.rsplit("-", 1)[0], device)]
    chipdb = next((path for name in names if folder and (path := Path(folder, name)).is_file()),
                  None)
    if chipdb is None:
        missing.append(f"{names[0]} in {folder!r} (CHIPDB_DIR)" if folder else
                       f"CHIPDB_DIR (the folder with {names[0]})")
    database = Path(os.environ.get("DB_DIR", ""), "spartan7")
    if not os.environ.get("DB_DIR"):
        missing.append("DB_DIR (the Project X-Ray database, with spartan7 in it)")
    elif not database.is_dir():
        missing.append(f"spartan7 in {os.environ['DB_DIR']!r} (DB_DIR)")
    return missing, chipdb and str(chipdb.absolute()), str(database.absolute())


def core_fmax(log):
    """Return MHz of the slowest clock after routing, from nextpnr's `log`; None without one."""
    last = dict(re.findall(r"Max frequency for clock\s+'?([^':\s]+)'?\s*:\s*([\d.]+) MHz", log))
    return min((round(float(mhz), 2) for mhz in last.values()), default=None)
