"""The self-test against faults planted in the netlist of a simulated board."""

import dataclasses
import random
import time

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.host.uart import DIVISOR_MIN
from systola.sim.soak.line_faults import Faults
from systola.sim.soak.planted_faults import FAULT_BITS, choose_faults, faulty_verilog
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.driver.errors import DriverError
from systola.sw_driver.driver.uart import UartTransport
from systola.sw_driver.selftest.self_test import SelfTest

__all__ = ["PLANTED", "is_named", "plant_and_test", "run_self_test"]

PLANTED = dataclasses.replace(PRESETS["tiny"], bank_depth=128, param_depth=32)
"""The board that faults are planted in, unless another one is asked for."""

_LIMITS = {"silence": 20.0, "stall": 60.0}


def run_self_test(port, fields):
    """Run the self-test of the configuration with `fields` on `port`; returns what it tells.

    A dict: ``parts`` with the outcome of each by name, and ``findings`` in the order of the report,
    each with ``part``, ``text``, ``where`` and ``certain``; ``error`` if the link failed.
    """
    port.begin(Faults(random.Random(0)), float("inf"))
    try:
        accelerator = Accelerator(UartTransport(port, rng=random.Random(1), **_LIMITS))
        reports = SelfTest(AcceleratorConfig(**fields)).run(accelerator)
    except DriverError as error:
        return {"parts": {}, "findings": [], "error": str(error)}
    return {"parts": {report.part: report.outcome for report in reports},
            "findings": [{"part": report.part, **dataclasses.asdict(finding)}
                         for report in reports for finding in report.findings], "error": None}


def is_named(where, findings):
    """Return whether the first finding has everything that a planted fault is described by."""
    if not findings:
        return False
    told = findings[0]["where"]
    return all(told.get(name) == value for name, value in where.items())


def plant_and_test(count, seed, *, config=PLANTED, progress=None):
    """Plant `count` faults, one after the other, and run the self-test with each; count them.

    Parameters
    ----------
    count : int
        Faults.
    seed : int
        Chooses them.
    config : AcceleratorConfig
        The board.
    progress : callable, optional
        Called with the faults so far, `count`, and a text.

    Returns
    -------
    dict
        ``faults``, ``found`` (some part failed) and ``named`` (`is_named`) of them, ``good`` (the
        self-test without a fault passes), ``runs`` with what was planted and told, ``cycles`` and
        ``seconds``.
    """
    from systola.sim.runs.serve import board_verilog
    from systola.sim.verilog.line import LINE, line_verilog
    from systola.sim.verilog.runner import Session, build_text

    start, runs, cycles = time.monotonic(), [], 0
    if progress:
        progress(0, count, "compiling the board")
    faults = choose_faults(config, count, seed)
    verilog = faulty_verilog(board_verilog(config), "board", faults)
    built = build_text(verilog + line_verilog("board", DIVISOR_MIN, fault_bits=FAULT_BITS),
                       top=LINE)
    with Session(built, "systola.sim.benches.board") as session:
        for number, fault in enumerate([None, *faults]):
            if progress:
                progress(number, count, f"fault {number} of {count}" if number else "no fault")
            outcome, _ = session.run({"job": "selftest", "fault": number,
                                      "config": config.to_dict()}, {})
            cycles += outcome.pop("cycles")
            runs.append({**outcome, "planted": fault and dataclasses.asdict(fault)})
    good, *bad = runs
    for run in bad:
        run["found"] = "failed" in run["parts"].values() or run["error"] is not None
        run["named"] = is_named(run["planted"]["where"], run["findings"])
    return {"faults": count, "found": sum(run["found"] for run in bad),
            "named": sum(run["named"] for run in bad),
            "good": set(good["parts"].values()) == {"passed"}, "runs": runs, "cycles": cycles,
            "seconds": round(time.monotonic() - start, 1)}
