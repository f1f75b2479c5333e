"""What can be measured of a point: figures by name, which way is better, and what measures them."""

from dataclasses import dataclass

__all__ = ["AREA", "FIGURES", "ZERO", "Figure", "better"]


@dataclass(frozen=True)
class Figure:
    """A figure of a point.

    Attributes
    ----------
    about : str
        What it is, with its unit.
    larger : bool
        Whether a larger one is better.
    measure : str
        What measures it, of `systola.explore.point_measures.MEASURES`; those of ``synthesis`` are
        estimated by the area model until they are measured.
    """

    about: str
    larger: bool
    measure: str


AREA = "lut", "ff", "carry", "dsp", "bram36"
"""Figures of a synthesis."""

FIGURES = {
    "cycles": Figure("clock cycles an image, as the compiler predicts them", False, "compile"),
    "fps": Figure("images a second at the clock of the space", True, "compile"),
    "utilisation": Figure("share of the array's products that the network needs", True, "compile"),
    "stream_bytes": Figure("bytes of the program an image: instructions and weights", False,
                           "compile"),
    "bytes_per_cycle": Figure("bandwidth of the stream, bytes a cycle", False, "compile"),
    "scratchpad_words": Figure("words of the scratchpad that are in use at once", False,
                               "compile"),
    "int_top1": Figure("share of test images that the integer model classifies correctly", True,
                       "accuracy"),
    "lut": Figure("look-up tables of a 7-series FPGA", False, "synthesis"),
    "ff": Figure("flip-flops", False, "synthesis"),
    "carry": Figure("CARRY4", False, "synthesis"),
    "dsp": Figure("DSP48E1 slices", False, "synthesis"),
    "bram36": Figure("block RAMs of 36 kbit", False, "synthesis"),
    "energy_uj": Figure("energy of an image in uJ, an estimate (docs/POWER.md)", False, "power"),
    "power_mw": Figure("power in mW at the clock of the space, an estimate", False, "power"),
    "fmax_mhz": Figure("clock after place and route on an ECP5, MHz", True, "route"),
    "ecp5_lut": Figure("look-up tables of an ECP5, after place and route", False, "route"),
    "ecp5_ff": Figure("flip-flops of an ECP5", False, "route"),
    "ecp5_dsp": Figure("MULT18X18D of an ECP5", False, "route"),
    "ecp5_bram": Figure("DP16KD of an ECP5", False, "route"),
}
"""Figures by name; objectives and limits name them."""

ZERO = {"mismatches"}
"""Figures of finalists that must be 0."""


def better(name, value):
    """Return `value` such that less of it is better."""
    return -value if FIGURES[name].larger else value
