"""Pages, tables and pictures of docs/ that are made from data: ``make docs`` writes them."""

import ast
import json
import re
import runpy
from pathlib import Path

from systola.boards.power.energy import coefficient_table
from systola.boards.synthesis.comparisons import comparison_table
from systola.boards.synthesis.timing_page import timing_tables
from systola.hw.contract.link_page import link_page
from systola.hw.contract.pages import isa_page
from systola.model.evaluation.accuracy import open_float
from systola.report.diagram import digest, drawn_digest, save
from systola.report.graph_picture import graph_shapes
from systola.report.training_picture import training_shapes
from systola.sim.formal.proofs import proof_table

__all__ = ["PAGES", "PICTURES", "ROOT", "is_current"]

ROOT = Path(__file__).parents[2]


def room_table():
    """Return the rooms and what they may import, by rules.py, as a Markdown table."""
    rules = runpy.run_path(str(Path(__file__).with_name("rules.py")))
    lines = ["| room | holds | may import |", "|---|---|---|"]
    for room, may in rules["ROOMS"].items():
        holds = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text()))
        names = [", ".join(_shown(name) for name in may.split()) or "nothing"]
        names += [f"{Path(file).name} also {', '.join(map(_shown, more.split()))}"
                  for file, more in rules["EXTRA"].items() if Path(file).parent == Path(room)]
        lines.append(f"| `{room}/` | {holds.rstrip('.')} | {'; '.join(names)} |")
    return "\n".join(lines) + "\n"


def _shown(name):
    return f"`{name}`" if (ROOT / name).is_dir() or "/" in name else name


def _between(name, make):
    """Return a function that renews what stands in a text between the marks of `name`."""
    def renewed(text):
        marks = re.escape(f"<!-- {name}: make docs -->"), re.escape(f"<!-- end of {name} -->")
        found = re.findall(f"(?s)({marks[0]}\n).*?({marks[1]}\n)", text)
        if len(found) != 1:
            raise ValueError(f"the marks of {name} must be in the page once")
        start, end = found[0]
        return re.sub(f"(?s){marks[0]}\n.*?{marks[1]}\n",
                      lambda _: f"{start}\n{make()}\n{end}", text)
    return renewed


PAGES = {
    "docs/ISA.md": lambda text: isa_page(),
    "docs/LINK.md": lambda text: link_page(),
    "docs/ARCHITECTURE.md": _between("rooms", room_table),
    "docs/FORMAL.md": _between("proofs", proof_table),
    "docs/PERFORMANCE.md": _between("comparisons", comparison_table),
    "docs/POWER.md": _between("coefficients", coefficient_table),
    "docs/TIMING.md": _between("delays", timing_tables),
}
"""What a page has to be, given its text."""

PICTURES = {
    "docs/images/house.svg": runpy.run_path(
        str(Path(__file__).with_name("house_picture.py")))["house_shapes"],
    "docs/images/graph.svg": lambda: graph_shapes(open_float("digits"), "digits")[:2],
    "docs/images/training.svg": lambda: training_shapes(
        json.loads((ROOT / "docs/images/training.json").read_text())),
}
"""What makes the shapes of a picture, and its size."""


def is_current(svg, shapes):
    """Tell whether the text of a picture was drawn from `shapes`, by any version of matplotlib."""
    return drawn_digest(svg) == digest(shapes)


if __name__ == "__main__":
    for page, renew in PAGES.items():
        path = ROOT / page
        path.write_text(renew(path.read_text()))
    for picture, make in PICTURES.items():
        path, (shapes, size) = ROOT / picture, make()
        if not path.exists() or not is_current(path.read_text(), shapes):
            save(shapes, size, path)
