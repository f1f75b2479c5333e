"""`make mutants`: which faults it plants, and what it reports of a tiny tree."""

import ast
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MUTATE = runpy.run_path(str(TESTS / "mutate.py"))
UNIT = '''"""Docstring with a + b."""

from amaranth import Module, Mux, Signal

SIZE = 7


class Unit:
    def __init__(self, n, limit=8):
        """Docstring 1."""
        if n < 1:
            raise ValueError(f"n must be at least {0 + 1}")
        for value, low in (n, 1), (limit, 2):
            if value < low:
                raise ValueError(f"{value} is less than {low + 1}")
        check_size(n=n + 1)
        self.o = Signal(n)

    def elaborate(self, platform):
        m = Module()
        {statement}
        return m

    def __repr__(self):
        return f"Unit({1 + 1})" + "x"
'''


def faults(source):
    return [(fault.kind, fault.line, fault.mutated)
            for fault in MUTATE["faults"]("hw/unit.py", source)]


@pytest.mark.parametrize(("statement", "expected"), [
    ("x = a + b", [("arithmetic", "x = (a - b)")]),
    ("x = a * b - c", [("arithmetic", "x = (a * b + c)"), ("arithmetic", "x = (a + b) - c")]),
    ("x = a << b", [("shift", "x = (a >> b)")]),
    ("x = a & b | c ^ d", [("logic", "x = (a & b & (c ^ d))"), ("logic", "x = (a | b) | c ^ d"),
                           ("logic", "x = a & b | (c | d)")]),
    ("x = a == b", [("equality", "x = (a != b)")]),
    ("x = a < b", [("order", "x = (a <= b)")]),
    ("x = a >= b", [("order", "x = (a > b)")]),
    ("x = ~a", [("inversion", "x = a")]),
    ("x = Mux(a, b, c)", [("multiplexer", "x = (Mux(a, c, b))")]),
    ("with m.If(a):\n            pass", [("condition", "with m.If((a == 0)):")]),
    ("m.d.comb += a.eq(b)", [("assignment", "m.d.comb += []")]),
    ("m.d.comb += [a.eq(b),\n                     a.eq(c)]",
     [("assignment", "m.d.comb += [[],"), ("assignment", "[]]")]),
    ("connect(m, a, b)", [("connection", "pass")]),
    ('m.next = "IDLE"', [("state", "pass")]),
    ("x = a[:n]", [("slice", "x = (a[:n - 1])")]),
    ("x = a[n:]", [("slice", "x = (a[n + 1:])")]),
    ("x = a[0]", [("constant", "x = a[1]")]),
    ("x = a, 5", [("constant", "x = a, 6")]),
    ("x = Divider(5, width=5)", [("constant", "x = Divider(5, width=4)"),
                                 ("constant", "x = Divider(6, width=5)")]),
    ("x = Signal(5, name='ä', reset_less=True)",
     [("constant", "x = Signal(4, name='ä', reset_less=True)")]),
    ('x = "a" + b, f"{a + b}", True', []),
    ("raise ValueError(1 + 1)", []),
])
def test_faults_of_a_statement(statement, expected):
    source = UNIT.replace("{statement}", statement)
    assert sorted((kind, text) for kind, _, text in faults(source)) == sorted(expected)


def test_a_fault_over_lines_moves_none():
    source = UNIT.replace("{statement}", "x = (c +\n             d)")
    fault, = MUTATE["faults"]("hw/unit.py", source)
    text = MUTATE["planted"](source, fault)
    assert fault.original == "x = (c + d)"
    assert text.splitlines()[23:] == source.splitlines()[23:]
    assert ast.unparse(ast.parse(text)) == ast.unparse(ast.parse(source.replace("c +", "c -")))


def test_the_sample_has_every_file_and_kind_and_keeps_under_edits():
    source = UNIT.replace("{statement}", "x = a + b, ~a, a == b\n        " * 10)
    other = UNIT.replace("{statement}", "x = a & b")
    candidates = [*MUTATE["faults"]("hw/a.py", source), *MUTATE["faults"]("hw/b.py", other)]
    chosen = MUTATE["sample"](candidates, 10, 1)
    assert len(chosen) == len(set(chosen)) == 10
    kinds = [fault.kind for fault in chosen]
    assert kinds.count("logic") == 1
    assert {kinds.count(kind) for kind in ("arithmetic", "inversion", "equality")} == {3}
    assert MUTATE["sample"](candidates, 10, 2) != chosen
    edited = MUTATE["faults"]("hw/b.py", other.replace("a & b", "a | b"))
    assert [fault for fault in MUTATE["sample"]([*candidates[:-1], *edited], 10, 1)
            if fault.file == "hw/a.py"] == [fault for fault in chosen if fault.file == "hw/a.py"]


@pytest.fixture
def tree(tmp_path):
    """Return a tree with a unit of three faults: found, not found, and judged equivalent."""
    for name, text in {
        "pyproject.toml": '[tool.pytest.ini_options]\nmarkers = ["slow: slow"]\n',
        "hw/__init__.py": "",
        "systola/__init__.py": "",
        "hw/unit.py": "from amaranth import Signal\n\n\ndef unit(a, b):\n    return (a + b,\n"
                      "            a << b,\n            a ^ b)\n",
        "tests/test_unit.py": "from systola.hw.unit import unit\n\n\n"
                              "def test_sum():\n    assert unit(2, 1)[0] == 3\n",
        "tests/mutation/mutants.toml": '[[equivalent]]\nfile = "hw/unit.py"\noriginal = "a ^ b)"\n'
                              'mutated = "(a | b))"\nreason = "a is 0"\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "systola/hw").symlink_to("../hw")
    return tmp_path


def hunt(tree):
    done = subprocess.run([sys.executable, TESTS / "mutants.py", "--root", tree, "--json",
                           "--jobs", "1"], capture_output=True, text=True, timeout=60, check=False)
    return done, done.stdout and json.loads(done.stdout)


@pytest.mark.slow
def test_found_and_unfound_faults_are_reported_and_the_tree_is_left_alone(tree):
    before = {path: path.read_bytes() for path in tree.rglob("*.*") if path.is_file()}
    done, report = hunt(tree)
    assert done.returncode == 1
    assert (report["planted"], report["killed"], report["share"]) == (2, 1, 0.5)
    assert [(row["kind"], row["killed_by"]) for row in report["mutants"]] == [
        ("arithmetic", "tests/test_unit.py::test_sum"), ("shift", None)]
    survivor, = report["survivors"]
    assert (survivor["file"], survivor["line"], survivor["mutated"]) == (
        "hw/unit.py", 6, "(a >> b),")
    assert "survived: hw/unit.py:6 (shift)" in done.stderr
    assert [row["reason"] for row in report["equivalent"]] == ["a is 0"]
    assert {path: path.read_bytes() for path in tree.rglob("*.*") if path.is_file()} == before


def test_tests_that_fail_without_a_fault_end_it(tree):
    with (tree / "tests/test_unit.py").open("a") as file:
        file.write("\n\ndef test_wrong():\n    assert unit(1, 1)[0] == 3\n")
    done, _ = hunt(tree)
    assert done.returncode == 1
    assert "without any fault, tests/test_unit.py::test_wrong fails" in done.stderr
