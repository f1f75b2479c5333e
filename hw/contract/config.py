"""Configuration of one accelerator: data that hardware, model, compiler and driver share."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from math import gcd
from pathlib import Path

from systola.files.bounded import parse_json, parse_toml, read_file, shorten, shown
from systola.hw.contract.dsp_packing import PackingError, plan_narrow, plan_packing
from systola.hw.contract.numbers import (
    CODE_BITS,
    CODEBOOK_ENTRIES,
    COMPARED_BITS,
    COMPARED_ROW,
    FACTOR_BITS,
    INT_BITS,
    LEVEL_BITS,
    LEVELS,
    NARROW_SUM_BITS,
    RECORD_BYTES,
    RESIDUAL_BITS,
    TABLE_BYTES,
    epsilon_bits,
)

__all__ = ["ATTENTIONS", "MODEL_SETTINGS", "PRESETS", "PUBLISHED", "SCRATCHPAD_WORDS",
           "AcceleratorConfig", "ConfigError", "digit_count", "mult_limb", "requant_slots"]

MODEL_SETTINGS = ("weight_bits", "act_bits", "attention", "attention_bits", "mult_bits",
                  "code_mult_bits", "gelu", "norm")
"""Fields that a quantized model has as well: its arithmetic."""

PUBLISHED = {"attention": "published", "gelu": "published", "norm": "published"}
"""Operators as I-ViT publishes them; the default ones are accurate for everything that the number
formats can hold."""

ATTENTIONS = "published", "normalised", "deferred", *LEVELS
"""Forms of attention."""

_WIDER = {f"{scheme[:-2]}17" for scheme in LEVELS}
"""Schemes of the publications that have a level more than a code has numbers."""

SCRATCHPAD_WORDS = 1 << 16
"""Most words of a scratchpad: an address has 16 bits."""

_FILE_BYTES = 16384
"""Largest configuration file; a reader of TOML takes seconds for what a larger one could hold."""

INSTRUCTION_SET_VERSION = 7
"""Part of the configuration hash: a program for another instruction set is refused."""


class ConfigError(ValueError):
    """A configuration value is out of range or unknown; the message names it."""


def digit_count(bits, digit_bits):
    """Return how many balanced radix-2**digit_bits digits hold 0 .. 2**(bits-1)-1.

    All digits but the most significant lie in -2**(b-1) .. 2**(b-1)-1 and are stored sign-extended;
    the most significant one is unsigned and at most 2**b - 1 (ARITHMETIC: digit-split A.V).
    """
    count = 1
    while 2 ** max(bits - 1 - digit_bits * (count - 1), 0) > 2**digit_bits - 1:
        count += 1
    return count


def mult_limb(mult_bits, code_mult_bits):
    """Return the multiplier bits that a requantizer takes in one cycle, 8 to 16 and even.

    The fewest with which a multiplier of `mult_bits` takes two cycles and one of `code_mult_bits`
    takes one; 16 if that has more.
    """
    limb = max(min(code_mult_bits, mult_bits), (mult_bits + 1) // 2, 8)
    return min(limb + limb % 2, RESIDUAL_BITS)


def requant_slots(mult_bits, code_mult_bits, *, long, residual=False):
    """Return the cycles that a requantizer takes for a beat; see `AcceleratorConfig`.

    A residual goes through the rows of adders like a multiplier. If it takes two cycles, the
    multiplier beside it takes two as well, however short.
    """
    limb = mult_limb(mult_bits, code_mult_bits)
    if residual and limb < RESIDUAL_BITS:
        return 4
    bits = mult_bits if long else min(code_mult_bits, mult_bits)
    return -(-bits // limb) + bool(residual)


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """Parameters of one accelerator; every field is checked on construction.

    Parameters
    ----------
    rows, cols : int
        Array size: reduction lanes R (also the lanes of a scratchpad word) and output columns C.
    lanes : int
        Columns that the MATRIX engine requantizes at once; divides gcd(rows, cols).
    vector_lanes : int
        Elements per cycle of Shiftmax and ShiftGELU; divides lanes.
    norm_lanes : int
        Elements per cycle of I-LayerNorm; divides vector_lanes.
    weight_bits, act_bits : int
        Bits of the stationary and of the streamed operand, 2 to 8. K and V are stationary too.
    pe_style : str
        ``dsp`` (one multiply per DSP slice), ``dsp_packed`` (several, see
        ``hw/contract/dsp_packing.py``; stationary operands must not be -2**(weight_bits-1)) or
        ``lut`` (fabric multiplier).
    narrow_bits : int
        Bits of both operands of the array's second precision, 2 to 4: each MATMUL has one of the
        two, and with this one R x 2C products a cycle. At most half of `weight_bits`, an even
        number, and of `act_bits`; 0 for none. Needs ``dsp_packed``, twice as many rows as columns,
        and row factors.
    weight_codes : bool
        Whether weights may be streamed as codes of 4 bits, numbers of the entries of a codebook.
        Needs an even number of columns.
    copies : bool
        Whether rows can be moved within the scratchpad (operation COPY), as networks with windows
        need it.
    masks : bool
        Whether rows may attend to the first keys of their sequence only, as causal masks and texts
        of different lengths need it.
    acc_bits : int
        Bits of an accumulator.
    token_depth : int
        Rows one pass may stream, the depth of an accumulator buffer.
    acc_buffers : int
        Accumulator buffers: tiles of columns that are multiplied or wait for their requantization.
    banks, bank_depth : int
        Scratchpad: number of banks, and words in each (a power of two).
    weight_fifo, stream_fifo, queue_depth : int
        Words in the weight FIFO, beats in the stream data FIFO, instructions per engine queue.
    param_depth : int
        Words of the parameter memory, each ``lanes`` records (bias, multiplier, shift).
    param_ports : int
        Its read ports: 1 that MATRIX and VECTOR share, or 2, one each, for twice the block RAM.
    mult_bits, code_mult_bits : int
        Magnitude bits of the dyadic multipliers, for results of more than 8 bits and for others;
        31 reproduces the publications.
    attention : str
        ``published`` (Shiftmax as published, normalised before A.V), ``normalised`` (16-bit
        exponentials shifted to the row's sum, divided by it after A.V), ``deferred`` (8-bit
        exponentials, divided by their sum after A.V; needs 8-bit activations), or deferred with the
        levels of a log2 code, of which two lie in a byte: ``single_16``, ``half_16`` (BitLog2) or
        ``sqrt2_16`` (RepQ-ViT). See docs/ARITHMETIC.md.
    attention_bits : int
        Output bits of published attention, 8 or 16. Normalised attention has 16.
    gelu : str
        ``published`` (row maximum, one division per element) or ``table`` (256 entries).
    norm_roots : int
        Rows of I-LayerNorm whose root is computed at the same time; a normalised one has one root,
        which is as fast.
    norm : str
        I-LayerNorm with the root iteration's start at 2**16 (``published``) or at ``leading_one``,
        or ``normalised``: fractional mean, epsilon, and a root of as many bits for every row; or
        ``compared``: that mean and epsilon, and codes of up to 4 bits (so `act_bits`) by comparison
        of squares, without root, division by it and requantization; rows of up to 1024.
    norm_bits : int
        Bits of the widest results of a layer norm: 8, or 16 for networks with one before their
        residual stream. Such results are multiplied by `code_mult_bits` as well.
    pooling : str
        ``mean`` adds the operation MEAN, the mean over rows; ``none`` leaves it out.
    max_row : int
        Longest row (channels or keys) a vector unit can hold.
    x0_bits : int
        Bits of the unit of ShiftExp, the constant ``-x0`` of I-ViT.
    """

    rows: int = 16
    cols: int = 12
    lanes: int = 4
    vector_lanes: int = 1
    norm_lanes: int = 1
    weight_bits: int = 8
    act_bits: int = 8
    pe_style: str = "dsp"
    narrow_bits: int = 0
    weight_codes: bool = False
    copies: bool = False
    masks: bool = False
    acc_bits: int = 32
    token_depth: int = 256
    acc_buffers: int = 2
    banks: int = 4
    bank_depth: int = 512
    weight_fifo: int = 64
    stream_fifo: int = 64
    queue_depth: int = 8
    param_depth: int = 256
    param_ports: int = 1
    mult_bits: int = 24
    code_mult_bits: int = 24
    attention: str = "normalised"
    attention_bits: int = 16
    gelu: str = "table"
    norm_roots: int = 4
    norm: str = "normalised"
    norm_bits: int = 8
    pooling: str = "none"
    max_row: int = 1024
    x0_bits: int = 8

    def __post_init__(self):
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ConfigError(f"{name} must be an integer from {low} to {high}, "
                                  f"not {shown(value)}")
        if self.attention in _WIDER:
            raise ConfigError(f"attention must not be {self.attention!r}: its 17 levels have no "
                              f"code of {LEVEL_BITS} bits; {self.attention[:-2]}16 has one")
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                expected = " or ".join(repr(choice) for choice in choices)
                raise ConfigError(f"{name} must be {expected}, not {shown(value)}")
        for name in "bank_depth", "token_depth", "param_depth":
            value = getattr(self, name)
            if value & (value - 1):
                raise ConfigError(f"{name} must be a power of two, not {value!r}")
        if gcd(self.rows, self.cols) % self.lanes:
            raise ConfigError(f"lanes must divide rows and cols ({self.rows} and {self.cols}), "
                              f"not {self.lanes!r}")
        for name, whole in ("vector_lanes", "lanes"), ("norm_lanes", "vector_lanes"):
            if getattr(self, whole) % getattr(self, name):
                raise ConfigError(f"{name} must divide {whole} ({getattr(self, whole)}), "
                                  f"not {getattr(self, name)!r}")
        if self.deferred and (self.act_bits != 8 or self.mult_bits > 24):
            raise ConfigError(f"attention {self.attention!r} needs act_bits 8 and mult_bits up to "
                              f"24, not {self.act_bits!r} and {self.mult_bits!r}")
        if self.attention == "normalised" and self.attention_bits != 16:
            raise ConfigError(f"attention_bits must be 16 with attention 'normalised' "
                              f"('published' takes 8, too), not {self.attention_bits!r}")
        for name, most in ("act_bits", COMPARED_BITS), ("max_row", COMPARED_ROW), (
                "norm_bits", CODE_BITS):
            if self.compared_norm and getattr(self, name) > most:
                raise ConfigError(f"{name} must be at most {most} with norm 'compared' "
                                  f"('normalised' has no such limit), not {getattr(self, name)!r}")
        if self.cols > self.rows:
            raise ConfigError(f"cols must be at most rows ({self.rows}), not {self.cols!r}")
        for name in "weight_codes", "copies", "masks":
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, not {shown(getattr(self, name))}")
        if self.weight_codes and self.cols % 2:
            raise ConfigError(f"cols must be even with weight_codes, not {self.cols!r}")
        if self.narrow_bits:
            self._check_narrow()
        if self.scratchpad_words > SCRATCHPAD_WORDS:
            raise ConfigError(f"banks * bank_depth must be at most {SCRATCHPAD_WORDS} words, "
                              f"not {self.scratchpad_words!r}")

    def _check_narrow(self):
        for name, right, wanted in (
                ("narrow_bits", self.narrow_bits != 1, "0 or from 2 to 4"),
                ("pe_style", self.pe_style == "dsp_packed", "'dsp_packed'"),
                ("attention", self.attention != "published",
                 f"one of {', '.join(ATTENTIONS[1:])}"),
                ("acc_bits", self.acc_bits >= NARROW_SUM_BITS, f"at least {NARROW_SUM_BITS}"),
                ("cols", 2 * self.cols <= self.rows, f"at most half of rows ({self.rows})")):
            if not right:
                raise ConfigError(f"{name} must be {wanted} with narrow_bits "
                                  f"{self.narrow_bits!r}, not {getattr(self, name)!r}")
        try:
            plan_narrow(plan_packing(self.weight_bits, self.act_bits, self.rows, cols=self.cols),
                        self.narrow_bits)
        except PackingError as error:
            raise ConfigError(f"narrow_bits must not be {self.narrow_bits!r}: {error}") from None

    @property
    def model_settings(self):
        """Dictionary of the `MODEL_SETTINGS` a model for exactly this accelerator has."""
        return {name: getattr(self, name) for name in MODEL_SETTINGS}

    @property
    def word_bits(self):
        """Bits of a scratchpad word: one 8-bit lane per array row."""
        return 8 * self.rows

    @property
    def bus_bytes(self):
        """Bytes of a stream beat: a word, rounded up to a power of two."""
        return 1 << (self.rows - 1).bit_length()

    @property
    def scratchpad_words(self):
        """Words of the whole scratchpad."""
        return self.banks * self.bank_depth

    @property
    def attention_digits(self):
        """Digit planes in which Shiftmax outputs are stored and multiplied."""
        return 1 if self.deferred else digit_count(self.attention_bits, self.act_bits)

    @property
    def deferred(self):
        """Whether attention is of exponentials of a byte, or of codes of such."""
        return self.attention == "deferred" or bool(self.levels)

    @property
    def levels(self):
        """Exponentials that the codes of attention stand for, or none: attention is bytes."""
        return LEVELS.get(self.attention, ())

    @property
    def row_words(self):
        """Words of the longest row that VECTOR takes."""
        return -(-self.max_row // self.rows)

    def attention_words(self, words):
        """Return the words of a row of attention to keys of that many words, in each plane."""
        return -(-words // 2) if self.levels else words

    @property
    def vector_planes(self):
        """Most planes of a result of the VECTOR engine; a mean or a norm of 16 bits has two."""
        return max(self.attention_digits,
                   2 if self.pooling == "mean" or self.norm_bits > CODE_BITS else 1)

    @property
    def mean_mult_bits(self):
        """Bits of the multiplier of MEAN."""
        return min(self.code_mult_bits, self.mult_bits)

    @property
    def largest_mean_mult(self):
        """Largest multiplier of MEAN."""
        return (1 << self.mean_mult_bits) - 1

    @property
    def largest_unit(self):
        """Largest unit of ShiftExp."""
        return (1 << self.x0_bits) - 1

    @property
    def largest_epsilon_high(self):
        """Largest upper half of an epsilon of LAYERNORM, if that has any."""
        return (1 << epsilon_bits(self.max_row) - 32) - 1 if self.fine_norm else 0

    @property
    def fine_norm(self):
        """Whether layer norms take off a mean with fractional bits, and have an epsilon."""
        return self.norm in ("normalised", "compared")

    @property
    def compared_norm(self):
        """Whether layer norms find codes by comparison of squares, without parameters."""
        return self.norm == "compared"

    @property
    def largest_norm_bits(self):
        """Most bits of the results of a layer norm."""
        return self.act_bits if self.compared_norm else self.norm_bits

    @property
    def last_group(self):
        """Number of the last group of `lanes` lanes in a word."""
        return self.rows // self.lanes - 1

    @property
    def matmul_flags(self):
        """All flags of MATMUL; those of the row factors and narrow tiles only if there are any."""
        return 63 if self.narrow_bits else 31 if self.factor_depth else 15

    def tile_columns(self, *, narrow):
        """Return the columns of a tile of results."""
        return self.cols << narrow

    @property
    def entry_bits(self):
        """Bits of an entry of the accumulators: a sum, or two narrow ones."""
        return max(self.acc_bits, 2 * NARROW_SUM_BITS) if self.narrow_bits else self.acc_bits

    @property
    def nibble_bits(self):
        """Bits between the two weights of a lane of a narrow tile."""
        return self.weight_bits // 2

    def sum_bits(self, *, narrow):
        """Return the bits of a sum in the accumulators; narrow ones lie there in pairs."""
        return NARROW_SUM_BITS if narrow else self.acc_bits

    @property
    def factor_depth(self):
        """Entries of the row factor memory: one per row in flight that is divided after A.V."""
        return 0 if self.attention == "published" else 2 * self.token_depth

    @property
    def factor_bits(self):
        """Bits of a row factor.

        Those of normalised attention are multipliers of results of 8 bits like others: what they
        rescale takes no longer than without them.
        """
        return self.mult_bits if self.long_factors else min(
            self.code_mult_bits, self.mult_bits, FACTOR_BITS)

    @property
    def long_factors(self):
        """Whether row factors are long multipliers, whatever the bits of a result."""
        return self.deferred

    @property
    def exponential_tables(self):
        """Tables of `TABLE_BYTES` that hold the exponentials: a byte of each entry each."""
        return {"published": 0, "normalised": 2}.get(self.attention, 1)

    @property
    def last_table(self):
        """Number of the last table that LOAD_TABLE loads; without exponentials it is dropped."""
        return max(self.exponential_tables, 1)

    def requant_cycles(self, *, long, residual=False):
        """Return the cycles that a requantizer takes for a group of lanes.

        `long` for multipliers of ``mult_bits`` instead of ``code_mult_bits``.
        """
        return requant_slots(self.mult_bits, self.code_mult_bits, long=long, residual=residual)

    @property
    def mult_limb(self):
        """Multiplier bits that a requantizer takes in one cycle."""
        return mult_limb(self.mult_bits, self.code_mult_bits)

    @property
    def param_beats(self):
        """Stream beats of one parameter word (``lanes`` records)."""
        return -(-RECORD_BYTES * self.lanes // self.bus_bytes)

    @property
    def codebook_beats(self):
        """Stream beats of a codebook."""
        return -(-CODEBOOK_ENTRIES // self.rows)

    @property
    def table_beats(self):
        """Stream beats of a table."""
        return -(-TABLE_BYTES // self.rows)

    @property
    def hash(self):
        """64-bit identity of hardware built from this configuration."""
        text = json.dumps({"isa": INSTRUCTION_SET_VERSION, **self.to_dict()}, sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    def to_dict(self):
        """Return the fields as a plain dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields):
        """Build from a dictionary; unknown keys raise `ConfigError` naming the known ones."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in fields:
            if key not in known:
                raise ConfigError(f"unknown configuration key {shown(key)}, expected one of "
                                  f"{', '.join(known)}")
        return cls(**fields)

    @classmethod
    def load(cls, source):
        """Return a preset by name, or read a ``.toml`` or ``.json`` file of fields.

        A file may name a ``preset`` to start from. Raises `ConfigError` for anything unusable.
        """
        if source in PRESETS:
            return PRESETS[source]
        path = Path(source)
        try:
            text = read_file(path, _FILE_BYTES).decode()
            fields = (parse_json if path.suffix == ".json" else parse_toml)(text)
        except FileNotFoundError:
            raise ConfigError(f"configuration {str(source)!r} is neither a preset "
                              f"({', '.join(PRESETS)}) nor a file") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or shorten(error)
            raise ConfigError(f"configuration {str(source)!r} cannot be read: {reason}") from None
        if not isinstance(fields, dict):
            raise ConfigError(f"configuration {str(source)!r} must hold a table of fields")
        preset = fields.pop("preset", None)
        if preset is not None:
            if not isinstance(preset, str) or preset not in PRESETS:
                raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, "
                                  f"not {shown(preset)}")
            fields = {**PRESETS[preset].to_dict(), **fields}
        return cls.from_dict(fields)


_RANGES = [
    ("rows", 2, 128), ("cols", 1, 128), ("lanes", 1, 64),
    ("vector_lanes", 1, 64), ("norm_lanes", 1, 64), ("weight_bits", 2, 8),
    ("act_bits", 2, 8), ("narrow_bits", 0, 4), ("acc_bits", 16, 40),
    ("token_depth", 2, 4096), ("acc_buffers", 2, 8),
    ("banks", 1, 16), ("bank_depth", 16, 65536), ("weight_fifo", 2, 4096), ("stream_fifo", 4, 4096),
    ("queue_depth", 2, 64), ("param_depth", 2, 65536), ("param_ports", 1, 2),
    ("mult_bits", 8, INT_BITS), ("code_mult_bits", 8, INT_BITS), ("norm_roots", 1, 16),
    ("attention_bits", 8, 16), ("max_row", 2, 65536), ("x0_bits", 1, 24),
]
_CHOICES = {
    "pe_style": ("dsp", "dsp_packed", "lut"),
    "attention": ATTENTIONS,
    "attention_bits": (8, 16), "gelu": ("published", "table"),
    "norm": ("published", "leading_one", "normalised", "compared"),
    "norm_bits": (8, 16), "pooling": ("none", "mean"),
}

# A DeiT-Tiny on an XC7S50: 96 DSP slices with two products each, activations in block RAM.
_ARTY = {"rows": 24, "cols": 8, "lanes": 4, "vector_lanes": 2, "norm_lanes": 1, "norm_roots": 1,
         "pe_style": "dsp_packed", "acc_bits": 24, "banks": 5, "bank_depth": 2048,
         "code_mult_bits": 12, "max_row": 256}

# A DeiT-Tiny with a multiplier for each cell, and a table for GELU.
_ECP5_LARGE = {"rows": 16, "cols": 8, "lanes": 4, "vector_lanes": 2, "acc_bits": 24, "banks": 4,
               "bank_depth": 4096, "weight_fifo": 64, "stream_fifo": 64, "code_mult_bits": 12,
               "norm_roots": 1, "max_row": 256, "gelu": "table"}

PRESETS = {
    "digits": AcceleratorConfig(vector_lanes=4, norm_lanes=4, mult_bits=16, code_mult_bits=16,
                                acc_buffers=4, banks=8, bank_depth=1024, weight_fifo=256,
                                stream_fifo=128, param_depth=512, param_ports=2),
    "small": AcceleratorConfig(rows=8, cols=4, lanes=2, vector_lanes=2, norm_lanes=2,
                               token_depth=32, bank_depth=1024, max_row=256),
    "tiny": AcceleratorConfig(rows=4, cols=4, lanes=1, token_depth=16, banks=2, bank_depth=512,
                              max_row=64, weight_fifo=8, stream_fifo=8, param_depth=128),
    "arty_s7_50": AcceleratorConfig(**_ARTY),
    # The same, and four products of 4 bits in each slice for layers that have no more.
    "arty_s7_50_mixed": AcceleratorConfig(**{
        **_ARTY, "narrow_bits": 4, "weight_codes": True, "mult_bits": 16, "code_mult_bits": 16,
        "norm_lanes": 2}),
    # A third of its array and block RAM on the same part: placed and routed in minutes.
    "arty_s7_50_small": AcceleratorConfig(rows=8, cols=8, lanes=2, vector_lanes=1, norm_lanes=1,
                                          norm_roots=1, pe_style="dsp_packed", acc_bits=24, banks=5,
                                          bank_depth=1024, mult_bits=16, code_mult_bits=12,
                                          max_row=256, weight_fifo=32, stream_fifo=16),
    "array_16x16": AcceleratorConfig(rows=16, cols=16, lanes=8, vector_lanes=2, norm_lanes=1,
                                     norm_roots=1, pe_style="dsp_packed", acc_bits=24, banks=8,
                                     bank_depth=2048, code_mult_bits=12, max_row=256),
    # The same with memories for a DeiT-Small or a ViT-Base.
    "array_16x16_large": AcceleratorConfig(rows=16, cols=16, lanes=8, vector_lanes=2, norm_lanes=1,
                                           norm_roots=1, pe_style="dsp_packed", acc_bits=25,
                                           banks=8, bank_depth=8192, code_mult_bits=12,
                                           max_row=768),
    # Networks with windows, of 12 channels or a multiple: rows are moved, a norm before the stream.
    "windows": AcceleratorConfig(rows=12, vector_lanes=4, norm_lanes=4, copies=True, mult_bits=16,
                                 code_mult_bits=16, acc_buffers=4, banks=16, bank_depth=256,
                                 weight_fifo=256, stream_fifo=128, param_depth=512, param_ports=2,
                                 norm_bits=16, pooling="mean"),
    # A Swin-Tiny at 224 x 224 with all its activations on chip, 2 MB: for large parts.
    "swin_tiny": AcceleratorConfig(rows=32, cols=8, lanes=8, vector_lanes=8, norm_lanes=4,
                                   pe_style="dsp_packed", acc_bits=26, acc_buffers=4, banks=16,
                                   bank_depth=4096, weight_fifo=512, stream_fifo=256,
                                   param_depth=1024, param_ports=2, mult_bits=24,
                                   code_mult_bits=16, max_row=1536, attention="deferred",
                                   copies=True, norm_bits=16, pooling="mean"),
    # Texts: attention to the tokens before, and several of different lengths at once.
    "texts": AcceleratorConfig(vector_lanes=4, norm_lanes=4, mult_bits=16, code_mult_bits=16,
                               acc_buffers=4, banks=8, bank_depth=1024, weight_fifo=256,
                               stream_fifo=128, param_depth=512, param_ports=2, masks=True),
    # The digits on an ECP5 85F, a multiplier for each cell: routed in minutes.
    "ulx3s_85f": AcceleratorConfig(rows=8, cols=4, lanes=2, norm_roots=1, acc_bits=24,
                                   token_depth=32, bank_depth=1024, code_mult_bits=12, max_row=256),
    # A DeiT-Tiny there, its weights in the memory beside the FPGA; twice the rows crowd its wires.
    "ulx3s_85f_large": AcceleratorConfig(**{
        **_ECP5_LARGE, "rows": 8, "lanes": 2, "vector_lanes": 1, "mult_bits": 16, "banks": 7}),
    "array_16x8": AcceleratorConfig(**_ECP5_LARGE),
}
