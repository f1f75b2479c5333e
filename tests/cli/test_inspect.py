"""`systola inspect`: table, data and picture of float checkpoints and integer networks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from systola.cli.main import main
from systola.hw.contract.config import PRESETS
from systola.model.data.digits import checkpoint_path
from systola.model.data.synthetic import random_vit
from systola.model.graph.graph_file import save_network

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
SIZES = {"channels": 8, "heads": 2, "blocks": 2, "hidden": 12, "classes": 3, "tokens": 5,
         "patch_dim": 4}


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Return a function that runs `systola inspect` in a fresh folder: (code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYSTOLA_DEBUG", raising=False)

    def call(*args):
        code = main(["inspect", *map(str, args)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_table_of_the_digits(run):
    code, out, _ = run("digits", "--no-presets")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["blocks.3.scores", "scores", "blocks.3.qkv,", "blocks.3.qkv", "4", "x", "17", "x",
            "17", "float", "0", "0", "4,624", "18,496"] in lines
    assert "float network of 48 nodes: 1 input, 2 constant, 18 linear" in out
    assert "3,495,040 products an image" in out


def test_checkpoint_file_as_data(run):
    code, out, err = run(checkpoint_path(), "--no-presets", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "")
    assert "presets" not in report
    assert (report["integer"], len(report["nodes"])) == (False, 48)
    assert report["kinds"]["norm"] == 9
    assert report["products"] == sum(node["products"] for node in report["nodes"])


def test_integer_network_with_a_picture(run, tmp_path):
    save_network(random_vit(np.random.default_rng(0), attention="deferred", **SIZES),
                 tmp_path / "n.safetensors")
    code, out, _ = run("n.safetensors", "--draw", "n.svg", "--json")
    report = json.loads(out)
    assert (code, report["integer"], report["picture"]) == (0, True, "n.svg")
    nodes = {node["name"]: node for node in report["nodes"]}
    assert nodes["blocks.1.attention"]["variant"] == "deferred"
    assert nodes["blocks.0.qkv"]["bits"] == 8
    assert "<svg" in (tmp_path / "n.svg").read_text()
    code, out, _ = run("n.safetensors", "--draw", "n.png")
    assert code == 0
    assert out.endswith("n.png: the graph\n")
    assert (tmp_path / "n.png").stat().st_size > 10_000


@pytest.mark.parametrize(("args", "fragments"), [
    ([], ["'MODEL'"]),
    (["nowhere.safetensors"], ["'nowhere.safetensors'", "does not exist"]),
    (["nowhere.npz"], ["'nowhere.npz'", "does not exist"]),
    (["digits", "--draw", "g.pdf"], [".svg or .png", "'g.pdf'"]),
    (["digits", "--draw", "no/g.svg"], ["folder", "'no/g.svg'"]),
    (["digits", "--heads", "5"], ["heads", "5"]),
])
def test_wrong_usage_is_one_line(run, args, fragments):
    code, out, err = run(*args)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for fragment in ["systola: ", *fragments]:
        assert fragment in err


@pytest.mark.slow
def test_facts_with_their_origins_and_the_presets(run, monkeypatch):
    few = {name: PRESETS[name] for name in ("digits", "small")} | {
        "tiny": replace(PRESETS["tiny"], gelu="published")}
    monkeypatch.setattr("systola.report.preset_table.PRESETS", few)
    code, out, _ = run(CHECKPOINTS / "hf_deit", "--json")
    report = json.loads(out)
    assert code == 0
    wanted = {"family": "deit", "heads": 3, "tokens": 18, "classes": 10, "assumed": [],
              "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "patch_size": 8,
              "image_size": [32, 32], "interpolation": "bilinear"}
    assert {name: report[name] for name in wanted} == wanted
    assert report["origins"]["mean"] == "preprocessor_config.json"
    assert report["presets"].keys() == few.keys()
    assert report["presets"]["digits"] == {"runs": True, "batch": 16, "why": None, "needs": {}}
    tiny = report["presets"]["tiny"]
    assert (tiny["runs"], tiny["batch"], tiny["needs"]) == (False, 0, {"max_row": 108})
    assert "max_row must be at least 108" in tiny["why"]
    code, out, _ = run(CHECKPOINTS / "hf_deit")
    assert code == 0
    assert ["heads", "3", "config.json"] in [line.split() for line in out.splitlines()]
    assert ["small", "8", "as", "it", "is"] in [line.split() for line in out.splitlines()]


def test_what_the_accelerator_has_not_yet_is_named(run, monkeypatch):
    monkeypatch.setattr("systola.report.preset_table.PRESETS", {"digits": PRESETS["digits"]})
    code, out, _ = run(CHECKPOINTS / "timm_vit_qknorm", "--json")
    row = json.loads(out)["presets"]["digits"]
    assert (code, row["runs"], row["needs"]) == (0, False, None)
    assert "no norm of each head (query and key norms)" in row["why"]
