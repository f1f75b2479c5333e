"""cocotb bench of docs/SOC.md: a system that knows the bus ports and the generated files only.

No driver, compiler or register map is used here: names and numbers come from ``systola_regs.h``.
The one task has ``params`` {header: its text, frames: results of the program, runs: how often} and
``arrays`` {program: bytes, its
inputs in place}. Returns the bytes of every result frame of the program, and how many cycles the
interrupt took after the last result.
"""

import re

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotb.utils import get_sim_time
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from systola.sim.verilog.runner import finish_task, next_task

__all__ = ["System", "copy_program", "read_header", "soc"]

PERIOD = 10
"""Nanoseconds of a clock cycle."""


def read_header(text):
    """Return the integer constants of a C header by name, without ``SYSTOLA_``."""
    found = re.findall(r"^#define SYSTOLA_(\w+) (0x[0-9a-f]+|\d+)(?:u|ull)?$", text, re.MULTILINE)
    return {name: int(value, 0) for name, value in found}


def copy_program(c, words, config_hash):
    """Return a program that loads `words` into the scratchpad and stores them again.

    The smallest program there is: BEGIN, LOAD and its data, STORE, END. `c` are the constants of
    the header, `words` byte strings of R bytes.
    """
    beat = c["BUS_BYTES"]

    def instruction(name, **fields):
        code = bytearray(-(-c["INSTRUCTION_BYTES"] // beat) * beat)
        code[0] = c[f"OP_{name}"]
        for field, value in fields.items():
            at = c[f"{name}_{field.upper()}_BYTE"]
            size = 8 if field == "config_hash" else 2
            code[at:at + size] = value.to_bytes(size, "little")
        return bytes(code)

    region = {"base": 0, "stride": 1, "rows": len(words), "words": 1}
    return b"".join((
        instruction("BEGIN", config_hash=config_hash),
        instruction("LOAD", beats=len(words), **region),
        *(word.ljust(beat, b"\0") for word in words),
        instruction("STORE", **region), instruction("END")))


class System:
    """What surrounds the accelerator: a processor's port, and a DMA engine for each direction."""

    def __init__(self, dut, constants):
        self.dut, self.c = dut, constants
        self.processor = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.sender = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst)
        self.receiver = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)

    async def read(self, name):
        """Return a register."""
        return await self.processor.read_dword(self.c[f"REG_{name}"])

    async def command(self, *fields):
        """Write CONTROL: these fields, and always the interrupt enable."""
        mask = sum(self.c[f"CONTROL_{field}_MASK"] for field in (*fields, "IRQ_ENABLE"))
        await self.processor.write_dword(self.c["REG_CONTROL"], mask)

    async def run(self, program, frames):
        """Start, send, and return the frames and STATUS once the interrupt has come."""
        await self.command("START")
        await ClockCycles(self.dut.clk, 2)  # the interrupt falls after the write is answered
        assert not int(self.dut.irq.value)
        self.sender.send_nowait(AxiStreamFrame(program))
        results = [bytes((await with_timeout(self.receiver.recv(), 1, "ms")).tdata)
                   for _ in range(frames)]
        begun = get_sim_time("ns")
        if not int(self.dut.irq.value):
            await with_timeout(RisingEdge(self.dut.irq), 1, "ms")
        return results, await self.read("STATUS"), (get_sim_time("ns") - begun) / PERIOD


async def _identify(system):
    """Check that the registers are those of the header."""
    c = system.c
    assert await system.read("ID") == int.from_bytes(b"sysa", "little")
    there = await system.read("HASH_LOW") | await system.read("HASH_HIGH") << 32
    assert there == c["CONFIG_HASH"]
    beyond = await system.processor.read(0xFC, 4)
    assert (beyond.resp, bytes(beyond.data)) == (AxiResp.SLVERR, bytes(4))
    assert (await system.processor.write(c["REG_ID"], bytes(4))).resp == AxiResp.SLVERR


async def _copy(system):
    """Run the copy, after one for other hardware, which is refused until reset."""
    c = system.c
    words = [bytes((17 * k + lane) % 256 for lane in range(c["ROWS"])) for k in range(5)]
    _, status, _ = await system.run(copy_program(c, words, c["CONFIG_HASH"] ^ 1), 0)
    assert status == c["STATUS_ERROR_MASK"]
    assert await system.read("ERROR") == c["ERROR_CONFIG_HASH"]
    assert await system.read("ERROR_INDEX") == 0
    # The rest of the stream is swallowed, so that the sender comes to its end: then reset.
    await with_timeout(system.sender.wait(), 1, "ms")
    await system.command("RESET")
    assert await system.read("STATUS") == 0
    assert not int(system.dut.irq.value)
    # A receiver that takes nothing stalls the program; it is not done before it has its results.
    system.receiver.pause = True
    run = cocotb.start_soon(system.run(copy_program(c, words, c["CONFIG_HASH"]), 1))
    await ClockCycles(system.dut.clk, 300)
    assert await system.read("STATUS") == c["STATUS_BUSY_MASK"]
    system.receiver.pause = False
    frames, status, _ = await run
    assert status == c["STATUS_DONE_MASK"]
    assert frames == [b"".join(word.ljust(c["BUS_BYTES"], b"\0") for word in words)]


@cocotb.test()
async def soc(dut):
    """Serve the task."""
    params, arrays = next_task()
    Clock(dut.clk, PERIOD, "ns").start()
    dut.rst.value = 1
    if hasattr(dut, "play"):  # the simulation's own player of programs
        dut.play.value = 0
        dut.fast.value = 0
    system = System(dut, read_header(params["header"]))
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 2)
    await _identify(system)
    await _copy(system)
    results, waited = [], []
    for _ in range(params["runs"]):
        frames, status, cycles = await system.run(arrays["program"].tobytes(), params["frames"])
        assert status == system.c["STATUS_DONE_MASK"]
        results += frames
        waited.append(cycles)
    assert system.receiver.empty()
    finish_task({"waited": waited, "sizes": [len(frame) for frame in results]},
                frames=np.frombuffer(b"".join(results), np.uint8))
