"""cocotb bench of a LiteX system: a host on its Wishbone port runs programs from its memory.

Each task has ``params`` {header: text of ``systola_regs.h``, registers: address of the
accelerator's, dma: addresses of the DMA engine's, program, results: addresses in memory, frames:
bytes of each} and ``arrays`` {program: bytes, its inputs in place}. Returns the bytes of the
frames, and registers.
"""

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge

from systola.sim.benches.soc import PERIOD, read_header
from systola.sim.verilog.runner import finish_task, next_task

__all__ = ["Host", "wishbone"]


class Host:
    """A manager of the Wishbone port ``host`` of 32 bits."""

    def __init__(self, dut):
        self.dut = dut
        for name in "cyc", "stb", "we", "adr", "dat_w", "sel", "cti", "bte":
            getattr(dut, f"host_{name}").value = 0

    async def access(self, address, value=None):
        """Write `value`, or return the word at byte `address`."""
        dut = self.dut
        dut.host_adr.value = address >> 2
        dut.host_we.value = int(value is not None)
        dut.host_dat_w.value = value or 0
        dut.host_sel.value = 15
        dut.host_cyc.value = dut.host_stb.value = 1
        while True:
            await RisingEdge(dut.sys_clk)
            if int(dut.host_ack.value):
                break
        data = int(dut.host_dat_r.value)
        dut.host_cyc.value = dut.host_stb.value = 0
        await RisingEdge(dut.sys_clk)
        return data

    async def run(self, c, params, program):
        """Put a program into memory and play it; returns its frames, and registers by name."""
        def register(name):
            return params["registers"] + c[f"REG_{name}"]

        for at, word in enumerate(np.frombuffer(program, "<u4").tolist()):
            await self.access(params["program"] + 4 * at, word)
        await self.access(register("CONTROL"), c["CONTROL_START_MASK"])
        await self.access(register("PLAY_ADDRESS"), params["program"] // c["BUS_BYTES"])
        await self.access(register("PLAY_BEATS"), len(program) // c["BUS_BYTES"])
        frames = []
        for index, size in enumerate(params["frames"]):
            dma = params["dma"]
            await self.access(dma["dma_base"] + 4, params["results"])
            await self.access(dma["dma_length"], size)
            await self.access(dma["dma_enable"], 1)
            if index == 0:
                await self.access(register("PLAY_CONTROL"), c["PLAY_CONTROL_START_MASK"])
            while not await self.access(dma["dma_done"]) & 1:
                pass
            words = [await self.access(params["results"] + at) for at in range(0, size, 4)]
            frames.append(np.array(words, "<u4").tobytes())
            await self.access(dma["dma_enable"], 0)
        while await self.access(register("PLAY_STATUS")) & c["PLAY_STATUS_BUSY_MASK"]:
            pass
        return frames, {name.lower(): await self.access(register(name))
                        for name in ("STATUS", "PLAY_STATUS", "PLAY_CRC")}


@cocotb.test()
async def wishbone(dut):
    """Serve tasks until the session is closed."""
    Clock(dut.sys_clk, PERIOD, "ns").start()
    host = Host(dut)
    dut.sys_rst.value = 1
    await ClockCycles(dut.sys_clk, 5)
    dut.sys_rst.value = 0
    await ClockCycles(dut.sys_clk, 5)
    while task := next_task():
        params, arrays = task
        frames, values = await host.run(read_header(params["header"]), params,
                                        arrays["program"].tobytes())
        finish_task(values, frames=np.frombuffer(b"".join(frames), np.uint8))
