"""Every hardware unit names its model, and has a test."""

import ast
import re
import runpy
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COVERED = runpy.run_path(str(Path(__file__).with_name("rules.py")))["COVERED"]
FILES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "hw").rglob("*.py"))
         if path.stem != "__init__"]


def problems(source):
    """Return what is wrong with the ``Model:`` lines of the components in a source."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and any("Component" in ast.unparse(base)
                                                  for base in node.bases):
            lines = re.findall(r"^Model: (.+)$", ast.get_docstring(node) or "", re.MULTILINE)
            if len(lines) != 1:
                found.append(f"{node.name} needs one line 'Model: ...'")
            elif not lines[0].startswith("none: ") and not (ROOT / lines[0]).is_file():
                found.append(f"{node.name}: no file {lines[0]}")
    return found


@pytest.mark.parametrize("file", FILES)
def test_components_name_their_models(file):
    assert problems((ROOT / file).read_text()) == []


@pytest.mark.parametrize(("line", "expected"), [
    ("Model: model/operators/requant.py", []),
    ("Model: none: moves data", []),
    ("Model: model/operators/nothing.py", ["Unit: no file model/operators/nothing.py"]),
    ("Bit-exact.", ["Unit needs one line 'Model: ...'"]),
])
def test_planted_lines(line, expected):
    assert problems(f'class Unit(wiring.Component):\n    """Do.\n\n    {line}\n    """') == expected


@cache
def imported(file):
    """Return the files of the project that a file imports."""
    names = [name for node in ast.walk(ast.parse((ROOT / file).read_text()))
             if isinstance(node, ast.ImportFrom) and node.module.startswith("systola.")
             for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))]
    files = {name.removeprefix("systola.").replace(".", "/") + ".py" for name in names}
    return {file for file in files if (ROOT / file).is_file()}


def reached(test):
    """Return the files that a test imports, itself or through others."""
    found, left = set(), {test}
    while left:
        new = imported(left.pop()) - found
        found |= new
        left |= new
    return found


@pytest.mark.parametrize("file", FILES)
def test_has_a_test_of_its_own_or_is_listed(file):
    folder, _, name = file.rpartition("/")
    own = f"tests/{folder}/test_{name}"
    assert (ROOT / own).is_file() != (file in COVERED)
    assert file in reached(COVERED.get(file, own))
