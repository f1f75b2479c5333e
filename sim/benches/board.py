"""cocotb bench for a board's top behind its UART: the driver on a line of bits, or a terminal.

Tasks: ``{"job": "soak", ...}`` runs one scenario of ``sim/soak/fault_runs.py``; ``{"job":
"terminal", "path": ...}`` connects a pseudo-terminal, to which `path` becomes a link, until the
session ends; ``{"job": "selftest", "config": ..., "fault": ...}`` runs the self-test with a planted
fault, of ``sim/soak/planted_faults.py``.
"""

import os
import random
import time
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import Timer

from systola.sim.soak.fault_runs import load_cases, run_scenario
from systola.sim.soak.faulty_port import FaultyPort
from systola.sim.soak.line_faults import BROKEN
from systola.sim.soak.selftest_runs import run_self_test
from systola.sim.verilog.line import BATCH, QUEUE, symbol
from systola.sim.verilog.runner import finish_task, next_task, parent_lives
from systola.sim.verilog.ticker import CYCLES
from systola.sim.verilog.toolcheck import posix_module

__all__ = ["Line", "LinePort", "board"]

TICK = 10
"""Nanoseconds of `CYCLES` clock cycles."""

CLOCK = 250e3
"""Hertz that the driver's timeouts count in: a line whose bits take few cycles, as if it were one
whose bits take many."""

STEP = 24 * CYCLES
"""Cycles between two looks at the line, less than `BATCH` bytes take."""

_QUIET = 5
"""Looks at a line on which nothing moves before the time that a host waits is let pass at once:
nothing behind the line has a timer, and an accelerator that still computes will answer later."""

_IDLE = 0.002
"""Seconds to sleep when nothing moves, so that a waiting terminal leaves the processor alone."""


class Line:
    """The far end of the board's UART; simulated time passes in `step` only.

    Attributes
    ----------
    outgoing : list of int
        Symbols for the board.
    incoming : bytearray
        Bytes from the board.
    cycles : int
        Clock cycles so far.
    skipped : float
        Cycles that a host believes to have passed as well.
    """

    def __init__(self, dut):
        self.dut, self.outgoing, self.incoming = dut, [], bytearray()
        self.cycles, self.skipped = 0, 0.0
        self._push, self._heard = 0, 0
        dut.push.value = 0
        dut.count.value = 0
        dut.symbols.value = 0

    async def step(self):
        """Let `STEP` cycles pass; returns whether anything moves."""
        dut, before = self.dut, len(self.incoming)
        room = min(QUEUE - BATCH - int(dut.waiting.value), BATCH)
        batch = self.outgoing[:max(room, 0)]
        if batch:
            del self.outgoing[:len(batch)]
            dut.symbols.value = sum(bits << 10 * k for k, bits in enumerate(batch))
            dut.count.value = len(batch)
            self._push ^= 1
            dut.push.value = self._push
        await Timer(STEP // CYCLES * TICK, "ns")
        self.cycles += STEP
        heard = int(dut.heard.value)
        if heard != self._heard:
            ring = int(dut.bytes.value).to_bytes(BATCH, "little")
            count = (heard - self._heard) % 65536
            assert count <= BATCH, "bytes were not fetched in time"
            self.incoming += bytes(ring[(self._heard + k) % BATCH] for k in range(count))
            self._heard = heard
        assert int(dut.broken.value) == 0, "the board sent a byte without its stop bit"
        return bool(batch) or int(dut.waiting.value) > 0 or len(self.incoming) != before

    async def wait(self, cycles):
        """Let up to `cycles` pass, until there are bytes."""
        until, quiet = self.cycles + cycles, 0
        while not self.incoming and self.cycles < until:
            quiet = 0 if await self.step() else quiet + 1
            if quiet == _QUIET and self.cycles < until:
                self.skipped += until - self.cycles
                break

    async def reset(self):
        """Press the button."""
        self.dut.rst.value = 1
        await Timer(TICK, "ns")
        self.dut.rst.value = 0
        self.cycles += CYCLES


class LinePort(FaultyPort):
    """The line as the driver's port, with faults; its methods run in a bridged thread."""

    def __init__(self, line):
        super().__init__()
        self.line = line

    def clock(self):
        """Return the simulated time as if the clock ran at `CLOCK`."""
        return (self.line.cycles + self.line.skipped) / CLOCK

    def put(self, symbols):
        """Hand over damaged bytes."""
        self.line.outgoing += [symbol(byte & 0xFF, stop=byte < BROKEN) for byte in symbols]

    def get(self, timeout):
        """Let time pass until there are bytes, or `timeout` is over."""
        resume(self.line.wait)(timeout * CLOCK)
        data = bytes(self.line.incoming)
        self.line.incoming.clear()
        return data

    def press(self):
        """Press the board's reset button."""
        resume(self.line.reset)()


async def _terminal(line, path):
    """Connect a pseudo-terminal until the session's folder asks for the end."""
    master, slave = os.openpty()  # the slave stays open, so that hosts may come and go
    posix_module("tty").setraw(slave)
    os.set_blocking(master, False)
    link = Path(path)
    part = link.with_name(f".{link.name}.{os.getpid()}")
    part.symlink_to(os.ttyname(slave))
    part.replace(link)
    unsent = b""
    try:
        while not Path("close").exists() and parent_lives():
            moved = False
            if len(line.outgoing) < QUEUE:
                try:
                    data = os.read(master, 4096)
                except BlockingIOError:
                    data = b""
                line.outgoing += map(symbol, data)
                moved = bool(data)
            unsent += bytes(line.incoming)
            line.incoming.clear()
            if unsent:
                try:
                    unsent = unsent[os.write(master, unsent):]
                except BlockingIOError:  # nobody reads: the line loses what the buffer cannot keep
                    unsent = unsent[-65536:]
            busy = int(line.dut.status.value) & 1
            if not (await line.step() or moved or busy):
                time.sleep(_IDLE)
    finally:
        link.unlink(missing_ok=True)


@cocotb.test()
async def board(dut):
    """Serve tasks until the session is closed."""
    Clock(dut.tick, 2 * TICK, "ns").start()
    await Timer(TICK // 2, "ns")  # between two changes
    line = Line(dut)
    await line.reset()
    cases = None
    while task := next_task():
        params, arrays = task
        if params["job"] == "terminal":
            await _terminal(line, params["path"])
            finish_task({})
            continue
        if params["job"] == "selftest":
            dut.fault.value = params["fault"]
            cycles = line.cycles
            outcome = await bridge(run_self_test)(LinePort(line), params["config"])
            finish_task({**outcome, "cycles": line.cycles - cycles})
            continue
        if cases is None:
            cases = load_cases(params["programs"], arrays)
        port = LinePort(line)
        cycles = line.cycles
        outcome = await bridge(run_scenario)(port, cases, random.Random(params["seed"]))
        finish_task({**outcome, "cycles": line.cycles - cycles})
