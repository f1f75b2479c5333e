"""Run the proofs of `systola.sim.formal.proofs`, for ``make formal``.

``python -m systola.sim.formal [--json] [--list] [name ...]``. Every proof must pass, and must fail
on the fault planted in the same unit.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

from systola.sim.formal.bench import Bench
from systola.sim.formal.proofs import PROOFS
from systola.sim.formal.prover import ProverError, decide

__all__ = ["Result", "main", "run_proof"]


@dataclass(frozen=True)
class Result:
    """What came out of one proof; `problem` is empty if all is as it must be.

    `fault_step` is the cycle, from 1, in which the planted fault breaks a rule in the run that was
    found, and `fault_rule` that rule.
    """

    name: str
    claim: str
    unit: str
    method: str
    rules: int
    fault: str
    fault_step: int | None = None
    fault_rule: str | None = None
    problem: str = ""
    seconds: float = 0.0


def run_proof(proof, limit=120):
    """Return the `Result` of `proof` and of its planted fault, within `limit` seconds for each."""
    begin = time.monotonic()
    fields = {"name": proof.name, "claim": proof.claim, "unit": proof.module.split(".", 1)[1],
              "method": proof.method,
              "fault": " -> ".join(" ".join(text.split()) for text in proof.fault)}
    rules, designs = [], []
    try:
        for faulty in False, True:
            hardware = proof.hardware(faulty=faulty)
            bench = Bench()
            proof.bench(bench, hardware)
            rules = list(bench.rules)
            designs.append(bench.rtlil())
        right, wrong = decide(designs, method=proof.method, depth=proof.depth, limit=limit)
    except (ProverError, ValueError) as error:
        return Result(**fields, rules=len(rules), problem=str(error),
                      seconds=time.monotonic() - begin)
    problem = ""
    if right.outcome == "broken":
        problem = f"cycle {right.step} breaks the rule {rules[right.rule]!r}"
    elif right.outcome != "proved":
        problem = f"neither proved nor refuted within {limit} seconds"
    elif wrong.outcome != "broken":
        problem = f"the planted fault {fields['fault']!r} was not found"
    found = (None, None) if wrong.rule is None else (wrong.step, rules[wrong.rule])
    return Result(**fields, rules=len(rules), fault_step=found[0], fault_rule=found[1],
                  problem=problem, seconds=time.monotonic() - begin)


def main(arguments=None):
    """Print a line for every proof; return 0, 1 if one is not as it must be, 2 for a wrong name."""
    parser = argparse.ArgumentParser(prog="python -m systola.sim.formal",
                                     description="Prove rules of the hardware units with Yosys.")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--list", action="store_true", help="only list the proofs")
    parser.add_argument("name", nargs="*", help="proofs to run, all by default")
    options = parser.parse_args(arguments)
    for name in options.name:
        if name not in PROOFS:
            print(f"proof must be one of {', '.join(PROOFS)}, not {name!r}", file=sys.stderr)
            return 2
    if options.list and options.json:
        print("--list and --json exclude each other", file=sys.stderr)
        return 2
    chosen = [PROOFS[name] for name in options.name or PROOFS]
    if options.list:
        print("\n".join(f"{proof.name}: {proof.claim}" for proof in chosen))
        return 0
    results = []
    for proof in chosen:
        result = run_proof(proof)
        results.append(result)
        if not options.json:
            print(_line(result), flush=True)
    failed = [result.name for result in results if result.problem]
    if options.json:
        print(json.dumps({"proofs": [asdict(result) for result in results],
                          "proved": len(results) - len(failed), "failed": failed}, indent=1))
    else:
        print(f"{len(results) - len(failed)} of {len(results)} proved, each with a planted fault "
              f"found" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _line(result):
    """Return a line for people."""
    told = f"fault found in cycle {result.fault_step}: {result.fault_rule}"
    verdict = f"FAILED  {result.problem}" if result.problem else f"proved  {told}"
    return (f"{result.name:30} {result.method:9} {result.rules:2} rules "
            f"{result.seconds:5.1f} s  {verdict}")
