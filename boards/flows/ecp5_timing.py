"""Clock frequency after place and route on an ECP5, the open flow's proxy for other FPGAs."""

import re
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from amaranth import Cat, Module, Signal, Value
from amaranth.back import rtlil
from amaranth.hdl import Elaboratable
from amaranth.lib import wiring

from systola.boards.flows.ecp5 import core_fmax, nextpnr, yosys_script
from systola.boards.flows.flow import ToolError, run_seeds
from systola.boards.synthesis.rtlil import quote_indices
from systola.boards.synthesis.synth import run_yosys
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import AcceleratorConfig
from systola.hw.parts.target import Primitives

__all__ = ["DEVICES", "Harness", "Timing", "TimingStep", "fmax_ecp5"]

DEVICES = "25k", "45k", "85k"
"""ECP5 devices, in thousands of LUTs."""

_TOP = "top"

_KINDS = {"carry": r"\$CCU2", "dsp": r"MULT18X18D(_\w+)?$", "bram": r"DP16KD(_\w+)?$",
          "ram": r"DPR16X4C|\$DPRAM|\$RAMW", "ff": r"TRELLIS_FF_Q(_\d+)?$",
          "lut": r"(LUT4|PFUMX|L6MUX21)\w*$"}
"""Kinds of cells by the name that Yosys gives them."""

_GENERATED = r"_(?:TRELLIS|LUT4|CCU2C|PFUMX|L6MUX21|DP16KD|MULT18X18D|TRELLIS_DPR16X4)_?"


@dataclass(frozen=True)
class TimingStep:
    """One cell of a path: its kind and name, and the ns to it (``routing``) and in it (``logic``).

    Kinds are ``lut``, ``carry`` (a whole chain), ``ff``, ``ram`` (of LUTs), ``bram``, ``dsp`` and
    ``other``; the name is of the register or net in the source that the cell belongs to.
    """

    kind: str
    name: str
    routing: float
    logic: float


@dataclass
class Timing:
    """Result of `fmax_ecp5`; ``fmax`` in MHz by seed, ``path`` the critical one of the median seed.

    ``cells`` has the used primitives by type.
    """

    device: str
    speed: int
    seconds: float
    fmax: list
    cells: dict = field(default_factory=dict)
    path: list = field(default_factory=list)

    @property
    def median(self):
        """Median of ``fmax``, the lower one of two."""
        return statistics.median_low(self.fmax)

    def to_dict(self):
        """Return everything as plain dictionaries, lists and numbers, frequencies in MHz."""
        return {"family": "ecp5", "fmax_median": self.median, "fmax_min": min(self.fmax),
                "fmax_max": max(self.fmax), **asdict(self)}


class Harness(Elaboratable):
    """A component between registers, with four pins: clock, reset, serial in and out.

    Inputs are a shift register, outputs are registered and added up (XOR) on their way through a
    second one, so that nothing is optimized away, every port has a register beside it, and the
    harness has one LUT between registers at most.
    """

    def __init__(self, component):
        self.component = component
        self.serial_in, self.serial_out = Signal(), Signal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.component
        last, outputs = self.serial_in, []
        for _, member, value in dut.signature.flatten(dut):
            value = Value.cast(value)
            if member.flow is wiring.Out:
                outputs.append(value)
            elif len(value):
                shift = Signal(len(value), reset_less=True)
                m.d.sync += shift.eq(Cat(last, shift[:-1]))
                m.d.comb += value.eq(shift)
                last = shift[-1]
        width = sum(map(len, outputs))
        caught, chain = Signal(width, reset_less=True), Signal(width + 1, reset_less=True)
        m.d.sync += [caught.eq(Cat(*outputs)), chain.eq(Cat(last, caught ^ chain[:-1])),
                     self.serial_out.eq(chain[-1])]
        return m


def fmax_ecp5(design, *, seeds=3, device="85k", speed=6, target=100, folder=None, progress=None):
    """Place and route `design` in a `Harness` on an ECP5 and return its `Timing`.

    The design is synthesized flat, and placed and routed on as many cores as there are. Fmax is
    nextpnr's estimate after routing, with the delays of its database for that speed grade.

    Parameters
    ----------
    design : AcceleratorConfig or amaranth component
        The accelerator of a configuration, or any unit.
    seeds : int
        Number of placements, with seeds 1, 2, ...
    device : str
        One of `DEVICES`.
    speed : int
        Grade: 6 (slowest), 7 or 8.
    target : float
        MHz that the placer aims at.
    folder : str or Path, optional
        Where logs and reports stay; by default they are removed.
    progress : callable, optional
        Called with one short text whenever the step changes.

    Raises
    ------
    ToolError, SynthesisError
        If Yosys fails, or the design does not fit or route.
    ValueError
        If an argument is out of range.
    """
    if not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a positive integer, not {seeds!r}")
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    if speed not in (6, 7, 8):
        raise ValueError(f"speed must be 6, 7 or 8, not {speed!r}")
    progress = progress or (lambda text: None)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="systola_timing_") as scratch:
        work = Path(scratch if folder is None else folder)
        work.mkdir(parents=True, exist_ok=True)
        progress("synthesizing for ECP5")
        _write_netlist(design, work)
        options = [f"--{device}", "--speed", str(speed), "--freq", str(target),
                   "--lpf-allow-unconstrained"]
        reports, failed = run_seeds(
            lambda seed, said: nextpnr(work, _TOP, options, seed, said=said), seeds, progress)
    if failed:
        raise ToolError(next(iter(failed.values())))
    fmax = [core_fmax(report) for report in reports.values()]
    median = list(reports.values())[fmax.index(statistics.median_low(fmax))]
    cells = {kind: use["used"] for kind, use in median["utilization"].items() if use["used"]}
    return Timing(device, speed, round(time.perf_counter() - start, 1), fmax, cells,
                  _critical_path(median))


def _write_netlist(design, work):
    """Write the ECP5 netlist of `design` in a harness into the folder `work`."""
    if isinstance(design, AcceleratorConfig):
        design = Accelerator(design)
    harness = Harness(design)
    text = rtlil.convert(harness, name=_TOP, emit_src=False, platform=Primitives("ecp5"),
                         ports=[harness.serial_in, harness.serial_out])
    (work / "design.il").write_text(quote_indices(text))
    (work / "run.ys").write_text(yosys_script(_TOP, "design.il"))
    run_yosys(work, None, lambda text: None)


def _critical_path(report):
    """Return the `TimingStep` list of the slowest path between registers."""
    paths = [path["path"] for path in report["critical_paths"]
             if "async" not in path["from"] and "async" not in path["to"]]
    worst = max(paths, key=lambda path: sum(step["delay"] for step in path), default=[])
    steps, routing = [], 0
    for step in worst:
        if step["type"] == "routing":
            routing += step["delay"]
            continue
        cell = step["to"]["cell"] if step["type"] != "clk-to-q" else step["from"]["cell"]
        kind = next((kind for kind, pattern in _KINDS.items() if re.search(pattern, cell)), "other")
        name = re.split(_GENERATED, cell)[0]
        if kind == "carry" and steps and steps[-1].kind == "carry":
            last = steps.pop()
            steps.append(TimingStep(kind, last.name, last.routing, last.logic + step["delay"]))
        else:
            steps.append(TimingStep(kind, name, routing, step["delay"]))
        routing = 0
    return [replace(step, routing=round(step.routing, 3), logic=round(step.logic, 3))
            for step in steps]
