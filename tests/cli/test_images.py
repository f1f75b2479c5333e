"""Commands on images of folders and of sets with parts."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from systola.cli.cases import choose_case
from systola.model.data.digits import checkpoint_path, load_images

VIT = Path(__file__).parent.parent / "checkpoints" / "timm_vit"


def idx(path, array):
    path.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                     + array.astype(np.uint8).tobytes())


@pytest.fixture
def digits_set(tmp_path):
    """Write 60 training and 30 test images of the digits as IDX files; return their folder."""
    folder = tmp_path / "digits_set"
    folder.mkdir()
    for split, name, count in ("train", "train", 60), ("test", "t10k", 30):
        images, labels = load_images(split)
        idx(folder / f"{name}-images-idx3-ubyte", np.rint(images[:count] * 255))
        idx(folder / f"{name}-labels-idx1-ubyte", labels[:count])
    return folder


@pytest.mark.slow
def test_a_set_with_parts_gives_both_kinds_of_images(run, digits_set):
    code, out, err = run("evaluate", "--model", checkpoint_path(), "--data", digits_set, "--json")
    result = json.loads(out)
    assert code == 0
    assert result["data"] == {"source": f"{digits_set}, test images", "images": 30, "of": 30,
                              "remarks": []}
    assert result["calibration"] == {"source": f"{digits_set}, training images", "images": 60,
                                     "of": 60, "also_scored": 0, "remarks": []}
    assert result["float_top1"] > 0.9
    code, out, _ = run("evaluate", "--model", checkpoint_path(), "--data", digits_set)
    assert out.splitlines()[:2] == [f"scored: {digits_set}, test images",
                                    f"ranges: {digits_set}, training images, 60 of 60"]
    code, _, err = run("evaluate", "--model", checkpoint_path(), "--data", digits_set / "train")
    assert code == 2
    assert "--calibration must name" in err
    code, _, err = run("evaluate", "--model", checkpoint_path(), "--data", digits_set / "train",
                       "--calibration", digits_set)
    assert "60 of 60 calibration images are scored, too" in err


@pytest.mark.slow
def test_ranges_are_of_training_images(run, digits_set):
    args = "quantize", "--model", checkpoint_path(), "--data", digits_set, "-o", "q.safetensors"
    code, out, _ = run(*args, "--json")
    assert (code, json.loads(out)["calibration"]["source"]) == (0, f"{digits_set}, training images")
    assert f"ranges: {digits_set}, training images, 60 of 60" in run(*args)[1]
    case = choose_case(str(checkpoint_path()), is_random=False, random_weights=False,
                       config="digits", attention=None, blocks=None, seed=None, images=3,
                       data=str(digits_set), update=lambda *args, **more: None)
    assert case.about["calibration"] == f"{digits_set}, training images"
    assert case.about["data"]["source"] == f"{digits_set}, test images"
    assert (case.labels == load_images("test")[1][:3]).all()
    assert case.inputs["patches"].shape[0] == 3


def test_pictures_are_prepared_as_the_checkpoint_says(run, tmp_path):
    """Its images, put back into pictures that are cropped to them, get the answers they had."""
    with np.load(VIT / "expected.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        # floor(32 / 0.9) = 35 pixels are cut to 32: a border of 2 above and left, 1 the other way.
        picture = np.pad(image.transpose(1, 2, 0), ((2, 1), (2, 1), (0, 0)))
        folder = tmp_path / "set" / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{index}.png")
    for label in range(10):
        (tmp_path / "set" / f"class {label}").mkdir(exist_ok=True)
    code, out, err = run("evaluate", "--model", VIT, "--data", tmp_path / "set", "--calibration",
                         VIT / "expected.npz", "--json")
    result = json.loads(out)
    assert (code, result["float_top1"], result["images"]) == (0, 1.0, 8)
    assert "8 of 8 calibration images are scored, too" in err  # equal pixels, in another file
    assert len(result["data"]["remarks"]) == 1  # nothing assumed
    code, out, err = run("evaluate", "--model", VIT, "--data", tmp_path / "set", "--calibration",
                         VIT / "expected.npz")
    assert f"{tmp_path / 'set'}: labels: order of the names (class 0, class 1, class 2, ...), as " \
           "the checkpoint has no names\n" in err
    (tmp_path / "set" / "class 10").mkdir()
    code, out, err = run("evaluate", "--model", VIT, "--data", tmp_path / "set", "--calibration",
                         VIT / "expected.npz")
    assert (code, out) == (2, "")
    assert "must be the 10 of the network, or have their names, not 11" in err


def test_names_of_classes_are_a_fact(run, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    for path in VIT.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    names = [f"kind {9 - index}" for index in range(10)]
    (folder / "config.json").write_text(json.dumps({**config, "label_names": names}))
    code, out, _ = run("inspect", folder, "--no-presets", "--json")
    assert (code, json.loads(out)["class_names"]) == (0, names)
    code, out, _ = run("inspect", folder, "--no-presets")
    assert "kind 9, kind 8, kind 7, ... (10)" in out
