"""The timeline from hand-made records, and from a simulation against the hardware's counters."""

import json
import random
import re
from types import SimpleNamespace

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.hw.contract.isa import FORMATS, Engine, Flag, Opcode, encode
from systola.hw.contract.regmap import TRACE
from systola.report.timeline_page import timeline_page
from systola.sim.runs.random_cases import random_case
from systola.sim.runs.simulate import simulate
from systola.sim.runs.timeline import CAUSES, instructions, read_timeline

CONFIG = PRESETS["tiny"]
MATRIX, VECTOR, LOAD = 1 << Engine.MATRIX, 1 << Engine.VECTOR, 1 << Engine.LOAD


def instruction(opcode, **fields):
    values = {field.name: 1 for field in FORMATS[opcode].fields} | {"flags": 0} | fields
    return encode(opcode, **{field.name: values[field.name] for field in FORMATS[opcode].fields})


def program(*ops):
    """Return what the timeline needs of a program: [(name, opcode, fields)]."""
    stream = instruction(Opcode.BEGIN)
    for _, opcode, fields in ops:
        stream += instruction(opcode, **fields)
        stream += bytes(fields.get("beats", 1) * CONFIG.bus_bytes if "beats" in {
            field.name for field in FORMATS[opcode].fields} else 0)
    return SimpleNamespace(config=CONFIG, stream=stream + instruction(Opcode.END),
                           names=tuple(name for name, *_ in ops))


def records(cycles):
    """Return the records of a run given by cycle: a dict of the trace's fields each."""
    found, last = [], 0
    for time, fields in enumerate([*({"busy": 1} | cycle for cycle in cycles), {}]):
        value = position = 0
        for name, bits, _ in TRACE:
            value |= fields.get(name, 0) << position
            position += bits
        if value != last:
            found.append((time, value))
        last = value
    return np.array(found, np.uint32)


OPS = [("m0", Opcode.MATMUL, {"flags": int(Flag.RESIDUAL)}), ("w0", Opcode.LOAD_WEIGHTS, {}),
       ("blocks.0.norm", Opcode.LAYERNORM, {}), ("m1", Opcode.MATMUL, {}),
       ("f1", Opcode.FETCH, {})]


def run_cycles(middle):
    """Put the cycles `middle` between the start of the first weights and the last result."""
    return [{}, {"started": LOAD}, {"started": MATRIX}, *middle[:20],
            {"started": VECTOR, "done": LOAD}, {"started": LOAD}, *middle[20:],
            {"done": VECTOR}, {"done": MATRIX | LOAD, "started": MATRIX}, {"entered": 1},
            {"done": MATRIX}, {}]


def test_instructions_are_found_between_the_data():
    found = instructions(program(*OPS, ("w", Opcode.LOAD_WEIGHTS, {"beats": 7})))
    assert [(opcode, name) for opcode, name, _ in found[1:-1]] == [
        *((opcode, name) for name, opcode, _ in OPS), (Opcode.LOAD_WEIGHTS, "w")]
    assert found[-2][2] == {"beats": 7}
    assert (found[0][0], found[-1][0]) == (Opcode.BEGIN, Opcode.END)


def test_operations_and_window():
    timeline = read_timeline(records(run_cycles([{}] * 20)), program(*OPS))
    got = {event.name: (event.start, event.end) for event in timeline.events}
    assert got == {"w0": (1, 24), "m0": (2, 27), "blocks.0.norm": (23, 26), "f1": (24, 27),
                   "m1": (26, 29)}
    assert timeline.window == (1, 29)
    assert timeline.cycles == 30
    assert sum(timeline.idle().values()) == 28 - 1


@pytest.mark.parametrize(("cycle", "cause"), [
    ({"wait_weights": 1}, "weights"), ({"wait_data": 1}, "data"), ({"wait_drain": 1}, "residual"),
    ({"waits_matrix": VECTOR}, "layernorm"), ({"waits_matrix": LOAD}, "load"),
    ({"waits_matrix": MATRIX}, "residual"), ({"starved": 1}, "stream"), ({"entered": 1}, None)])
def test_causes(cycle, cause):
    idle = read_timeline(records(run_cycles([cycle] * 17 + [{}] * 3)), program(*OPS)).idle()
    assert all((count >= 17) == (name == cause) for name, count in idle.items())


@pytest.mark.parametrize("seed", range(10))
def test_every_cycle_of_the_window_counts_once(seed):
    rng = random.Random(seed)
    kinds = [{"entered": 1}, {"wait_weights": 1}, {"wait_data": 1}, {"wait_drain": 1}, {},
             {"waits_matrix": VECTOR}, {"waits_matrix": MATRIX}, {"starved": 1}]
    middle = [cycle for _ in range(15) for cycle in [rng.choice(kinds)] * rng.randrange(1, 6)]
    timeline = read_timeline(records(run_cycles(middle)), program(*OPS))
    entered = 1 + sum("entered" in cycle for cycle in middle)
    assert sum(timeline.idle().values()) + entered == timeline.window[1] - timeline.window[0]
    assert timeline.idle()["weights"] == sum("wait_weights" in cycle for cycle in middle)
    for before, after in zip(timeline.gaps, timeline.gaps[1:], strict=False):
        assert before.end < after.start or (before.end == after.start
                                            and before.cause != after.cause)


def test_softmax_waits_are_steady_between_the_first_and_the_last():
    ops = [("m0", Opcode.MATMUL, {}), ("w0", Opcode.LOAD_WEIGHTS, {}),
           *((f"blocks.0.attention.{head}", Opcode.SHIFTMAX, {}) for head in range(3))]
    wait = {"waits_matrix": VECTOR}
    first = [{"started": LOAD}, {"started": MATRIX}, {"started": VECTOR, **wait}, *[wait] * 9]
    again = [{"done": VECTOR}, {"started": VECTOR, **wait}]
    last = [{"done": VECTOR}, {"entered": 1}, {"done": MATRIX | LOAD}]
    timeline = read_timeline(records([*first, *again, *[wait] * 5, *again, *[wait] * 7, *last]),
                             program(*ops))
    assert timeline.idle()["softmax"] == 10 + 6 + 8
    assert timeline.steady_softmax_wait() == 6


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 8])
def test_simulated_timeline_agrees_with_the_counters(seed):
    model, config, codes = random_case(seed, images=1)
    result = simulate(model, config, codes, trace=False, optimize="-O0")
    counters, timeline = result.counters, result.timeline
    assert timeline.cycles == counters["cycles"]
    for engine in Engine:
        events, name = timeline.of(engine), engine.name.lower()
        assert events
        busy = {cycle for event in events for cycle in range(event.start + 1, event.end)}
        assert len(busy) == counters[f"{name}_busy"]
    first, last = timeline.window
    assert sum(timeline.idle().values()) + counters["array_active"] == last - first
    idle = timeline.idle()
    assert idle["weights"] <= counters["array_wait_weights"]
    assert 0 <= result.overhead
    assert 0 < result.utilisation < 1
    page = timeline_page(timeline, "a <test>", result.report())
    assert "a &lt;test&gt;" in page
    assert not re.search(r"(src|href)=|@[A-Z]+@|https?:", page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert sum(len(events) for _, events in data["engines"]) == len(timeline.events)
    assert [cause for cause, *_ in data["causes"]] == list(CAUSES)
