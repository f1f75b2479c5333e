"""cocotb bench for a memory behind a `MemoryPort`: requests one after the other, beats timed.

``params``: ``seed`` (None: no stalls), ``reset`` (before the first request) and ``patience``
(cycles without any transfer that count as a hang). ``arrays``: ``requests``, a row ``(address,
beats)`` each, of which those of no beats write the next row of ``beats``. Each request is offered
when the one before was taken. Returns the beats that were read, as ``data``, the cycle of each, and
the cycle in which each request was taken, from the first cycle in which the memory ``works``.
"""

import random

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from systola.sim.verilog.runner import finish_task, next_task

__all__ = ["memory_port", "requests"]


@cocotb.test()
async def memory_port(dut):
    """Run one task after the other until the session is closed."""
    Clock(dut.clk, 20, "ns").start()
    if hasattr(dut, "dram_clk"):  # of a memory that has its own
        Clock(dut.dram_clk, 10, "ns").start()
    while task := next_task():
        finish_task({}, **await requests(dut, *task))


async def _reset(dut, edge):
    for name in "read__valid", "write__valid", "data__ready":
        getattr(dut, f"port__{name}").value = 0
    resets = [getattr(dut, name) for name in ("rst", "dram_rst") if hasattr(dut, name)]
    for level in 1, 0:
        for reset in resets:
            reset.value = level
        await edge
        await edge
    while not int(dut.works.value):
        await edge


async def requests(dut, params, arrays):
    """Run one task, or fail when nothing moves for `patience` cycles; return the arrays."""
    rng = None if params["seed"] is None else random.Random(params["seed"])
    edge, size = RisingEdge(dut.clk), arrays["beats"].shape[1]
    asked, beats = arrays["requests"].tolist(), iter(arrays["beats"])
    if params["reset"]:
        await _reset(dut, edge)
    wanted = sum(count for _, count in asked)
    taken, got, cycles, offered, ready, cycle, quiet = [], [], [], None, False, 0, 0
    while len(taken) < len(asked) or len(got) < wanted:
        moved = False
        if ready and int(dut.port__data__valid.value):
            got.append(int(dut.port__data__payload.value))
            cycles.append(cycle)
            moved = True
        if offered is not None and int(offered[1].value):
            offered[0].value = 0
            offered, moved = None, True
            taken.append(cycle)
        if offered is None and len(taken) < len(asked) and not (rng and rng.random() < 0.3):
            address, count = asked[len(taken)]
            kind = "read" if count else "write"
            offered = getattr(dut, f"port__{kind}__valid"), getattr(dut, f"port__{kind}__ready")
            content = count or int.from_bytes(next(beats).tobytes(), "little")
            getattr(dut, f"port__{kind}__payload").value = content << 32 | address
            offered[0].value = 1
        # Long pauses as well: of a program that is started while another one is computed.
        now = not rng or rng.random() < (0.9, 0.3, 0.02)[cycle // 300 % 3]
        if now != ready:
            dut.port__data__ready.value = int(now)
            ready = now
        quiet = 0 if moved else quiet + 1
        assert quiet < params["patience"], f"nothing moved for {quiet} cycles"
        await edge
        cycle += 1
    dut.port__data__ready.value = 0
    data = b"".join((value & (1 << 8 * size) - 1).to_bytes(size, "little") for value in got)
    return {"data": np.frombuffer(data, dtype=np.uint8).reshape(-1, size),
            "cycles": np.array(cycles, dtype=np.int64), "taken": np.array(taken, dtype=np.int64)}
