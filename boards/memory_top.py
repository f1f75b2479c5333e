"""A board that tests its external memory: all of it is written and read, once after each reset."""

from amaranth import Module, Signal
from amaranth.hdl import Elaboratable
from amaranth.lib import io, wiring

from systola.boards.board_clock import add_clock
from systola.boards.board_memory import BoardMemory
from systola.hw.resident.memory_checker import MemoryChecker

__all__ = ["MEMORY_LEDS", "MemoryTop"]

MEMORY_LEDS = "works", "done", "wrong", "heartbeat"
"""What the LEDs show: the memory was started, all of it was read, and not as it was written."""


class MemoryTop(Elaboratable):
    """A `DramMemory` behind pins and a `MemoryChecker` before it.

    Parameters
    ----------
    board : Board
        A board with external memory.
    mhz : float, optional
        Frequency instead of the board's.
    phases : int, optional
        Cycles of the memory in a cycle of its controller, by default the most.
    bus_bytes : int
        Bytes of a beat.

    Attributes
    ----------
    plan : PllPlan
        The PLL's dividers and exact frequency.

    Raises
    ------
    ModuleNotFoundError
        Without LiteDRAM, which the extra ``dram`` brings.
    ValueError
        If the board has no such memory, or it does not run at that frequency.
    """

    def __init__(self, board, *, mhz=None, phases=None, bus_bytes=8):
        self.board, self.bus_bytes = board, bus_bytes
        self.memory = BoardMemory(board, mhz=mhz, phases=phases)
        self.plan = self.memory.plan

    def elaborate(self, platform):
        m = Module()
        others, hold = self.memory.clocks(m)
        hold(add_clock(m, platform, self.board, self.plan, others))
        m.submodules.memory = memory = self.memory.component(m, platform, self.bus_bytes)
        m.submodules.checker = checker = MemoryChecker(bus_bytes=self.bus_bytes, size=memory.size)
        wiring.connect(m, checker.port, memory.port)
        second = Signal(range(int(self.plan.output * 1e6)))
        m.d.sync += second.eq(second + 1)
        for number, value in enumerate((memory.works, checker.done, checker.wrong, second[-1])):
            m.submodules[f"{MEMORY_LEDS[number]}_pin"] = pin = io.Buffer(
                "o", platform.request("led", number, dir="-"))
            m.d.comb += pin.o.eq(value)
        return m
