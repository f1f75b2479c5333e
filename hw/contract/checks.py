"""What the dispatcher checks before it issues an instruction, as data.

The checks of an operation are steps of one multiply-add path (`Step`), in the order in which the
causes are reported. Regions come from the field names of ``hw/contract/isa.py``: whatever has a
base and a stride is checked. Model: ``systola.sim.machine.refusals``.
"""

from dataclasses import dataclass
from enum import Enum

from systola.hw.contract.isa import Engine, Error, Opcode, formats

__all__ = ["COUNT_FIELDS", "Step", "When", "check_steps"]

COUNT_FIELDS = ("rows", "words", "act_words", "digits", "count")
"""Fields that must not be zero; checked first, all at once (`Error.ZERO_COUNT`)."""


class When(Enum):
    """Conditions on an operation's fields under which a step counts; its term is zero otherwise.

    The fields are MATMUL's. Of other operations only those with `out_bits` at the same place have a
    condition, WIDE.
    """

    RESIDUAL = "flag RESIDUAL"
    ROW_SCALE = "flag ROW_SCALE"
    PER_CHANNEL = "not flag BROADCAST"
    WIDE = "out_bits > 8"


@dataclass(frozen=True)
class Step:
    """Add ``a * (b - less)`` to the sum, then require ``low <= sum <= high`` if there is a cause.

    `a` and `b` are constants or field names, `high` is a constant, a field name, or None.
    `first` starts a new sum. A field of 32 bits may only be an `a` with `b` 1.
    """

    a: int | str
    b: int | str = 1
    less: int = 0
    first: bool = False
    when: When | None = None
    low: int | str = 0
    high: int | str | None = None
    cause: Error = Error.NONE


def check_steps(config):
    """Return ``{opcode: (Step, ...)}`` for every operation of an engine."""
    return {opcode: tuple(_steps(opcode, form, config))
            for opcode, form in formats(config).items() if form.engine is not None}


def _steps(opcode, form, config):
    names = [field.name for field in form.fields]
    yield from _field_ranges(opcode, names, config)
    for prefix in [name.removesuffix("base") for name in names if name.endswith("base")]:
        if f"{prefix}stride" in names:
            yield from _region(opcode, prefix, names, config)
    yield from _params(opcode, names, config)
    if "factor_base" in names and config.factor_depth:
        when = When.ROW_SCALE if opcode is Opcode.MATMUL else None
        yield Step("factor_base", first=True, when=when)
        yield Step(1, "rows", less=1, when=when, high=config.factor_depth - 1,
                   cause=Error.FACTOR_RANGE)
    if opcode is Opcode.MATMUL:
        yield Step("rows", first=True, high=config.token_depth, cause=Error.TOKEN_RANGE)
    if form.engine is Engine.VECTOR:
        yield Step(config.rows, "words", less=1, first=True)
        yield Step("lanes_last", high=config.max_row, cause=Error.ROW_RANGE)
    yield from _beats(opcode, config)


def _field_ranges(opcode, names, config):
    limits = {"lanes_last": (1, config.rows), "x0": (1, (1 << config.x0_bits) - 1),
              "out_bits": (2, 16 if opcode in (Opcode.MATMUL, Opcode.MEAN) else 8),
              "wide": (0, 1), "mult": (1, (1 << config.mean_mult_bits) - 1), "shift": (0, 63),
              "res_shift": (0, 63),
              "digits": (0, config.attention_digits), "table": (0, 1),
              "out_group": (0, config.rows // config.lanes - 1)}
    if opcode is Opcode.MATMUL:
        limits["flags"] = (0, 31 if config.factor_depth else 15)
    for name, (low, high) in limits.items():
        if name in names:
            yield Step(name, first=True, low=low, high=high, cause=Error.FIELD_RANGE)


def _region(opcode, prefix, names, config):
    """Sum up base + (planes - 1) * plane + (rows - 1) * stride + words - 1, the last address."""
    when = When.RESIDUAL if prefix == "res_" else None
    yield Step(f"{prefix}base", first=True, when=when)
    yield Step(1, "act_words" if prefix == "act_" else "words", less=1, when=when)
    if prefix == "act_":
        yield Step("act_plane", "digits", less=1)
    elif prefix == "out_":
        yield Step("out_plane", when=When.WIDE)
    elif opcode is Opcode.MEAN and prefix == "src_":
        yield Step("src_plane", "wide")
    elif opcode is Opcode.MEAN:
        yield Step("dst_plane", when=When.WIDE, high=config.scratchpad_words - 1,
                   cause=Error.SCRATCHPAD_RANGE)
        return  # it is one row
    elif f"{prefix}plane" in names:
        planes = {(Opcode.SHIFTMAX, "dst_"): config.attention_digits,
                  (Opcode.LAYERNORM, "src_"): 2, (Opcode.MATMUL, "res_"): 2}.get(
                      (opcode, prefix), 1)
        if planes > 1:
            yield Step(f"{prefix}plane", planes - 1, when=when)
    yield Step(f"{prefix}stride", "rows", less=1, when=when,
               high=config.scratchpad_words - 1, cause=Error.SCRATCHPAD_RANGE)


def _params(opcode, names, config):
    """Sum up the last parameter record, or word, that is touched."""
    if opcode is Opcode.LOAD_PARAMS:
        yield Step("base", first=True)
        yield Step(1, "count", less=1, high=config.param_depth - 1, cause=Error.PARAM_RANGE)
    elif opcode is Opcode.SHIFTGELU:
        yield Step("param_base", first=True, high=config.param_depth - 1, cause=Error.PARAM_RANGE)
    elif "param_base" in names:
        when = When.PER_CHANNEL if opcode is Opcode.MATMUL else None
        # ceil(N / lanes) words from param_base fit if the last record is inside.
        yield Step(config.lanes, "param_base", first=True)
        yield Step(config.rows, "words", less=1, when=when)
        yield Step(1, "lanes_last", less=1, when=when,
                   high=config.param_depth * config.lanes - 1, cause=Error.PARAM_RANGE)


def _beats(opcode, config):
    if opcode is Opcode.LOAD:
        yield Step("rows", "words", first=True, low="beats", high="beats", cause=Error.BEAT_COUNT)
    elif opcode is Opcode.LOAD_PARAMS:
        yield Step("count", config.param_beats, first=True, low="beats", high="beats",
                   cause=Error.BEAT_COUNT)
    elif opcode is Opcode.LOAD_TABLE:
        beats = -(-256 // config.rows)
        yield Step("beats", first=True, low=beats, high=beats, cause=Error.BEAT_COUNT)
    elif opcode is Opcode.LOAD_WEIGHTS:
        yield Step("beats", first=True, low=1, cause=Error.BEAT_COUNT)
