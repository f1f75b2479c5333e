"""Sizes of the vector units that ablations compare, as synthesis measured them."""

__all__ = ["SIZES_OF", "UNIT_LUTS"]

SIZES_OF = "arty_s7_50"
"""The preset: `systola synth --config arty_s7_50 --json`, sums of ``modules``."""

UNIT_LUTS = {
    ("attention", "normalised"): 532,
    ("attention", "published"): 829,
    ("gelu", "table"): 92,
    ("norm", "normalised"): 1004,
    ("norm", "published"): 902,
}
"""LUTs by setting and variant; what is not here was not measured apart. docs/PERFORMANCE.md."""
