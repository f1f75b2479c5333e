"""What a reader meets: whole tables, documents that are there, targets that always run."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [path.relative_to(ROOT).as_posix() for path in sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md"),
     ROOT / "tests/golden/README.md"])]


def cells(row):
    """Return the number of cells of a table's row; bars in code or after a backslash are text."""
    return re.sub(r"`[^`]*`|\\.", "", row.strip()).strip("|").count("|") + 1


def broken_tables(text):
    """Return what is wrong with the tables of a page in Markdown."""
    found, table = [], []
    for number, line in enumerate([*re.sub(r"(?s)```.*?```", _blank, text).split("\n"), ""], 1):
        if line.startswith("|"):
            table.append(line)
            if not line.rstrip().endswith("|"):
                found.append(f"line {number}: a row ends without a bar")
            elif cells(line) != cells(table[0]):
                found.append(f"line {number}: {cells(line)} cells, not {cells(table[0])}")
        elif table:
            if len(table) < 2 or not re.fullmatch(r"[|: -]+", table[1]):
                found.append(f"line {number - len(table)}: rows without a head")
            table = []
    return found


def _blank(match):
    return "\n" * match[0].count("\n")


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_whole(page):
    assert broken_tables((ROOT / page).read_text()) == []


@pytest.mark.parametrize(("text", "expected"), [
    ("| a | b |\n|---|---|\n| 1 | `x|y` |\n", []),
    ("| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\n", ["line 5: rows without a head"]),
    ("| a |\n|---|\n| 1 || 2 |\n", ["line 3: 3 cells, not 1"]),
    ("| a |\n|---|\n| 1\n", ["line 3: a row ends without a bar"]),
    ("```\n| no table |\n```\n", []),
])
def test_planted_tables(text, expected):
    assert broken_tables(text) == expected


@pytest.mark.parametrize("page", PAGES)
def test_documents_and_files_named_are_there(page):
    """A page that quotes a document which its reader does not have proves nothing."""
    text = (ROOT / page).read_text()
    names = {Path(name).name for name in PAGES}
    missing = {name for name in re.findall(r"[\w./-]*\w\.md\b", text)
               if Path(name).name not in names}
    assert missing <= {"summary.md"}  # that of `systola demo`
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_target_runs_whatever_files_there_are():
    """A file or folder called as a target would stop make, unless it is told that it is none."""
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    targets = re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE)
    assert {"formal", "docs", "help"} <= set(targets)
    assert sorted(targets) == sorted(phony)
