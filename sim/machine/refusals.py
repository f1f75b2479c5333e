"""What the dispatcher refuses: bit-exact model of the checks of ``hw/control/dispatcher.py``."""

from math import prod

from systola.hw.contract.isa import (
    CHANNELS,
    FORMATS,
    Engine,
    Error,
    Flag,
    Memory,
    Opcode,
    Region,
    Span,
    When,
    decode,
    formats,
    is_for,
)
from systola.hw.contract.numbers import CODE_BITS

__all__ = ["beats_needed", "check_instruction", "check_word", "columns", "entries", "extent",
           "fetch_words", "limits", "operands", "outputs", "weight_words"]


def columns(fields, config):
    """Return the lanes of a row of a region, from the first of its first word on."""
    return (fields["words"] - 1) * config.rows + fields["lanes_last"]


def outputs(fields, config):
    """Return N, the channels that a MATMUL writes; they begin in group `out_group`."""
    return max(columns(fields, config) - fields["out_group"] * config.lanes, 0)


def weight_words(fields, config):
    """Return the weight FIFO words that a MATMUL takes: those of whole tiles, at least one."""
    columns = config.tile_columns(narrow=bool(fields["flags"] & Flag.NARROW))
    tiles = max(-(-outputs(fields, config) // columns), 1)
    return tiles * fields["act_words"] * config.cols


def fetch_words(fields, config):
    """Return the weight FIFO words that a FETCH gives."""
    tall, wide = fields["rows"], columns(fields, config)
    if fields["flags"] & Flag.TRANSPOSE:
        tall, wide = wide, tall
    return -(-tall // config.cols) * config.cols * -(-wide // config.rows)


def operands(opcode, fields, config, kind):
    """Return the operands of a `kind`, `Region` or `Span`, that an instruction has."""
    return [operand for operand in FORMATS[opcode].operands
            if isinstance(operand, kind) and _holds(operand.when, fields)
            and (kind is Region or is_for(operand.only, config))]


def _holds(when, fields):
    """Return whether a condition, if it is one, holds."""
    match when:
        case When.RESIDUAL:
            return bool(fields["flags"] & Flag.RESIDUAL)
        case When.ROW_SCALE:
            return bool(fields["flags"] & Flag.ROW_SCALE)
        case When.PER_CHANNEL:
            return not fields["flags"] & Flag.BROADCAST
        case When.WIDE:
            return fields["out_bits"] > CODE_BITS
        case When.UNSIGNED:
            return bool(fields["flags"] & Flag.UNSIGNED)
    return True


def _value(what, fields, config):
    """Return a number, the value of a field, or else that of the configuration."""
    if isinstance(what, str):
        return fields[what] if what in fields else getattr(config, what)
    return what


def extent(region, fields, config):
    """Return the planes of a region, its rows, and the words in a row."""
    planes = _value(region.planes, fields, config)
    if isinstance(region.more, When):
        planes += _holds(region.more, fields)
    elif region.more:
        planes += fields[region.more]
    words = fields[region.words]
    if region.packed and _holds(region.packed, fields):
        words = config.attention_words(words)
    return planes, _value(region.rows, fields, config), words


def entries(span, fields, config):
    """Return the first entry of a span, and how many it has.

    Of a MATMUL with an `out_group`, the parameters of a row without it, which it would not need.
    """
    first = _value(span.base, fields, config)
    if not _holds(span.several, fields):
        return first, 1
    if span.count == CHANNELS:
        return first, -(-columns(fields, config) // config.lanes)
    return first, _value(span.count, fields, config)


def limits(opcode, config):
    """Return the smallest and the largest value of each field that has a largest one, by name."""
    return {field.name: (max(field.low, field.count), _value(field.high, {}, config))
            for field in formats(config)[opcode].fields if field.high is not None}


def beats_needed(opcode, fields, config):
    """Return the beats that an instruction must have; None if that is open."""
    factors = FORMATS[opcode].factors
    return prod(_value(factor, fields, config) for factor in factors) if factors else None


def check_word(word, index, config):
    """Return ``(error, decoded)`` of the 64 bytes of the instruction at `index`, see `decode`."""
    try:
        decoded = decode(word)
    except ValueError:
        return Error.BAD_OPCODE, None
    opcode, _, _, fields = decoded
    if opcode not in formats(config) or (opcode is Opcode.BEGIN) != (index == 0):
        return Error.BAD_OPCODE, decoded
    return check_instruction(opcode, fields, config), decoded


def check_instruction(opcode, fields, config):
    """Return the `Error` of an instruction, ``Error.NONE`` if it may run."""
    if opcode is Opcode.BEGIN:
        return Error.NONE if fields["config_hash"] == config.hash else Error.CONFIG_HASH
    if any(field.count and fields[field.name] == 0 for field in formats(config)[opcode].fields):
        return Error.ZERO_COUNT
    for check in _fields, _regions, _params, _factors, _rows, _beats:
        error = check(opcode, fields, config)
        if error:
            return error
    return Error.NONE


def _fields(opcode, fields, config):
    bad = any(not low <= fields[name] <= high
              for name, (low, high) in limits(opcode, config).items())
    return Error.FIELD_RANGE if bad else Error.NONE


def _regions(opcode, fields, config):
    for region in operands(opcode, fields, config, Region):
        planes, rows, words = extent(region, fields, config)
        last = (fields[f"{region.prefix}base"] + (rows - 1) * fields[f"{region.prefix}stride"]
                + (planes - 1) * fields.get(f"{region.prefix}plane", 0) + words - 1)
        if last >= config.scratchpad_words:
            return Error.SCRATCHPAD_RANGE
    return Error.NONE


def _fits(memory, opcode, fields, config, depth):
    """Return whether all entries of `memory` that an instruction touches are there."""
    return all(sum(entries(span, fields, config)) <= depth
               for span in operands(opcode, fields, config, Span) if span.memory is memory)


def _params(opcode, fields, config):
    fits = _fits(Memory.PARAMS, opcode, fields, config, config.param_depth)
    return Error.NONE if fits else Error.PARAM_RANGE


def _factors(opcode, fields, config):
    fits = _fits(Memory.FACTORS, opcode, fields, config, config.factor_depth)
    return Error.NONE if fits else Error.FACTOR_RANGE


def _rows(opcode, fields, config):
    if opcode is Opcode.MATMUL and fields["rows"] > config.token_depth:
        return Error.TOKEN_RANGE
    if FORMATS[opcode].engine is Engine.VECTOR and columns(fields, config) > config.max_row:
        return Error.ROW_RANGE
    return Error.NONE


def _beats(opcode, fields, config):
    if "beats" not in fields:
        return Error.NONE
    needed = beats_needed(opcode, fields, config)
    right = fields["beats"] if needed is None else fields["beats"] == needed
    return Error.NONE if right else Error.BEAT_COUNT
