"""SDF, the delays of a placed and routed design, as nextpnr writes them."""

import re
from dataclasses import dataclass, field

__all__ = ["Sdf", "parse_sdf"]

_LINE = re.compile(
    r"\(INTERCONNECT (?P<source>\S+)/(?P<out>\S+) (?P<sink>\S+)/(?P<into>\S+) \((?P<net>\d+)"
    r"|\(IOPATH (?P<from>\w+) (?P<to>\w+) \((?P<through>\d+)"
    r'|\(CELLTYPE "(?P<kind>\w+)"\)|\(INSTANCE (?P<name>\S*)\)|\(TIMESCALE (?P<scale>\w+)\)')
_ESCAPE = re.compile(r"\\(.)")


@dataclass
class Sdf:
    """Delays of a design, in ns.

    ``kinds`` has the kind of each cell; ``nets`` by sink ``(cell, pin)`` its source and the delay
    between; ``paths`` by output ``(cell, pin)`` the inputs that reach it inside the cell, each with
    its delay.
    """

    kinds: dict = field(default_factory=dict)
    nets: dict = field(default_factory=dict)
    paths: dict = field(default_factory=dict)


def parse_sdf(lines):
    """Return the `Sdf` of the lines of a file; raise ``ValueError`` unless its unit is 1 ps."""
    found, kind, cell = Sdf(), None, None
    for line in lines:
        if not (match := _LINE.search(line)):
            continue
        if match["net"]:
            source, sink = (_ESCAPE.sub(r"\1", match[name]) for name in ("source", "sink"))
            found.nets[sink, match["into"]] = (source, match["out"]), int(match["net"]) / 1000
        elif match["through"]:
            found.paths.setdefault((cell, match["to"]), []).append(
                ((cell, match["from"]), int(match["through"]) / 1000))
        elif match["kind"]:
            kind = match["kind"]
        elif match["scale"]:
            if match["scale"] != "1ps":
                raise ValueError(f"the unit of the delays must be 1ps, not {match['scale']}")
        else:
            cell = _ESCAPE.sub(r"\1", match["name"])
            found.kinds[cell] = kind
    return found
