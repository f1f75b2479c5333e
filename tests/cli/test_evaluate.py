"""`systola evaluate` and `quantize` of other people's checkpoints."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from systola.model.graph.graph_file import load_network
from systola.model.graph.nodes import Linear

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
VIT, SWIN = (CHECKPOINTS / name for name in ("timm_vit", "timm_swin"))
IMAGES = VIT / "expected.npz"


def refused(result, *fragments):
    code, out, err = result
    line = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert line.startswith("systola: ")
    for fragment in fragments:
        assert fragment in line


def images(path, change=None):
    """Write the images of `timm_vit`, changed, and return the path."""
    with np.load(IMAGES) as arrays:
        content = {name: arrays[name] for name in arrays}
    content |= change(content) if change else {}
    np.savez(path, **{name: value for name, value in content.items() if value is not None})
    return path


@pytest.mark.parametrize("folder", [VIT, SWIN])
def test_logits_of_both_models(run, folder):
    data = folder / "expected.npz"
    code, out, err = run("evaluate", "--model", folder, "--data", data, "--calibration", data,
                         "--logits", "out.npz", "--json")
    result = json.loads(out)
    assert code == 0
    assert "8 of 8 calibration images are scored, too: the result is flattered" in err
    assert (result["float_top1"], result["images"], result["assumed"]) == (1.0, 8, [])
    assert result["calibration"] == {"source": str(data), "images": 8, "of": 8,
                                     "also_scored": 8, "remarks": []}
    assert result["data"] == {"source": str(data), "images": 8, "of": 8, "remarks": []}
    with np.load("out.npz") as got, np.load(data) as wanted:
        assert np.abs(got["float"] - wanted["logits"]).max() < 1e-4
        assert (got["labels"] == wanted["labels"]).all()
        assert np.abs(got["integer"] * got["scale"] - wanted["logits"]).max() < 0.5
        assert np.mean(got["integer"].argmax(axis=1) == got["labels"]) == result["int_top1"]


def test_assumptions_are_said(run):
    checkpoint = CHECKPOINTS / "wrapped" / "plain.pt"
    args = "evaluate", "--model", checkpoint, "--data", IMAGES, "--calibration", IMAGES
    code, out, err = run(*args)
    assert code == 0
    assert "float top-1 1.0000" in out
    assert "assumed heads 3: as in vit_tiny" in err
    assert "mean" not in err  # the images say it
    code, out, err = run(*args, "--heads", "6", "--eps", "1e-6", "--json")
    assert (code, json.loads(out)["assumed"]) == (0, [])
    assert json.loads(out)["float_top1"] < 1


def test_training_images_are_needed_and_shared_ones_counted(run, tmp_path):
    refused(run("evaluate", "--model", VIT, "--data", IMAGES), "--calibration", "training images")
    refused(run("evaluate", "--model", VIT, "--calibration", IMAGES), "--data", "test images")
    some = images(tmp_path / "some.npz", lambda content: {
        "images": np.concatenate([content["images"][:3], 255 - content["images"][3:]])})
    code, out, _ = run("evaluate", "--model", VIT, "--data", IMAGES, "--calibration", some,
                       "--json")
    assert (code, json.loads(out)["calibration"]["also_scored"]) == (0, 3)


def test_mean_and_deviation_must_agree(run, tmp_path):
    data = images(tmp_path / "d.npz", lambda content: {"mean": content["mean"] - 0.1})
    args = "evaluate", "--model", VIT, "--data", data, "--calibration", IMAGES, "--json"
    refused(run(*args), "mean of", "must be 0.5, 0.5, 0.5 as of the model (config.json)",
            "(--mean decides)")
    code, out, _ = run(*args, "--mean", "0.5")
    assert (code, json.loads(out)["float_top1"]) == (0, 1.0)


@pytest.mark.parametrize(("labels", "shown"), [
    (np.array([0] * 7 + [10]), "not 10"), (np.array([-1] + [0] * 7), "not -1"),
    (np.array([2**63] * 8, np.uint64), "9223372036854775808")])
def test_labels_must_be_classes(run, tmp_path, labels, shown):
    data = images(tmp_path / "d.npz", lambda content: {"labels": labels})
    refused(run("evaluate", "--model", VIT, "--data", data, "--calibration", IMAGES), "labels",
            shown)


def test_images_whose_patches_happen_to_fit_are_refused(run, tmp_path):
    data = images(tmp_path / "d.npz", lambda content: {
        "images": content["images"].reshape(8, 3, 16, 64)})
    refused(run("evaluate", "--model", VIT, "--data", data, "--calibration", IMAGES),
            "32 x 32 pixels", "16 x 64")


def test_an_input_is_never_overwritten(run, tmp_path):
    shutil.copy(VIT / "model.safetensors", "model.safetensors")
    before = Path("model.safetensors").read_bytes()
    refused(run("quantize", "--model", "model.safetensors", "--data", IMAGES, "-o",
                tmp_path / "model.safetensors"), "output must be another file than --model")
    data = images(tmp_path / "d.npz")
    refused(run("evaluate", "--model", VIT, "--data", data, "--calibration", data, "--logits",
                "d.npz"), "output must be another file than --data")
    assert Path("model.safetensors").read_bytes() == before


def test_an_integer_model_of_another_float_model_is_refused(run):
    assert run("quantize", "--model", VIT, "--data", IMAGES, "-o", "q.safetensors")[0] == 0
    args = "evaluate", "--quantized", "q.safetensors", "--data", IMAGES
    code, out, _ = run(*args, "--model", VIT, "--json")
    assert (code, "calibration" in json.loads(out)) == (0, False)
    refused(run(*args, "--model", VIT, "--heads", "6"), "heads", "must be 6", "not 3")
    refused(run(*args, "--model", VIT, "--act-bits", "6"), "without --act-bits")
    refused(run(*args, "--model", VIT, "--calibration", IMAGES), "--calibration")
    refused(run(*args, "--model", VIT, "--logits", "no/l.npz"), "--logits", "existing folder")


def test_image_sizes(run, tmp_path):
    data = images(tmp_path / "d.npz", lambda content: {
        "images": np.repeat(content["images"], 2, axis=2)})
    args = "evaluate", "--model", VIT, "--data", data, "--calibration", data, "--json"
    assert run(*args, "--image-size", "64x32")[0] == 0
    refused(run("evaluate", "--model", VIT, "--data", data, "--calibration", data,
                "--image-size", "big"), "--image-size", "'big'")


def test_codebooks(run):
    code, out, _ = run("quantize", "--model", VIT, "--data", IMAGES, "--codebook", "kmeans",
                       "-o", "q.safetensors", "--json")
    result = json.loads(out)
    assert (code, result["codebook"], result["weight_bits"]) == (0, "kmeans", 8)
    kinds = {about["kind"] for about in result["quantization"]["codebooks"].values()}
    assert kinds == {"kmeans"}
    assert all(node.codebook is not None for node in load_network("q.safetensors").of(Linear))
    _, out, _ = run("quantize", "--model", VIT, "--data", IMAGES, "--codebook", "nupes",
                    "-o", "q.safetensors")
    assert "8-bit weights, 8-bit activations (nupes codebooks); nodes:" in out
    code, out, _ = run("evaluate", "--model", VIT, "--data", IMAGES, "--calibration", IMAGES,
                       "--codebook", "powers", "--json")
    assert (code, json.loads(out)["images"]) == (0, 8)
    quantize = "quantize", "--model", VIT, "--data", IMAGES, "-o", "other.safetensors"
    refused(run(*quantize, "--codebook", "nupes", "--weight-bits", "4"),
            "weight_bits must be 8 with a codebook", "not 4")
    refused(run(*quantize, "--codebook", "nupes", "--allocate", "bytes=0.5"), "--codebook",
            "without --allocate")
    refused(run(*quantize, "--codebook", "best"), "best", "nupes")
    refused(run("evaluate", "--model", VIT, "--data", IMAGES, "--quantized", "q.safetensors",
                "--codebook", "nupes"), "without --codebook")
    assert not Path("other.safetensors").exists()
