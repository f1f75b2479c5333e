"""openXC7's tools: what they are called with, where their databases are, what they say."""

import os
import re
import shutil
from pathlib import Path

__all__ = ["DOCUMENTATION", "TIMING_NOTE", "TOOLS", "bit_options", "core_fmax", "frames_options",
           "missing_tools", "nextpnr_options"]

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
