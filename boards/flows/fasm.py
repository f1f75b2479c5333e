"""FASM, the features of a bitstream by name, as Project X-Ray's tools take them."""

import re

__all__ = ["FasmError", "parse_fasm"]

_LINE = re.compile(
    r"(?P<tile>\w+)\.(?P<name>[\w.]+(?:\[\d+\])?)|(?P<wide>\w+\.[\w.]+)\[(?P<high>\d+):(?P<low>\d+)\]"
    r"\s*=\s*(?P<bits>\d+)'b(?P<value>[01_]+)")


class FasmError(ValueError):
    """A line is not FASM of a placer; the message has its number."""


def parse_fasm(text):
    """Return the features of FASM `text` by tile.

    Of the format only what placers write: features that are set, one a line, and vectors of them
    with a binary value; comments and annotations are left out.

    Returns
    -------
    dict of str to dict
        By tile the value of each feature, named without its tile: 1, or of a vector
        ``NAME[high:low]`` under ``NAME`` the number whose bit k is the feature ``NAME[k]``.

    Raises
    ------
    FasmError
        If a line is something else.
    """
    tiles = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.split("#", 1)[0].split("{", 1)[0].strip()
        if not line:
            continue
        if not (match := _LINE.fullmatch(line)):
            raise FasmError(f"line {number} must be a feature, or a vector of them with a binary "
                            f"value, not {line[:60]!r}")
        if match["tile"]:
            tiles.setdefault(match["tile"], {})[match["name"]] = 1
            continue
        tile, name = match["wide"].split(".", 1)
        low, value = int(match["low"]), int(match["value"].replace("_", ""), 2)
        if int(match["high"]) - low + 1 < value.bit_length():
            raise FasmError(f"line {number} gives {name} more bits than it has")
        features = tiles.setdefault(tile, {})
        features[name] = features.get(name, 0) | value << low
    return tiles
