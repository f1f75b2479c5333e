"""Runs over bad lines: on the model of a board here, on the simulated one with `systola soak`."""

import random
from collections import Counter

import pytest

from systola.hw.contract.config import PRESETS
from systola.sim.machine.device import DeviceModel
from systola.sim.soak.fault_runs import EVENTS, run_scenario, small_cases
from systola.sim.soak.faulty_port import FaultyPort
from systola.sim.soak.line_faults import BROKEN, FAULTS, Faults

TINY = PRESETS["tiny"]
SIZE = (1 << 16) // TINY.bus_bytes
BYTE = 1.6e-4
"""Seconds of a byte on the line, as the simulated board's."""


class ModelPort(FaultyPort):
    """A line to a model of a board."""

    def __init__(self):
        super().__init__()
        self.device, self.now, self.buffer = DeviceModel(TINY, size=SIZE), 0.0, bytearray()

    def clock(self):
        return self.now

    def put(self, symbols):
        self.now += len(symbols) * BYTE
        self.device.feed(bytes(byte for byte in symbols if byte < BROKEN))

    def get(self, timeout):
        self.device.work()
        line = self.device.channel.line
        data = bytes(line)
        line.clear()
        self.now += len(data) * BYTE if data else timeout
        return data

    def press(self):
        memory = self.device.memory
        self.device = DeviceModel(TINY, size=SIZE)
        self.device.memory[:] = memory


def test_every_scenario_ends_well():
    rng, port, cases = random.Random(3), ModelPort(), small_cases(0, TINY)
    events, faults, outcomes, counts = Counter(), Counter(), Counter(), Counter()
    for number in range(90):
        result = run_scenario(port, cases, rng)
        events[result["event"]] += 1
        faults.update(result["faults"])
        outcomes[result["outcome"]] += 1
        counts.update({name: result[name] for name in ("resident", "spoiled", "unnoticed")})
        assert result["recovered"] in (None, "right"), (number, result)
        assert result["outcome"] in {"right", "RunTimeoutError", "LinkError", "MismatchError"}
        expected = {"truncated": {"RunTimeoutError", "LinkError"}, "foreign": {"MismatchError"},
                    "none": {"right"}, "twice": {"right"}}.get(result["event"])
        assert expected is None or result["outcome"] in expected, (number, result)
    assert set(events) == set(EVENTS)
    assert set(faults) == set(FAULTS)
    assert outcomes["right"] > 45
    assert counts["resident"] > 30
    assert counts["spoiled"] > 1
    assert not counts["unnoticed"]


def test_a_device_that_computes_wrong_or_stops_is_noticed(monkeypatch):
    port, cases = ModelPort(), small_cases(0, TINY)
    take = DeviceModel._beat
    monkeypatch.setattr(DeviceModel, "_beat", lambda self, beat: take(self, bytes(len(beat))))
    result = run_scenario(port, cases, random.Random(1))
    assert result["outcome"] == result["recovered"] == "HardwareError"
    monkeypatch.undo()
    complete = DeviceModel._complete

    def spoil(self):
        if done := complete(self):
            self._owed += b"e" + bytes(4)  # a result too many, and in front
        return done

    monkeypatch.setattr(DeviceModel, "_complete", spoil)
    results = {run_scenario(port, cases, random.Random(k))["recovered"] for k in range(8)}
    assert results == {"DriverError"}


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault(kind):
    data, rng = bytes(range(200)), random.Random(1)
    faults = Faults(rng, 0.05, [kind])
    out = faults.apply(data)
    assert set(faults.counts) == {kind}
    assert out != list(data)
    count = faults.counts[kind]
    if kind in {"flip", "framing", "reorder"}:
        assert len(out) == len(data)
    if kind in {"duplicate", "insert"}:
        assert len(out) == len(data) + count
    if kind == "drop":
        assert len(out) == len(data) - count
    if kind == "framing":
        assert sum(byte >= BROKEN for byte in out) == count
    if kind == "reorder":
        assert sorted(out) == list(data)
    assert Faults(rng).apply(data) == list(data)
