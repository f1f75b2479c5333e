"""cocotb bench of docs/SOC.md's system with a player: programs lie in memory, behind AXI4.

Like ``sim/benches/soc.py``, it knows the bus ports and ``systola_regs.h`` only. Each task has
``params`` {header: its text, address: of the program in memory, frames: results, error: whether the
memory answers errors} and ``arrays`` {program: bytes, its inputs in place}. Returns the bytes of
the result frames, STATUS, PLAY_STATUS, PLAY_CRC and CYCLES.
"""

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiRamRead,
    AxiReadBus,
    AxiStreamBus,
    AxiStreamSink,
)

from systola.sim.benches.soc import PERIOD, read_header
from systola.sim.verilog.runner import finish_task, next_task

__all__ = ["Memory", "played"]

_SIZE = 1 << 20
"""Bytes of memory."""


class Memory:
    """The system: a processor's port, memory, and a DMA engine for results."""

    def __init__(self, dut, constants):
        self.dut, self.c = dut, constants
        self.processor = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.clk, dut.rst)
        self.ram = AxiRamRead(AxiReadBus.from_prefix(dut, "m_axi"), dut.clk, dut.rst, size=_SIZE)
        self.receiver = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.clk, dut.rst)

    async def read(self, name):
        """Return a register."""
        return await self.processor.read_dword(self.c[f"REG_{name}"])

    async def write(self, name, value):
        """Write a register."""
        await self.processor.write_dword(self.c[f"REG_{name}"], value)

    async def idle(self):
        """Return PLAY_STATUS once nothing is played."""
        while (status := await self.read("PLAY_STATUS")) & self.c["PLAY_STATUS_BUSY_MASK"]:
            pass
        return status

    async def run(self, program, address, frames):
        """Put `program` into memory and play it; return frames and registers."""
        c = self.c
        self.ram.write(address, program)
        await self.write("CONTROL", c["CONTROL_START_MASK"])
        await self.write("PLAY_ADDRESS", address // c["BUS_BYTES"])
        await self.write("PLAY_BEATS", len(program) // c["BUS_BYTES"])
        await self.write("PLAY_CONTROL", c["PLAY_CONTROL_START_MASK"])
        results = [bytes((await with_timeout(self.receiver.recv(), 1, "ms")).tdata)
                   for _ in range(frames)]
        play = await self.idle()
        return results, {"play": play, **{name.lower(): await self.read(name) for name in (
            "STATUS", "PLAY_CRC", "CYCLES")}}


@cocotb.test()
async def played(dut):
    """Serve tasks until the session is closed."""
    Clock(dut.clk, PERIOD, "ns").start()
    system = None
    while task := next_task():
        params, arrays = task
        if system is None:
            dut.rst.value = 1
            system = Memory(dut, read_header(params["header"]))
            await ClockCycles(dut.clk, 4)
            dut.rst.value = 0
            await ClockCycles(dut.clk, 2)
        frames, values = await system.run(arrays["program"].tobytes(), params["address"],
                                          params["frames"])
        finish_task({**values, "sizes": [len(frame) for frame in frames]},
                    frames=np.frombuffer(b"".join(frames), np.uint8))
