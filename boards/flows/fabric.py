"""The wires of a Xilinx device, from Project X-Ray's database, and what a bitstream connects."""

import json
import re
from functools import cache
from pathlib import Path

__all__ = ["CONSTANT_WIRES", "Fabric", "Routing"]

CONSTANT_WIRES = "GND_WIRE", "VCC_WIRE"
"""Wires of each interconnect tile that are always 0, and 1."""


class Fabric:
    """Tiles, sites and fixed wires of a device.

    Parameters
    ----------
    database : str or Path
        Folder of the family in Project X-Ray's database.
    name : str
        The device, ``xc7s50``.

    Attributes
    ----------
    sites : dict of str to tuple
        By site its tile and its number among those of its kind in the tile, bottom first.

    Raises
    ------
    OSError, ValueError, KeyError
        If the database is not complete.
    """

    def __init__(self, database, name):
        self._folder = Path(database)
        grid = self._read(f"{name}/tilegrid.json")
        self._kinds = {tile: entry["type"] for tile, entry in grid.items()}
        self._places = {tile: (entry["grid_x"], entry["grid_y"]) for tile, entry in grid.items()}
        self._tiles = {place: tile for tile, place in self._places.items()}
        self.sites = {}
        for tile, entry in grid.items():
            numbers = {}
            for site in sorted(entry["sites"], key=lambda site: (site.split("_")[0], _row(site))):
                kind = site.split("_")[0]
                self.sites[site] = tile, numbers.setdefault(kind, 0)
                numbers[kind] += 1
        # By kind of tile and wire, the other end of each fixed connection to a neighbour.
        self._joints = {}
        for entry in self._read(f"{name}/tileconn.json"):
            (left, right), (x, y) = entry["tile_types"], entry["grid_deltas"]
            for a, b in entry["wire_pairs"]:
                self._joints.setdefault((left, a), []).append((x, y, right, b))
                self._joints.setdefault((right, b), []).append((-x, -y, left, a))

    def _read(self, name):
        return json.loads((self._folder / name).read_text())

    def kind(self, tile):
        """Return the kind of a tile, or None if there is no such tile."""
        return self._kinds.get(tile)

    @cache  # noqa: B019 - a fabric lives as long as the check
    def pins(self, tile_kind):
        """Return, by (prefix of the site, its number), wire and direction of its pins by name."""
        found, seen = {}, {}
        sites = self._read(f"tile_type_{tile_kind}.json")["sites"]
        for site in sorted(sites, key=lambda site: (site["prefix"], site["y_coord"],
                                                    site["x_coord"])):
            number = seen[site["prefix"]] = seen.get(site["prefix"], -1) + 1
            directions = self._read(f"site_type_{site['type']}.json")["site_pins"]
            found[site["prefix"], number] = {
                pin: (entry["wire"], directions[pin]["direction"])
                for pin, entry in site["site_pins"].items() if entry}
        return found

    @cache  # noqa: B019
    def outputs(self, tile_kind):
        """Return, by wire that a site drives, the prefix and number of the site and its pin."""
        return {wire: (*site, pin) for site, pins in self.pins(tile_kind).items()
                for pin, (wire, direction) in pins.items() if direction == "OUT"}

    @cache  # noqa: B019
    def fixed(self, tile_kind):
        """Return the source by destination of the connections that are always there, by wire.

        A second dictionary has those that are there if the bitstream has no other.
        """
        found, named = {"always": {}, "default": {}}, set()
        for line in self._lines(f"ppips_{tile_kind.lower()}.db"):
            name, when = line.split()
            _, destination, source = name.split(".")
            named.add((destination, source))
            if when in found:
                found[when][destination] = source
        for line in self._lines(f"segbits_{tile_kind.lower()}.db"):
            named.add(tuple(line.split()[0].split(".")[1:]))
        # What no bit stands for is there unless a bit says something else.
        others = {}
        for pip in self._read(f"tile_type_{tile_kind}.json")["pips"].values():
            wires = pip["dst_wire"], pip["src_wire"]
            if wires not in named:
                others.setdefault(wires[0], []).append(wires[1])
        for destination, sources in others.items():
            if len(sources) == 1:
                found["default"].setdefault(destination, sources[0])
        return found["always"], found["default"]

    def _lines(self, name):
        path = self._folder / name
        return path.read_text().splitlines() if path.is_file() else []

    def node(self, tile, wire):
        """Return all ``(tile, wire)`` that are one piece of metal with this one."""
        found, new = {(tile, wire)}, [(tile, wire)]
        while new:
            tile, wire = new.pop()
            x, y = self._places[tile]
            for dx, dy, kind, other in self._joints.get((self._kinds[tile], wire), ()):
                neighbour = self._tiles.get((x + dx, y + dy))
                if self._kinds.get(neighbour) == kind and (neighbour, other) not in found:
                    found.add((neighbour, other))
                    new.append((neighbour, other))
        return found


class Routing:
    """What the features of a bitstream connect on a `Fabric`.

    Parameters
    ----------
    fabric : Fabric
    features : dict
        As `systola.boards.flows.fasm.parse_fasm` returns them.
    """

    def __init__(self, fabric, features):
        self._fabric, self._features = fabric, features
        self._sources, self._drivers = {}, {}
        for tile, names in features.items():
            for name in names:
                destination, dot, source = name.partition(".")
                if dot and "." not in source:
                    self._drivers.setdefault((tile, destination), []).append(source)

    def source(self, tile, wire):
        """Return where the signal on a wire comes from, as ``(tile, wire)``; None if nowhere.

        Raises ``ValueError`` if several connections drive a wire on the way, or it is a circle.
        """
        path = []
        at = tile, wire
        while at not in self._sources:
            node = self._fabric.node(*at)
            path.append(node)
            if len(path) > 1000:
                raise ValueError(f"the wires before {tile}/{wire} are a circle")
            if (before := self._before(node)) is None:
                found = min((end for end in node if end[1] in self._outputs(end[0])),
                            default=None)
                break
            at = before
        else:
            found = self._sources[at]
        for node in path:
            self._sources.update(dict.fromkeys(node, found))
        return found

    def constant(self, tile, wire):
        """Return ``"0"`` or ``"1"`` if a source is that constant, else None.

        It may be a LUT that is 0 (or 1) for every input, as a LUT is that nothing was said of.
        """
        if wire in CONSTANT_WIRES:
            return str(CONSTANT_WIRES.index(wire))
        prefix, number, pin = self._outputs(tile)[wire]
        if prefix != "SLICE" or pin not in "ABCD":
            return None
        table = next((value for name, value in self._features.get(tile, {}).items()
                      if re.fullmatch(rf"SLICE[LM]_X{number}\.{pin}LUT\.INIT", name)), 0)
        return {0: "0", 2**64 - 1: "1"}.get(table)

    def _outputs(self, tile):
        return self._fabric.outputs(self._fabric.kind(tile))

    def _before(self, node):
        """Return the wire that drives a node; None if no connection does."""
        found, otherwise = set(), set()
        for tile, wire in node:
            always, default = self._fabric.fixed(self._fabric.kind(tile))
            if (tile, wire) in self._drivers:
                found |= {(tile, source) for source in self._drivers[tile, wire]}
            elif wire in always:
                found.add((tile, always[wire]))
            elif wire in default:
                otherwise.add((tile, default[wire]))
        if len(found) > 1:
            raise ValueError("several connections drive the wire " + "/".join(min(node)))
        return next(iter(found or otherwise), None)


def _row(site):
    """Return the row of a site, and its column, from its name."""
    x, _, y = site.rpartition("_X")[2].partition("Y")
    return int(y), int(x)
