"""Shared by all tests: compiled simulations outlive a run, and BLAS leaves the cores to xdist."""

import os
from pathlib import Path

os.environ.setdefault("SYSTOLA_CACHE", str(Path(__file__).resolve().parent.parent / "build/sim"))
for _name in "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS":
    os.environ.setdefault(_name, "1")
