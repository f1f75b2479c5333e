"""What makes an entry of the cache stale, and that an entry or a file is complete or absent."""

import os

import pytest

from systola.files import cache
from systola.files.at_once import write_at_once
from systola.files.cache import entry, sources_of


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Make a package: ``hw.top`` imports ``hw.unit``, and that ``parts.row`` in a function."""
    monkeypatch.setattr(cache, "_ROOT", tmp_path)
    monkeypatch.setenv("SYSTOLA_CACHE", str(tmp_path / "cache"))
    files = {"hw/top.py": "import os\nfrom systola.hw import unit\n",
             "hw/unit.py": "def make():\n    from systola.parts.row import Row\n",
             "parts/row.py": "import systola.hw.top\n", "parts/other.py": "A = 1\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def made(name="unit"):
    """Make the entry of ``hw.top`` if need be; returns whether it was made."""
    with entry(name, ["key", *sources_of("systola.hw.top")]) as (folder, fill):
        if fill:
            (fill / "result").write_text("x")
    assert (folder / "result").read_text() == "x"
    return fill is not None


@pytest.mark.parametrize("edited", ["hw/top.py", "hw/unit.py", "parts/row.py"])
def test_an_edited_dependency_makes_an_entry_stale(tree, edited):
    assert made()
    assert not made()
    (tree / edited).write_text((tree / edited).read_text() + "# edited\n")
    assert made()


def test_an_unrelated_edit_does_not(tree):
    assert made()
    (tree / "parts/other.py").write_text("A = 2\n")
    assert not made()


def test_name_and_borders_of_parts_count(tree):
    assert made()
    assert made("other")
    with entry("parts", [b"ab", b"c"]) as (first, _), entry("parts", [b"a", b"bc"]) as (second, _):
        assert first != second


def test_real_sources_are_followed_through_packages():
    texts = sources_of("systola.hw.accelerator")
    for file in "hw/core.py", "hw/matrix/pe.py", "hw/contract/numbers.py":
        assert (cache._ROOT / file).read_bytes() in texts
    assert (cache._ROOT / "hw/matrix/baselines.py").read_bytes() not in texts
    assert sources_of(__name__)[-1] in sources_of("systola.files.cache", __name__)


def test_a_failure_leaves_no_entry(tree):
    def fails():
        with entry("unit", ["a"]) as (_, fill):
            (fill / "half").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    with entry("unit", ["a"]) as (folder, fill):
        assert not folder.exists()
        assert list(fill.iterdir()) == []


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_at_once(path, b"old")
    assert path.stat().st_mode & 0o777 == 0o644
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match=r"^full$"):
        write_at_once(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
