"""What the flows to a bitstream share: tools in scratch folders, seeds, results at once."""

import json
import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from systola.boards.synthesis.watch import OutOfTime, tail, watch

__all__ = ["VERILOG_FILES", "BoardResult", "NotRouted", "ToolError", "best_of", "check_folder",
           "find_tool", "publish", "publish_result", "run_seeds", "run_tool", "scratch"]

VERILOG_FILES = (
    '{% for file in platform.iter_files(".v") %}\nread_verilog {{file}}\n{% endfor %}\n')
"""What Jinja makes Yosys' commands of that read the Verilog files of a platform."""

_LAST = 5
"""Lines at the end of a log that may say why a tool stopped."""


class ToolError(RuntimeError):
    """A tool failed or is not there; one line says which and how."""


class NotRouted(ToolError):
    """A placement was given up, for its routing came no nearer to an end; another may well."""


@dataclass
class BoardResult:
    """What a flow found out about a board.

    ``presets`` are the board's, ``link`` is `BoardTop.link`. ``fmax`` has MHz by seed as the router
    says (None if it told none), ``routed`` those of the slowest path of all where the router leaves
    some out; ``failed`` the reason by seed that did not place or route; ``seed`` is the one of the
    bitstream. ``missing``
    names what a bitstream would need beside what is installed, ``extra`` what only one family has.
    """

    board: str
    part: str
    family: str
    config_hash: str
    clock_mhz: float
    total: dict
    available: dict
    presets: dict
    link: dict
    bitstream: str | None = None
    seed: int | None = None
    fmax: dict = field(default_factory=dict)
    routed: dict = field(default_factory=dict)
    failed: dict = field(default_factory=dict)
    missing: list = field(default_factory=list)
    seconds: float = 0.0
    extra: dict = field(default_factory=dict)

    def to_dict(self):
        """Return plain dictionaries, lists and numbers; frequencies in MHz.

        ``fmax_mhz_median`` (the lower one of two), ``fmax_mhz_range`` and whether the median, the
        slowest seed and the bitstream meet ``clock_mhz``, by ``routed_mhz`` where it is known, are
        None without a frequency.
        """
        known = {seed: mhz for seed, mhz in self.fmax.items() if mhz is not None}
        median = statistics.median_low(known.values()) if known else None
        low, high = (min(known.values()), max(known.values())) if known else (None, None)
        every = {seed: min(mhz, self.routed.get(seed, mhz)) for seed, mhz in known.items()}

        def meets(mhz):
            return None if mhz is None else mhz >= self.clock_mhz

        return {
            "board": self.board, "part": self.part, "family": self.family,
            "config_hash": self.config_hash, "clock_mhz": self.clock_mhz, **self.link,
            "bitstream": self.bitstream, "bitstream_seed": self.seed,
            "bitstream_meets_clock": meets(every.get(self.seed)), "missing": self.missing,
            "fmax_mhz": known, "fmax_mhz_median": median,
            "fmax_mhz_range": [low, high] if known else None,
            "routed_mhz": self.routed,
            "median_meets_clock": meets(statistics.median_low(every.values()) if every else None),
            "worst_meets_clock": meets(min(every.values(), default=None)),
            "failed_seeds": self.failed, "seconds": self.seconds,
            "total": self.total, "available": self.available, "presets": self.presets,
            **self.extra}


def find_tool(name):
    """Return the path of `name` beside this Python or on PATH, or None."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def run_tool(command, folder, output, name, *, stdout=None, limit=None, said=None):
    """Run `command` in `folder`; what it says goes to the file `output` there.

    With `stdout`, its standard output goes to that file instead. `said` gets its last line from
    time to time. Raises `ToolError` with its first error, or with what it said last, if it cannot
    be started, does not end with 0, or takes more than `limit` seconds.
    """
    folder, shown = Path(folder), None

    def look():
        nonlocal shown
        if (line := _last_line(tail(folder / output))) != shown:
            shown = line
            said(line)

    try:
        with ExitStack() as files:
            log = files.enter_context((folder / output).open("w"))
            out = files.enter_context((folder / stdout).open("w")) if stdout else log
            code = watch(command, folder, stdout=out, stderr=log, limit=limit,
                         look=look if said else None)
    except OSError as error:
        raise ToolError(f"{name} cannot be started: {error}") from None
    except OutOfTime:
        raise ToolError(f"{name} did not end within {limit / 60:g} minutes; "
                        f"{_at(folder / output)}") from None
    if code:
        errors = re.findall(r"ERROR:\s*(.*\S)", (folder / output).read_text(errors="replace"))
        ended = (f"ended by {signal.Signals(-code).name}" if code < 0
                 else f"ended with exit code {code}")
        raise ToolError(f"{name} failed: " + (errors[0] if errors
                                              else f"{ended}; {_at(folder / output)}"))


def _last_line(text):
    """Return the last line with something in it, without the mark of a kind of message."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^(Info|Warning):\s*", "", lines[-1]) if lines else ""


def _at(path):
    """Return in words what a tool said last, and what it was doing then.

    Why it stopped is in a line that is no announcement, if there is one.
    """
    lines = [line for line in tail(path, 1 << 16).splitlines() if line.strip()]
    doing = _last_line("\n".join(line for line in lines if line.startswith("Info:")))
    other = _last_line("\n".join(line for line in lines[-_LAST:] if not line.startswith("Info:")))
    parts = [f"it said: {other}"] * bool(other) + [f"it was at: {doing}"] * bool(doing)
    return ", ".join(parts) or "it said nothing"


def run_seeds(work, seeds, progress):
    """Call `work(seed, said)` for seeds 1 to `seeds`, as many at once as there are cores.

    In place of each that raises `NotRouted` another follows, but at most `seeds` in all. `said`
    takes what is being done for the seed. Returns the results by seed, and by seed the reasons of
    those that raised `ToolError`, which is raised if there is no other. `progress` gets one short
    text whenever one ends or says something.
    """
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a positive integer, not {seeds!r}")
    results, failed, doing = {}, {}, {}
    left, lock = deque(range(1, seeds + 1)), threading.Lock()
    spare = deque(range(seeds + 1, 2 * seeds + 1))

    def tell():
        done = (f"placing and routing: {len(results) + len(failed)} of "
                f"{2 * seeds - len(spare)} seeds done")
        progress("; ".join([done, *(f"seed {seed}: {text}"
                                    for seed, text in sorted(doing.copy().items()))]))

    def attempt(seed):
        def said(text):
            doing[seed] = text
            tell()

        try:
            results[seed] = work(seed, said)
        except ToolError as error:
            failed[seed] = error
            if isinstance(error, NotRouted) and spare:
                with lock:
                    left.append(spare.popleft())
        doing.pop(seed, None)
        tell()

    def attempts():
        while True:
            with lock:
                if not left:
                    return
                seed = left.popleft()
            attempt(seed)

    tell()
    count = min(seeds, os.cpu_count() or 1)
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(attempts) for _ in range(count)]:
            done.result()
    if not results:
        raise failed[min(failed)]
    return (dict(sorted(results.items())),
            {seed: str(error) for seed, error in sorted(failed.items())})


def best_of(result, place, seeds, progress):
    """Place and route as `run_seeds` does, and note in `result` what came of it.

    `place(seed, said)` returns the frequency in MHz that the router says, or None, that of all
    paths if the router leaves some out, or None, and what else there is to know of a seed; this
    returns the latter of the fastest, whose bitstream comes next.
    """
    found, result.failed = run_seeds(place, seeds, progress)
    result.fmax = {seed: mhz for seed, (mhz, _, _) in found.items()}
    result.routed = {seed: mhz for seed, (_, mhz, _) in found.items() if mhz is not None}
    result.seed = max(found, key=lambda seed: result.routed.get(seed, found[seed][0] or 0))
    progress("packing the bitstream")
    return found[result.seed][2]


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
