"""Instruction set as data: the one definition for hardware, compiler, machine model and docs.

An instruction is `INSTRUCTION_BYTES` bytes, little-endian. In front are `HEADER_BYTES` with the
`INSTRUCTION_HEADER`, lowest bits first. The operation's fields follow, packed in order without
gaps. Instructions travel in the input stream, each followed by the beats it loads.
"""

from dataclasses import dataclass, replace
from enum import Enum, IntEnum, IntFlag
from functools import cache

from systola.hw.contract.numbers import (
    CODE_BITS,
    CODEBOOK_ENTRIES,
    LEVEL_BITS,
    LEVELS,
    MAX_SHIFT,
    NORM_FRACTION,
    NORMALISED_PEAK,
    PEAK,
    RECORD_BYTES,
    SQUARE_FRACTION,
    TABLE_BYTES,
)

__all__ = ["CHANNELS", "COUNT_FIELDS", "FEEDERS", "FORMATS", "HEADER_BYTES", "INSTRUCTION_BYTES",
           "INSTRUCTION_HEADER", "WEIGHT_STREAMS", "Engine", "Error", "Field", "Flag", "Format",
           "Memory", "Opcode", "Region", "Span", "When", "decode", "encode", "formats",
           "is_for"]

INSTRUCTION_BYTES = 64


class Engine(IntEnum):
    """The three in-order engines, and the bit of each in ``wait`` and ``signal``."""

    LOAD = 0
    MATRIX = 1
    VECTOR = 2


INSTRUCTION_HEADER = ("opcode", 8), ("wait", len(Engine)), ("signal", len(Engine))
"""Names and bits of what every instruction begins with."""

HEADER_BYTES = 2


class Opcode(IntEnum):
    """Operation codes; 0 is never valid, so a cleared stream is an error."""

    BEGIN = 1
    END = 2
    LOAD = 3
    LOAD_PARAMS = 4
    LOAD_TABLE = 5
    LOAD_WEIGHTS = 6
    FETCH = 7
    STORE = 8
    MATMUL = 9
    SHIFTMAX = 10
    SHIFTGELU = 11
    LAYERNORM = 12
    MEAN = 13
    LOAD_NARROW = 14
    LOAD_CODES = 15
    COPY = 16


class Flag(IntFlag):
    """Bits of the ``flags`` field."""

    RESIDUAL = 1   # MATMUL: add the scaled residual before the saturation
    BROADCAST = 2  # MATMUL: one parameter record for all columns
    SYMMETRIC = 4  # MATMUL: saturate below at -(2**(out_bits-1) - 1), for stationary operands
    UNSIGNED = 8   # MATMUL: the activations are SHIFTMAX's: codes of log2 attention, or else their
                   # top digit plane is unsigned, at most 128
    ROW_SCALE = 16  # MATMUL: row t's multiplier is row factor factor_base + t, of exponentials
    NARROW = 32    # MATMUL: operands have config.narrow_bits, tiles 2C columns, planes weigh 1
    TRANSPOSE = 1  # FETCH: columns of the tile are channels, rows are tokens


class Error(IntEnum):
    """Causes in the sticky error register.

    All but the last two refuse an instruction before anything of it happens. DEADLOCK stops a
    program in which nothing moves any more, at the instruction that the dispatcher could not hand
    on (with its data; or END); the reason is there or before. LEFTOVER stands for done: END found
    all engines idle, but tokens or weights that nobody took, which the next program would.
    """

    NONE = 0
    BAD_OPCODE = 1
    CONFIG_HASH = 2
    SCRATCHPAD_RANGE = 3
    PARAM_RANGE = 4
    ZERO_COUNT = 5
    ROW_RANGE = 6
    TOKEN_RANGE = 7
    FIELD_RANGE = 8
    BEAT_COUNT = 9
    FACTOR_RANGE = 10
    DEADLOCK = 11
    LEFTOVER = 12


class When(Enum):
    """Conditions on an operation's fields: an operand, or more of it, is there, or it is packed.

    The fields are MATMUL's. Of other operations only those with `out_bits` at the same place have a
    condition, WIDE.
    """

    RESIDUAL = "flag RESIDUAL"
    ROW_SCALE = "flag ROW_SCALE"
    PER_CHANNEL = "not flag BROADCAST"
    WIDE = f"out_bits > {CODE_BITS}"
    UNSIGNED = "flag UNSIGNED"


class Memory(Enum):
    """Memories beside the scratchpad; the value says of what an entry consists."""

    PARAMS = "parameter words"
    TABLES = "tables"
    FACTORS = "row factors"


CHANNELS = "channels"
"""As `Span.count`: words with a parameter record for each lane of a row."""


@dataclass(frozen=True)
class Field:
    """One field: name, width in bits (16, 32 or 64), what it means, and what is refused.

    With a `high`, values outside ``low..high`` are (`Error.FIELD_RANGE`); it is a number, or the
    name of one of the configuration. Of a `count`, zero is, before all else (`Error.ZERO_COUNT`).
    With `only` (``field, value, ...``) it is read by accelerators alone whose configuration has one
    of these values; it is the last one of its operation, so that queues of others end before it.
    """

    name: str
    bits: int
    doc: str
    signed: bool = False
    low: int = 0
    high: int | str | None = None
    count: bool = False
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Region:
    """Words of the scratchpad that an operation touches, from the fields that begin with `prefix`.

    `words` and `rows` are fields, `rows` may be a number. There are `planes` planes (a number, a
    field, or a number of the configuration), and `more`: as many as that field says, or one if that
    condition holds. Without `when`, the region is always there. With log2 attention two words of
    codes share one if `packed` holds: its condition, or always.
    """

    prefix: str
    writes: bool = False
    words: str = "words"
    rows: int | str = "rows"
    planes: int | str = 1
    more: str | When | None = None
    when: When | None = None
    packed: When | bool = False


@dataclass(frozen=True)
class Span:
    """Consecutive entries of another memory that an operation touches.

    `base` is a field or a number, `count` a number, a field, or `CHANNELS`; it is one unless
    `several` holds. The span is there if `when` holds, and if the configuration has one of the
    values that `only` names (``field, value, ...``).
    """

    memory: Memory
    base: int | str
    count: int | str = 1
    writes: bool = False
    when: When | None = None
    several: When | None = None
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Format:
    """One operation: the engine that runs it (None: the dispatcher), its fields, and a summary.

    `operands` is what it touches. Of an operation with `beats`, they must be the product of
    `factors` (fields, or else numbers of the configuration); without any, at least one.
    """

    engine: Engine | None
    doc: str
    fields: tuple[Field, ...]
    operands: tuple[Region | Span, ...] = ()
    factors: tuple[str, ...] = ()

    def offset(self, name):
        """Return the byte offset of field `name` in the instruction."""
        position = HEADER_BYTES
        for field in self.fields:
            if field.name == name:
                return position
            position += field.bits // 8
        raise KeyError(name)


def _region(prefix, what, *, plane=False):
    fields = (Field(f"{prefix}base", 16, f"first word of {what}"),
              Field(f"{prefix}stride", 16, f"words from one row of {what} to the next"))
    return (*fields, Field(f"{prefix}plane", 16, f"words from one plane of {what} to the next")
            ) if plane else fields


_BEATS = Field("beats", 32, "stream beats that follow this instruction")
_ROWS = Field("rows", 16, "rows (tokens)", count=True)
_WORDS = Field("words", 16, "words in a row", count=True)
_LAST = Field("lanes_last", 16, "valid lanes in the last word of a row", low=1, high="rows")
_UNIT = Field("unit", 32, "unit of ShiftExp: the code of 1", low=1, high="largest_unit")
_CODE = Field("out_bits", 16, "bits to saturate to", low=2, high=CODE_BITS)
_RESULT = Field("out_bits", 16, "bits to saturate to; more than 8 writes two planes", low=2,
                high=16)
_DIVIDED = "attention", "normalised", "deferred", *LEVELS
_NORMALISED = "attention", "normalised"
_MASKED = "masks", True
_REQUANTIZED = "norm", "published", "leading_one", "normalised"
_VECTOR = (*_region("src_", "the input", plane=True), _ROWS, _WORDS, _LAST,
           *_region("dst_", "the output", plane=True))

FORMATS = {
    Opcode.BEGIN: Format(None, "Start of a program; refuses one made for another configuration.",
                         (Field("config_hash", 64, "hash of the configuration"),)),
    Opcode.END: Format(None, "Wait until every engine is idle, then report done.", ()),
    Opcode.LOAD: Format(
        Engine.LOAD, "Stream to scratchpad: rows x words beats, one word each.",
        (_BEATS, *_region("", "the destination"), _ROWS, _WORDS),
        (Region("", writes=True),), factors=("rows", "words")),
    Opcode.LOAD_PARAMS: Format(
        Engine.LOAD, "Stream to parameter memory: `count` words of `lanes` records of "
        f"{RECORD_BYTES} bytes (bias int32, multiplier int32, shift uint8), each word starting on "
        "a beat.",
        (_BEATS, Field("base", 16, "first parameter word"),
         Field("count", 16, "parameter words", count=True)),
        (Span(Memory.PARAMS, "base", "count", writes=True),), factors=("count", "param_beats")),
    Opcode.LOAD_TABLE: Format(
        Engine.LOAD, f"Stream to a table of {TABLE_BYTES} bytes, R to a beat. GELU: int8 results "
        f"for codes -128 to 127. Exponentials, for 0 to 255 below the row's maximum: unsigned "
        f"results, at most {PEAK} (deferred) or {NORMALISED_PEAK} (normalised, of two bytes), or "
        f"codes of {LEVEL_BITS} bits (log2 attention).",
        (_BEATS, Field("table", 16, "0 GELU, 1 exponentials, 2 their high bytes (normalised)",
                       high="last_table")),
        (Span(Memory.TABLES, "table", writes=True),), factors=("table_beats",)),
    Opcode.LOAD_WEIGHTS: Format(
        Engine.LOAD, "Stream to weight FIFO: one beat is one column (R lanes) of a stationary "
        "tile, C beats a tile, tiles in MATMUL order (reduction tiles inside column tiles).",
        (_BEATS,)),
    Opcode.LOAD_NARROW: Format(
        Engine.LOAD, "As LOAD_WEIGHTS, of a tile of 2C columns for a MATMUL with NARROW: a beat is "
        "two of them, each lane w0 + (w1 << weight_bits / 2). Only in accelerators with "
        "`narrow_bits`, else BAD_OPCODE.",
        (_BEATS,)),
    Opcode.LOAD_CODES: Format(
        Engine.LOAD, f"As LOAD_WEIGHTS, from {CODEBOOK_ENTRIES} weights, the codebook: the first "
        "beats, R to a beat. Every other beat is two columns of codes, each the number of one of "
        "these: of its lanes the low nibbles, then the high ones. Only in accelerators with "
        "`weight_codes`, else BAD_OPCODE.",
        (_BEATS,)),
    Opcode.FETCH: Format(
        Engine.LOAD, "Scratchpad to weight FIFO, as LOAD_WEIGHTS. Plain: a column is a row of the "
        "region (Q.K^T). TRANSPOSE: a column is a channel, its lanes are rows (A.V). Lanes and "
        "columns beyond the region are zero.",
        (*_region("", "the source"), _ROWS, _WORDS, _LAST,
         Field("flags", 16, "bit 0 TRANSPOSE")), (Region(""),)),
    Opcode.STORE: Format(
        Engine.LOAD, "Scratchpad to output stream, one word a beat; the last beat has TLAST.",
        (*_region("", "the source"), _ROWS, _WORDS), (Region(""),)),
    Opcode.COPY: Format(
        Engine.LOAD, "Rows of the scratchpad to another place there, in order; of regions that "
        "overlap, what is read after it was written is the new word or the old. Only in "
        "accelerators with `copies`, else BAD_OPCODE.",
        (*_region("", "the source"), _ROWS, _WORDS, *_region("to_", "the destination")),
        (Region(""), Region("to_", writes=True))),
    Opcode.MATMUL: Format(
        Engine.MATRIX, "out = requantize(act . weights [+ residual]); for every tile of C columns "
        "(2C with NARROW), for every word of the activations, for every digit plane: stream `rows` "
        "rows.",
        (*_region("act_", "the activations", plane=True), _ROWS,
         Field("act_words", 16, "words in a row of activations, the reduction tiles; of codes, two "
               "lie in a word",
               count=True),
         Field("digits", 16, "digit planes of the activations; plane i weighs 2**(act_bits*i)",
               high="attention_digits", count=True),
         Field("words", 16, "words in a row of the output", count=True), _LAST,
         Field("out_group", 16, "group of `lanes` lanes in the first word at which the output (and "
               "the residual) begins", high="last_group"),
         *_region("out_", "the output", plane=True),
         _RESULT, Field("param_base", 16, "first parameter word"),
         Field("flags", 16, "bit 0 RESIDUAL, 1 BROADCAST, 2 SYMMETRIC, 3 UNSIGNED, 4 "
               "ROW_SCALE, 5 NARROW (operands of `narrow_bits`; digit planes weigh 1)",
               high="matmul_flags"),
         Field("factor_base", 16, "first row factor, with ROW_SCALE"),
         *_region("res_", "the 16-bit residual", plane=True),
         Field("res_mult", 32, "multiplier of the residual", signed=True),
         Field("res_shift", 16, "right shift of the residual", high=MAX_SHIFT)),
        (Region("act_", words="act_words", planes="digits", packed=When.UNSIGNED),
         Region("out_", writes=True, more=When.WIDE),
         Region("res_", planes=2, when=When.RESIDUAL),
         Span(Memory.PARAMS, "param_base", CHANNELS, several=When.PER_CHANNEL),
         Span(Memory.FACTORS, "factor_base", "rows", when=When.ROW_SCALE, only=_DIVIDED))),
    Opcode.SHIFTMAX: Format(
        Engine.VECTOR, "Rows of 8-bit codes to attention digits, config.attention_digits planes. "
        "Normalised, deferred: to exponentials (from the table) and a row factor numerator // sum "
        "each; log2 attention: to their codes, word 2k in the low nibbles of word k, 2k + 1 in the "
        "high ones. With `masks`, row t has the first `keys + t * key_step` elements of its words "
        "only, but no more than there are; results of the others are 0.",
        (*_VECTOR, _UNIT, Field("numerator", 32, "of the row factors"),
         Field("factor_base", 16, "first row factor"),
         Field("key_words", 16, "words with elements of the first row", high="row_words",
               count=True, only=_MASKED),
         Field("key_last", 16, "elements in the last of these", low=1, high="rows", only=_MASKED),
         Field("key_step", 16, "elements that a row has more than the one before", high=1,
               only=_MASKED)),
        (Region("src_"), Region("dst_", writes=True, planes="attention_digits", packed=True),
         Span(Memory.TABLES, 1, only=_DIVIDED), Span(Memory.TABLES, 2, only=_NORMALISED),
         Span(Memory.FACTORS, "factor_base", "rows", writes=True, only=_DIVIDED))),
    Opcode.SHIFTGELU: Format(
        Engine.VECTOR, "Rows of 8-bit codes to out_bits codes; requantized by parameter record 0 "
        "at param_base (exact), or looked up (table).",
        (*_VECTOR, _UNIT, _CODE,
         Field("param_base", 16, "parameter word with the requantization in lane 0")),
        (Region("src_"), Region("dst_", writes=True), Span(Memory.PARAMS, "param_base"),
         Span(Memory.TABLES, 0, only=("gelu", "table")))),
    Opcode.LAYERNORM: Format(
        Engine.VECTOR, "Rows of 16-bit codes (two planes) to out_bits codes, requantized per "
        "channel by the parameter words from param_base; compared: to symmetric codes, by the "
        "share alone.",
        # `out_bits` lies where that of MATMUL does: the checks of both look at it there.
        (*_VECTOR, Field("param_base", 16, "first parameter word (but compared)"),
         Field("epsilon_low", 32, "lower half of what is added to the sum of squares, in units of "
               f"2**-{2 * NORM_FRACTION} (normalised, compared)"),
         Field("out_bits", 16, "bits to saturate to; more than 8 writes two planes", low=2,
               high="largest_norm_bits"),
         Field("epsilon_high", 32, "its upper half", high="largest_epsilon_high"),
         Field("share", 32, "share of that sum that the square of the edge between codes 0 and 1 "
               f"is, in units of 2**-{SQUARE_FRACTION} (compared)", only=("norm", "compared"))),
        (Region("src_", planes=2), Region("dst_", writes=True, more=When.WIDE),
         Span(Memory.PARAMS, "param_base", CHANNELS, only=_REQUANTIZED))),
    Opcode.MEAN: Format(
        Engine.VECTOR, "Sums of all rows' channels, rescaled by mult / 2**shift, to one row of "
        "out_bits codes: the mean. Only in accelerators with `pooling` mean, else BAD_OPCODE.",
        # `out_bits` lies where that of MATMUL does, as above.
        (*_VECTOR, Field("wide", 16, "0: the input has 8 bits, 1: it has 16, in two planes",
                         high=1),
         Field("mult", 32, "multiplier", low=1, high="largest_mean_mult"), _RESULT,
         Field("shift", 16, "right shift", high=MAX_SHIFT)),
        (Region("src_", more="wide"), Region("dst_", writes=True, rows=1, more=When.WIDE))),
}

WEIGHT_STREAMS = Opcode.LOAD_WEIGHTS, Opcode.LOAD_NARROW, Opcode.LOAD_CODES
"""What takes the weights of a MATMUL from the stream."""

FEEDERS = *WEIGHT_STREAMS, Opcode.FETCH
"""What fills the weight FIFO for the MATMUL before it."""

COUNT_FIELDS = tuple(dict.fromkeys(field.name for form in FORMATS.values()
                                   for field in form.fields if field.count))
"""Fields that must not be zero; checked first, all at once."""


@cache
def formats(config):
    """Return the entries of `FORMATS` that accelerators of `config` have, and fields they read."""
    absent = {opcode for opcode, there in ((Opcode.MEAN, config.pooling == "mean"),
                                           (Opcode.LOAD_NARROW, config.narrow_bits),
                                           (Opcode.LOAD_CODES, config.weight_codes),
                                           (Opcode.COPY, config.copies)) if not there}
    return {opcode: replace(form, fields=tuple(field for field in form.fields if is_for(
        field.only, config))) for opcode, form in FORMATS.items() if opcode not in absent}


def is_for(only, config):
    """Return whether `config` has one of the values that an ``only`` names."""
    return only is None or getattr(config, only[0]) in only[1:]


def encode(opcode, *, wait=0, signal=0, **values):
    """Return the 64 bytes of one instruction.

    Raises ``ValueError`` for a missing or unknown field, or a value that its field cannot hold.
    """
    form = FORMATS[opcode]
    names = {field.name for field in form.fields}
    if names != values.keys():
        wrong = sorted(names ^ values.keys())
        raise ValueError(f"{opcode.name} needs exactly its fields; missing or unknown: {wrong}")
    header = place = 0
    for (_, bits), value in zip(INSTRUCTION_HEADER, (opcode, wait, signal), strict=True):
        header |= value << place
        place += bits
    word = bytearray(header.to_bytes(HEADER_BYTES, "little"))
    for field in form.fields:
        value = int(values[field.name])
        low, high = (-(1 << field.bits - 1), 1 << field.bits - 1) if field.signed else (
            0, 1 << field.bits)
        if not low <= value < high:
            raise ValueError(f"{opcode.name} {field.name} must be from {low} to {high - 1}, "
                             f"not {value!r}")
        word += (value % (1 << field.bits)).to_bytes(field.bits // 8, "little")
    return bytes(word.ljust(INSTRUCTION_BYTES, b"\0"))


def decode(word):
    """Return ``(opcode, wait, signal, fields)`` of 64 bytes; ``ValueError`` for a bad opcode."""
    header, values = int.from_bytes(word[:HEADER_BYTES], "little"), []
    for _, bits in INSTRUCTION_HEADER:
        values.append(header & (1 << bits) - 1)
        header >>= bits
    opcode, wait, signal = Opcode(values[0]), *values[1:]
    fields, position = {}, HEADER_BYTES
    for field in FORMATS[opcode].fields:
        size = field.bits // 8
        fields[field.name] = int.from_bytes(word[position:position + size], "little",
                                            signed=field.signed)
        position += size
    return opcode, wait, signal, fields
