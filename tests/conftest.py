"""Shared by all tests: compiled simulations outlive a run, and BLAS leaves the cores to xdist."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("SYSTOLA_CACHE", str(Path(__file__).resolve().parent.parent / "build/sim"))
for _name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":
    os.environ.setdefault(_name, "1")

# An elaborated accelerator is millions of objects that all live until its Verilog is written:
# looking for garbage among them as often as Python does by default takes a third of that time.
gc.set_threshold(200_000, 20, 100)


@pytest.fixture
def artefacts():
    """Folder for pictures that a person may want to look at after the tests."""
    folder = Path(__file__).resolve().parent.parent / "build/artefacts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
