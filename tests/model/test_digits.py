from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from systola.files.tensors import ModelError, write_tensors
from systola.model.data import digits
from systola.model.data.images import encode, float_inputs, load_data, normalised_patches
from systola.model.data.synthetic import random_vit
from systola.model.evaluation.accuracy import (
    deviation,
    evaluate,
    evaluate_source,
    integer_logits,
    measure_options,
    open_float,
    open_network,
)
from systola.model.graph.graph_file import load_network, save_network


@pytest.fixture(scope="module")
def graph():
    return open_network("digits")


def test_split_is_fixed_stratified_and_complete():
    labels = np.repeat(np.arange(10), 180)
    train, test = (digits.split_indices(labels, split) for split in digits.SPLITS)
    assert (np.bincount(labels[test]) == 36).all()
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(1800))
    assert sha256(test.astype("<i8").tobytes()).hexdigest()[:16] == "a347f9abc82008e1"
    with pytest.raises(ValueError, match=r"^split must be 'train' or 'test', not 'valid'$"):
        digits.split_indices(labels, "valid")


def test_images_and_labels():
    train, test = (digits.load_images(split) for split in digits.SPLITS)
    assert (len(train[0]), len(test[0])) == (1438, 359)
    assert train[0].dtype == np.float32
    assert (train[0].min(), train[0].max()) == (0, 1)
    known = {image.tobytes() for image in train[0]}
    assert sum(image.tobytes() in known for image in test[0]) == 0


def test_patches_are_in_the_order_of_a_flattened_kernel():
    images = np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    got = digits.patches(images, 2)
    assert got.shape == (2, 6, 12)
    kernel = np.random.default_rng(0).integers(-9, 9, (3, 2, 2))
    for row in range(2):
        for column in range(3):
            window = images[1, :, 2 * row:2 * row + 2, 2 * column:2 * column + 2]
            assert got[1, 3 * row + column] @ kernel.ravel() == (window * kernel).sum()
    with pytest.raises(ValueError, match=r"multiples of the patch size 4, not of shape"):
        digits.patches(images, 4)


def test_channels_are_normalised_on_their_own():
    images = np.full((1, 2, 4, 4), 0.5)
    got = normalised_patches(images, patch_size=2, mean=(0.5, 0.25), std=(0.5, 0.125))
    assert (got[0, 0] == [0] * 4 + [2] * 4).all()
    with pytest.raises(ModelError, match=r"^images must have 3 channels, not 2$"):
        normalised_patches(images, patch_size=2, mean=(0.5, 0.2, 0.1), std=(1,))


def test_accuracy_of_the_digits():
    report = evaluate_source("digits")
    assert report["images"] == 359
    assert report["float_top1"] >= 0.98
    assert report["int_top1"] >= report["float_top1"] - 0.01
    assert report["agreement"] >= 0.98


def test_calibration_reads_training_images_only(monkeypatch):
    splits = []
    real = digits.load_images

    def spy(split):
        splits.append(split)
        images, labels = real(split)
        return images[:64], labels[:64]

    monkeypatch.setattr(digits, "load_images", spy)
    open_network("digits")
    assert splits == ["train"]


@pytest.mark.slow
def test_encode_quantizes_the_float_input(graph):
    images, _ = load_data("digits")
    inputs, floats = encode(graph, images[:5]), float_inputs(open_float("digits"), images[:5])
    assert inputs.keys() == floats.keys() == {"patches"}
    codes, real, scale = inputs["patches"], floats["patches"], graph.scales["patches"]
    assert (codes.min(), codes.max()) == (-127, 127)
    assert np.abs(codes * scale - real).max() <= scale * 0.501
    for network in graph, open_float("digits"):
        with pytest.raises(ModelError, match=r"^images must be of 8 x 8 pixels, not 4 x 16 "):
            float_inputs(network, np.zeros((1, 4, 16)))
    sizeless = replace(graph, meta={name: value for name, value in graph.meta.items()
                                    if name != "image_size"})
    with pytest.raises(ModelError, match=r"^images must give 16 patches of 4 values, not 4 of 4$"):
        encode(sizeless, np.zeros((1, 4, 4)))
    unscaled = replace(graph, scales={"logits": 1.0})
    with pytest.raises(ModelError, match=r"^the integer network must know the scale of its input "
                                         r"'patches' to take images$"):
        encode(unscaled, images[:1])


def test_file_evaluates_like_the_source(graph, tmp_path):
    path = tmp_path / "int.safetensors"
    save_network(graph, path)
    images, labels = load_data("digits")
    expected = integer_logits(graph, images[:40])
    assert expected.shape == (40, 10)
    assert (integer_logits(load_network(path), images[:40]) == expected).all()
    data = tmp_path / "data.safetensors"
    write_tensors(data, {"images": images[:40], "labels": labels[:40]}, {})
    report = evaluate_source(path, data=data)  # knows that it was made from the digits
    assert report["images"] == 40
    assert report["int_top1"] == np.mean(expected.argmax(axis=1) == labels[:40])
    assert "float_top1" in report
    with pytest.raises(ModelError, match=r"is quantized already; gelu cannot be set$"):
        open_network(path, gelu="table")


def test_images_at_a_time_change_nothing(graph):
    images, labels = load_data("digits")
    seen = []
    one, other = (evaluate(open_float("digits"), graph, images[:40], labels[:40], batch=batch,
                           progress=lambda *call: seen.append(call)) for batch in (7, 40))
    assert one == other
    assert one["images"] == 40
    assert seen == [(7, 40), (14, 40), (21, 40), (28, 40), (35, 40), (40, 40), (40, 40)]


def test_a_checkpoint_file_needs_data_files(tmp_path):
    path = digits.checkpoint_path()
    with pytest.raises(ModelError, match=r"^calibration must name a file of images for model"):
        open_network(path)
    images, labels = load_data("digits", "train")
    np.savez(tmp_path / "a.npz", images=np.rint(images[:32] * 255).astype(np.uint8),
             labels=labels[:32])
    report = evaluate_source(path, data=tmp_path / "a.npz", calibration=tmp_path / "a.npz",
                             act_bits=7)
    assert report["images"] == 32
    assert report["float_top1"] >= 0.95


@pytest.mark.parametrize(("tensors", "message"), [
    ({"labels": np.zeros(2, int)}, "must hold 'images'$"),
    ({"images": np.zeros((2, 8, 8))}, "must hold 'labels'$"),
    ({"images": np.zeros((2, 8)), "labels": np.zeros(2, int)}, r"^'images' must have shape"),
    ({"images": np.zeros((2, 8, 8)), "labels": np.zeros(3, int)}, r"^'labels' must have shape"),
    ({"images": np.zeros((2, 8, 8)), "labels": np.zeros(2)}, "must hold integers, not float64$"),
    ({"images": np.full((1, 8, 8), 2.0), "labels": np.zeros(1, int)}, r"from 2\.0 to 2\.0$"),
    ({"images": np.full((1, 8, 8), np.nan), "labels": np.zeros(1, int)}, "from nan to nan$"),
    ({"images": np.zeros((1, 8, 8), int), "labels": np.zeros(1, int)}, "not int64 from 0 to 0$")])
def test_unusable_data_files(tmp_path, tensors, message):
    path = tmp_path / "data.npz"
    np.savez(path, **tensors)
    with pytest.raises(ModelError, match=message):
        load_data(path)


def test_a_missing_checkpoint_is_named(monkeypatch):
    monkeypatch.setattr(digits, "checkpoint_path", lambda: Path("examples/none.safetensors"))
    with pytest.raises(ModelError, match=r"^model file '.*none\.safetensors' does not exist$"):
        open_float("digits")


def test_random_models_take_no_images():
    graph = random_vit(np.random.default_rng(0), channels=8, heads=2, blocks=1, hidden=8,
                       classes=2, tokens=5, patch_dim=4)
    with pytest.raises(ModelError, match="must know its patch size"):
        encode(graph, np.zeros((1, 4, 4)))


def test_deviation_counts():
    reference = np.array([[1, 5, 3], [9, 2, 2]])
    logits = np.array([[1, 5, 3], [2, 2, 5]])
    assert deviation(reference, logits) == {"logits_different": 2 / 6, "images_different": 0.5,
                                            "largest_difference": 7, "agreement": 0.5}


def test_options_are_measured_against_full_width(monkeypatch):
    real = digits.load_images
    monkeypatch.setattr(digits, "load_images",
                        lambda split: tuple(array[:48] for array in real(split)))
    report = measure_options(options={"full": {"mult_bits": 31, "code_mult_bits": 31},
                                      "short": {"mult_bits": 10}, "default": {},
                                      "deferred": {"attention": "deferred"}})
    assert report["full"]["logits_different"] == report["full"]["largest_difference"] == 0
    assert report["default"]["logits_different"] < 0.1 < report["short"]["logits_different"]
    assert all(entry["int_top1"] > 0.9 for entry in report.values())
    assert report["full"]["error_full"] == 0
    assert report["default"]["error_full"] < 0.001 < report["short"]["error_full"] < 0.2
    assert 0.005 < report["default"]["error_float"] < 0.05
    assert report["deferred"]["error_float"] < 2 * report["default"]["error_float"]
