"""`systola ablate`."""

import json
from pathlib import Path

import numpy as np
import pytest

from systola.cli import ablate as command
from systola.model.evaluation.ablation import REPLACEMENTS

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
VIT = CHECKPOINTS / "timm_vit"
IMAGES = VIT / "expected.npz"


def test_a_checkpoint_as_data(run):
    code, out, err = run("ablate", "--model", VIT, "--data", IMAGES, "--calibration", IMAGES,
                         "--config", "small", "--json")
    result = json.loads(out)
    assert code == 0
    assert "8 of 8 calibration images are scored, too: the result is flattered" in err
    assert [row["operator"] for row in result["rows"]] == [
        "baseline", *(item.name for item in REPLACEMENTS)]
    assert result["calibration"]["also_scored"] == result["images"] == 8
    for row in result["rows"]:
        assert 0 < row["error_float"] < 1
        assert row.get("model_only") in {None, "cycles" not in row}
    by = {(row["setting"], row["variant"]): row for row in result["rows"]}
    assert by["attention", "published"]["luts"] == 829
    assert by["gelu", "ibert"]["operations"]["element"]["multiply"] == 3


def test_two_tables(run):
    code, out, _ = run("ablate", "--model", VIT, "--data", IMAGES, "--calibration", IMAGES,
                       "--gelu", "published", "--config", "tiny")
    assert code == 0
    assert "baseline: attention normalised, gelu published, norm normalised, method minmax" in out
    first, _, second = out.partition("Operations of an element")
    assert first.count("I-BERT") == second.count("I-BERT") == 3
    assert "ShiftGELU (I-ViT) " not in first
    assert "ShiftGELU (I-ViT) (baseline)" in second
    assert "activation table" in first


@pytest.mark.parametrize(("args", "fragments"), [
    (["--model", VIT], ["--data", "labelled test images"]),
    (["--model", VIT, "--data", IMAGES], ["--calibration", "training images"]),
    (["--model", "digits", "--gelu", "ibert"], ["gelu must be", "'ibert'"]),
    (["--model", "digits", "--attention-bits", "8"], ["--attention-bits is for"]),
    (["--model", "digits", "--config", "nothing"], ["nothing"]),
    (["--model", "digits", "--batch", "0"], ["--batch"]),
    (["--model", "nowhere"], ["nowhere"])])
def test_refusals(run, args, fragments):
    code, out, err = run("ablate", *args)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("systola: ")
    assert all(fragment in line for fragment in fragments), line


def test_a_quantized_model_is_refused(run, tmp_path):
    path = tmp_path / "m.safetensors"
    assert run("quantize", "--model", "digits", "--method", "minmax", "-o", path)[0] == 0
    code, _, err = run("ablate", "--model", path)
    assert code == 2
    assert "is an integer model already, and ablate quantizes the float checkpoint" in err


def test_why_there_are_no_cycles(run):
    code, out, _ = run("ablate", "--model", VIT, "--data", IMAGES, "--calibration", IMAGES,
                       "--config", "tiny", "--json")
    rows = json.loads(out)["rows"]
    assert code == 0
    assert all(row["cycles"] or row["why_no_cycles"] for row in rows if "cycles" in row)


def test_counts_as_words():
    assert command._counted({"add": 2, "look_up": 1, "shift": 0}) == "2 add, 1 look up"
    assert command._counted({"add": np.int64(0)}) == "none"
