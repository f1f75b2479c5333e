"""Verdicts of Yosys on rules: by induction (``sat``), or by property-directed reachability."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from systola.hw.verilog import find_yosys

__all__ = ["METHODS", "ProverError", "Verdict", "decide"]

_READ = """
read_rtlil {name}.il
hierarchy -top top
proc
flatten
memory_map
setundef -undriven -anyseq
opt
"""

_INDUCTION = _READ + """
sat -tempinduct -maxsteps {depth} -timeout {limit} -prove bad 0 -show bad top
design -reset
"""

_REACHABILITY = _READ + """
techmap
dfflegalize -cell $_DFF_P_ 01
setundef -zero
opt_clean
aigmap
write_aiger -zinit {name}.aig
design -reset
"""

# Yosys calls ABC on a network only, and takes one back: any will do.
_RUN_ABC = """
read_verilog seed.v
techmap
abc -script +backup;{script};restore
"""

_ABC = ("read_aiger,{name}.aig;scorr;write_aiger,{name}.merged;pdr,-T,{limit};"
        "write_status,{name}.status")

_SEED = "module seed(input a, b, output y); assign y = a & b; endmodule\n"

METHODS = "induction", "pdr"
"""Induction over `depth` cycles, or ABC's property-directed reachability inside Yosys.

Both are complete proofs for runs of any length. Induction needs rules that follow from themselves
in the cycles before; it is the one for arithmetic. The other finds the invariants itself; it is the
one for counters and queues.
"""


class ProverError(RuntimeError):
    """Yosys failed; the message has its last line."""


@dataclass(frozen=True)
class Verdict:
    """What is known about a bench's rules.

    ``outcome`` is ``proved``, ``broken`` or ``unknown`` (the prover gave up). Of a broken one
    `step` is the cycle, from 1, in which the run that was found breaks a rule, `rule` that rule's
    number; there may be a shorter run.
    """

    outcome: str
    step: int | None = None
    rule: int | None = None


def decide(designs, *, method="pdr", depth=20, limit=60):
    """Return a `Verdict` for each of `designs` in one run of Yosys.

    Parameters
    ----------
    designs : list of str
        RTLIL with top module ``top``, whose output ``bad`` has a bit for every rule and must stay
        zero, whatever the inputs, reset among them, in every cycle from power-up.
    method : str
        One of `METHODS`.
    depth : int
        Most cycles of an induction.
    limit : int
        Seconds for each design.

    Raises
    ------
    ProverError
        If Yosys fails or does not end.
    """
    names = [f"design{k}" for k in range(len(designs))]
    with tempfile.TemporaryDirectory(prefix="systola-formal-") as folder:
        folder = Path(folder)
        for name, text in zip(names, designs, strict=True):
            (folder / f"{name}.il").write_text(text)
        (folder / "seed.v").write_text(_SEED)
        if method == "induction":
            script = "".join(_INDUCTION.format(name=name, depth=depth, limit=limit)
                             for name in names)
        else:
            script = "".join(_REACHABILITY.format(name=name) for name in names) + _RUN_ABC.format(
                script=";".join(_ABC.format(name=name, limit=limit) for name in names))
        (folder / "run.ys").write_text(script)
        log = _run(folder, limit * len(designs) + 60)
        if method == "induction":
            found = log.split("Executing SAT pass")[1:]
            if len(found) != len(names):
                raise ProverError(f"Yosys decided {len(found)} of {len(names)} designs")
            return [_from_sat(part) for part in found]
        return [_from_abc((folder / f"{name}.merged").read_bytes(),
                          (folder / f"{name}.status").read_text()) for name in names]


def _run(folder, limit):
    """Run Yosys on ``run.ys``; return its log (ABC takes the standard output away from it)."""
    try:
        done = subprocess.run([find_yosys(), "-Q", "-l", "run.log", "-s", "run.ys"], cwd=folder,
                              capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise ProverError(f"Yosys did not end within {limit} seconds") from None
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ProverError(f"Yosys failed: {lines[-1] if lines else done.returncode}")
    return (folder / "run.log").read_text()


def _from_sat(log):
    """Return the verdict of the `sat` command that wrote `log`."""
    if "Induction step proven: SUCCESS!" in log:
        return Verdict("proved")
    _, found, log = log.partition("model found for base case: FAIL!")
    if not found:
        return Verdict("unknown")
    # A table of time, signal, decimal, hexadecimal and binary values.
    rows = re.findall(r"^ +(\d+) \\bad +\S+ +\S+ +([01]+)$", log, re.MULTILINE)
    step, bits = next((int(time), bits) for time, bits in rows if "1" in bits)
    return Verdict("broken", step, bits[::-1].index("1"))


def _from_abc(merged, status):
    """Return the verdict from the network after merging equal registers, and PDR's status.

    Merging may leave nothing to prove: every output of the AIGER file is the constant 0. Else the
    first line that ``write_status`` wrote has the word, the frames without a counterexample, the
    engine and, of a counterexample, the output and the frame, if that is not the number before.
    """
    header, *lines = merged.split(b"\n")
    latches, outputs = (int(count) for count in header.split()[3:5])
    if all(line == b"0" for line in lines[latches:latches + outputs]):
        return Verdict("proved")
    word, frames, _, *where = status.splitlines()[0].split()
    if word == "snl_UNSAT":
        return Verdict("proved")
    if word != "snl_SAT":
        return Verdict("unknown")
    return Verdict("broken", 1 + int(where[1] if len(where) > 1 else frames), int(where[0]))
