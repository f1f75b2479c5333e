# amaranth: UnusedElaboratable=no
"""Every proof passes and finds its planted fault; the provers' verdicts are read right."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth import Signal

from systola.sim.formal import main as formal
from systola.sim.formal.bench import Bench
from systola.sim.formal.proofs import PROOFS, Proof
from systola.sim.formal.prover import METHODS, ProverError, Verdict, decide

DOCUMENT = Path(__file__).parents[2] / "docs/FORMAL.md"


@pytest.mark.parametrize("name", PROOFS)
def test_is_proved_and_finds_the_planted_fault(name):
    result = formal.run_proof(PROOFS[name], limit=120)
    assert not result.problem
    assert result.fault_step >= 1
    assert result.fault_rule


def counter(limit):
    """Return the design of a counter to 4 that must stay below `limit`, and be even in cycle 1."""
    bench, count = Bench(), Signal(3)
    with bench.m.If(count != 4):
        bench.m.d.sync += count.eq(count + bench.free())
    bench.rule("small", count < 8)
    bench.rule("in range", count < limit)
    return bench.rtlil()


@pytest.mark.parametrize("method", METHODS)
def test_verdicts_on_a_counter(method):
    """It reaches 4 in the fifth cycle at the earliest."""
    assert decide([counter(5), counter(4), counter(3)], method=method) == [
        Verdict("proved"), Verdict("broken", 5, 1), Verdict("broken", 4, 1)]


def test_a_proof_that_needs_more_cycles_is_no_proof():
    bench, late = Bench(), Signal(4)
    bench.m.d.sync += late.eq(late + (late != 9))  # 10 to 14 are never reached
    bench.rule("low", late != 15)
    design = bench.rtlil()
    assert [decide([design], method="induction", depth=depth)[0].outcome
            for depth in (3, 8)] == ["unknown", "proved"]


def test_reset_may_come_in_any_cycle():
    bench, count = Bench(), Signal(2)
    bench.m.d.sync += count.eq(count + (count != 3))
    bench.rule("only grows", bench.before(count) <= count)
    kept = Signal(2, reset_less=True)
    bench.m.d.sync += kept.eq(count)
    bench.rule("a register that reset leaves alone", kept <= count)
    assert decide([bench.rtlil()])[0] == Verdict("broken", 3, 1)


@pytest.mark.parametrize(("change", "problem"), [
    ({"fault": ("pop.eq(self.o.valid & self.o.ready)", "pop.eq(self.o.ready & self.o.valid)")},
     r"^the planted fault '.* -> .*' was not found$"),
    ({"fault": ("reserved < self.depth - 1", "reserved < self.depth"),
      "reduced": (("filled != 0)", "1)"),)}, r"^cycle \d+ breaks the rule '.*'$"),
    ({"method": "induction", "depth": 1}, "^neither proved nor refuted within 120 seconds$"),
])
def test_what_is_no_success_is_told(change, problem, monkeypatch, capsys):
    proof = Proof(**{**vars(PROOFS["queue credit"]), **change})
    result = formal.run_proof(proof, limit=120)
    assert re.search(problem, result.problem)
    monkeypatch.setitem(PROOFS, "queue credit", proof)
    monkeypatch.setattr(formal, "run_proof", lambda _: result)
    assert formal.main(["--json", "queue credit"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["proved"], told["failed"]) == (0, ["queue credit"])
    assert formal.main(["queue credit"]) == 1
    assert "0 of 1 proved" in (out := capsys.readouterr().out)
    assert out.endswith("failed: queue credit\n")


def test_a_yosys_that_fails_is_no_proof(monkeypatch, tmp_path):
    yosys = tmp_path / "yosys"
    yosys.write_text("#!/bin/sh\necho ERROR: nothing works >&2\nexit 1\n")
    yosys.chmod(0o755)
    monkeypatch.setenv("YOSYS", str(yosys))
    with pytest.raises(ProverError, match=r"^Yosys failed: ERROR: nothing works$"):
        decide([counter(5)])
    assert formal.run_proof(PROOFS["field counter"]).problem


def formal_command(*arguments, **environment):
    return subprocess.Popen([sys.executable, "-m", "systola.sim.formal", *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | environment)


def test_output_that_nobody_reads_is_no_traceback():
    with formal_command("--list") as running:
        running.stdout.close()
        assert (running.stderr.read(), running.wait()) == ("", 128 + 13)


def test_a_missing_yosys_is_one_line():
    with formal_command("field counter", YOSYS="/no/yosys") as running:
        assert running.communicate() == ("", "YOSYS must name a program, not '/no/yosys'\n")
        assert running.returncode == 2


def test_wrong_names_are_refused(capsys):
    assert formal.main(["no such proof"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("proof must be one of stream register_slice, ")
    assert error.endswith("not 'no such proof'\n")
    assert formal.main(["--list", "--json"]) == 2
    assert capsys.readouterr().err == "--list and --json exclude each other\n"


def test_a_fault_must_be_in_the_source():
    proof = Proof(**{**vars(PROOFS["queue credit"]), "fault": ("no such line", "")})
    with pytest.raises(ValueError, match=r"^'no such line' must be in "
                                         r"systola\.hw\.parts\.credit_queue once, not 0 times$"):
        proof.hardware(faulty=True)
    assert formal.run_proof(proof).problem.startswith("'no such line' must be in ")


def test_the_document_lists_the_proofs(capsys):
    rows = [f"| {proof.name} | `{proof.module.split('.', 1)[1]}` | {proof.claim} | "
            f"{proof.method} |" for proof in PROOFS.values()]
    assert [line for line in DOCUMENT.read_text().splitlines()
            if line.endswith(("| pdr |", "| induction |"))] == rows
    assert formal.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{proof.name}: {proof.claim}" for proof in PROOFS.values()]
