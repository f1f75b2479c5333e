"""Synthesis with Yosys: a configuration, component or Verilog file to a table of sizes."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from amaranth.back import rtlil

from systola.boards.synthesis.depth import Depth, logic_depth
from systola.boards.synthesis.rtlil import prepared
from systola.boards.synthesis.sizes import ModuleSize, Size, module_sizes
from systola.boards.synthesis.watch import OutOfTime, tail, watch
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.dsp_packing import plan_packing
from systola.hw.matrix.systolic import SystolicArray, check_array
from systola.hw.parts.target import Primitives
from systola.hw.verilog import find_yosys

__all__ = ["FAMILIES", "Synthesis", "SynthesisError", "array_of", "run_yosys", "synthesize"]

FAMILIES = "xc7", "xcup"
"""Xilinx families: 7 series, UltraScale+."""

_ARRAY = "array"
"""Name of the module that holds the systolic array."""

_FLAT = ("setattr -mod -unset keep_hierarchy *\nflatten\nopt_clean\nselect {top}/*\n"
         "write_json -selected flat.json\n")
"""Writes the mapped netlist without hierarchy, so that paths go through all of it."""

_STEP = re.compile(r"^[\d.]+ Executing (\S+) pass|^Extracted .* module `\\?(\S+)' to",
                   re.MULTILINE)


class SynthesisError(RuntimeError):
    """Yosys failed, or the design has a latch or a combinational loop; one line says which."""


@dataclass
class Synthesis:
    """Result of `synthesize`; ``modules`` maps paths (of the first instance) to sizes."""

    top: str
    family: str
    seconds: float
    total: Size
    modules: dict[str, ModuleSize] = field(default_factory=dict)
    array: dict = field(default_factory=dict)
    depth: Depth | None = None

    def to_dict(self):
        """Return everything as plain dictionaries and numbers.

        ``total`` and each of ``modules`` have ``lut``, ``ff``, ``carry``, ``dsp``, ``bram36``; a
        module also ``instances`` and ``own``, the same without its submodules. With a systolic
        array there are ``macs`` per cycle, ``lut_per_mac``, ``ff_per_mac`` and ``macs_per_dsp``;
        ``narrow_macs_per_dsp`` if it has a second precision.
        ``depth`` is there if it was asked for.
        """
        modules = {name: {"instances": size.instances, **asdict(size.total),
                          "own": asdict(size.own)} for name, size in self.modules.items()}
        return {"top": self.top, "family": self.family, "seconds": self.seconds,
                "total": asdict(self.total), "modules": modules, **self.array,
                **({"depth": self.depth.to_dict()} if self.depth else {})}


def array_of(*, weight_bits=8, act_bits=8, rows=24, cols=8, style="dsp_packed", max_tokens=4):
    """Return a systolic array to synthesize on its own.

    A packed one has the densest packing whose taps are at least two rows apart, with up to
    `max_tokens` vectors per cycle (the accelerator streams one). Raises ``ValueError`` naming the
    parameter, `PackingError` with the reason if nothing packs.
    """
    packing = None
    if not isinstance(max_tokens, int) or max_tokens < 1:
        raise ValueError(f"max_tokens must be a positive integer, not {max_tokens!r}")
    check_array(rows=rows, cols=cols, act_bits=act_bits, weight_bits=weight_bits, style=style)
    if style == "dsp_packed":
        packing = plan_packing(weight_bits, act_bits, rows, cols=cols, max_tokens=max_tokens,
                               least_gap=2)
    return SystolicArray(rows=rows, cols=cols, act_bits=act_bits, weight_bits=weight_bits,
                         style=style, packing=packing)


def synthesize(design, top="systola", *, family="xc7", smallest=1000, infer_dsp=None, depth=False,
               netlist=None, log=None, progress=None):
    """Synthesize `design` and return its size.

    Modules are kept apart, so that each has its own figures, and identical ones are synthesized
    once; small ones become part of those around them, which halves the time. Nothing is cached.
    For ``xc7``, components may ask for its DSP slices (`Primitives`).

    Parameters
    ----------
    design : AcceleratorConfig, amaranth component, str or Path
        What to build: the accelerator of a configuration, a component, or a Verilog file.
    top : str
        Name of the top module; must exist in a Verilog file.
    family : str
        One of `FAMILIES`.
    smallest : int
        Lines of Yosys' language from which a module stays on its own (a short queue has 400, a
        processing element 130 but stays if there are at least 8 of it), as arrays do; 0 keeps
        all. Modules of a Verilog file all stay; those inside a packed array never do.
    infer_dsp : bool, optional
        Whether Yosys may turn multiplications into DSP slices; by default unless the array of the
        design has its own slices or wants none (``dsp_packed`` and ``lut``).
    depth : bool
        Find the deepest paths, too (`logic_depth`).
    netlist : str or Path, optional
        File for the mapped netlist without hierarchy, as Yosys' JSON.
    log : str or Path, optional
        File for Yosys' complete log.
    progress : callable, optional
        Called with one short text whenever the step changes.

    Returns
    -------
    Synthesis

    Raises
    ------
    SynthesisError
        If Yosys fails, or finds a latch, a combinational loop or a net driven twice, or a slice of
        a packed array is gone.
    ValueError
        If `family` or `design` is not usable.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")
    progress = progress or (lambda text: None)
    style = _style(design)
    if infer_dsp is None:
        infer_dsp = style not in {"dsp_packed", "lut"} or (family, style) == ("xcup", "dsp_packed")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="systola_synth_") as folder:
        folder = Path(folder)
        progress("elaborating")
        read = _write_design(design, top, folder, smallest, family)
        flags = ("" if infer_dsp else " -nodsp") + (
            " -flatten" if (folder / "design.il").exists() else "")
        # Loops may close across modules: look for them in a flat copy, before any mapping.
        (folder / "run.ys").write_text(
            f"{read}\nhierarchy -check -top {top}\nproc\ndesign -save whole\n"
            "setattr -mod -unset keep_hierarchy *\nflatten\nopt_clean\nsimplemap\n"
            "select -assert-none t:$_DLATCH* t:$_SR_*\ncheck -assert\n"
            "design -load whole\n"
            f"synth_xilinx -family {family} -abc9 -noiopad{flags} -top {top}\n"
            "tee -o stat.json stat -json\n" + (
                _FLAT.format(top=top) if depth or netlist else ""))
        run_yosys(folder, log, progress)
        stat = json.loads((folder / "stat.json").read_text())
        paths = logic_depth(folder / "flat.json", top=top) if depth else None
        if netlist:
            shutil.copyfile(folder / "flat.json", netlist)
    modules = module_sizes(stat["modules"], top)
    result = Synthesis(top, family, round(time.perf_counter() - start, 1), modules[top].total,
                       modules, depth=paths)
    if style is not None:
        result.array = _per_mac(modules, design, slices=family == "xc7" and style == "dsp_packed")
    return result


def _style(design):
    """Return the style of processing elements of a design with an array, else None."""
    if isinstance(design, AcceleratorConfig):
        return design.pe_style
    return design.style if isinstance(design, SystolicArray) else None


def _write_design(design, top, folder, smallest, family):
    """Write `design` into `folder`; return the command that reads it."""
    if isinstance(design, str | Path):
        path = Path(design)
        if not path.is_file():
            raise ValueError(f"design must be a Verilog file, a component or a configuration, "
                             f"not {str(design)!r}")
        (folder / "design.v").write_bytes(path.read_bytes())
        return "read_verilog design.v"
    inline = (_ARRAY,) if _style(design) == "dsp_packed" else ()
    if isinstance(design, AcceleratorConfig):
        design = Accelerator(design)
    platform = Primitives(family) if family == "xc7" else None
    text = rtlil.convert(design, name=top, platform=platform, emit_src=False)
    (folder / "design.il").write_text(prepared(text, smallest, always=(_ARRAY,), inline=inline))
    return "read_verilog -lib +/xilinx/cells_sim.v\nread_rtlil design.il"


def run_yosys(folder, log, progress, limit=None):
    """Run the script in `folder`, telling `progress` the pass; the log is kept even on failure.

    Raises `SynthesisError` if it fails or takes more than `limit` seconds.
    """
    written, shown = folder / "yosys.log", None
    command = [find_yosys(), "-q", "-l", written.name, "-s", "run.ys"]

    def look():
        nonlocal shown
        for step, module in _STEP.findall(tail(written))[-1:]:
            text = f"mapping {module}" if module else f"Yosys {step}"
            if text != shown:
                progress(text)
            shown = text

    try:
        with (folder / "output").open("w+") as output:
            code = watch(command, folder, stdout=output, stderr=subprocess.STDOUT, limit=limit,
                         look=look)
    except OutOfTime:
        raise SynthesisError(f"Yosys did not end within {limit / 60:g} minutes; it was at: "
                             f"{shown}") from None
    except OSError as error:
        raise SynthesisError(f"Yosys cannot be started: {error}") from None
    finally:
        if log is not None and written.exists():
            Path(log).parent.mkdir(parents=True, exist_ok=True)
            Path(log).write_bytes(written.read_bytes())
    if code or not (folder / "stat.json").exists():
        text = (tail(written, 1 << 20) + "\n" + tail(folder / "output")).strip()
        raise SynthesisError(_reason(text, code))


def _reason(text, code):
    """Return one line that says why Yosys failed, from its log."""
    loops = re.findall(r"found logic loop in module .*?:\n((?:    .*\n)+)", text)
    if loops:
        wires = re.findall(r"wire \\?(\S+)", loops[0])
        return f"the design has a combinational loop through {', '.join(wires)}"
    latches = re.findall(r"Latch inferred for signal `\\?(\S+?)'", text)
    if latches or "Selection contains:" in text:
        names = ", ".join(dict.fromkeys(latches)).replace(".\\", ".")
        return f"the design has a latch at {names or 'a cell'}"
    drivers = re.search(r"Warning: (multiple conflicting drivers .*?):?\n", text)
    if drivers:
        return f"the design has {drivers[1]}"
    errors = re.findall(r"ERROR: (.*)", text)
    last = (text.splitlines() or ["nothing"])[-1]
    return f"Yosys failed: {errors[0]}" if errors else (
        f"Yosys ended with exit code {code}; its last words: {last}")


def _per_mac(modules, design, slices):
    """Return the figures of the systolic array: cells, skew, and what packs and unpacks.

    With `slices`, every cell must still have its own.
    """
    size = next(size.total for name, size in modules.items() if name.split(".")[-1] == _ARRAY)
    macs = design.rows * design.cols * getattr(design, "tokens", 1)
    if slices:
        packing = getattr(design, "packing", None) or plan_packing(
            design.weight_bits, design.act_bits, design.rows, cols=design.cols)
        if macs != packing.macs_per_dsp * size.dsp:
            raise SynthesisError(f"the array should have {macs // packing.macs_per_dsp} DSP slices "
                                 f"for {macs} products, but {size.dsp} are left")
    per_dsp = macs / size.dsp if size.dsp else None
    result = {"macs": macs, "lut_per_mac": size.lut / macs, "ff_per_mac": size.ff / macs,
              "macs_per_dsp": per_dsp}
    if design.narrow_bits:
        result["narrow_macs_per_dsp"] = per_dsp and 2 * per_dsp
    return result
