"""The public names of the package, and docs/API.md, whose examples run here in their order."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import systola

PAGE = Path(__file__).parents[2] / "docs/API.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
WITH_PYTORCH = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
SIMULATING = next(index for index, block in enumerate(BLOCKS) if "systola.simulate(" in block)


def run(blocks):
    """Run blocks of the page in the current folder, one after the other; returns their names."""
    names = {}
    for index, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, example {index + 1}", "exec"), names)
    return names


@pytest.mark.slow
def test_examples_that_simulate_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(BLOCKS[:SIMULATING])
    assert names["result"]["images"] == 64
    assert names["program"].images == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.bin", "digits.safetensors"]


@pytest.mark.slow
def test_example_of_a_simulation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(["import systola", *BLOCKS[SIMULATING:]])
    assert names["result"].images == 2
    assert names["result"].tensors_compared > 20


@pytest.mark.torch
def test_example_of_a_training(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="training needs PyTorch: pip install 'systola[train]'")
    monkeypatch.chdir(tmp_path)
    names = run([BLOCKS[0], *WITH_PYTORCH])
    assert names["tuned"].network.meta["training"]["images"] == 1294
    assert len(names["tuned"].history) == 2
    images, labels = names["images"][:40], names["labels"][:40]
    alone = systola.finetune(names["network"], images, labels, epochs=1, mirror=True, shift=1)
    assert alone.network.meta["training"]["distill"] == 0
    with pytest.raises(ValueError, match=r"^reference must be the float network for a dist"):
        systola.finetune(names["network"], images, labels, distill=1)


def test_the_page_and_the_package_name_the_same():
    table = re.findall(r"`(\w+)[`(]", "".join(re.findall(r"^\|(.*?)\|", PAGE.read_text(),
                                                         re.MULTILINE)))
    assert sorted(table) == sorted(systola.__all__)
    assert set(systola.__all__) <= set(dir(systola))
    for name in systola.__all__:
        assert getattr(systola, name)
    assert systola.__version__ == version("systola")
    with pytest.raises(AttributeError, match="'systola' has no attribute 'nothing'"):
        systola.nothing  # noqa: B018


def test_importing_is_instant():
    code = ("import sys, systola; from systola import quantize; "
            "print({'numpy', 'amaranth', 'dataclasses'} & set(sys.modules))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "set()\n"


def test_a_configuration_is_one_or_its_name():
    tiny = systola.AcceleratorConfig.load("tiny")
    assert systola._config("tiny") == systola._config(tiny) == tiny
    with pytest.raises(ValueError, match="'huge' is neither a preset"):
        systola.compile(None, "huge")
