"""Runs over a bad line: every one ends in the right result, or in a clear error.

A scenario is one session of a host with the board: a line of random quality, a program with random
inputs, streamed or resident in the board's memory, and maybe an event on the way (`EVENTS`). If it
did not end with a result, the next program over a good line must. It is the same for a simulated
board and for a model of one.
"""

import contextlib
import dataclasses
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from systola.hw.contract.config import PRESETS
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.sim.soak.faulty_port import SoakError
from systola.sim.soak.line_faults import FAULTS, Faults
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.driver.errors import DriverError, HardwareError, RunTimeoutError
from systola.sw_driver.driver.resident import DamagedError, ResidentPrograms
from systola.sw_driver.driver.uart import UartTransport
from systola.sw_driver.program.image import Program

__all__ = ["EVENTS", "load_cases", "run_scenario", "small_cases", "soak_faults"]

EVENTS = {
    "none": 8, "twice": 2, "killed": 3, "reset": 3, "button": 2, "silent": 2, "slow_host": 3,
    "truncated": 1, "foreign": 1,
}
"""What may happen, and how often: two runs in one session; the host dies in the middle and comes
back; it resets and starts again; somebody presses the button; the line is dead for a while; the
host is away for a while again and again; the program is cut short; it is one for other hardware."""

_RATES = 1 / 100, 1 / 100, 1 / 150, 1 / 300, 1 / 1000
"""Faults a byte, of the line in a scenario."""

_HANG = 200.0
"""Seconds of the port's time after which a scenario counts as hung; a good one takes two or so."""

_WORKERS = 2
"""Simulations at the same time."""

_MEMORY_BYTES = 1 << 16
"""Memory for resident programs of the simulated board: more than all of `small_cases` need."""

_RESIDENT, _SPOILED = 0.5, 0.15
"""How often a program is a resident one, and how often somebody has written over a part of it."""

_LIMITS = {"silence": 2.0, "stall": 4.0}
_TIMEOUT = 10.0


class _Killed(BaseException):
    """The host process is gone: nothing that it would have done still happens."""


def small_cases(seed, config, count=3):
    """Return ``(program, inputs, outputs)`` of small random networks on an accelerator."""
    rng, cases = np.random.default_rng([seed, 5]), []
    for _ in range(count):
        model = random_vit(rng, channels=int(rng.integers(4, 9)), heads=1, blocks=1,
                           hidden=int(rng.integers(4, 9)), classes=int(rng.integers(2, 40)),
                           tokens=int(rng.integers(2, 6)), patch_dim=int(rng.integers(2, 9)),
                           **config.model_settings)
        program = compile_network(model, config)
        codes = random_codes(rng, model, 1)
        cases.append((program, {name: values[0] for name, values in codes.items()},
                      {"logits": forward(model, codes, keep=["logits"])["logits"][0]}))
    return cases


def load_cases(paths, arrays):
    """Return the cases of program files, their inputs and outputs named by number and name."""
    cases = []
    for number, path in enumerate(paths):
        values = [{name.split(".", 2)[2]: array for name, array in arrays.items()
                   if name.startswith(f"{kind}.{number}.")} for kind in ("in", "out")]
        cases.append((Program.read(path), *values))
    return cases


class _Cut(Program):
    """A program that ends too early."""

    def fill(self, inputs):
        """Return the stream without its end."""
        beats = len(self.stream) // self.config.bus_bytes
        return super().fill(inputs)[:int(beats * self.model["cut"]) * self.config.bus_bytes]


def run_scenario(port, cases, rng):
    """Run one scenario, and what comes after it, on `port`; returns what happened, a dict.

    ``event``, ``outcome`` (``right``, ``wrong`` or the name of an error), ``faults`` by kind,
    ``recovered`` (``right``, ``wrong`` or None if there was no need), ``repeats``, and how many
    resident programs were run (``resident``), had been ``spoiled``, and were run ``unnoticed``.
    """
    event = rng.choices(list(EVENTS), EVENTS.values())[0]
    kinds = rng.choice([tuple(FAULTS)] * 3 + [(kind,) for kind in FAULTS if kind != "silence"])
    faults = Faults(rng, rng.choice(_RATES), kinds)
    port.begin(faults, _HANG)
    counts = Counter(resident=0, spoiled=0, unnoticed=0)
    try:
        outcome, repeats = _scenario(port, cases, rng, event, counts)
        recovered = None
        if outcome != "right" or rng.random() < 0.1:
            port.begin(Faults(rng), _HANG)
            recovered, _ = _scenario(port, cases, rng, "none", counts)
    except SoakError:
        outcome, repeats, recovered = "hang", 0, None
    return {"event": event, "outcome": outcome, "faults": dict(faults.counts),
            "recovered": recovered, "repeats": repeats, **counts}


def _scenario(port, cases, rng, event, counts):
    number = rng.randrange(len(cases))
    program, inputs, expected = cases[number]
    length = len(program.stream)
    if event == "truncated":
        program = _Cut(**{**vars(program), "model": {"cut": rng.random()}})
    elif event == "silent":
        seconds = rng.choice([0.1, 1.0, 10.0])
        port.after(rng.randrange(length), lambda: port.mute(seconds))
    elif event == "button":
        port.after(rng.randrange(length), port.press)
    elif event == "slow_host":
        for count in sorted(rng.randrange(length) for _ in range(4)):
            port.after(count, lambda: port.away(rng.random()))
    elif event in {"killed", "reset"}:
        port.after(rng.randrange(1, length), _die)
    transport = None
    try:
        transport = UartTransport(port, rng=rng, **_LIMITS)
        accelerator = Accelerator(transport, timeout=_TIMEOUT)
        if event == "foreign":
            other = dataclasses.replace(program.config, queue_depth=3)
            program = dataclasses.replace(program, config=other)
        accelerator.load(program)
        runs = 2 if event == "twice" else 1
        if transport.memory_beats and event not in _STREAMED and rng.random() < _RESIDENT:
            outputs = _resident(accelerator, f"net {number}", program, [inputs] * runs, rng,
                                counts)
        else:
            outputs = [accelerator.run(inputs) for _ in range(runs)]
    except _Killed:
        if event == "killed" or transport is None:
            return _scenario(port, cases, rng, "none", counts)
        return _again(transport, program, inputs, expected)
    except DriverError as error:
        return type(error).__name__, transport.channel.repeats if transport else 0
    right = all(_equal(result, expected) for result in outputs)
    return "right" if right else "wrong", transport.channel.repeats


_STREAMED = {"truncated", "foreign", "reset"}
"""Events that are about programs that are streamed."""


def _resident(accelerator, name, program, batches, rng, counts):
    """Run a program from the board's memory, written first if it is not there.

    Somebody may have written over it: then it must not run before it was written again.
    """
    programs = ResidentPrograms(accelerator)
    if not programs.holds(name, program):
        programs.flash(name, program, readback=rng.random() < 0.3)
    counts["resident"] += 1
    if rng.random() < _SPOILED:
        beat, size = rng.randrange(programs.directory.find(name).beats), programs.bus_bytes
        at = beat * size
        slots = [(slot.offset, slot.offset + slot.rows * slot.planes * slot.words * size)
                 for slot in program.inputs]
        if not any(start <= at < end for start, end in slots):
            counts["spoiled"] += 1
            right = int.from_bytes(program.stream[at:at + size], "little")
            wrong = (right ^ 1 << rng.randrange(8 * size)).to_bytes(size, "little")
            accelerator.transport.put(programs.directory.find(name).address + beat, wrong)
            try:
                list(programs.run(name, program, batches))
                counts["unnoticed"] += 1
            except (DamagedError, HardwareError, RunTimeoutError):
                accelerator.transport.flush()
                programs = ResidentPrograms(accelerator)
            programs.flash(name, program, readback=False)
    return list(programs.run(name, program, batches))


def _again(transport, program, inputs, expected):
    """Reset in the middle of whatever it was, then run."""
    try:
        transport.flush()
        accelerator = Accelerator(transport, timeout=_TIMEOUT)
        accelerator.reset()
        accelerator.load(program)
        right = _equal(accelerator.run(inputs), expected)
    except DriverError as error:
        return type(error).__name__, transport.channel.repeats
    return "right" if right else "wrong", transport.channel.repeats


def _die():
    raise _Killed


def _equal(got, expected):
    return all(np.array_equal(got[name], value) for name, value in expected.items())


def soak_faults(count, seed, *, config=PRESETS["tiny"], memory_bytes=_MEMORY_BYTES, progress=None):
    """Inject at least `count` faults into runs on the simulated board; return what happened.

    Parameters
    ----------
    count : int
        Faults.
    seed : int
        Chooses everything.
    config : AcceleratorConfig
        The accelerator.
    memory_bytes : int
        Memory for resident programs.
    progress : callable, optional
        Called with the faults so far, `count`, and a text.

    Returns
    -------
    dict
        ``faults`` and ``by_kind``, ``runs`` and ``by_event``, ``ended_right``,
        ``ended_in_error`` and ``errors`` by name, ``wrong_results``, ``hangs`` (scenarios that
        did not end, and programs that the accelerator did not take afterwards), ``cycles``,
        ``seconds``, and of resident programs how many were run (``resident``), had been
        ``spoiled`` before, and were run ``unnoticed``.
    """
    from systola.sim.runs.serve import build_board_simulation
    from systola.sim.verilog.runner import Session

    start = time.monotonic()
    if progress:
        progress(0, count, "compiling the board")
    built = build_board_simulation(config, memory="bram", memory_bytes=memory_bytes)
    cases = small_cases(seed, config)
    total = Counter()
    by_kind, by_event, errors = Counter(), Counter(), Counter()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        paths, arrays = _write(cases, folder)
        sessions = [stack.enter_context(Session(built, "systola.sim.benches.board"))
                    for _ in range(_WORKERS)]
        pool = stack.enter_context(ThreadPoolExecutor(_WORKERS))
        while by_kind.total() < count:
            # All of a round count, so that the result does not depend on who is faster.
            round_ = [pool.submit(session.run, {"job": "soak", "programs": paths,
                                                "seed": f"{seed} {total['runs'] + number}"}, arrays)
                      for number, session in enumerate(sessions)]
            for future in round_:
                outcome, _ = future.result()
                by_kind.update(outcome["faults"])
                by_event[outcome["event"]] += 1
                total.update(runs=1, **{name: outcome[name] for name in (
                    "cycles", "repeats", "resident", "spoiled", "unnoticed")})
                _judge(outcome, total, errors)
            if progress:
                progress(min(by_kind.total(), count), count, "injecting faults")
    return {"seed": seed, "faults": by_kind.total(), "by_kind": dict(by_kind),
            **{name: total[name] for name in ("runs", "ended_right", "ended_in_error",
                                              "wrong_results", "hangs", "repeats", "resident",
                                              "spoiled", "unnoticed", "cycles")},
            "by_event": dict(by_event), "errors": dict(errors),
            "seconds": round(time.monotonic() - start, 1)}


def _write(cases, folder):
    """Write programs to files; returns their paths, and inputs and outputs for `load_cases`."""
    paths, arrays = [], {}
    for number, (program, *values) in enumerate(cases):
        paths.append(str(Path(folder, f"{number}.program")))
        program.write(paths[-1])
        for kind, named in zip(("in", "out"), values, strict=True):
            arrays |= {f"{kind}.{number}.{name}": value for name, value in named.items()}
    return paths, arrays


def _judge(outcome, total, errors):
    """Count how a scenario ended, and what came after it."""
    kind = outcome["outcome"]
    if kind == "right":
        total["ended_right"] += 1
    elif kind == "wrong":
        total["wrong_results"] += 1
    elif kind == "hang":
        total["hangs"] += 1
    else:
        total["ended_in_error"] += 1
        errors[kind] += 1
    if outcome["recovered"] == "wrong":
        total["wrong_results"] += 1
    elif outcome["recovered"] not in (None, "right"):
        total["hangs"] += 1
