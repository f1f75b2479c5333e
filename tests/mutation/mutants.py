"""Plant single faults in ``hw/`` and count those that the tests find: ``make mutants``.

Every worker has its own copy of the tree; the checkout is only read. A fault meets the quick tests
nearest to its module first, then those that import the module through other units, and with --slow
the slow simulations; the first failure, or a time-out, kills it. All these tests must pass without
a fault before they meet one.
"""

import json
import resource
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import click
from mutant_tests import STAGES, Copy, chosen_tests, distances
from mutate import describes_hardware, faults, planted, sample
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

THRESHOLD = 0.9
_SPARE = 60
"""Seconds of a time-out beyond four times what the tests took without a fault."""


class Hunt:
    """Faults on their way through the tests.

    Parameters
    ----------
    root : Path
        The checkout.
    chosen : list of Fault
        What to plant.
    progress : rich.progress.Progress
        Shows one bar for each stage, and who passes it.

    Attributes
    ----------
    killers : dict of Fault to str
        The test that found a fault, for those found so far.
    """

    def __init__(self, root, chosen, progress):
        self.root, self.chosen, self.progress = root, chosen, progress
        self.killers, self._seconds, self._idle = {}, {}, SimpleQueue()
        near = distances(root)
        self._sources = {file: (root / file).read_text()
                         for file in {fault.file for fault in chosen}}
        self._near = {file: near.get(file, {}) for file in self._sources}

    def run(self, jobs, stages=STAGES):
        """Test all faults with `jobs` workers; raise ``RuntimeError`` if tests fail without one."""
        build = self.root / "build"
        build.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=build, prefix="mutants-") as folder, \
                ThreadPoolExecutor(jobs) as pool:
            copies = [Copy(self.root, Path(folder, str(k)), Path(folder, "cache"))
                      for k in range(jobs)]
            for copy in copies:
                self._idle.put(copy)
            try:
                self._stages(pool, jobs, stages)
            except BaseException:  # an interrupt, for one: nothing may go on behind it
                pool.shutdown(wait=False, cancel_futures=True)
                for copy in copies:
                    copy.stop()
                raise

    def _stages(self, pool, jobs, stages):
        for stage in stages:
            alive = [fault for fault in self.chosen if fault not in self.killers]
            bar = self.progress.add_task(f"{stage} tests, without a fault", total=None)
            files = sorted({file for fault in alive for file in self._tests(fault, stage)})
            list(pool.map(lambda part, stage=stage: self._baseline(part, stage),
                          [files[k::jobs] for k in range(jobs) if files[k::jobs]]))
            self.progress.update(bar, description=f"{stage} tests", total=len(alive))
            list(pool.map(lambda fault, stage=stage, bar=bar: self._attempt(fault, stage, bar),
                          alive))

    def _tests(self, fault, stage):
        return chosen_tests(self._near[fault.file], stage, self._seconds)

    @contextmanager
    def _copy(self):
        copy = self._idle.get()
        try:
            yield copy
        finally:
            self._idle.put(copy)

    def _baseline(self, files, stage):
        with self._copy() as copy:
            failed, seconds = copy.test(files, stage)
        if failed:
            raise RuntimeError(f"without any fault, {failed} fails")
        for file, took in seconds.items():
            self._seconds[file] = self._seconds.get(file, 0) + took

    def _attempt(self, fault, stage, bar):
        files = self._tests(fault, stage)
        if files:
            limit = _SPARE + 4 * sum(self._seconds.get(file, 0) for file in files)
            with self._copy() as copy:
                copy.write(fault.file, planted(self._sources[fault.file], fault))
                killer, _ = copy.test(files, stage, limit)
                copy.write(fault.file, self._sources[fault.file])
            if killer:
                self.killers[fault] = killer
            else:
                self.progress.console.print(f"{stage} tests pass: {fault.file}:{fault.line}")
        self.progress.advance(bar)


def summary(hunt, equivalent, seed, seconds):
    """Return the figures of a hunt as JSON values."""
    rows = [{"file": fault.file, "line": fault.line, "kind": fault.kind,
             "original": fault.original, "mutated": fault.mutated,
             "killed_by": hunt.killers.get(fault)} for fault in hunt.chosen]
    killed = len(hunt.killers)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {"seed": seed, "planted": len(rows), "killed": killed,
            "timed_out": Counter(hunt.killers.values())["time-out"],
            "share": round(killed / len(rows), 4),
            "survivors": [row for row in rows if not row["killed_by"]],
            "equivalent": equivalent, "minutes": round(seconds / 60, 1),
            "cpu_minutes": round(sum(use.ru_utime + use.ru_stime for use in used) / 60, 1),
            "mutants": rows}


def show(report, console):
    """Print the table of modules, the survivors, and the share."""
    table = Table("module", "mutants", "killed", "by", box=None, pad_edge=False)
    for file in sorted({row["file"] for row in report["mutants"]}):
        rows = [row for row in report["mutants"] if row["file"] == file]
        killers = Counter(row["killed_by"].split("::")[0] for row in rows if row["killed_by"])
        table.add_row(file, str(len(rows)), str(killers.total()), ", ".join(
            f"{name.removeprefix('tests/')} {count}" for name, count in killers.most_common()))
    console.print(table)
    for row in report["equivalent"]:
        console.print(escape(f"equivalent, not planted: {row['file']}: {row['reason']}\n"
                             f"  - {row['original']}\n  + {row['mutated']}"), soft_wrap=True)
    for row in report["survivors"]:
        console.print(escape(f"survived: {row['file']}:{row['line']} ({row['kind']})\n"
                             f"  - {row['original']}\n  + {row['mutated']}"), soft_wrap=True)
    console.print(f"{report['killed']} of {report['planted']} faults killed "
                  f"({report['share']:.1%}), {report['timed_out']} of them by time-out; "
                  f"{report['minutes']} minutes, {report['cpu_minutes']} of CPU; "
                  f"seed {report['seed']}")


@click.command(help=__doc__.split("\n")[0])
@click.option("--count", default=130, show_default=True, help="Faults to draw.")
@click.option("--seed", default=5, show_default=True, help="Which ones.")
@click.option("--jobs", default=2, show_default=True, help="Copies tested side by side.")
@click.option("--only", multiple=True, help="Only the drawn faults of this file: hw/matrix/pe.py.")
@click.option("--slow", is_flag=True, help="Survivors meet the slow simulations, too: much longer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; the table goes to stderr.")
@click.option("--root", type=click.Path(exists=True, file_okay=False, path_type=Path),
              default=Path(__file__).parents[2], help="Tree with hw/ and tests/.")
def main(count, seed, jobs, only, slow, as_json, root):
    """Run the command line; exit with code 1 if too few faults are found."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    root, console, start = root.resolve(), Console(stderr=as_json), time.monotonic()
    drawn = sample([fault for path in sorted((root / "hw").rglob("*.py"))
                    if describes_hardware(source := path.read_text())
                    for fault in faults(path.relative_to(root).as_posix(), source)], count, seed)
    data = root / "tests/mutation/mutants.toml"
    listed = tomllib.loads(data.read_text())["equivalent"] if data.exists() else []
    known = {(entry["file"], entry["original"], entry["mutated"]): entry for entry in listed}
    keys = {fault: (fault.file, fault.original, fault.mutated) for fault in drawn
            if not only or fault.file in only}
    chosen = [fault for fault, key in keys.items() if key not in known]
    if not chosen:
        raise click.UsageError("--only must name files with faults among those drawn")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        hunt = Hunt(root, chosen, progress)
        try:
            hunt.run(jobs, STAGES if slow else STAGES[:-1])
        except RuntimeError as error:
            raise click.ClickException(str(error)) from None
    report = summary(hunt, [known[key] for key in keys.values() if key in known], seed,
                     time.monotonic() - start)
    show(report, console)
    if as_json:
        click.echo(json.dumps(report, indent=1))
    sys.exit(report["share"] < THRESHOLD)


if __name__ == "__main__":
    main()
