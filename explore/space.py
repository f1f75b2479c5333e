"""A design space as data: which fields vary, within which limits, and what is best."""

import dataclasses
import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from systola.explore.figures import FIGURES
from systola.explore.limit import Limit
from systola.explore.point import Point
from systola.files.bounded import parse_toml, read_file, shorten, shown
from systola.hw.contract.config import PRESETS, AcceleratorConfig, ConfigError
from systola.model.data.examples import is_example
from systola.model.data.synthetic import MODELS, SWINS
from systola.model.quantization.methods import BEST, CODEBOOKS, METHODS

__all__ = ["DEAR", "EXHAUSTIVE", "FINAL", "SAMPLERS", "Axis", "Space", "SpaceError",
           "general_reason"]

EXHAUSTIVE = 20_000
"""Most combinations of a space that is searched through unless it says otherwise."""

SAMPLERS = "exhaustive", "nsga2"
"""Ways to search: every point, or those that a genetic algorithm of Optuna asks for."""

DEAR = "synthesis", "rtl", "power", "route"
"""Measures that only finalists get, and what may have to be synthesized for the front."""

FINAL = "power", "route"
"""Measures whose figures only finalists have."""

_FILE_BYTES = 1 << 16
_VALUES = 256
_COMBINATIONS = 10**12
_NAMED = tuple({**MODELS, **SWINS})

_KNOWN = {
    "": ("name", "network", "config", "quantization", "program", "front", "search", "finalists"),
    "network": ("model", "data", "calibration", "images", "random_weights", "blocks", "seed"),
    "program": ("batch",),
    "front": ("objectives", "limits", "board", "clock_mhz"),
    "search": ("sampler", "points", "minutes", "seed"),
    "finalists": ("count", "syntheses", "measures", "images"),
}


class SpaceError(ValueError):
    """A space cannot be used; one line names the entry and what it must be."""


@dataclass(frozen=True)
class Axis:
    """What varies: a `name` in a `section` of the file, and the values it has."""

    section: str
    name: str
    values: tuple


@dataclass(frozen=True, kw_only=True)
class Space:
    """A design space.

    Attributes
    ----------
    name : str
    network : dict
        ``model``, and what it needs: ``data``, ``calibration``, ``images`` that are scored (None
        for all); or ``random_weights`` with ``blocks`` and ``seed``.
    fixed : dict
        Fields that do not vary, by section: ``config``, ``quantization``, ``program``.
    axes : tuple of Axis
    objectives : tuple of str
        Figures to be best in.
    limits : tuple of Limit
    board : str or None
        The board that the limits of its parts come from.
    clock_mhz : float
    search, finalists : dict
        As in the file, with defaults.
    """

    name: str
    network: dict
    fixed: dict
    axes: tuple
    objectives: tuple
    limits: tuple = ()
    board: str | None = None
    clock_mhz: float = 100.0
    search: dict = field(default_factory=dict)
    finalists: dict = field(default_factory=dict)

    @classmethod
    def load(cls, path, *, board=None):
        """Read a ``.toml`` file.

        Parameters
        ----------
        path : str or Path
        board : callable
            Returns ``(limits, clock in MHz)`` of a board by its name: text of limits.

        Raises
        ------
        SpaceError
            If it cannot be read, or anything in it is unknown, of a wrong type or out of range.
        """
        try:
            fields = parse_toml(read_file(path, _FILE_BYTES).decode())
        except FileNotFoundError:
            raise SpaceError(f"space {str(path)!r} must be a .toml file that is there") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or shorten(error)
            raise SpaceError(f"space {str(path)!r} cannot be read: {reason}") from None
        try:
            return cls.from_dict({"name": Path(path).stem, **fields}, board=board)
        except ValueError as error:
            raise SpaceError(f"space {str(path)!r}: {error}") from None

    @classmethod
    def from_dict(cls, fields, *, board=None):
        """Return the space of a dictionary of what a file has; raises `SpaceError`."""
        _check_keys("", fields)
        sections = {name: _table(fields, name) for name in _KNOWN[""] if name != "name"}
        for name, known in _KNOWN.items():
            if name:
                _check_keys(name, sections[name], known)
        name = fields.get("name", "space")
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]{1,64}", name):
            raise SpaceError(f"name must be a word of letters, digits, '.', '_' and '-', not "
                             f"{shown(name)}")
        network = _network(sections["network"])
        fixed, axes = _varied(sections)
        front = sections["front"]
        clock, texts = front.get("clock_mhz"), []
        if front.get("board") is not None:
            if board is None or not isinstance(front["board"], str):
                raise SpaceError(f"board must be the name of one, not {shown(front['board'])}")
            texts, default = board(front["board"])
            clock = default if clock is None else clock
        clock = _number("clock_mhz", 100.0 if clock is None else clock, 1, 1000)
        space = cls(name=name, network=network, fixed=fixed, axes=axes, board=front.get("board"),
                    objectives=_objectives(front.get("objectives"), network),
                    limits=_limits([*texts, *_list("limits", front.get("limits", []))], network),
                    clock_mhz=clock, search=_search(sections["search"]),
                    finalists=_finalists(sections["finalists"], network))
        if space.size > _COMBINATIONS:
            raise SpaceError(f"a space must have at most {_COMBINATIONS:,} combinations, not "
                             f"{space.size:,}")
        if not space.search.pop("given") and space.size > EXHAUSTIVE:
            space.search["sampler"] = "nsga2"
        if space.search["sampler"] == "exhaustive" and space.size > 50 * EXHAUSTIVE:
            raise SpaceError(f"sampler must be nsga2 for {space.size:,} combinations, not "
                             f"'exhaustive'")
        return space

    @property
    def size(self):
        """Number of combinations, invalid ones included."""
        return math.prod(len(axis.values) for axis in self.axes)

    @property
    def wanted(self):
        """Names of the figures that objectives and limits are of."""
        return {*self.objectives, *(name for limit in self.limits for name in limit.names)}

    def choose(self, indices):
        """Return the `Point` of one value of each axis, by their indices.

        Raises
        ------
        SpaceError
            If the combination is invalid; the message is a reason, without what is special to this
            point.
        """
        chosen = {name: dict(values) for name, values in self.fixed.items()}
        number, choices = 0, {}
        for axis, index in zip(self.axes, indices, strict=True):
            number = number * len(axis.values) + index
            chosen[axis.section][axis.name] = choices[axis.name] = axis.values[index]
        try:
            config = AcceleratorConfig.from_dict(chosen["config"])
        except ConfigError as error:
            raise SpaceError(general_reason(error)) from None
        quantization = {**config.model_settings, "method": BEST, **chosen["quantization"]}
        if self.network.get("random_weights"):
            quantization.pop("method")
        point = Point(number, choices, config, quantization, chosen["program"].get("batch", 1))
        known = point.fields()
        for limit in self.limits:
            if set(limit.names) <= set(known) and not limit.holds(known):
                raise SpaceError(f"limit {limit}")
        return point

    def points(self):
        """Return ``(points, skipped)``: all valid ones in order, and a count by reason."""
        points, skipped = [], Counter()
        for indices in itertools.product(*(range(len(axis.values)) for axis in self.axes)):
            try:
                points.append(self.choose(indices))
            except SpaceError as error:
                skipped[str(error)] += 1
        return points, skipped


def general_reason(error):
    """Return the reason of a refusal without the numbers of one point."""
    text = re.sub(r" \([^)]*\)", "", re.sub(r", not [^:]*$", "", str(error)))
    return re.sub(r"\d+", "N", text)


def _check_keys(section, fields, known=None):
    for key in fields:
        if key not in (known or _KNOWN[section]):
            where = f" of [{section}]" if section else ""
            raise SpaceError(f"unknown entry {shown(key)}{where}, expected one of "
                             f"{', '.join(known or _KNOWN[section])}")


def _table(fields, name):
    value = fields.get(name, {})
    if not isinstance(value, dict):
        raise SpaceError(f"{name} must be a table [{name}], not {shown(value)}")
    return value


def _list(name, value):
    if not isinstance(value, list):
        raise SpaceError(f"{name} must be a list, not {shown(value)}")
    return value


def _number(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SpaceError(f"{name} must be a number from {low} to {high}, not {shown(value)}")
    return float(value)


def _integer(name, value, low, high):
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SpaceError(f"{name} must be an integer from {low} to {high}, not {shown(value)}")
    return value


def _network(fields):
    network = {"model": fields.get("model"), "data": fields.get("data"),
               "calibration": fields.get("calibration"), "images": fields.get("images"),
               "random_weights": fields.get("random_weights", False),
               "blocks": fields.get("blocks"), "seed": fields.get("seed", 0)}
    if not isinstance(network["model"], str):
        raise SpaceError(f"model of [network] must be a name or a path, not "
                         f"{shown(network['model'])}")
    for name in "data", "calibration":
        if not isinstance(network[name], str | None):
            raise SpaceError(f"{name} of [network] must be a path, not {shown(network[name])}")
    if not isinstance(network["random_weights"], bool):
        raise SpaceError(f"random_weights must be true or false, not "
                         f"{shown(network['random_weights'])}")
    for name, low in ("images", 1), ("blocks", 1), ("seed", 0):
        if network[name] is not None:
            _integer(f"{name} of [network]", network[name], low, 10**9)
    named = network["model"] in _NAMED
    if named != network["random_weights"]:
        raise SpaceError(f"random_weights must be {str(named).lower()} with model "
                         f"{shown(network['model'])}: there is "
                         f"{'no checkpoint of' if named else 'a checkpoint, not only a size, for'} "
                         f"it")
    if not named and not is_example(network["model"]) and network["data"] is None:
        raise SpaceError(f"data of [network] must name labelled images for model "
                         f"{shown(network['model'])}")
    for name in ("data", "calibration", "images") if named else ("blocks",):
        if network[name] is not None:
            raise SpaceError(f"{name} of [network] must be left out with model "
                             f"{shown(network['model'])}")
    return network


def _varied(sections):
    """Return the fields that do not vary, by section, and the axes."""
    known = {"config": [item.name for item in dataclasses.fields(AcceleratorConfig)],
             "quantization": [*AcceleratorConfig().model_settings, "method", "codebook"],
             "program": list(_KNOWN["program"])}
    fixed, axes = {name: {} for name in known}, []
    base = dict(sections["config"])
    preset = base.pop("preset", "digits")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise SpaceError(f"preset must be one of {', '.join(PRESETS)}, not {shown(preset)}")
    fixed["config"] = PRESETS[preset].to_dict()
    for section, names in known.items():
        fields = base if section == "config" else sections[section]
        _check_keys(section, fields, names)
        for name, value in fields.items():
            values = _values(name, value)
            for item in values:
                _check_value(section, name, item)
            if isinstance(value, list | dict):
                if name in {axis.name for axis in axes}:
                    raise SpaceError(f"{name} must vary in [config] or in [{section}], not in both")
                axes.append(Axis(section, name, values))
            else:
                fixed[section][name] = value
    return fixed, tuple(axes)


def _values(name, value):
    """Return the values of an entry: one, a list, or a range."""
    if isinstance(value, list):
        values = value
    elif isinstance(value, dict):
        values = _range(name, value)
    else:
        return (value,)
    if not 1 <= len(values) <= _VALUES:
        raise SpaceError(f"{name} must have from 1 to {_VALUES} values, not {len(values)}")
    if len({(type(item), str(item)) for item in values}) != len(values):
        raise SpaceError(f"{name} must have each value once, not {shown(value)}")
    return tuple(values)


def _range(name, value):
    if set(value) not in ({"from", "to"}, {"from", "to", "step"}, {"from", "to", "times"}):
        raise SpaceError(f"{name} must be a value, a list, or a range with from, to, and step or "
                         f"times, not {shown(value)}")
    low, high = (_integer(f"{end} of {name}", value[end], 0, 10**9) for end in ("from", "to"))
    if high < low:
        raise SpaceError(f"to of {name} must be at least {low}, not {high}")
    if "times" in value:
        times = _integer(f"times of {name}", value["times"], 2, 1024)
        found = [max(low, 1)]
        while found[-1] * times <= high:
            found.append(found[-1] * times)
        return found
    step = _integer(f"step of {name}", value.get("step", 1), 1, 10**9)
    if (high - low) // step >= _VALUES:
        raise SpaceError(f"{name} must have at most {_VALUES} values, not "
                         f"{(high - low) // step + 1:,}")
    return list(range(low, high + 1, step))


def _check_value(section, name, value):
    """Refuse what no point of the space could have, whatever the other fields are."""
    if section == "program":
        _integer(name, value, 1, 64)
        return
    choices = {"method": METHODS, "codebook": CODEBOOKS}.get(name)
    if choices is not None:
        if not isinstance(value, str) or value not in choices:
            raise SpaceError(f"{name} must be one of {', '.join(choices)}, not {shown(value)}")
        return
    wanted = type(getattr(AcceleratorConfig(), name))
    if type(value) is not wanted:
        kind = {int: "an integer", str: "text", bool: "true or false"}[wanted]
        raise SpaceError(f"{name} must be {kind}, not {shown(value)}")


def _objectives(names, network):
    if names is None:
        names = ["cycles", "lut"] if network["random_weights"] else ["cycles", "lut", "int_top1"]
    names = _list("objectives", names)
    if not names:
        raise SpaceError("objectives must name at least one figure, not []")
    if len(set(map(str, names))) != len(names):
        raise SpaceError(f"objectives must name each figure once, not {shown(names)}")
    for name in names:
        if not isinstance(name, str) or name not in FIGURES:
            raise SpaceError(f"objectives must be of {', '.join(FIGURES)}, not {shown(name)}")
        if FIGURES[name].measure in FINAL:
            raise SpaceError(f"objectives must be figures that all points get, not {name!r}, which "
                             f"finalists get with measures = [\"{FIGURES[name].measure}\"]")
        _check_labels(name, network)
    return tuple(names)


def _check_labels(name, network):
    if name == "int_top1" and network["random_weights"]:
        raise SpaceError(f"int_top1 needs a trained network, not random weights of "
                         f"{network['model']!r}")


def _limits(texts, network):
    numbers = [item.name for item in dataclasses.fields(AcceleratorConfig)
               if isinstance(item.default, int)]
    known = [name for name in FIGURES if FIGURES[name].measure not in FINAL] + numbers + ["batch"]
    found = []
    for text in texts:
        limit = Limit.parse(text, known)
        for name in limit.names:
            _check_labels(name, network)
        found.append(limit)
    return tuple(found)


def _search(fields):
    sampler = fields.get("sampler", "exhaustive")
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        raise SpaceError(f"sampler must be one of {', '.join(SAMPLERS)}, not {shown(sampler)}")
    minutes = fields.get("minutes")
    return {"sampler": sampler, "given": "sampler" in fields,
            "points": _integer("points", fields.get("points", 500), 1, 10**6),
            "minutes": None if minutes is None else _number("minutes", minutes, 0, 10**6),
            "seed": _integer("seed of [search]", fields.get("seed", 0), 0, 2**32 - 1)}


def _finalists(fields, network):
    measures = _list("measures", fields.get("measures", ["synthesis", "rtl"]))
    for name in measures:
        if not isinstance(name, str) or name not in DEAR:
            raise SpaceError(f"measures must be of {', '.join(DEAR)}, not {shown(name)}")
    return {"count": _integer("count", fields.get("count", 4), 0, 1000),
            "syntheses": _integer("syntheses", fields.get("syntheses", 8), 0, 10**5),
            "measures": list(dict.fromkeys(measures)),
            "images": _integer("images of [finalists]", fields.get("images", 1), 1, 64)}
