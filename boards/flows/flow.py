"""What the flows to a bitstream share: tools in scratch folders, seeds, results at once."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BoardResult", "ToolError", "best_of", "check_folder", "find_tool", "publish",
           "publish_result", "run_seeds", "run_tool", "scratch"]


class ToolError(RuntimeError):
    """A tool failed or is not there; one line says which and how."""


@dataclass
class BoardResult:
    """What a flow found out about a board.

    ``fmax`` has MHz by seed (None if the tool told none), ``failed`` the reason by seed that did
    not place or route; ``seed`` is the one of the bitstream. ``missing`` names what a bitstream
    would need beside what is installed, ``extra`` what only one family has.
    """

    board: str
    part: str
    family: str
    config_hash: str
    clock_mhz: float
    total: dict
    available: dict
    bitstream: str | None = None
    seed: int | None = None
    fmax: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    missing: list = field(default_factory=list)
    seconds: float = 0.0
    extra: dict = field(default_factory=dict)

    def to_dict(self):
        """Return plain dictionaries, lists and numbers; frequencies in MHz.

        ``fmax_mhz_median`` (the lower one of two), ``fmax_mhz_range`` and whether the median, the
        slowest seed and the bitstream meet ``clock_mhz`` are None without a frequency.
        """
        known = {seed: mhz for seed, mhz in self.fmax.items() if mhz is not None}
        median = statistics.median_low(known.values()) if known else None
        low, high = (min(known.values()), max(known.values())) if known else (None, None)
        own = known.get(self.seed)

        def meets(mhz):
            return None if mhz is None else mhz >= self.clock_mhz

        return {
            "board": self.board, "part": self.part, "family": self.family,
            "config_hash": self.config_hash, "clock_mhz": self.clock_mhz,
            "bitstream": self.bitstream, "bitstream_seed": self.seed,
            "bitstream_meets_clock": meets(own), "missing": self.missing,
            "fmax_mhz": known, "fmax_mhz_median": median,
            "fmax_mhz_range": [low, high] if known else None,
            "median_meets_clock": meets(median), "worst_meets_clock": meets(low),
            "failed_seeds": self.failed, "seconds": self.seconds,
            "total": self.total, "available": self.available, **self.extra}


def find_tool(name):
    """Return the path of `name` beside this Python or on PATH, or None."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def run_tool(command, folder, output, name, *, stdout=None):
    """Run `command` in `folder`; what it says goes to the file `output` there.

    With `stdout`, its standard output goes to that file instead. Raises `ToolError` with its first
    error, or its last line, if it cannot be started or does not end with 0.
    """
    folder = Path(folder)
    try:
        with ExitStack() as files:
            said = files.enter_context((folder / output).open("w"))
            out = files.enter_context((folder / stdout).open("w")) if stdout else said
            code = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=out,
                                  stderr=said, check=False).returncode
    except OSError as error:
        raise ToolError(f"{name} cannot be started: {error}") from None
    if code:
        lines = (folder / output).read_text(errors="replace").splitlines()
        errors = [line.split("ERROR:", 1)[1].strip() for line in lines if "ERROR:" in line]
        last = [line.strip() for line in lines if line.strip()][-1:]
        raise ToolError(f"{name} failed: {(errors or last or [f'exit code {code}'])[0]}")


def run_seeds(work, seeds, progress):
    """Call `work(seed)` for seeds 1 to `seeds`, as many at once as there are cores.

    Returns the results by seed, and by seed the reasons of those that raised `ToolError`, which is
    raised if there is no other. `progress` gets one short text for each that ends.
    """
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a positive integer, not {seeds!r}")
    results, failed, done = {}, {}, 0

    def attempt(seed):
        nonlocal done
        try:
            results[seed] = work(seed)
        except ToolError as error:
            failed[seed] = error
        done += 1
        progress(f"placing and routing: {done} of {seeds} seeds done")

    progress(f"placing and routing: 0 of {seeds} seeds done")
    with ThreadPoolExecutor(min(seeds, os.cpu_count() or 1)) as pool:
        list(pool.map(attempt, range(1, seeds + 1)))
    if not results:
        raise failed[min(failed)]
    return (dict(sorted(results.items())),
            {seed: str(error) for seed, error in sorted(failed.items())})


def best_of(result, place, seeds, progress):
    """Place and route as `run_seeds` does, and note in `result` what came of it.

    `place(seed)` returns the frequency in MHz, or None, and what else there is to know of a seed;
    this returns the latter of the fastest, whose bitstream comes next.
    """
    found, result.failed = run_seeds(place, seeds, progress)
    result.fmax = {seed: mhz for seed, (mhz, _) in found.items()}
    result.seed = max(found, key=lambda seed: found[seed][0] or 0)
    progress("packing the bitstream")
    return found[result.seed][1]


def publish_result(result, folder, output, constraints):
    """Publish a board's bitstream, or else its netlist, with constraints, logs and report."""
    name = result.board
    product = f"{name}.bit" if result.bitstream else f"{name}.json"
    publish(folder, output, [constraints, *sorted(path.name for path in folder.glob("*.log")),
                             product],
            [f"{name}.bit", f"{name}.json",
             *(path.name for path in Path(output).glob("nextpnr-*.log"))], result.to_dict())


def check_folder(output):
    """Raise ``ValueError`` if `output` is a file."""
    if Path(output).exists() and not Path(output).is_dir():
        raise ValueError(f"output {str(output)!r} must be a folder, not a file")


@contextmanager
def scratch(output):
    """Yield a scratch folder beside the folder `output`."""
    output = Path(output)
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".systola-") as folder:
        yield Path(folder)


def publish(folder, output, names, obsolete, report):
    """Move the files `names` from `folder` into the folder `output`, then write ``report.json``.

    Earlier results go first (``report.json`` and `obsolete`), so that no file there is of another
    run than the report, and a folder without report is not complete.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", *obsolete):
        (output / name).unlink(missing_ok=True)
    for name in names:
        os.replace(folder / name, output / name)
    partial = folder / "report.json"
    partial.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(partial, output / "report.json")
