"""What a design is elaborated for: plain logic, or the primitives of an FPGA family."""

__all__ = ["Primitives", "has_dsp48e1"]


class Primitives:
    """Platform object that makes units instantiate the DSP slices of `family` (``xc7``).

    Without one, the same units elaborate to plain registers and arithmetic of equal behaviour, for
    simulation and for Verilog that any tool reads.
    """

    def __init__(self, family):
        if family != "xc7":
            raise ValueError(f"family must be 'xc7', not {family!r}")
        self.family = family


def has_dsp48e1(platform):
    """Return whether `platform` asks for DSP48E1 instances."""
    return isinstance(platform, Primitives) and platform.family == "xc7"
