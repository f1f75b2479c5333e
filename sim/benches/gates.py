"""cocotb bench that runs an accelerator and records its pins, for playing them to a netlist.

One task of the session runs some inputs of one program: ``params`` {program: path, patience:
cycles until a run counts as hung}, ``arrays`` the inputs by name, images first. Returns the
tensors of every image (``0.logits``) and ``pins``, the bytes of `pin_recorder`.
"""

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.task import bridge
from cocotb.triggers import ClockCycles

from systola.sim.benches.accelerator import CLOCK, PERIOD, SimTransport
from systola.sim.runs.pins import PIN_FILE
from systola.sim.verilog.runner import finish_task, next_task
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.program.image import Program

__all__ = ["recorded"]


@cocotb.test()
async def recorded(dut):
    """Serve one task; more of them would add to the same record."""
    Clock(dut.clk, PERIOD, "ns").start()
    params, arrays = next_task()
    dut.rst.value = 1
    transport = SimTransport(dut)
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 4)
    driver = await bridge(Accelerator)(transport, timeout=params["patience"] / CLOCK)
    program = Program.read(params["program"])
    await bridge(driver.load)(program)
    tensors = {}
    for image in range(len(next(iter(arrays.values())))):
        outputs = await bridge(driver.run)({name: values[image]
                                            for name, values in arrays.items()})
        tensors |= {f"{image}.{name}": values for name, values in outputs.items()}
    await transport.source.finish()
    pins = np.fromfile(PIN_FILE, np.uint8)
    finish_task({}, pins=pins, **tensors)
    while next_task():
        raise AssertionError("one task is all that a record can hold")
