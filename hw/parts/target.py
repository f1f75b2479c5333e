"""What a design is elaborated for: plain logic, or the primitives of an FPGA family."""

__all__ = ["Primitives", "has_dsp48e1", "is_ecp5"]

_FAMILIES = "xc7", "ecp5"


class Primitives:
    """Platform object that makes units fit the DSP slices and block RAM of `family`.

    Families are ``xc7`` and ``ecp5``. Without one, the same units elaborate to plain registers and
    arithmetic of equal behaviour, for simulation and for Verilog that any tool reads.
    """

    def __init__(self, family):
        if family not in _FAMILIES:
            raise ValueError(f"family must be {' or '.join(map(repr, _FAMILIES))}, not {family!r}")
        self.family = family


def has_dsp48e1(platform):
    """Return whether `platform` asks for DSP48E1 instances."""
    return isinstance(platform, Primitives) and platform.family == "xc7"


def is_ecp5(platform):
    """Return whether `platform` is for ECP5."""
    return isinstance(platform, Primitives) and platform.family == "ecp5"
