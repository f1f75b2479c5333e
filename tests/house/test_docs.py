"""What is made from data in docs/ is current."""

import dataclasses
import runpy
from pathlib import Path

import pytest

DOCS = runpy.run_path(str(Path(__file__).with_name("docs.py")))


@pytest.mark.parametrize("page", DOCS["PAGES"])
def test_page_is_current(page):
    text = (DOCS["ROOT"] / page).read_text()
    assert DOCS["PAGES"][page](text) == text, f"{page} is stale; run: make docs"


@pytest.fixture(scope="module", params=DOCS["PICTURES"])
def picture(request):
    """Return the text of a picture, and the shapes that it has to show."""
    return ((DOCS["ROOT"] / request.param).read_text(),
            DOCS["PICTURES"][request.param]()[0], request.param)


def test_picture_is_current(picture):
    text, shapes, name = picture
    assert DOCS["is_current"](text, shapes), f"{name} is stale; run: make docs"


def test_a_stale_picture_is_noticed(picture):
    text, shapes, _ = picture
    for place in 0, -1:
        moved = dataclasses.replace(shapes[place], x=shapes[place].x + 1)
        changed = list(shapes)
        changed[place] = moved
        assert not DOCS["is_current"](text, changed)


def test_a_stale_table_is_noticed():
    text = (DOCS["ROOT"] / "docs/ARCHITECTURE.md").read_text()
    stale = text.replace("| `hw/contract/` |", "| `hw/contract/` | numpy")
    assert stale != text
    assert DOCS["PAGES"]["docs/ARCHITECTURE.md"](stale) == text


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match=r"^the marks of rooms must be in the page once$"):
        DOCS["PAGES"]["docs/ARCHITECTURE.md"]("no table here\n")
