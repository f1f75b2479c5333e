"""A wish in one sentence to a design space: ``fps at least 30 on arty_s7_50 for deit_tiny``."""

import re
import tomllib
from pathlib import Path

from systola.explore.figures import FIGURES
from systola.explore.space import SpaceError
from systola.files.bounded import shown
from systola.model.data.synthetic import MODELS, SWINS

__all__ = ["goal_space"]

_FILE = Path(__file__).with_name("goal.toml")
_SIGNS = {"at least": ">=", "at most": "<="}
_WISH = r"[a-z][a-z0-9_]* at (?:least|most) \d+(?:\.\d+)?"
_FORM = re.compile(rf"((?:{_WISH})(?: and {_WISH})*) on (\w+) for ([^ ]+)"
                   r"(?: with (best(?: [a-z0-9_]+)+))?")


def goal_space(text):
    """Return the fields of a space, as a file of it has them, for a goal.

    A goal is ``FIGURE at least|at most NUMBER [and ...] on BOARD for MODEL``, with, if wanted,
    ``with best FIGURE ...`` behind it.
    Parts and clock come from the board; what varies is in ``goal.toml``. Unless it says what is to
    be best, that are cycles and LUTs, and the accuracy of a trained network.

    Raises
    ------
    SpaceError
        If it is no such sentence.
    """
    match = _FORM.fullmatch(" ".join(text.split())) if len(text) <= 500 else None
    if match is None:
        raise SpaceError(f"a goal must be like 'fps at least 30 on arty_s7_50 for deit_tiny', or "
                         f"end in 'with best cycles dsp', not {shown(text)}")
    wishes, board, model, best = match.groups()
    limits = []
    for wish in wishes.split(" and "):
        name, sign, number = re.fullmatch(r"(\w+) (at least|at most) (\S+)", wish).groups()
        if name not in FIGURES:
            raise SpaceError(f"a goal must be of {', '.join(FIGURES)}, not {shown(name)}")
        limits.append(f"{name} {_SIGNS[sign]} {number}")
    fields = tomllib.loads(_FILE.read_text())
    front = fields.setdefault("front", {})
    front |= {"board": board, "limits": limits}
    named = model in {**MODELS, **SWINS}
    fields["network"] = {"model": model, "random_weights": named}
    if best:
        front["objectives"] = best.split()[1:]
    return {"name": "goal", **fields}
