"""cocotb bench for the accelerator: the driver of ``sw_driver`` on its AXI ports.

Each task of the session runs one input of a program: ``params`` {program: path, streams: what
drives them, seed and stall: for stalls, patience: cycles until a run counts as hung, memory_beats:
of a memory that the program is played from}, ``arrays`` the inputs by name. Returns every output
tensor, the counters, the records of the trace if the streams are files, and the cycles and seconds
of processor time the run took.
"""

import math
import random
import time
from collections import deque
from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, Event, First, RisingEdge, Timer, ValueChange
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from systola.sim.verilog.runner import finish_task, next_task
from systola.sim.verilog.stream_files import (
    LAST_BYTES,
    RESULT_FILE,
    STREAM_FILE,
    TRACE_FILE,
    record_bytes,
)
from systola.sim.verilog.ticker import CYCLES
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.driver.resident import ResidentPrograms
from systola.sw_driver.driver.transport import Transport
from systola.sw_driver.program.image import Program

__all__ = ["STREAMS", "SimTransport", "accelerator"]

PERIOD = 10
"""Nanoseconds of a clock cycle."""

CLOCK = 1e6
"""Hertz that the driver's time-outs count in: fewer cycles to simulate before it looks again."""


class _Source:
    """Sends beats; asleep while the accelerator takes none, so that those cycles cost nothing."""

    def __init__(self, dut, rng, stall):
        self.dut, self.rng, self.stall, self.width = dut, rng, stall, len(dut.s_axis_tdata) // 8
        dut.s_axis_tvalid.value = 0
        dut.s_axis_tlast.value = 0
        self.queue, self.wake = deque(), Event()
        cocotb.start_soon(self._run())

    async def send(self, data):
        """Queue bytes, whole beats."""
        self.queue.extend(data[start:start + self.width]
                          for start in range(0, len(data), self.width))
        self.wake.set()

    async def _run(self):
        dut, edge, rises = self.dut, RisingEdge(self.dut.clk), RisingEdge(self.dut.s_axis_tready)
        valid, ready = dut.s_axis_tvalid, dut.s_axis_tready
        while True:
            if not self.queue:
                self.wake.clear()
                await self.wake.wait()
                await edge
            while self.rng and self.rng.random() < self.stall:
                valid.value = 0
                await edge
            dut.s_axis_tdata.value = int.from_bytes(self.queue.popleft(), "little")
            valid.value = 1
            await edge
            while int(ready.value) != 1:
                await rises
                await edge
            if not self.queue:
                valid.value = 0


class _Sink:
    """Collects frames; asleep while there is nothing. Checks that stalled beats hold."""

    def __init__(self, dut, rng, stall):
        self.dut, self.rng, self.stall, self.width = dut, rng, stall, len(dut.m_axis_tdata) // 8
        self.beats, self.frames, self.arrived = [], deque(), Event()
        dut.m_axis_tready.value = int(rng is None)
        cocotb.start_soon(self._run())

    async def _run(self):
        dut, edge, rises = self.dut, RisingEdge(self.dut.clk), RisingEdge(self.dut.m_axis_tvalid)
        valid, held, accepting = dut.m_axis_tvalid, None, self.rng is None
        while True:
            await edge
            if int(valid.value) != 1:
                assert held is None, "m_axis_tvalid fell before the beat was taken"
                await rises
                await edge
            beat = int(dut.m_axis_tdata.value), int(dut.m_axis_tlast.value)
            assert held in (None, beat), "m_axis changed while stalled"
            held = None if accepting else beat
            if accepting:
                self._take(*beat)
            if self.rng:
                accepting = self.rng.random() >= self.stall
                dut.m_axis_tready.value = int(accepting)

    def _take(self, data, last):
        self.beats.append(data.to_bytes(self.width, "little"))
        if last:
            self.frames.append(b"".join(self.beats))
            self.beats = []
            self.arrived.set()


class _ExtSource:
    """The same through cocotbext-axi."""

    def __init__(self, dut, rng, stall):
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
        if rng:
            self.source.set_pause_generator(rng.random() < stall for _ in iter(int, 1))

    async def send(self, data):
        """Queue bytes, whole beats."""
        self.source.send_nowait(AxiStreamFrame(bytes(data)))


class _ExtSink:
    """The same through cocotbext-axi."""

    def __init__(self, dut, rng, stall):
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)
        if rng:
            self.sink.set_pause_generator(rng.random() < stall for _ in iter(int, 1))
        self.frames, self.arrived = deque(), Event()
        cocotb.start_soon(self._run())

    async def _run(self):
        while True:
            self.frames.append(bytes((await self.sink.recv()).tdata))
            self.arrived.set()


class _Files:
    """The simulation itself drives both streams (``sim/verilog/stream_files.py``).

    Wakes up per frame.
    """

    def __init__(self, dut):
        self.dut, self.width = dut, len(dut.m_axis_tdata) // 8
        for port in dut.s_axis_tdata, dut.s_axis_tvalid, dut.s_axis_tlast, dut.m_axis_tready:
            port.value = 0  # what the accelerator sees between programs
        self.frames, self.arrived, self.position = deque(), Event(), 0
        cocotb.start_soon(self._run())

    async def send(self, data):
        """Have a whole program sent; what an earlier one left is forgotten."""
        await self.finish()
        self.frames.clear()
        self.position = 0
        Path(STREAM_FILE).write_bytes(data)
        self.dut.play.value = 1

    async def finish(self):
        """Close the files."""
        self.dut.play.value = 0
        await ClockCycles(self.dut.clk, 2)

    async def put(self, address, data):
        """Have `data` written into the memory for resident programs."""
        dut, beats = self.dut, len(data) // self.width
        await self.finish()
        dut.place.value = address
        await ClockCycles(dut.clk, 2)
        dut.loading.value = 1
        Path(STREAM_FILE).write_bytes(data)
        dut.play.value = 1
        dut.fast.value = 1
        while int(dut.sent.value) != beats:
            await Timer(PERIOD * (1 + beats // (2 * CYCLES)), "ns")
        dut.fast.value = 0
        await self.finish()
        dut.loading.value = 0
        await self.listen()

    async def listen(self):
        """Send nothing, and take results."""
        Path(STREAM_FILE).write_bytes(b"")
        self.frames.clear()
        self.position = 0
        self.dut.play.value = 1
        await ClockCycles(self.dut.clk, 2)

    async def _run(self):
        while True:
            await ValueChange(self.dut.frames)
            if not int(self.dut.frames.value):
                continue  # it was unknown before
            await Timer(1, "ns")  # so that files are complete, and signals may be written again
            self._read()
            self.arrived.set()

    def _read(self):
        """Take the frames from the file; the beats after the last one may be incomplete."""
        size = record_bytes(self.width)
        with open(RESULT_FILE, "rb") as file:
            file.seek(self.position)
            data = file.read()
        records = np.frombuffer(data, np.uint8, len(data) // size * size).reshape(-1, size)
        begin = 0
        for end in np.flatnonzero(records[:, -LAST_BYTES]) + 1:
            self.frames.append(records[begin:end, :self.width].tobytes())
            begin = int(end)
        self.position += begin * size


_DRIVERS = {"python": (_Source, _Sink), "cocotbext": (_ExtSource, _ExtSink)}
STREAMS = ("file", *_DRIVERS)
"""What may drive the streams."""


class SimTransport(Transport):
    """The driver's link into this simulation; its methods run in a bridged thread.

    `streams` chooses what drives the streams: ``file`` (the simulation itself, Python sleeps),
    ``python`` (stalls at random with a `seed`), or ``cocotbext`` (the same with cocotbext-axi).
    """

    def __init__(self, dut, *, streams="file", seed=None, stall=0.5, memory_beats=0):
        self._memory_beats, self.bus_bytes = memory_beats, len(dut.m_axis_tdata) // 8
        if memory_beats:
            dut.loading.value = 0
            dut.place.value = 0
        rng = None if seed is None else random.Random(seed)
        self.dut = dut
        dut.play.value = 0
        dut.fast.value = 0
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        if streams == "file":
            self.source = self.sink = _Files(dut)
        else:
            source, sink = _DRIVERS[streams]
            self.source, self.sink = source(dut, rng, stall), sink(dut, rng, stall)

    def read_register(self, offset):
        """Return the register at `offset`."""
        return resume(self.registers.read_dword)(offset)

    def write_register(self, offset, value):
        """Write the register at `offset`."""
        resume(self.registers.write_dword)(offset, value)

    @property
    def memory_beats(self):
        """Beats of the memory for resident programs."""
        return self._memory_beats

    def put(self, address, data, what="inputs"):
        """Write `data` into that memory; returns once it is on its way there."""
        resume(self.source.put)(address, data)

    def send(self, data):
        """Queue `data` for the input stream."""
        resume(self._send)(data)

    async def _send(self, data):
        await self.source.send(data)

    def receive(self, timeout):
        """Return the next result frame."""
        frame = resume(self._receive)(timeout)
        if frame is None:
            raise TimeoutError
        return frame

    async def _receive(self, timeout):
        if not self.sink.frames:
            self.sink.arrived.clear()
            await self._pass(max(int(timeout * CLOCK), 1))
        return self.sink.frames.popleft() if self.sink.frames else None

    async def _pass(self, cycles):
        """Let `cycles` pass, or fewer until a frame comes; fast if Python drives no stream."""
        fast = isinstance(self.sink, _Files)
        self.dut.fast.value = int(fast)
        time = cycles * PERIOD / (2 * CYCLES if fast else 1)
        await First(self.sink.arrived.wait(), Timer(math.ceil(time), "ns"))
        self.dut.fast.value = 0

    def flush(self):
        """Forget queued data; simulated programs are not abandoned half-way."""
        self.sink.frames.clear()

    def clock(self):
        """Return the simulated time as if the clock ran at `CLOCK`."""
        return resume(self._cycles)() / CLOCK

    async def _cycles(self):
        return int(self.dut.cycles.value)

    def close(self):
        """Do nothing: the simulation ends with its session."""


@cocotb.test()
async def accelerator(dut):
    """Serve runs until the session is closed."""
    Clock(dut.clk, PERIOD, "ns").start()
    driver = None
    loaded = None
    while task := next_task():
        params, arrays = task
        if driver is None:
            dut.rst.value = 1
            memory_beats = params.get("memory_beats", 0)
            transport = SimTransport(dut, streams=params["streams"], seed=params["seed"],
                                     stall=params["stall"], memory_beats=memory_beats)
            await ClockCycles(dut.clk, 4)
            dut.rst.value = 0
            await ClockCycles(dut.clk, 4)
            if memory_beats:
                await transport.source.listen()
            driver = await bridge(Accelerator)(transport, timeout=params["patience"] / CLOCK)
        if params["program"] != loaded:
            loaded = params["program"]
            program = Program.read(loaded)
            await bridge(driver.load)(program)
            if memory_beats:
                resident = await bridge(ResidentPrograms)(driver)
                await bridge(resident.flash)("program", program, readback=False)
        start, clock = time.process_time(), await transport._cycles()
        if memory_beats:
            outputs = await bridge(next)(resident.run("program", program, [arrays]))
        else:
            outputs = await bridge(driver.run)(arrays)
        seconds, cycles = time.process_time() - start, await transport._cycles() - clock
        counters = await bridge(driver.counters)()
        if params["streams"] == "file":
            await transport.source.finish()
            outputs["trace"] = np.fromfile(TRACE_FILE, "<u4").reshape(-1, 2)
        finish_task({"counters": counters, "seconds": seconds, "simulated": cycles}, **outputs)
