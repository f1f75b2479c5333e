"""The rooms and their arrows, by rules.py, as the picture of docs/ARCHITECTURE.md."""

import ast
import runpy
from pathlib import Path

from systola.report.diagram import INK, MUTED, Box, Line, Text
from systola.report.routes import Router, corners

__all__ = ["arrows", "house_shapes"]

ROOMS = runpy.run_path(str(Path(__file__).with_name("rules.py")))["ROOMS"]

EVERYWHERE = {"files": "#12a5b5", "hw/contract": "#e0a800"}
"""Rooms that most others import: these have a dot of their colour instead of an arrow."""

PLACES = {
    "files": (0, 0, 7), "hw/contract": (0, 0.85, 7),
    "model/operators": (0.5, 2.25), "model/graph": (0.5, 3.1), "model/importers": (0, 3.95),
    "model/quantization": (1, 3.95), "model/kernel": (0, 4.8), "model/allocation": (1, 4.8),
    "model/data": (0.5, 5.65), "model/training": (2, 5.65),
    "model/evaluation": (0, 6.5), "model/benchmark": (1, 6.5),
    "sw_driver/program": (2.5, 2.25), "sw_driver/compiler": (2, 3.75),
    "sw_driver/driver": (3, 3.75),
    "hw/parts": (5, 2.25), "hw/memory": (4, 3.25), "hw/load": (5, 3.25), "hw/host": (6, 3.25),
    "hw/matrix": (4, 4.25), "hw/control": (5, 4.25), "hw/vector": (6, 4.25), "hw": (5, 5.9),
    "hw/resident": (6, 5.05),
    "sim/machine": (0, 7.75), "sim": (1, 7.75), "sim/verilog": (2, 7.75), "sim/formal": (3, 7.75),
    "sim/conform": (1, 8.75), "sim/runs": (2, 8.75), "sim/soak": (2, 9.75),
    "sim/benches": (3, 10.75), "sw_driver/selftest": (3, 8.75), "boards/dram": (4, 7.75),
    "boards/synthesis": (5, 7.75), "boards/power": (4, 8.75), "boards/flows": (6, 8.75),
    "boards": (6, 9.75), "report": (4, 11, 2), "systola": (0, 12.75, 2),
    "explore": (5, 11.7), "cluster": (3, 11.7), "cli": (2, 12.75, 5),
}
"""Column and row of a room, and how many columns it is wide; rooms without a rule have none."""

COLORS = {"model": "#2684c9", "sw_driver": "#1a7f4b", "hw": "#c06a14", "sim": "#7d5ba6",
          "boards": "#b3261e", "report": "#5d6b85", "cluster": "#00838f", "cli": INK,
          "explore": "#6b7f00",
          "systola": INK}
"""Of packages, and of the arrows to their rooms."""

_CELL, _WIDTH, _HEIGHT, _ACROSS, _DOWN, _LEFT, _TOP = 6, 16, 5, 20, 10, 5, 3
_OUR = {room.partition("/")[0] for room in ROOMS}


def _room(name):
    """Return the room of what a rule names."""
    while name not in ROOMS:
        name = name.rpartition("/")[0]
    return name


def arrows():
    """Return ``{(room, room that it may import): whether single modules only}`` to be drawn.

    Left out are `EVERYWHERE`, and rooms that another arrow of the same room leads to.
    """
    direct, whole = {}, set()
    for room, may in ROOMS.items():
        ours = [name for name in may.split() if name.partition("/")[0] in _OUR]
        direct[room] = dict.fromkeys(target for target in map(_room, ours)
                                     if target not in (room, *EVERYWHERE))
        whole |= {(room, name) for name in ours if name in ROOMS}
    reached = {}
    for room, targets in direct.items():
        reached[room] = set(targets).union(*(reached[target] for target in targets))
    return {(room, target): (room, target) not in whole
            for room, targets in direct.items() for target in targets
            if not any(target in reached[other] for other in targets)}


def house_shapes():
    """Return the shapes of the picture and its size in points."""
    rooms = [room for room, may in ROOMS.items() if may]
    cells = {room: _cells(*PLACES[room]) for room in rooms}
    right = max(x + width for x, _, width in cells.values())
    bottom = max(y for _, y, _ in cells.values()) + _HEIGHT
    size = ((right + _LEFT) * _CELL, (bottom + 9) * _CELL)
    shapes = [*_frames(cells)]
    shapes += _lines(cells, (right + _LEFT, bottom + 5), _titles(shapes))
    for room in rooms:
        shapes += _box(room, *cells[room])
    shapes += _caption((bottom + 3.6) * _CELL)
    return shapes, size


def _cells(column, row, columns=1):
    """Return x, y and width in cells."""
    return (round(_LEFT + column * _ACROSS), round(_TOP + row * _DOWN),
            round((columns - 1) * _ACROSS) + _WIDTH)


def _frames(cells):
    """Return a frame around the rooms of every package that has several."""
    for package in dict.fromkeys(room.partition("/")[0] for room in cells):
        mine = [cells[room] for room in cells
                if room.partition("/")[0] == package and room not in EVERYWHERE]
        if len(mine) < 2:
            continue
        left, top = min(x for x, _, _ in mine) - 1.8, min(y for _, y, _ in mine) - 4
        right = max(x + width for x, _, width in mine) + 1.8
        bottom = max(y for _, y, _ in mine) + _HEIGHT + 1.6
        yield Box(x=left * _CELL, y=top * _CELL, width=(right - left) * _CELL,
                  height=(bottom - top) * _CELL, fill="#f6f8fb", edge="#d5dbe5", layer=1)
        yield Text(x=(left + 1.2) * _CELL, y=(top + 1.8) * _CELL, text=f"{package}/", size=10,
                   color=COLORS[package], align="left", bold=True)


def _titles(frames):
    """Return the cells where the names of frames stand."""
    return {(round(frame.x / _CELL) + across, round(frame.y / _CELL) + down)
            for frame in frames if isinstance(frame, Box)
            for across in range(10) for down in range(1, 4)}


def _lines(cells, size, blocked):
    """Return the arrows, each net of the colour of the room that it leads to."""
    router = Router(size, blocked | {
        (x + across, y + down) for x, y, width in cells.values()
        for across in range(width + 1) for down in range(_HEIGHT + 1)})

    def length(arrow):
        return sum(abs(one - other) for one, other in zip(*(cells[room][:2] for room in arrow),
                                                          strict=True))

    drawn = arrows()
    for room, target in sorted(drawn, key=length):
        way = router.route(target, _sides(*cells[room], out=True),
                           _sides(*cells[target], out=False))
        points = _at_box(way[0], cells[room]), *corners(way), _at_box(way[-1], cells[target])
        yield Line(points=tuple((x * _CELL, y * _CELL) for x, y in points),
                   color=COLORS[target.partition("/")[0]], line=1.1, dashed=drawn[room, target])


def _sides(x, y, width, *, out):
    """Return where arrows leave a box (`out`), above before beside; or enter it, below."""
    up, row = (0, -1), y - 1 if out else y + _HEIGHT + 1
    # Nearer to the middle is better; of a wide bar, any place is as good.
    slope = 0.3 if width == _WIDTH else 0.0
    sides = {((x + across, row), up): slope * abs(across - width / 2)
             for across in range(2, width - 1, 2)}
    for down in 2, 3:
        sides[(x - 1, y + down), (-1, 0) if out else (1, 0)] = 5.0
        sides[(x + width + 1, y + down), (1, 0) if out else (-1, 0)] = 5.0
    return sides


def _at_box(cell, box):
    """Return the point of a box's edge beside a cell."""
    x, y, width = box
    return min(max(cell[0], x), x + width), min(max(cell[1], y), y + _HEIGHT)


def _box(room, x, y, width):
    """Return the shapes of a room: a bar if it is wider than others."""
    color = EVERYWHERE.get(room) or COLORS[room.partition("/")[0]]
    may = ROOMS[room].split()
    others = ", ".join(name for name in may if name.partition("/")[0] not in _OUR)
    middle = (x + width / 2) * _CELL
    yield Box(x=x * _CELL, y=y * _CELL, width=width * _CELL, height=_HEIGHT * _CELL, edge=color,
              line=1.1)
    heights = ((y + 1.8) * _CELL, (y + 3.7) * _CELL) if others else ((y + 2.5) * _CELL,)
    if width > _WIDTH:
        left = (x + 1.5) * _CELL
        if room in EVERYWHERE:
            yield Box(x=left, y=heights[0] - 0.6 * _CELL, width=1.2 * _CELL, height=1.2 * _CELL,
                      fill=color)
            left += 2.4 * _CELL
        texts = [(left, "left"), (left, "left")]
        if width > 4 * _WIDTH:
            yield Text(x=middle, y=(y + 2.5) * _CELL, text=_holds(room), size=8, color=MUTED)
    else:
        texts = [(middle, "center")] * 2
    for (place, align), height, text, bold in zip(
            texts, heights, (f"{room if width > _WIDTH else room.rpartition('/')[2]}/", others),
            (True, False), strict=False):
        yield Text(x=place, y=height, text=text, size=9 if bold else 6.5, align=align, bold=bold,
                   color=INK if bold else MUTED)
    used = {_room(name) for name in may if name.partition("/")[0] in _OUR}
    for place, name in enumerate(sorted(used.intersection(EVERYWHERE))):
        yield Box(x=(x + width - 1.7) * _CELL, y=(y + 0.7 + 1.5 * place) * _CELL,
                  width=_CELL, height=_CELL, fill=EVERYWHERE[name])


def _holds(room):
    text = (Path(__file__).parents[2] / room / "__init__.py").read_text()
    return ast.get_docstring(ast.parse(text)).rstrip(".")


def _caption(y):
    texts = ["""An arrow leads to a room that may be imported; dashed: to single modules of it.
             A dot: files/ (teal), hw/contract/ (amber).""",
             """Small: packages of others. Not drawn: arrows to rooms that another arrow of the
             same room leads to. The table has all."""]
    for line, text in enumerate(texts):
        yield Text(x=_LEFT * _CELL, y=y + line * 2.2 * _CELL, size=7.5,
                   text=" ".join(text.split()), color=MUTED,
                   align="left")

