"""Reading what nobody vouches for: files of bounded size, strict JSON and TOML, short messages."""

import json
import math
import stat
import tomllib
from pathlib import Path

__all__ = ["DEPTH", "check_file", "parse_json", "parse_toml", "read_file", "shorten", "shown"]

DEPTH = 32
"""Deepest nesting of tables and lists that a file may have."""

_SHOWN = 160


def check_file(path, limit):
    """Return the size of the regular file `path` in bytes.

    Raises ``ValueError`` if it is something else (a folder, a pipe, a device) or larger than
    `limit` bytes, ``OSError`` if it is not there. Neither message names the file.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it must be a regular file")
    if status.st_size > limit:
        raise ValueError(f"it must have at most {limit:,} bytes, not {status.st_size:,}")
    return status.st_size


def read_file(path, limit):
    """Return the bytes of a file; raises like `check_file`, and ``OSError`` if it is unreadable."""
    size = check_file(path, limit)
    with open(path, "rb") as file:
        content = file.read(size + 1)
    if len(content) != size:
        raise ValueError(f"it has another size than the {size:,} bytes that are announced")
    return content


def parse_json(text):
    """Return what `text` (str or UTF-8 bytes) holds; raises ``ValueError`` with one line.

    Stricter than the standard library: no key twice, no NaN or infinite number, and at most
    `DEPTH` levels.
    """
    try:
        return _checked(json.loads(text, object_pairs_hook=_table, parse_constant=_no_constant,
                                   parse_float=_finite))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def parse_toml(text):
    """Return the table that `text` holds, at most `DEPTH` levels; raises ``ValueError``."""
    # A key of n parts costs the standard library n**2 memory and more time; it is on one line.
    if max(line.count(".") for line in text.split("\n")) > DEPTH:
        raise ValueError(f"a line must have at most {DEPTH} dots")
    try:
        return _checked(tomllib.loads(text))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def shown(value):
    """Return `value` as messages show it: its ``repr``, cut where it gets long."""
    try:
        return shorten(repr(value))
    except (RecursionError, ValueError):  # an integer of thousands of digits is a ValueError
        return f"a huge {type(value).__name__}"


def shorten(text):
    """Return the first line of `text`, cut where it gets long, without control characters."""
    line = next(iter(str(text).splitlines()), "")
    line = "".join(char if char.isprintable() else "?" for char in line[:_SHOWN + 1])
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


_TOO_DEEP = f"tables and lists must be nested at most {DEPTH} deep"


def _checked(value):
    level = [value]
    for _ in range(DEPTH):
        level = [item for parent in level if isinstance(parent, (dict, list))
                 for item in (parent.values() if isinstance(parent, dict) else parent)]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


def _table(pairs):
    table = dict(pairs)
    if len(table) != len(pairs):
        seen = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"key {shown(twice)} must be there once")
    return table


def _no_constant(name):
    raise ValueError(f"numbers must be finite, not {name}")


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"numbers must be finite, not {shorten(text)}")
    return value
