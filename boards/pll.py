"""Phase-locked loops of the boards' FPGAs: dividers for a frequency, checked against the limits."""

from dataclasses import dataclass

from amaranth import Const, Instance

__all__ = ["ECP5_PLL", "XC7_PLL", "Pll", "PllPlan", "pll_instance"]

_OTHERS = {"xc7": 5, "ecp5": 2}

_ERROR_MAX = 0.01
"""Largest deviation from the frequency that was asked for."""


@dataclass(frozen=True)
class PllPlan:
    """Dividers and what they give: ``output = input / divide * multiply / output_divide`` MHz."""

    input: float
    divide: int
    multiply: int
    output_divide: int

    @property
    def vco(self):
        """Frequency of the oscillator, MHz."""
        return self.input / self.divide * self.multiply

    @property
    def output(self):
        """Frequency of the output, MHz."""
        return self.vco / self.output_divide


@dataclass(frozen=True)
class Pll:
    """Limits of a PLL: frequencies in MHz and dividers, each from the first to the second value."""

    input: tuple
    detector: tuple
    vco: tuple
    output: tuple
    divide: tuple
    multiply: tuple
    output_divide: tuple

    def plan(self, source, target):
        """Return the `PllPlan` that makes `target` MHz out of `source` MHz.

        The nearest one; of equals that with the fastest phase detector, then with the VCO nearest
        to the middle of its range. Raises ``ValueError`` if `target` is out of range or nothing is
        within 1 % of it; the message names the nearest.
        """
        low, high = self.output
        if not isinstance(target, int | float) or not low <= target <= high:
            raise ValueError(f"frequency must be from {low:g} to {high:g} MHz, not {target!r}")
        plans = [plan for plan in self._plans(source, target) if low <= plan.output <= high]
        best = min(plans, default=None, key=lambda plan: (
            round(abs(plan.output - target), 9), plan.divide, abs(plan.vco - sum(self.vco) / 2)))
        if best is None or abs(best.output / target - 1) > _ERROR_MAX:
            near = f"; nearest is {best.output:g}" if best else ""
            raise ValueError(f"frequency must be one that the PLL makes of {source:g} MHz within "
                             f"1 %, not {target!r} MHz{near}")
        return best

    def _plans(self, source, target):
        """Return the plans within all limits, for each pair of input dividers the nearest ones."""
        for divide in range(self.divide[0], self.divide[1] + 1):
            if not self.detector[0] <= source / divide <= self.detector[1]:
                continue
            for multiply in range(self.multiply[0], self.multiply[1] + 1):
                vco = source / divide * multiply
                if self.vco[0] <= vco <= self.vco[1]:
                    for output_divide in {int(vco / target), int(vco / target) + 1}:
                        if self.output_divide[0] <= output_divide <= self.output_divide[1]:
                            yield PllPlan(source, divide, multiply, output_divide)


XC7_PLL = Pll(input=(19, 800), detector=(19, 450), vco=(800, 1600), output=(6.25, 464),
              divide=(1, 56), multiply=(2, 64), output_divide=(1, 128))
"""PLLE2 of a Spartan-7 in speed grade -1 with a BUFG behind it (DS189, switching characteristics of
PLL and clock buffers; dividers from UG472)."""

ECP5_PLL = Pll(input=(8, 400), detector=(10, 400), vco=(400, 800), output=(3.125, 400),
               divide=(1, 128), multiply=(1, 128), output_divide=(1, 128))
"""EHXPLLL of an ECP5 (FPGA-DS-02012, sysCLOCK PLL timing; dividers from FPGA-TN-02200)."""


def pll_instance(family, plan, *, source, output, feedback, locked, others=()):
    """Return the instance of the PLL of `family` (``xc7`` or ``ecp5``) that carries out `plan`.

    `source` drives it; it drives `output`, `feedback` (an otherwise unused signal) and `locked`.
    And up to five `others`, two of an ECP5, each a signal, its divider in place of that of the
    plan, and its phase in degrees behind `output`, a multiple of 45 divided by its divider.
    """
    if len(others) > _OTHERS.get(family, 0):
        raise ValueError(f"others must be at most {_OTHERS.get(family, 0)}, not {len(others)}")
    if family == "xc7":
        more = {}
        for number, (clock, divide, phase) in enumerate(others, 1):
            more |= {f"p_CLKOUT{number}_DIVIDE": divide, f"p_CLKOUT{number}_PHASE": float(phase),
                     f"p_CLKOUT{number}_DUTY_CYCLE": 0.5, f"o_CLKOUT{number}": clock}
        return Instance(
            "PLLE2_ADV", p_BANDWIDTH="OPTIMIZED", p_STARTUP_WAIT="FALSE",
            p_CLKIN1_PERIOD=1e3 / plan.input, p_REF_JITTER1=0.01, p_DIVCLK_DIVIDE=plan.divide,
            p_CLKFBOUT_MULT=plan.multiply, p_CLKFBOUT_PHASE=0.0,
            p_CLKOUT0_DIVIDE=plan.output_divide, p_CLKOUT0_PHASE=0.0,
            p_CLKOUT0_DUTY_CYCLE=0.5, i_CLKIN1=source, i_CLKFBIN=feedback, i_RST=Const(0, 1),
            i_PWRDWN=Const(0, 1), o_CLKFBOUT=feedback, o_CLKOUT0=output, o_LOCKED=locked,
            **more)
    if family != "ecp5":
        raise ValueError(f"family must be 'xc7' or 'ecp5', not {family!r}")
    # CLKOP divides the oscillator down to the phase detector's frequency, for the feedback only, so
    # that CLKOS is free to be any fraction. Phases count from divider - 1, which is none. The
    # attributes are the analogue settings that Project Trellis' PLL tool gives every PLL.
    more = {}
    for number, (clock, divide, phase) in enumerate(others, 2):
        eighths, rest = divmod(8 * divide * phase, 360)  # of a period of the oscillator
        if rest:
            raise ValueError(f"phase must be a multiple of 45 / {divide} degrees, not {phase!r}")
        more |= {f"a_FREQUENCY_PIN_CLKOS{number}": f"{plan.vco / divide:g}",
                 f"p_CLKOS{number}_ENABLE": "ENABLED", f"p_CLKOS{number}_DIV": divide,
                 f"p_CLKOS{number}_CPHASE": divide - 1 + eighths // 8,
                 f"p_CLKOS{number}_FPHASE": eighths % 8, f"i_ENCLKOS{number}": Const(0, 1),
                 f"o_CLKOS{number}": clock}
    return Instance(
        "EHXPLLL", a_FREQUENCY_PIN_CLKI=f"{plan.input:g}",
        a_FREQUENCY_PIN_CLKOS=f"{plan.output:g}", a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
        p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED", p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED", p_FEEDBK_PATH="CLKOP", p_OUTDIVIDER_MUXA="DIVA",
        p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC", p_OUTDIVIDER_MUXD="DIVD",
        p_CLKI_DIV=plan.divide, p_CLKFB_DIV=1,
        p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=plan.multiply, p_CLKOP_CPHASE=plan.multiply - 1,
        p_CLKOP_FPHASE=0, p_CLKOS_ENABLE="ENABLED", p_CLKOS_DIV=plan.output_divide,
        p_CLKOS_CPHASE=plan.output_divide - 1, p_CLKOS_FPHASE=0,
        i_CLKI=source, i_CLKFB=feedback, i_RST=Const(0, 1), i_STDBY=Const(0, 1),
        i_PHASESEL0=Const(0, 1), i_PHASESEL1=Const(0, 1), i_PHASEDIR=Const(1, 1),
        i_PHASESTEP=Const(1, 1), i_PHASELOADREG=Const(1, 1), i_PLLWAKESYNC=Const(0, 1),
        i_ENCLKOP=Const(0, 1), i_ENCLKOS=Const(0, 1),
        o_CLKOP=feedback, o_CLKOS=output, o_LOCK=locked, **more)
