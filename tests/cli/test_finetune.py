"""`systola finetune`."""

import json
import re
import sys
from pathlib import Path

import pytest

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
VIT = CHECKPOINTS / "timm_vit"
IMAGES = VIT / "expected.npz"
START = "finetune", "--model", VIT, "--data", IMAGES, "--quantized", "q.safetensors"
QUICK = "--epochs", "2", "--batch", "2", "--rate", "1e-3"


@pytest.fixture
def quantized(run):
    code, _, _ = run("quantize", "--model", VIT, "--data", IMAGES, "--method", "minmax",
                     "--weight-bits", "4", "-o", "q.safetensors")
    assert code == 0


def refused(result, pattern):
    code, out, err = result
    assert (code, out) == (2, "")
    assert re.search(pattern, err.splitlines()[-1])


@pytest.mark.torch
def test_from_the_quantized_file_to_a_better_one(run, quantized):
    pytest.importorskip("torch", reason="training needs PyTorch: pip install 'systola[train]'")
    code, out, err = run(*START, *QUICK, "-o", "t.safetensors", "--checkpoint", "c.safetensors",
                         "--json")
    assert code == 0, err
    made = json.loads(out)
    assert [record["epoch"] for record in made["history"]] == [0, 1, 2]
    assert made["training"]["epochs_done"] == 2
    assert "epoch 2/2: loss " in err
    code, out, _ = run("evaluate", "--model", VIT, "--quantized", "t.safetensors", "--data",
                       IMAGES, "--json")
    assert code == 0
    assert json.loads(out)["int_top1"] > 0.5
    code, out, err = run(*START, *QUICK, "-o", "u.safetensors", "--checkpoint", "c.safetensors")
    assert code == 0  # goes on, where nothing is left to do
    assert "epoch" in out
    assert "epoch 1/2" not in err
    assert Path("t.safetensors").read_bytes() == Path("u.safetensors").read_bytes()


@pytest.mark.torch
def test_changed_images_are_the_same_when_training_goes_on(run, quantized):
    pytest.importorskip("torch", reason="training needs PyTorch: pip install 'systola[train]'")
    changed = *START, *QUICK, "--mirror", "--shift", "2"
    assert run(*changed, "-o", "whole.safetensors", "--seed", "3")[0] == 0
    assert run(*changed, "-o", "other.safetensors", "--seed", "4")[0] == 0
    whole, other = (Path(f"{name}.safetensors").read_bytes() for name in ("whole", "other"))
    assert whole != other
    assert run(*changed, "-o", "again.safetensors", "--seed", "3")[0] == 0
    assert Path("again.safetensors").read_bytes() == whole
    refused(run(*START, "-o", "t.safetensors", "--shift", "-1"),
            "shift must be an integer of at least 0, not -1")


@pytest.mark.torch
def test_the_teacher_may_be_all_of_the_loss(run, quantized):
    pytest.importorskip("torch", reason="training needs PyTorch: pip install 'systola[train]'")
    code, out, err = run(*START, *QUICK, "-o", "t.safetensors", "--distill", "1", "--scales",
                         "tracked", "--freeze", "1", "--validation", "0", "--images", "4")
    assert code == 0, err
    assert out.startswith("t.safetensors: epoch 2 of 2; trained on 4 images of ")


def test_what_cannot_be_trained_is_refused(run, quantized, monkeypatch):
    refused(run(*START, "-o", "t.npz"), "output must be a .safetensors file in an existing folder")
    refused(run(*START[:-1], VIT / "model.safetensors", "-o", "t.safetensors"),
            "--quantized must be an integer model from `systola quantize`, not .*: a float")
    refused(run(*START, "-o", "q.safetensors"), "output must be another file than --quantized")
    refused(run(*START, "-o", "t.safetensors", "--checkpoint", "q.safetensors"),
            "must be another file than --quantized")
    refused(run(*START, "-o", "t.safetensors", "--checkpoint", "t.safetensors"),
            "--checkpoint must be another file than the output")
    refused(run("finetune", "--model", "q.safetensors", "--quantized", "q.safetensors", "-o",
                "t.safetensors"), "finetune takes the float checkpoint that it was made from")
    refused(run(*START, "-o", "t.safetensors", "--rate", "2"),
            "rate must be a number from 0 to 1, not 2.0")
    refused(run("finetune", "--model", VIT, "--quantized", "q.safetensors", "-o",
                "t.safetensors"), "--data must name a file or folder of labelled training images")


def test_without_pytorch_it_says_what_is_missing(run, quantized, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("systola.model.training")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    refused(run(*START, "-o", "t.safetensors"), "this needs the package torch, of the extra")
