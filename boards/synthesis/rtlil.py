"""Amaranth's RTLIL text prepared for hierarchical synthesis."""

import itertools
import re
from collections import Counter

__all__ = ["keep_large", "merge_identical", "own_wires", "prepared", "quote_indices"]

_NAME = re.compile(r"\\[^\s\"]+")
_MODULE = re.compile(r"^module (\S+)\n(.*?)^end\n", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"((?:in|out)put) \d+")
_TOP = "attribute \\top 1\n"
_CELL = re.compile(r"^( *cell )(\\\S+)( )", re.MULTILINE)
_UNNAMED = re.compile(r"(?<=\s)\$(?=\d+\s)")


def prepared(text, smallest, always=(), inline=()):
    """Return RTLIL `text` as Yosys gets it: equal modules once, small ones to be flattened.

    The parameters are those of `keep_large`.
    """
    text = own_wires(merge_identical(quote_indices(text)))
    return keep_large(text, smallest, always=always, inline=inline)


def quote_indices(text):
    r"""Return RTLIL `text` with names like ``\x[3]`` written ``\x.3``.

    Technology mapping names bit 3 of ``x`` like that, and fails if the name is taken.
    """
    return _NAME.sub(lambda match: match[0].replace("[", ".").replace("]", ""), text)


def merge_identical(text):
    """Return RTLIL `text` with one module for all that differ in name only, first instance's name.

    Works upwards from the leaves, so that identical trees merge. Modules appear before or after
    their users.
    """
    bodies = dict(_MODULE.findall(text))
    merged, first, kept = {}, {}, {}

    def visit(name):
        if name not in merged:
            body = _CELL.sub(lambda match: match[1] + (
                visit(match[2]) if match[2] in bodies else match[2]) + match[3], bodies[name])
            merged[name], kept[name] = first.setdefault(_key(body), name), body
        return merged[name]

    for name in bodies:
        visit(name)
    top = next(iter(bodies))
    return "".join((_TOP if name == top else "") + f"module {name}\n{kept[name]}end\n"
                   for name in bodies if merged[name] == name)


def keep_large(text, lines, instances=8, always=(), inline=()):
    """Return RTLIL `text` in which flattening leaves the modules that are worth a name.

    Those are the ones of at least `lines` lines, the ones used at least `instances` times by
    another, and the ones with a name in `always`; but none inside the ones with a name in `inline`.
    """
    used = Counter()
    for _, body in _MODULE.findall(text):
        for (_, kind, _), count in Counter(_CELL.findall(body)).items():
            used[kind] = max(used[kind], count)

    def mark(match):
        name, body = match.groups()
        *path, last = name.removeprefix("\\").split(".")
        kept = last in always or (not set(path) & set(inline) and (
            body.count("\n") >= lines or used[name] >= instances))
        return ("attribute \\keep_hierarchy 1\n" if kept else "") + match[0]

    return _MODULE.sub(mark, text)


def own_wires(text):
    """Return RTLIL `text` in which no two modules have an unnamed wire of the same name.

    Yosys orders the operands of a sum by which of their names it has seen first, and the first one
    goes into the carry chain by itself, too. That should be the register, not the unnamed
    expression, or each bit takes two look-up tables instead of one. In a module, registers are
    first; but names of unnamed wires begin anew in every module.
    """
    numbers = itertools.count()
    return _MODULE.sub(lambda match: _UNNAMED.sub(f"$m{next(numbers)}_", match[0]), text)


def _key(body):
    """Return what identical modules share: ports and connections in any order."""
    blocks = _PORT.sub(r"\1", body).strip("\n").split("\n\n")
    return tuple(sorted("\n".join(sorted(block.split("\n"))) if block.startswith("  cell ")
                        else block for block in blocks))
