"""Shared by all tests: compiled simulations outlive a run, and BLAS leaves the cores to xdist."""

import gc
import os
import subprocess
from pathlib import Path

import pytest

from systola.hw.verilog import find_yosys

os.environ.setdefault("SYSTOLA_CACHE", str(Path(__file__).resolve().parent.parent / "build/sim"))
for _name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":
    os.environ.setdefault(_name, "1")

# An elaborated accelerator is millions of objects that all live until its Verilog is written:
# looking for garbage among them as often as Python does by default takes a third of that time.
gc.set_threshold(200_000, 20, 100)


def pytest_addoption(parser):
    parser.addoption("--few", type=int, metavar="N",
                     help="of every test function, run at most N of its cases, spread evenly")


def pytest_collection_modifyitems(config, items):
    # Files with slow tests first: a long one at the end would leave all workers but one idle.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    few = config.getoption("few")
    if few is None:
        return
    cases = {}
    for item in items:
        cases.setdefault((item.path, getattr(item, "originalname", item.name)), []).append(item)
    kept = {id(found[index * len(found) // few])
            for found in cases.values() for index in range(few)}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]


@pytest.fixture
def artefacts():
    """Folder for pictures that a person may want to look at after the tests."""
    folder = Path(__file__).resolve().parent.parent / "build/artefacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_MITER = """
read_verilog {library}
read_rtlil slice.il
hierarchy -top slice
proc
flatten
opt_clean
chtype -set $add t:$mul
design -stash slice
read_rtlil plain.il
proc
flatten
opt_clean
chtype -set $add t:$mul
design -stash plain
design -copy-from plain -as plain plain
design -copy-from slice -as slice slice
miter -equiv -flatten -make_outputs plain slice miter
hierarchy -top miter
opt
sat -verify -set-init-zero -seq 7 -prove trigger 0 miter
"""


@pytest.fixture
def equal_to_plain(tmp_path):
    """Return a function that says whether Yosys finds a primitive equal to plain logic.

    It takes the RTLIL of modules ``plain`` and ``slice``, and the Verilog file, by Yosys' name,
    that models the primitive in ``slice``. For all inputs of 7 cycles from reset, more than any
    datum stays inside but for the shadow weight. In both, an adder stands in for the multiplier,
    which no solver could see through: it depends on the same operands.
    """
    def prove(plain, primitive, library):
        (tmp_path / "plain.il").write_text(plain)
        (tmp_path / "slice.il").write_text(primitive)
        (tmp_path / "run.ys").write_text(_MITER.format(library=library))
        done = subprocess.run([find_yosys(), "-s", "run.ys"], cwd=tmp_path, capture_output=True,
                              text=True, check=False)
        if done.returncode:
            assert "proof finished - model found: FAIL!" in done.stdout, done.stdout + done.stderr
        return not done.returncode

    return prove
