"""What the dispatcher checks before it issues an instruction, as data.

The checks of an operation are steps of one multiply-add path (`Step`), in the order in which the
causes are reported. They follow from ranges and operands in ``hw/contract/isa.py``. Model:
``systola.sim.machine.refusals``.
"""

from dataclasses import dataclass, replace

from systola.hw.contract.isa import (
    CHANNELS,
    COUNT_FIELDS,
    Engine,
    Error,
    Memory,
    Opcode,
    Region,
    Span,
    When,
    formats,
    is_for,
)
from systola.hw.contract.numbers import CODE_BITS

__all__ = ["COUNT_FIELDS", "Step", "When", "check_steps"]


@dataclass(frozen=True)
class Step:
    """Add ``a * (b - less)`` to the sum, then require ``low <= sum <= high`` if there is a cause.

    `a` and `b` are constants or field names, `high` is a constant, a field name, or None.
    `first` starts a new sum. If `when` does not hold, the term is zero. If `halved` holds (a
    condition, or always), it is ``a * ((b - less) // 2)``. A field of 32 bits may only be an `a`
    with `b` 1.
    """

    a: int | str
    b: int | str = 1
    less: int = 0
    halved: When | bool = False
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
    yield from _field_ranges(form, config)
    for operand in form.operands:
        if isinstance(operand, Region):
            yield from _region(operand, form, names, config)
    for memory in Memory.PARAMS, Memory.FACTORS:
        for operand in form.operands:
            if isinstance(operand, Span) and operand.memory is memory:
                yield from _span(operand, config)
    if opcode is Opcode.MATMUL:
        yield Step("rows", first=True, high=config.token_depth, cause=Error.TOKEN_RANGE)
    if form.engine is Engine.VECTOR:
        yield Step(config.rows, "words", less=1, first=True)
        yield Step("lanes_last", high=config.max_row, cause=Error.ROW_RANGE)
    if "beats" in names:
        yield _beats(form, names, config)


def _number(value, names, config):
    """Return a constant or the name of a field as it is, and a number of the configuration."""
    return getattr(config, value) if isinstance(value, str) and value not in names else value


def _field_ranges(form, config):
    for field in form.fields:
        if field.high is not None:
            yield Step(field.name, first=True, low=field.low, high=_number(field.high, (), config),
                       cause=Error.FIELD_RANGE)


def _region(region, form, names, config):
    """Sum up base + (planes - 1) * plane + (rows - 1) * stride + words - 1, the last address."""
    prefix, when = region.prefix, region.when
    planes = _number(region.planes, names, config)
    # The last of ceil(n / 2) words is number (n - 1) // 2.
    steps = [Step(f"{prefix}base", first=True, when=when),
             Step(1, region.words, less=1, when=when,
                  halved=region.packed if config.levels else False)]
    if isinstance(planes, str):
        steps.append(Step(f"{prefix}plane", planes, less=1, when=when))
    elif planes > 1:
        steps.append(Step(f"{prefix}plane", planes - 1, when=when))
    if region.more is When.WIDE and _out_bits(form, config) <= CODE_BITS:
        pass  # the range of the field excludes it
    elif isinstance(region.more, When):
        steps.append(Step(f"{prefix}plane", when=region.more))
    elif region.more:
        steps.append(Step(f"{prefix}plane", region.more, when=when))
    if region.rows != 1:
        steps.append(Step(f"{prefix}stride", region.rows, less=1, when=when))
    return _limited(steps, config.scratchpad_words, Error.SCRATCHPAD_RANGE)


def _out_bits(form, config):
    """Return the most bits that a result may have."""
    (field,) = (field for field in form.fields if field.name == "out_bits")
    return _number(field.high, (), config)


def _span(span, config):
    """Sum up base + count - 1, the last entry; for `CHANNELS`, the last record."""
    if not is_for(span.only, config):
        return []
    depth, cause = {Memory.PARAMS: (config.param_depth, Error.PARAM_RANGE),
                    Memory.FACTORS: (config.factor_depth, Error.FACTOR_RANGE)}[span.memory]
    if span.count == CHANNELS:
        # ceil(N / lanes) words from the base fit if the last record is inside.
        return _limited([Step(config.lanes, span.base, first=True, when=span.when),
                         Step(config.rows, "words", less=1, when=span.several),
                         Step(1, "lanes_last", less=1, when=span.several)],
                        depth * config.lanes, cause)
    steps = [Step(span.base, first=True, when=span.when)]
    if span.count != 1:
        steps.append(Step(1, span.count, less=1, when=span.when))
    return _limited(steps, depth, cause)


def _limited(steps, size, cause):
    """Return `steps`, of which the last requires the sum to be below `size`."""
    return [*steps[:-1], replace(steps[-1], high=size - 1, cause=cause)]


def _beats(form, names, config):
    factors = [_number(factor, names, config) for factor in form.factors]
    if not factors:
        return Step("beats", first=True, low=1, cause=Error.BEAT_COUNT)
    if len(factors) == 1:
        return Step("beats", first=True, low=factors[0], high=factors[0], cause=Error.BEAT_COUNT)
    return Step(*factors, first=True, low="beats", high="beats", cause=Error.BEAT_COUNT)
