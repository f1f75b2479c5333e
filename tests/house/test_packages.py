"""An installation with the packages of one job only does that job, and says what another needs."""

import dataclasses
import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from systola.cli import missing
from systola.cli.main import main
from systola.hw.contract.config import PRESETS
from systola.model.data.synthetic import random_vit
from systola.model.graph.graph_file import save_network

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOLDERS = {path.name for path in ROOT.iterdir()}
RULES = runpy.run_path(str(Path(__file__).with_name("rules.py")))
IMPORTED = sorted({name for may in (*RULES["ROOMS"].values(), *RULES["EXTRA"].values())
                   for name in may.split() if name.partition("/")[0] not in FOLDERS})
"""All modules of other projects that the package may import."""

ONLY = """
import sys

class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {allowed}:
            raise ModuleNotFoundError(f"No module named {{top!r}}", name=top)

sys.meta_path.insert(0, Only())
"""
"""Hides what is not in `allowed` from the program that follows."""

BOARD = """
from systola.cli import run, selftest
from systola.cli.main import main
from systola.hw.contract.config import PRESETS
from systola.sim.machine.device import DeviceModel
from systola.sw_driver.driver.port import Port
from systola.sw_driver.driver.uart import UartTransport

class Wire(Port):
    device = DeviceModel(PRESETS["tiny"])

    def write(self, data):
        self.device.feed(data)

    def read(self, timeout):
        self.device.work()
        data = bytes(self.device.channel.line)
        self.device.channel.line.clear()
        return data

    def close(self):
        pass

run.open_link = selftest.open_link = lambda *link: UartTransport(Wire())
sys.exit(main(sys.argv[1:]))
"""
"""The command, with the model of a board behind every port."""


def hidden(allowed, program, *arguments):
    """Run a program that finds the packages `allowed` only."""
    return subprocess.run([sys.executable, "-c", ONLY.format(allowed={*allowed, "systola"})
                           + program, *map(str, arguments)], capture_output=True, text=True,
                          cwd=ROOT, check=False)


def test_the_driver_imports_numpy_and_pyserial_only():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts)
               for path in (ROOT / "sw_driver").rglob("*.py") if path.stem != "__init__"]
    assert len(modules) > 20
    without = [f"import systola.{name}" for name in modules if not name.endswith(".port")]
    done = hidden(["numpy"], "\n".join(without))
    assert done.returncode == 0, done.stderr
    done = hidden(["serial"], "import systola.sw_driver.driver.port")
    assert done.returncode == 0, done.stderr


def test_a_network_runs_on_a_board_with_the_packages_of_the_extra(tmp_path):
    vit = random_vit(np.random.default_rng(1), channels=8, heads=2, blocks=1, hidden=16,
                     classes=4, tokens=5, patch_dim=4, **PRESETS["tiny"].model_settings)
    save_network(dataclasses.replace(vit, meta={"patch_size": 2, "mean": [0.5], "std": [0.5]}),
                 tmp_path / "network.safetensors")
    np.savez(tmp_path / "data.npz", images=np.random.default_rng(2).random((3, 4, 4)),
             labels=np.arange(3))
    assert [re.match(r"\w+", line)[0] for line in EXTRAS["board"]] == [
        "click", "numpy", "pyserial", "safetensors"]
    allowed = "click", "numpy", "serial", "safetensors"
    done = hidden(allowed, BOARD, "run", "--port", "any", "--model",
                  tmp_path / "network.safetensors", "--data", tmp_path / "data.npz", "--images", 3,
                  "--batch", 2, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["images"], report["mismatches"], report["config"]) == (3, 0, "tiny")
    done = hidden(allowed, BOARD, "selftest", "--port", "any")
    assert (done.returncode, done.stderr) == (0, "")
    assert "all parts pass" in done.stdout
    done = hidden(allowed, BOARD, "run", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    done = hidden(allowed, BOARD, "run", "--port", "any", "--model", "digits")
    assert done.returncode == 2
    assert re.match("systola: .*(scikit-learn|sklearn)", done.stderr.splitlines()[-1])


@pytest.fixture
def metadata(monkeypatch):
    """Show the metadata that pyproject.toml gives, whatever is installed."""
    lines = PROJECT["dependencies"] + [f'{line}; extra == "{extra}"'
                                       for extra, lines in EXTRAS.items() for line in lines]
    monkeypatch.setattr(missing, "requires", lambda name: lines)


def test_a_missing_package_is_one_line_that_names_the_extra(metadata, monkeypatch, capsys):
    for name in "sklearn", "sklearn.datasets":
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["evaluate", "--model", "digits"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "systola: this needs the package scikit-learn, of the extra 'data': "
        "pip install 'scikit-learn>=1.4'")


@pytest.mark.parametrize(("module", "name", "line"), [
    ("PIL", "a-images-idx3-ubyte", "pillow, of the extra 'images': pip install 'pillow>=10'"),
    ("pyarrow", "a.parquet", "pyarrow, of the extra 'parquet': pip install 'pyarrow>=16'")])
def test_images_may_need_a_package(metadata, monkeypatch, capsys, tmp_path, module, name, line):
    header = bytes([0, 0, 8, 3]) + np.array([1, 8, 8], ">u4").tobytes()
    (tmp_path / name).write_bytes(header + bytes(64))
    (tmp_path / name.replace("images-idx3", "labels-idx1")).write_bytes(
        bytes([0, 0, 8, 1, 0, 0, 0, 1, 0]) if "idx" in name else b"")
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["evaluate", "--model", "digits", "--data", str(tmp_path / name)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"systola: this needs the package {line}"


@pytest.mark.parametrize("module", IMPORTED)
def test_every_module_belongs_to_an_extra(metadata, module):
    text = missing.missing(ModuleNotFoundError("no module", name=f"{module}.inner"))
    assert re.fullmatch(r"this needs the package [\w-]+, of the extra '\w+'( and '\w+')*: "
                        r"pip install '[\w-]+[<>=][\w.,<>=]+'", text)


@pytest.mark.parametrize("error", [
    ModuleNotFoundError("No module named 'systola.hw'", name="systola.hw"),
    ImportError("cannot import name 'a' from 'numpy'", name="numpy"), ImportError("broken")])
def test_what_no_package_repairs(metadata, error):
    assert missing.missing(error) == (f"{error}: the installation is not complete, or does not fit "
                                      f"this Python; pip install systola repairs it")


def test_the_default_is_all_extras():
    named = EXTRAS.keys() - {"cluster", "compare", "dram", "explore", "parquet", "timm", "train",
                            "transformers", "dev"}
    parts = {line for extra in named for line in EXTRAS[extra]}
    assert parts - {"systola[generate]"} == set(PROJECT["dependencies"]) - {"pytest>=8"}
    table = (ROOT / "docs/INSTALL.md").read_text()
    for extra, lines in EXTRAS.items():
        row = re.search(rf"^\| `{extra}` \|.*\|(.*)\|$", table, re.MULTILINE)[1]
        named = {re.match(r"[\w-]+", line)[0] for line in lines} - {"systola"}
        assert named <= set(re.findall(r"[\w-]+", row)), extra
