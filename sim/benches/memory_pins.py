"""cocotb bench for the pins of a memory: like ``memory_port``, with all clocks and with delays.

``params`` has besides ``phases``, the cycles of the chip in one of the user, ``degrees``, by which
its clock is behind, and ``data_ps``, how long after an edge of its clock the data before it are
gone from the FPGA, and when those of this edge are there; between these times they are anything.
"""

import random

import cocotb
from cocotb.triggers import RisingEdge, Timer

from systola.sim.benches.memory_port import requests
from systola.sim.verilog.runner import finish_task, next_task

__all__ = ["memory_pins"]

_PERIOD = 20_000


@cocotb.test()
async def memory_pins(dut):
    """Run one task after the other until the session is closed."""
    clocks = None
    while task := next_task():
        if clocks is None:
            clocks = cocotb.start_soon(_clocks(dut, task[0]["phases"], task[0]["degrees"]))
            cocotb.start_soon(_wires(dut, *task[0]["data_ps"]))
        arrays = await requests(dut, *task)
        finish_task({name: int(getattr(dut, name).value)
                     for name in ("errors", "mode", "refreshes")}, **arrays)


async def _clocks(dut, phases, degrees):
    """Drive clocks whose edges are at the same time in one step, or they would race."""
    fast, edges = _PERIOD // phases, {}
    for cycle in range(phases):
        for level, half in (1, 0), (0, fast // 2):
            if phases > 1:
                edges.setdefault(cycle * fast + half, []).append((dut.double_clock, level))
            behind = (cycle * fast + half + degrees * fast // 360) % _PERIOD
            edges.setdefault(behind, []).append((dut.chip_clk, level))
    edges.setdefault(0, []).append((dut.clk, 1))
    edges.setdefault(_PERIOD // 2, []).append((dut.clk, 0))
    times = sorted(edges)
    while True:
        for time, after in zip(times, [*times[1:], times[0] + _PERIOD], strict=True):
            for clock, level in edges[time]:
                clock.value = level
            await Timer(after - time, "ps")


async def _wires(dut, gone, there):
    """Bring the chip's data to the FPGA, late."""
    rng = random.Random(1)

    async def bring():
        await Timer(100, "ps")
        value = int(dut.chip_data.value)
        await Timer(gone - 100, "ps")
        dut.fpga_data.value = rng.getrandbits(16)
        await Timer(there - gone, "ps")
        dut.fpga_data.value = value

    while True:
        await RisingEdge(dut.chip_clk)
        cocotb.start_soon(bring())
