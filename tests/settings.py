"""Settings that several tests ask for by name."""

ACCURATE = {"attention": "normalised", "gelu": "table", "norm": "normalised"}
"""What the default operators are; `PUBLISHED` of the configuration has the others."""
