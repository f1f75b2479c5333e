"""The import rules of docs/ARCHITECTURE.md, checked on the source text; nothing is imported."""

import ast
import runpy
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = runpy.run_path(str(Path(__file__).with_name("rules.py")))
ROOMS = {room: set(may.split()) for room, may in RULES["ROOMS"].items()}
EXTRA = {file: set(may.split()) for file, may in RULES["EXTRA"].items()}
PACKAGES = {room.partition("/")[0] for room in ROOMS}
FILES = [path.relative_to(ROOT).as_posix()
         for package in sorted(PACKAGES) for path in sorted((ROOT / package).rglob("*.py"))]


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


def room_and_module(name):
    """Return the room of what a name of this project is in, and its module (or the room)."""
    parts = name.split(".")[1:]
    count = 1
    while count < len(parts) and "/".join(parts[:count + 1]) in ROOMS:
        count += 1
    return "/".join(parts[:count]), "/".join(parts[:count + 1])


def uses(file, source):
    """Yield the imports of `source` that need a permission, with those that would do."""
    own = file.rpartition("/")[0]
    for name in imported(source):
        first = name.split(".")[0]
        if first == "systola":
            wanted = set(room_and_module(name))
        else:
            wanted = {first} - PACKAGES
        if own not in wanted and first not in sys.stdlib_module_names:
            yield name, wanted


def violations(file, source):
    """Return the imports of `source` that no rule for `file` allows."""
    allowed = ROOMS.get(file.rpartition("/")[0], set()) | EXTRA.get(file, set())
    return [name for name, wanted in uses(file, source) if not wanted & allowed]


def arrows(part):
    """Return ``{file: files that it imports}``, each as what `part` makes of it."""
    modules = {file.removesuffix(".py"): file for file in FILES}
    result = defaultdict(set)
    for file in FILES:
        for name in imported((ROOT / file).read_text()):
            if name.startswith("systola."):
                target = modules.get(room_and_module(name)[1])
                if target and part(target) != part(file):
                    result[part(file)].add(part(target))
    return result


def in_circles(graph):
    """Return the nodes of a graph from which a way leads back to them."""
    found = []
    for start in graph:
        reached, left = set(), [start]
        while left:
            new = graph.get(left.pop(), set()) - reached
            reached |= new
            left += new
        if start in reached:
            found.append(start)
    return sorted(found)


@pytest.mark.parametrize("file", FILES)
def test_imports_only_what_it_may(file):
    assert violations(file, (ROOT / file).read_text()) == []


def test_every_room_has_a_rule():
    assert {file.rpartition("/")[0] for file in FILES} == set(ROOMS)


def test_every_permission_is_used():
    used = defaultdict(set)
    for file in FILES:
        for _, wanted in uses(file, (ROOT / file).read_text()):
            used[file] |= wanted
            used[file.rpartition("/")[0]] |= wanted
    for place, allowed in [*ROOMS.items(), *EXTRA.items()]:
        assert allowed <= used[place], place


def test_rooms_import_only_rooms_further_up():
    rooms = list(ROOMS)
    for room, below in arrows(lambda file: file.rpartition("/")[0]).items():
        assert max(map(rooms.index, below)) < rooms.index(room), room


def test_no_circle_of_files():
    assert in_circles(arrows(lambda file: file)) == []


def test_a_planted_circle_is_found():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


@pytest.mark.parametrize(("file", "source"), [
    ("files/npz.py", "from systola.hw.contract.config import AcceleratorConfig"),
    ("hw/contract/config.py", "import numpy"),
    ("hw/contract/isa.py", "from amaranth import Signal"),
    ("hw/contract/isa.py", "from systola.hw import core"),
    ("hw/matrix/pe.py", "import numpy as np"),
    ("hw/matrix/pe.py", "from systola.model.operators.requant import requantize"),
    ("hw/matrix/pe.py", "from systola import sim"),
    ("hw/matrix/pe.py", "from .config import AcceleratorConfig"),
    ("hw/matrix/pe.py", "from sim.harness import run"),
    ("hw/matrix/pe.py", "from systola.hw.load import load_engine"),
    ("hw/control/dispatcher.py", "from systola.hw.load import load_engine"),
    ("model/operators/requant.py", "from amaranth import Signal"),
    ("model/operators/requant.py", "from systola.hw.parts.requant import Requantizer"),
    ("model/operators/requant.py", "from systola.model.graph.nodes import Linear"),
    ("model/graph/integer_forward.py",
     "from systola.model.quantization.quantize import quantize"),
    ("sim/machine/machine.py", "from systola.hw.parts.shapes import word"),
    ("sim/harness.py", "from systola.model.graph.graph_file import load_network"),
    ("model/quantization/quantize.py", "from systola.sw_driver.driver.driver import Accelerator"),
    ("model/quantization/quantize.py", "import torch"),
    ("sw_driver/driver/driver.py", "def f():\n    from amaranth import Signal"),
    ("sw_driver/driver/driver.py", "import serial"),
    ("sw_driver/driver/driver.py", "from systola.model.quantization.quantize import quantize"),
    ("sw_driver/driver/driver.py", "from systola.model.operators.requant import dyadic"),
    ("sw_driver/compiler/plan.py", "from systola.model.graph.graph_file import load_network"),
    ("boards/flows/flow.py", "from systola.sw_driver.driver.driver import Accelerator"),
    ("report/page.py", "from systola.cli.main import main"),
    ("cli/main.py", "from tests.conftest import anything"),
    ("cli/main.py", "import pytest"),
    ("cli/demo.py", "from systola import simulate"),
    ("systola/__init__.py", "from systola.hw.accelerator import Accelerator"),
])
def test_planted_violations_are_found(file, source):
    assert violations(file, source) != []


def test_allowed_imports_pass():
    assert violations("hw/matrix/pe.py", "from systola.hw.contract import config\n"
                                         "from amaranth import *\nimport json, math") == []
    assert violations("hw/core.py", "from systola.hw.load.load_engine import LoadEngine") == []
    assert violations("sw_driver/compiler/plan.py",
                      "from systola.model.graph.nodes import Linear") == []


@cache
def texts(folder, pattern):
    """Return the texts of all files below a folder, by path."""
    return {path: path.read_text() for path in (ROOT / folder).rglob(pattern)}


@pytest.mark.parametrize("path", sorted((ROOT / "hw").rglob("*.py")), ids=lambda path: path.stem)
def test_every_hardware_unit_is_named_in_a_test(path):
    if path.stem == "__init__":
        return
    tests = "".join(texts("tests", "test_*.py").values())
    users = "".join(text for folder in ("hw", "cli")
                    for user, text in texts(folder, "*.py").items() if user != path)
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    room, _, name = module.rpartition(".")
    assert f"systola.{module}" in tests or f"from systola.{room} import {name}" in tests or (
        f"systola.{module} " in users)


@pytest.mark.parametrize("package", sorted(PACKAGES - {"systola"}))
def test_packages_are_markers_with_a_docstring(package):
    for path in (ROOT / package).rglob("__init__.py"):
        tree = ast.parse(path.read_text())
        assert len(tree.body) == 1
        assert "\n" not in ast.get_docstring(tree)


def test_names_of_files_are_shared_only_where_listed():
    rooms = defaultdict(list)
    for file in FILES:
        room, _, name = file.removesuffix(".py").rpartition("/")
        rooms[name].append(room)
    shared = {name for name, places in rooms.items()
              if len(places) > 1 and not name.startswith("__")}
    assert shared == set(" ".join(RULES["SHARED_NAMES"]).split())
