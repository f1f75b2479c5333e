"""cocotb bench for any unit with stream ports: feed beats, collect beats, optional random stalls.

``params``: ``outputs`` {port: beats to collect}, ``static`` {port: value of a plain input},
``seed`` (None: no stalls) and ``patience`` (cycles without any transfer that count as a hang).
``arrays``: one uint8 array ``(beats, bytes)`` for each input stream. Returns one such array for
each output stream, the cycles from the first offered beat to the last collected one, and the
beats nobody took.
"""

import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from systola.sim.verilog.runner import finish_task, next_task

__all__ = ["unit"]


class _Source:
    """Offers the beats of one input stream; holds each until it is taken."""

    def __init__(self, dut, name, beats, rng):
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.payload = getattr(dut, f"{name}__payload")
        self.beats = [int.from_bytes(row.tobytes(), "little") for row in beats]
        self.rng, self.position, self.offered = rng, 0, False

    def step(self):
        """Act after a clock edge; return whether a beat was taken at that edge."""
        taken = self.offered and int(self.ready.value) == 1
        if taken:
            self.position += 1
        if taken or not self.offered:
            offered = self.position < len(self.beats) and not (
                self.rng and self.rng.random() < 0.4)
            if offered:
                self.payload.value = self.beats[self.position]
            if offered != self.offered:
                self.valid.value = int(offered)
            self.offered = offered
        return taken


class _Sink:
    """Collects the beats of one output stream and checks that stalled ones hold.

    On half of the seeds it raises ready only after it has seen valid, which hangs a producer that
    waits for ready.
    """

    def __init__(self, dut, name, count, size, rng):
        self.name, self.count, self.size, self.rng = name, count, size, rng
        self.valid, self.ready = getattr(dut, f"{name}__valid"), getattr(dut, f"{name}__ready")
        self.payload = getattr(dut, f"{name}__payload")
        self.got, self.accepting, self.held = [], False, None
        self.shy = rng and rng.random() < 0.5

    def step(self):
        """Act after a clock edge; return whether a beat was taken at that edge."""
        valid = int(self.valid.value) == 1
        taken = valid and self.accepting
        if valid or self.held is not None:
            value = int(self.payload.value)
            assert self.held is None or (valid and value == self.held), (
                f"{self.name} changed while stalled")
            self.held = None if taken else value
            if taken:
                self.got.append(value)
        accepting = not self.rng or ((self.held is not None or not self.shy)
                                     and self.rng.random() < 0.6)
        if accepting != self.accepting:
            self.ready.value = int(accepting)
            self.accepting = accepting
        return taken

    def packed(self):
        """Return the collected beats as uint8 ``(beats, bytes)``."""
        data = b"".join(value.to_bytes(self.size, "little") for value in self.got)
        return np.frombuffer(data, dtype=np.uint8).reshape(-1, self.size)


@cocotb.test()
async def unit(dut):
    """Run one task after the other until the session is closed."""
    Clock(dut.clk, 10, "ns").start()
    while task := next_task():
        finish_task(**await _run(dut, *task))


async def _run(dut, params, arrays):
    """Run one task, or fail when nothing moves for `patience` cycles."""
    rng = None if params["seed"] is None else random.Random(params["seed"])
    for name, value in params["static"].items():
        getattr(dut, name).value = value
    for name in arrays:
        getattr(dut, f"{name}__valid").value = 0
    for name in params["outputs"]:
        getattr(dut, f"{name}__ready").value = 0
    edge = RisingEdge(dut.clk)
    dut.rst.value = 1
    await edge
    await edge
    dut.rst.value = 0
    await edge
    sources = [_Source(dut, name, beats, rng) for name, beats in arrays.items()]
    sinks = [_Sink(dut, name, count, (len(getattr(dut, f"{name}__payload")) + 7) // 8, rng)
             for name, count in params["outputs"].items()]
    parts = [*sources, *sinks]
    cycles = quiet = 0
    while any(len(sink.got) < sink.count for sink in sinks):
        moved = [part.step() for part in parts]
        quiet = 0 if any(moved) else quiet + 1
        assert quiet < params["patience"], f"nothing moved for {quiet} cycles"
        await edge
        cycles += 1
    left = sum(len(source.beats) - source.position for source in sources)
    return {"results": {"cycles": cycles, "left": left},
            **{sink.name: sink.packed() for sink in sinks}}
