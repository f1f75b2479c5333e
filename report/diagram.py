"""Diagrams as data: boxes, lines and texts in points from the top left corner, and their files.

A diagram is a list of shapes. Its `digest` is written into an SVG file, so that one sees whether
the file shows what would be drawn now, whichever version of matplotlib drew it.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon
from matplotlib.path import Path as Outline

__all__ = ["FORMATS", "INK", "MUTED", "Box", "Line", "Text", "digest", "drawn_digest", "save"]

FORMATS = (".svg", ".png")
"""Endings of files that a diagram can be written to."""

INK, MUTED = "#1f2a44", "#69748a"

_CORNER, _HEAD = 5, 4.2
_MARK = "shapes sha256:"


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle with round corners; (x, y) is its top left one. Lower `layer`s lie below."""

    x: float
    y: float
    width: float
    height: float
    fill: str = "white"
    edge: str = "none"
    line: float = 0.9
    dashed: bool = False
    layer: int = 3


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through `points` with round corners, and an arrow's head at its end."""

    points: tuple
    color: str = MUTED
    line: float = 1.0
    head: bool = True
    dashed: bool = False
    layer: int = 2


@dataclass(frozen=True, kw_only=True)
class Text:
    """A line of text whose middle height is at `y`."""

    x: float
    y: float
    text: str
    size: float = 8
    color: str = INK
    align: str = "center"
    bold: bool = False


def digest(shapes):
    """Return a hash of all that a diagram shows."""
    data = [[type(shape).__name__, dataclasses.asdict(shape)] for shape in shapes]
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def drawn_digest(svg):
    """Return the `digest` of the shapes that the text of an SVG file was drawn from, or None."""
    found = re.search(f"{_MARK}([0-9a-f]{{64}})", svg)
    return found and found[1]


def save(shapes, size, path):
    """Write a diagram of `size` (width, height) to an ``.svg`` or ``.png`` file.

    Equal shapes give equal files with the same version of matplotlib.
    """
    path = Path(path)
    figure = matplotlib.figure.Figure(figsize=(size[0] / 72, size[1] / 72), dpi=200)
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axis.axis("off")
    for shape in shapes:
        _DRAW[type(shape)](axis, shape)
    metadata = {"Date": None, "Creator": None, "Description": _MARK + digest(shapes)}
    with matplotlib.rc_context({"svg.hashsalt": "systola", "svg.fonttype": "path"}):
        figure.savefig(path, metadata=metadata if path.suffix == ".svg" else None,
                       facecolor="white")


def _box(axis, box):
    axis.add_patch(FancyBboxPatch(
        (box.x, box.y), box.width, box.height, boxstyle="round,pad=0,rounding_size=4",
        facecolor=box.fill, edgecolor=box.edge, linewidth=box.line, zorder=box.layer,
        linestyle=(0, (4, 3)) if box.dashed else "solid"))


def _line(axis, line):
    points = [tuple(map(float, point)) for point in line.points]
    (x, y), before = points[-1], points[-2]
    along = _towards(points[-1], before, _HEAD)
    if line.head:
        dx, dy = (x - along[0]) * 0.55, (y - along[1]) * 0.55
        axis.add_patch(Polygon([(x, y), (along[0] - dy, along[1] + dx),
                                (along[0] + dy, along[1] - dx)],
                               facecolor=line.color, linewidth=0, zorder=line.layer))
        points[-1] = _towards(points[-1], before, _HEAD * 0.6)
    path, codes = [points[0]], [Outline.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path += [_towards(corner, before, _CORNER), corner, _towards(corner, after, _CORNER)]
        codes += [Outline.LINETO, Outline.CURVE3, Outline.CURVE3]
    axis.add_patch(PathPatch(Outline([*path, points[-1]], [*codes, Outline.LINETO]), fill=False,
                             edgecolor=line.color, linewidth=line.line, zorder=line.layer,
                             linestyle=(0, (3, 2)) if line.dashed else "solid",
                             capstyle="butt", joinstyle="round"))


def _towards(start, end, most):
    """Return the point `most` from `start` to `end`, or half way if that is nearer."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = (dx * dx + dy * dy) ** 0.5
    share = min(most / length, 0.5) if length else 0
    return start[0] + dx * share, start[1] + dy * share


def _text(axis, text):
    axis.text(text.x, text.y, text.text, fontsize=text.size, color=text.color, ha=text.align,
              va="center_baseline", fontweight="bold" if text.bold else "normal", zorder=5,
              parse_math=False)


_DRAW = {Box: _box, Line: _line, Text: _text}
