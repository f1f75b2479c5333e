"""The memory beside a board's FPGA, as tops of designs have it: clocks, controller, pins."""

from systola.boards.dram.chips import find_dram
from systola.boards.dram.controller import generate_controller
from systola.boards.dram.memory import DramMemory
from systola.boards.dram.sdr_pins import clock_outputs, sdr_connections
from systola.boards.pll import PllPlan

__all__ = ["BoardMemory"]


class BoardMemory:
    """SDR memory of a board, with the controller in the design's own clock.

    Parameters
    ----------
    board : Board
        A board with SDR memory.
    mhz : float, optional
        Frequency instead of the board's.
    phases : int, optional
        Cycles of the memory in a cycle of its controller, by default the most.

    Attributes
    ----------
    plan : PllPlan
        The PLL's dividers and exact frequency, from which all clocks can be had.
    controller : Controller
        LiteDRAM's.
    clocks : list
        The ``others`` that `pll_instance` needs.

    Raises
    ------
    ModuleNotFoundError
        Without LiteDRAM, which the extra ``dram`` brings.
    ValueError
        If the board has no such memory, or it does not run at that frequency.
    """

    def __init__(self, board, *, mhz=None, phases=None):
        self.board, self.dram = board, find_dram(board.name, phases)
        if self.dram.kind != "SDR":
            raise ValueError(f"board must be one with SDR memory, not {board.name!r}")
        mhz = board.clock_mhz if mhz is None else mhz
        # Both clocks are of one oscillator, whose divider for the faster one is given.
        fast = board.pll.plan(board.source[1], mhz * self.dram.phases)
        self.plan = PllPlan(fast.input, fast.divide, fast.multiply,
                            fast.output_divide * self.dram.phases)
        self.controller = generate_controller(self.dram, self.plan.output)
        self._clocks, self.clocks = clock_outputs(self.dram, self.plan)

    def component(self, m, platform, bus_bytes):
        """Return the `DramMemory`, with its pins' buffers in `m`, and its Verilog in `platform`."""
        platform.add_file(f"{self.controller.name}.v", self.controller.verilog)
        return DramMemory(self.controller, bus_bytes=bus_bytes,
                          connections=sdr_connections(m, platform, self.dram, self._clocks))
