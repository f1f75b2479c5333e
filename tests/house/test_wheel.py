"""The wheel holds all of the package and nothing else, and works where there is no source tree."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from systola.model.evaluation.accuracy import evaluate_source

ROOT = Path(__file__).parents[2]
ROOMS = {path.name for path in (ROOT / "systola").iterdir() if path.is_symlink()}
LEFT_OUT = ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Folder with the unpacked wheel; built from a copy, as setuptools leaves files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", symlinks=True,
                    ignore=shutil.ignore_patterns(*LEFT_OUT))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-index",
         "--no-build-isolation", "--no-deps", "-w", folder, folder / "source"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    with zipfile.ZipFile(found) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


def systola(wheel, folder, *arguments):
    """Run the command of the wheel in another folder; returns its output."""
    env = {**os.environ, "PYTHONPATH": str(wheel)}
    env.pop("SYSTOLA_CACHE", None)
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=env, text=True, check=True,
                          stdout=subprocess.PIPE).stdout


@pytest.mark.slow
def test_the_wheel_is_complete(wheel):
    expected = {f"systola/{path.name}" for path in (ROOT / "systola").iterdir()
                if path.is_file()}
    for room in ROOMS:
        expected |= {f"systola/{path.relative_to(ROOT).as_posix()}"
                     for path in (ROOT / room).rglob("*")
                     if path.suffix in {".c", ".gz", ".json", ".py", ".toml", ".safetensors"}}
    assert {"systola/py.typed", "systola/examples/digits/digits.safetensors",
            "systola/boards/power/energy.toml"} <= expected
    files = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    package = {name for name in files if name.startswith("systola/")}
    assert package == expected
    licences = [name for name in files - package if Path(name).name == "LICENSE"]
    assert [(wheel / name).read_text() for name in licences] == [(ROOT / "LICENSE").read_text()]
    assert all(name.partition("/")[0].endswith(".dist-info") for name in files - package)


@pytest.mark.slow
def test_the_wheel_works_in_another_folder(wheel, tmp_path):
    def files():
        return sorted(path for path in wheel.rglob("*.*") if "__pycache__" not in path.parts)

    before = files()
    where = systola(wheel, tmp_path, "-c", "import systola.hw; print(systola.hw.__file__)")
    assert Path(where.strip()) == wheel / "systola/hw/__init__.py"
    out = systola(wheel, tmp_path, "-m", "systola", "evaluate", "--model", "digits", "--json")
    assert json.loads(out).items() >= evaluate_source().items()
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")}
    assert made == {"build/sim"}  # the kernel
    assert {path.name.partition("-")[0] for path in (tmp_path / "build/sim").iterdir()} == {
        "kernel"}
    assert files() == before
