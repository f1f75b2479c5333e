"""Pictures prepared as timm and transformers do it, against the steps written out with Pillow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from systola.files.tensors import ModelError
from systola.model.data.preparation import preparation
from systola.model.importers.cropping import find_processing
from systola.model.importers.facts import Facts

FILTERS = "nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"
SIDES = st.integers(20, 90)


def picture(height, width, mode="RGB", seed=0):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def middle(pixels, height, width, half):
    """Cut the middle out of an array (rows, columns, ...)."""
    top, left = half((pixels.shape[0] - height) / 2), half((pixels.shape[1] - width) / 2)
    return pixels[top:top + height, left:left + width]


def applied(meta, image, planes=3):
    got = preparation(meta, planes).apply(image)
    assert got.dtype == np.uint8
    assert got.shape == (planes, *meta["image_size"])
    return got.transpose(1, 2, 0)


def processed(family="vit", **said):
    """Return the facts of a preprocessor_config.json, for a network of 16 x 16 pixels."""
    facts = Facts()
    find_processing(facts, family, said, "preprocessor_config.json")
    return {**facts.meta(), "image_size": [16, 16]}


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(SIDES, SIDES, st.sampled_from([0.875, 0.9, 0.95, 1.0]), st.sampled_from(FILTERS))
def test_timm_resizes_the_shortest_edge_and_cuts_the_middle(height, width, share, interpolation):
    meta = {"image_size": [16, 16], "crop_pct": share, "interpolation": interpolation}
    edge, image = math.floor(16 / share), picture(height, width)
    size = (edge, int(edge * height / width)) if width <= height else (
        int(edge * width / height), edge)
    wanted = image.resize(size, getattr(Image, interpolation.upper()))
    assert (applied(meta, image) == middle(np.array(wanted), 16, 16, round)).all()


def test_what_timm_does_by_default_is_said():
    made = preparation({"image_size": [224, 224]}, 3)
    assert (made.resize, made.interpolation) == (("shortest", (256, 256)), "bicubic")
    assert [sentence.split(":")[0] for sentence in made.assumed] == ["crop_pct 0.875",
                                                                     "interpolation bicubic"]
    assert preparation({"image_size": [8, 8], "crop_pct": 1, "interpolation": "box"},
                       1).assumed == ()


@settings(max_examples=20, deadline=None, derandomize=True, database=None)
@given(SIDES, SIDES)
def test_squash_and_border(height, width):
    meta = {"image_size": [12, 18], "crop_pct": 0.9, "interpolation": "bilinear",
            "crop_mode": "squash", "mean": [0.5, 0.25, 1.0]}
    image = picture(height, width)
    squashed = image.resize((20, 13), Image.BILINEAR)
    assert (applied(meta, image) == middle(np.array(squashed), 12, 18, round)).all()
    got = applied({**meta, "crop_mode": "border"}, image)
    ratio = max(height / 13, width / 20)
    inner = np.array(image.resize((round(width / ratio), round(height / ratio)), Image.BILINEAR))
    canvas = np.empty((40, 40, 3), np.uint8)
    canvas[:] = 128, 64, 255  # 255 * mean
    top, left = (max(0, (wanted - there) // 2) for wanted, there in zip(
        (12, 18), inner.shape, strict=False))
    canvas[top:top + len(inner), left:left + inner.shape[1]] = inner
    high, wide = max(len(inner), 12), max(inner.shape[1], 18)
    assert (got == middle(canvas[:high, :wide], 12, 18, round)).all()


def test_a_network_for_other_proportions_keeps_those_of_the_picture():
    meta = {"image_size": [10, 20], "crop_pct": 1.0, "interpolation": "bicubic"}
    image = picture(40, 40)
    wanted = np.array(image.resize((20, 20), Image.BICUBIC))[5:15]
    assert (applied(meta, image) == wanted).all()


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(SIDES, SIDES, st.integers(16, 24))
def test_transformers_rounds_down_where_timm_rounds(height, width, edge):
    meta = processed(image_processor_type="CLIPImageProcessor", size=edge, crop_size=16)
    image = picture(height, width)
    size = (edge, int(edge * height / width)) if width <= height else (
        int(edge * width / height), edge)
    resized = np.array(image.resize(size, Image.BICUBIC))
    assert (applied(meta, image) == middle(resized, 16, 16, math.floor)).all()


def test_the_two_roundings_differ():
    image = picture(16, 19)  # half of 3 pixels
    ours = {"image_size": [16, 16], "interpolation": "bicubic"}
    timm = applied({**ours, "crop_pct": 1.0}, image)
    other = applied({**ours, "processor": "Bit", "resize": {"shortest_edge": 16},
                     "crop": [16, 16]}, image)
    assert (timm == np.array(image)[:, 2:18]).all()
    assert (other == np.array(image)[:, 1:17]).all()


@pytest.mark.parametrize(("family", "said", "resize", "interpolation", "crop"), [
    ("vit", {"size": 16, "resample": 3}, {"height": 16, "width": 16}, "bicubic", None),
    ("vit", {"size": [16, 16]}, {"height": 16, "width": 16}, "bilinear", None),
    ("swin", {"do_center_crop": True, "crop_size": 16, "size": {"height": 18, "width": 18}},
     {"height": 18, "width": 18}, "bilinear", [16, 16]),
    ("deit", {"feature_extractor_type": "DeiTFeatureExtractor", "crop_size": 16, "size": 20},
     {"height": 20, "width": 20}, "bicubic", [16, 16]),
    ("deit", {"image_mean": [0.5]}, {"height": 256, "width": 256}, "bicubic", [224, 224]),
    ("deit", {"image_processor_type": "ViTImageProcessorFast"}, {"height": 224, "width": 224},
     "bilinear", None),
    ("dinov2", {"size": {"shortest_edge": 18}, "crop_size": {"height": 16, "width": 16}},
     {"shortest_edge": 18}, "bicubic", [16, 16]),
    ("clip", {"do_resize": False, "do_center_crop": False}, None, "bicubic", None)])
def test_what_a_preprocessor_says_and_leaves_to_its_class(family, said, resize, interpolation,
                                                          crop):
    meta = processed(family, **said)
    assert (meta.get("resize"), meta["interpolation"], meta.get("crop")) == (
        resize, interpolation, crop)


def test_both_sides_are_resized_as_transformers_does_for_vit():
    image = picture(40, 23)
    got = applied(processed(size=16, resample=2), image)
    assert (got == np.array(image.resize((16, 16), Image.BILINEAR))).all()


def test_colours():
    image = picture(16, 16)
    meta = {"image_size": [16, 16], "crop_pct": 1.0, "interpolation": "bicubic"}
    assert (applied(meta, image, planes=1)[..., 0] == np.array(image.convert("L"))).all()
    grey = picture(16, 16, "L")
    assert (applied(meta, grey) == np.array(grey)[..., None]).all()


def test_an_image_size_that_was_given_keeps_the_proportion():
    meta = processed("dinov2", size={"shortest_edge": 256}, crop_size=224)
    with pytest.raises(ModelError, match=r"^crop_size of the image processor must be 16 x 16 as "
                                         r"the network takes images, not 224 x 224$"):
        preparation(meta, 3)
    meta["origins"]["image_size"] = "given"
    assert preparation(meta, 3).resize == ("shortest", (256 * 16 // 224,) * 2)
    assert applied(meta, picture(50, 60)).shape == (16, 16, 3)


GOOD = {"image_size": [16, 16], "crop_pct": 0.9, "interpolation": "bicubic"}
OTHER = {"image_size": [16, 16], "processor": "ViT", "interpolation": "bicubic"}


@pytest.mark.parametrize(("meta", "message"), [
    ({**GOOD, "image_size": None}, "image_size must be a height and a width"),
    ({**GOOD, "image_size": [16, True]}, "image_size must be a height and a width"),
    ({**GOOD, "interpolation": "random"}, "interpolation must be one of nearest, .* not 'random'"),
    ({**GOOD, "crop_mode": "tile"}, "crop_mode must be one of center, squash, border, not 'tile'"),
    ({**GOOD, "crop_pct": "much"}, "crop_pct must be a number from 0.01 to 1, not 'much'"),
    ({**OTHER, "processor": "ConvNext"}, "image_processor_type must be one of ViT, .*'ConvNext'"),
    ({**OTHER, "resize": {"longest_edge": 9}}, "must be shortest_edge, or height and width"),
    ({**OTHER, "resize": {"shortest_edge": 0}}, "from 1 to 32768"),
    ({**OTHER, "crop": [8]}, "crop must be a height and a width"),
    ({**OTHER, "resize": {"height": 8, "width": 8}}, "size of the image processor must be 16 x")])
def test_what_is_not_known_is_refused(meta, message):
    with pytest.raises(ModelError, match=message):
        preparation(meta, 3)
    with pytest.raises(ModelError, match="1 or 3 planes, not 4"):
        preparation(GOOD, 4)


@pytest.mark.parametrize(("meta", "size", "message"), [
    ({**OTHER, "crop": [16, 16]}, (15, 40), "at least 16 x 16 pixels to be cropped, not 15 x 40"),
    ({**OTHER, "resize": {"shortest_edge": 16}}, (16, 17), "for it is not cropped, not 16 x 17"),
    (GOOD, (1, 300_000), "at most 67,108,864 pixels when resized, not 17 x 5100000")])
def test_a_picture_that_does_not_fit_is_refused(meta, size, message):
    with pytest.raises(ModelError, match=message):
        preparation(meta, 3).apply(picture(*size))
