"""From a picture of any size to an image of a network's size, as its checkpoint says.

The steps are those of timm's evaluation and of transformers' image processors, on Pillow.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from systola.files.bounded import shown
from systola.files.tensors import ModelError

__all__ = ["Preparation", "preparation"]

_USUAL = {"crop_pct": (0.875, "timm's default"), "interpolation": ("bicubic", "timm's default")}
_PROCESSORS = "ViT", "DeiT", "Bit", "CLIP"
_MODES = "center", "squash", "border"
_COLOURS = {1: "L", 3: "RGB"}
_LARGEST, _PIXELS = 2**15, 2**26
"""Longest side of an image, and most pixels of a resized picture: a narrow one gets very long."""


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an image of a network.

    Attributes
    ----------
    size : (int, int)
        Height and width that the network takes.
    planes : int
        1 or 3, grey or RGB.
    resize : (str, tuple of int) or None
        ``shortest`` or ``longest`` edge, or ``sides``, and the height and width for it.
    interpolation : str
        One of Pillow's resampling filters, in lower case.
    fill : tuple of int, optional
        Colour of the border of a picture smaller than `size`; without it that is an error.
    crop : bool
        Without it, what is resized must have the right size.
    rounds : bool
        Whether half a pixel of a crop is rounded to even (timm), or down (transformers).
    assumed : tuple of str
        What no file says, as sentences.
    """

    size: tuple
    planes: int
    resize: tuple | None = None
    interpolation: str = "bicubic"
    fill: tuple | None = None
    crop: bool = True
    rounds: bool = True
    assumed: tuple = ()

    @property
    def mode(self):
        """Pillow's name of the colours."""
        return _COLOURS[self.planes]

    def apply(self, picture):
        """Return a picture of Pillow as an image, uint8 (planes, height, width).

        Raises
        ------
        ModelError
            If it is too small to be cropped, or too long.
        """
        picture = self.coloured(picture)
        if self.resize is not None:
            picture = self._resized(picture)
        return self.pixels(self._cropped(picture))

    def coloured(self, picture):
        """Return a picture with the colours of the network."""
        if picture.mode == self.mode:
            return picture
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transparency gets lost, which the caller says
            return picture.convert(self.mode)

    def pixels(self, picture):
        """Return a picture of the right size and colours as uint8 (planes, height, width)."""
        pixels = np.asarray(picture)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _resized(self, picture):
        from PIL import Image

        kind, (height, width) = self.resize
        if kind != "sides":
            height, width = _edges(kind, picture.height, picture.width, height, width)
        if height * width > _PIXELS:
            raise ModelError(f"a picture must have at most {_PIXELS:,} pixels when resized, not "
                             f"{height} x {width}")
        if (width, height) == picture.size:
            return picture
        return picture.resize((width, height), Image.Resampling[self.interpolation.upper()])

    def _cropped(self, picture):
        (height, width), half = self.size, round if self.rounds else math.floor
        if picture.size == (width, height):
            return picture
        if not self.crop:
            raise ModelError(f"a picture must be of {height} x {width} pixels, for it is not "
                             f"cropped, not {picture.height} x {picture.width}")
        if self.fill is None and (picture.height < height or picture.width < width):
            raise ModelError(f"a picture must have at least {height} x {width} pixels to be "
                             f"cropped, not {picture.height} x {picture.width}")
        top, left = (half((there - wanted) / 2) if there >= wanted else -((wanted - there) // 2)
                     for there, wanted in ((picture.height, height), (picture.width, width)))
        if self.fill is None:
            return picture.crop((left, top, left + width, top + height))
        from PIL import Image

        canvas = Image.new(self.mode, (width, height), self.fill)
        canvas.paste(picture, (-left, -top))
        return canvas


def _edges(kind, height, width, rows, columns):
    """Return the size that keeps the proportions of ``height`` x ``width``."""
    if kind == "shortest" and rows == columns:
        short, long = min(height, width), max(height, width)
        long = int(rows * long / short)
        return (rows, long) if height <= width else (long, rows)
    ratio = (min if kind == "shortest" else max)(height / rows, width / columns)
    return max(round(height / ratio), 1), max(round(width / ratio), 1)


def preparation(meta, planes):
    """Return the `Preparation` that the facts of a network's checkpoint ask for.

    Parameters
    ----------
    meta : dict
        Of the graph: ``image_size``, and what is there of ``processor``, ``resize``, ``crop``,
        ``crop_pct``, ``crop_mode``, ``interpolation``, ``mean``.
    planes : int
        Colours that the network takes.

    Raises
    ------
    ModelError
        If a fact is missing, unknown, or leads to images of another size.
    """
    size = _sides(meta, "image_size")
    if planes not in _COLOURS:
        raise ModelError(f"pictures are for networks of 1 or 3 planes, not {planes}; other images "
                         f"go in as .npz")
    facts, assumed = dict(meta), []
    for name in ("interpolation",) if "processor" in meta else _USUAL:
        if facts.get(name) is None:
            facts[name], why = _USUAL[name]
            assumed.append(f"{name} {facts[name]}: {why}; no file says how pictures are prepared")
    from PIL import Image  # missing, it is said before any work

    filters = [filter.name.lower() for filter in Image.Resampling]
    if facts["interpolation"] not in filters:
        raise ModelError(f"interpolation must be one of {', '.join(filters)}, not "
                         f"{shown(facts['interpolation'])}")
    steps = _transformers(facts, size) if "processor" in meta else _timm(facts, size, planes)
    return Preparation(size=size, planes=planes, interpolation=facts["interpolation"],
                       assumed=tuple(assumed), **steps)


def _timm(facts, size, planes):
    """Return the steps of timm's transform for evaluation."""
    share, mode = facts["crop_pct"], facts.get("crop_mode") or "center"
    if mode not in _MODES:
        raise ModelError(f"crop_mode must be one of {', '.join(_MODES)}, not {shown(mode)}")
    if not isinstance(share, int | float) or not 0.01 <= share <= 1:
        raise ModelError(f"crop_pct must be a number from 0.01 to 1, not {shown(share)}")
    edges = tuple(math.floor(side / share) for side in size)
    if mode != "border":
        return {"resize": ("sides" if mode == "squash" else "shortest", edges)}
    mean = facts["mean"] if isinstance(facts.get("mean"), list) else [0]
    fill = [round(255 * value) for value in (mean * planes)[:planes]]
    return {"resize": ("longest", edges), "fill": tuple(fill) if planes > 1 else fill[0]}


def _transformers(facts, size):
    """Return the steps of an image processor of transformers."""
    if facts["processor"] not in _PROCESSORS:
        raise ModelError(f"image_processor_type must be one of {', '.join(_PROCESSORS)} with "
                         f"pictures, not {shown(facts['processor'])}; images of the network's "
                         f"size go in as .npz")
    resize, crop = facts.get("resize"), facts.get("crop")
    crop = _sides(facts, "crop") if crop is not None else None
    if resize is not None:
        resize = _resize(resize)
    there = crop or (resize[1] if resize and resize[0] == "sides" else size)
    if there != size:
        resize = _scaled(resize, crop, there, size, facts)
    return {"resize": resize, "rounds": False, "crop": crop is not None}


def _resize(table):
    """Return kind and sides of a checked table ``resize``."""
    if isinstance(table, dict) and all(type(side) is int and 1 <= side <= _LARGEST
                                       for side in table.values()):
        if table.keys() == {"shortest_edge"}:
            return "shortest", (table["shortest_edge"],) * 2
        if table.keys() == {"height", "width"}:
            return "sides", (table["height"], table["width"])
    raise ModelError(f"size of the image processor must be shortest_edge, or height and width, "
                     f"from 1 to {_LARGEST}, not {shown(table)}")


def _scaled(resize, crop, there, size, facts):
    """Return the resizing for an image size that the user gave, in the same proportion."""
    origins = facts.get("origins")
    if not isinstance(origins, dict) or origins.get("image_size") != "given":
        raise ModelError(f"{'crop_size' if crop else 'size'} of the image processor must be "
                         f"{size[0]} x {size[1]} as the network takes images, not {there[0]} x "
                         f"{there[1]}")
    if resize is None:
        return None
    kind, sides = resize
    return kind, tuple(side * wanted // own for side, own, wanted in
                       zip(sides, there, size, strict=True))


def _sides(facts, name):
    value = facts.get(name)
    if not isinstance(value, list) or len(value) != 2 or not all(
            type(side) is int and 1 <= side <= _LARGEST for side in value):
        raise ModelError(f"{name} must be a height and a width from 1 to {_LARGEST} to prepare "
                         f"pictures, not {shown(value)}")
    return tuple(value)
