"""Which tests a fault in a hardware module meets, and where they run: in a copy of the tree."""

import ast
import os
import resource
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from contextlib import suppress
from pathlib import Path

__all__ = ["STAGES", "Copy", "chosen_tests", "distances"]

STAGES = "near", "far", "slow"
"""Quick tests that import the module themselves, the other quick ones, and slow simulations."""

_APART = {f"tests/{name}.py" for name in (
    "boards/test_accelerator_power", "boards/test_comparisons", "boards/test_ecp5_timing",
    "boards/test_flow", "boards/test_synth", "hw/test_generate", "hw/test_lint", "hw/test_several",
    "report/test_page", "sim/test_timeline")}
"""Tests of sizes, power, clocks, style and files: they take long and find faults by chance."""

_MEMORY = 6 << 30
"""Bytes that a process of the tests may allocate: a fault can make the generator build forever."""

_LEFT_OUT = (".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build")


class Copy:
    """A copy of the tree in `folder`; its tests import its own packages.

    Raises ``RuntimeError`` if they would import others.
    """

    def __init__(self, root, folder, cache):
        shutil.copytree(root, folder, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        self.folder, self._process = folder, None
        self.env = os.environ | {"PYTHONPATH": str(folder), "SYSTOLA_CACHE": str(cache)}
        found = subprocess.run(
            [sys.executable, "-c", "import systola.hw; print(systola.hw.__file__)"], cwd=folder,
            env=self.env, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        if Path(found).resolve() != (folder / "hw/__init__.py").resolve():
            raise RuntimeError(f"the copy in {folder} imports {found}")

    def write(self, file, source):
        """Replace a module's text, and forget what Python compiled of the one before."""
        path = self.folder / file
        path.write_text(source)
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()  # a second write within a second would go unnoticed

    def test(self, files, stage, timeout=None):
        """Run tests of a stage up to the first failure.

        Returns
        -------
        failed : str or None
            The test that failed, ``"time-out"``, or None.
        seconds : dict of str to float
            What each file took.
        """
        report = self.folder / "report.xml"
        report.unlink(missing_ok=True)
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m",
             "slow" if stage == "slow" else "not slow", f"--junitxml={report}",
             "-o", "junit_family=xunit1", *files], cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return "time-out", {}
        finally:
            self.stop()  # also simulations that outlived pytest
            process.wait()
        if process.returncode in (3, 4):
            raise RuntimeError(f"pytest could not run: {output[-2000:]}")
        seconds, failed = Counter(), None
        for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
            file = case.get("file") or case.get("classname").replace(".", "/") + ".py"
            seconds[file] += float(case.get("time"))
            if case.find("failure") is not None or case.find("error") is not None:
                failed = f"{file}::{case.get('name')}"
        if process.returncode not in (0, 5):  # 5: no test is of this stage
            failed = failed or f"pytest ended with code {process.returncode}"
        return failed, dict(seconds)

    def stop(self):
        """End the test run, with all processes that it started."""
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def distances(root):
    """Return ``{file of a module: {test file: imports from the one to the other}}``."""
    files = {_module(path.relative_to(root)): path
             for package in ("hw", "sim") for path in (root / package).rglob("*.py")}
    units = {unit: _imports(path) for unit, path in files.items()}
    result = {}
    for test in sorted((root / "tests").rglob("test_*.py")):
        name = test.relative_to(root).as_posix()
        if name in _APART:
            continue
        reached, level = {}, _imports(test) & set(units)
        for distance in range(1, len(units) + 1):
            reached |= dict.fromkeys(level, distance)
            level = {name for unit in level for name in units[unit] & set(units)} - set(reached)
        for unit, distance in reached.items():
            file = files[unit].relative_to(root).as_posix()
            result.setdefault(file, {})[name] = distance
    return result


def _module(path):
    """Return a file's name as a module, such as ``hw.pe``."""
    return ".".join(path.with_suffix("").parts)


def _imports(path):
    """Return what a file imports; the units of ``hw`` and ``sim`` as `_module` names them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("systola.") for name in names}


def chosen_tests(near, stage, seconds):
    """Return the test files of a stage, nearest and then quickest first.

    Parameters
    ----------
    near : dict of str to int
        Distances of the test files from a module.
    stage : str
        One of `STAGES`.
    seconds : dict of str to float
        What a file takes, as far as known.
    """
    files = sorted(near, key=lambda file: (near[file], seconds.get(file, 0)))
    if stage == "slow":
        return files
    first = min(near.values(), default=0)
    return [file for file in files if (near[file] == first) == (stage == "near")]
