"""cocotb bench that lets ``soak_host.py`` play batches of programs.

Each task has the array ``programs``, the bytes of ``programs.bin``; returns the words of
``records.bin`` as ``records`` and the bytes of ``results.bin`` as ``beats``.
"""

from pathlib import Path

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge

from systola.sim.soak.program_player import PROGRAMS_FILE, RECORDS_FILE, RESULTS_FILE
from systola.sim.verilog.runner import finish_task, next_task

__all__ = ["soak"]


@cocotb.test()
async def soak(dut):
    """Serve batches until the session is closed."""
    Clock(dut.tick, 10, "ns").start()
    dut.go.value = 0
    dut.rst.value = 1
    await ClockCycles(dut.tick, 2)
    dut.rst.value = 0
    while task := next_task():
        task[1]["programs"].tofile(PROGRAMS_FILE)
        dut.go.value = 1
        await RisingEdge(dut.finished)
        dut.go.value = 0
        await FallingEdge(dut.finished)
        finish_task({}, records=np.frombuffer(Path(RECORDS_FILE).read_bytes(), "<u4"),
                    beats=np.fromfile(RESULTS_FILE, np.uint8))
