"""A board that tests its external memory: all of it is written and read, once after each reset."""

from amaranth import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.hdl import Elaboratable
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer

from systola.boards.board_memory import BoardMemory
from systola.boards.pll import pll_instance
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
        hold(self._elaborate_clock(m, platform, others))
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

    def _elaborate_clock(self, m, platform, others):
        """Make the clock of domain ``sync`` and the `others`; return what holds all in reset."""
        m.domains.sync = ClockDomain()
        m.submodules.source = source = io.Buffer(
            "i", platform.request(self.board.source[0], dir="-"))
        m.submodules.button = button = io.Buffer(
            "i", platform.request(*self.board.reset, dir="-"))
        output, feedback, locked, hold = Signal(), Signal(), Signal(), Signal()
        m.submodules.pll = pll_instance(self.board.family, self.plan, source=source.i,
                                        output=output, feedback=feedback, locked=locked,
                                        others=others)
        if self.board.family == "xc7":
            m.submodules.clock_buffer = Instance("BUFG", i_I=output, o_O=ClockSignal())
        else:  # nextpnr promotes the net
            m.d.comb += ClockSignal().eq(output)
        m.d.comb += hold.eq(~locked | button.i)
        m.submodules.reset = ResetSynchronizer(hold)
        return hold
