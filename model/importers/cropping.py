"""How pictures become images of a network's size: what the files of a checkpoint say of it."""

import re

from systola.files.bounded import shown
from systola.files.tensors import ModelError
from systola.model.importers.facts import number

__all__ = ["find_processing", "find_transform"]

_SQUARE = {"size": {"height": 224, "width": 224}, "resample": 2}
_SHORTEST = {"size": {"shortest_edge": 224}, "resample": 3, "do_center_crop": True,
             "crop_size": {"height": 224, "width": 224}}
_PROCESSORS = {
    "ViT": _SQUARE, "CLIP": _SHORTEST, "Bit": _SHORTEST,
    "DeiT": {"size": {"height": 256, "width": 256}, "resample": 3, "do_center_crop": True,
             "crop_size": {"height": 224, "width": 224}}}
"""Image processors of transformers by the start of their names, and what they do unless told."""

_CLASS = r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)"

_USED_BY = {"deit": "DeiT", "deit_distilled": "DeiT", "dinov2": "Bit", "clip": "CLIP"}
"""The processor of a family where the file does not name one; ViT is that of all others."""

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's filters by number."""


def find_transform(facts, pretrained):
    """Note what a ``pretrained_cfg`` of timm says of resizing and cropping.

    Raises
    ------
    ModelError
        If ``crop_pct`` is not usable.
    """
    for what in "interpolation", "crop_mode":
        if isinstance(pretrained.get(what), str):
            facts.note(what, pretrained[what], "config.json")
    if pretrained.get("crop_pct") is not None:
        facts.find("crop_pct", (pretrained["crop_pct"], "config.json"), check=number(0.01, 1))


def find_processing(facts, family, said, origin):
    """Note what a ``preprocessor_config.json`` of transformers says of resizing and cropping.

    Parameters
    ----------
    facts : Facts
        Gets ``processor``, ``interpolation``, ``resize`` and ``crop``, the last two only if they
        are done.
    family : str
    said : dict
        The file's table; an empty one says nothing.
    origin : str
        The file's name.

    Raises
    ------
    ModelError
        If a size is not usable.
    """
    if not said:
        return
    name = said.get("image_processor_type") or said.get("feature_extractor_type")
    name = name if isinstance(name, str) else ""
    kind = next((kind for kind in _PROCESSORS if re.fullmatch(f"{kind}{_CLASS}", name)), None)
    if not name:
        kind = _USED_BY.get(family, "ViT")
    facts.note("processor", kind or name, origin if name else f"family {family}")
    said = {**_PROCESSORS.get(kind, {}), **{key: value for key, value in said.items()
                                            if value is not None}}
    if said.get("resample") in _RESAMPLE:
        facts.note("interpolation", _RESAMPLE[said["resample"]], origin)
    if said.get("do_resize", True) and "size" in said:
        facts.note("resize", _size(said["size"], kind in ("CLIP", "Bit"), origin), origin)
    if said.get("do_center_crop") and "crop_size" in said:
        crop = said["crop_size"]
        sides = [crop, crop] if type(crop) is int else [crop.get("height"), crop.get("width")] if (
            isinstance(crop, dict)) else crop
        facts.note("crop", sides, origin)


def _size(size, by_edge, origin):
    """Return a size as a table; a single number means the shortest edge, or both sides."""
    if type(size) is int:
        return {"shortest_edge": size} if by_edge else {"height": size, "width": size}
    if isinstance(size, list) and len(size) == 2:
        size = dict(zip(("height", "width"), size, strict=True))
    if not isinstance(size, dict) or not all(type(side) is int for side in size.values()):
        raise ModelError(f"size must be a number of pixels or a table of such, not {shown(size)} "
                         f"({origin})")
    return size
