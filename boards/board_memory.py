"""The memory beside a board's FPGA, as tops of designs have it: clocks, controller, pins."""

from systola.boards.dram.chips import find_dram
from systola.boards.dram.controller import generate_controller
from systola.boards.dram.ddr3_pins import DRAM_DOMAIN, ddr3_clocks, ddr3_connections
from systola.boards.dram.memory import DramMemory
from systola.boards.dram.sdr_pins import clock_outputs, sdr_connections
from systola.boards.pll import PllPlan

__all__ = ["BoardMemory"]


class BoardMemory:
    """External memory of a board: SDR with the design's clock, DDR3 with one of its own.

    Parameters
    ----------
    board : Board
        A board with external memory.
    mhz : float, optional
        Frequency of the design instead of the board's.
    phases : int, optional
        Cycles of the memory in a cycle of its controller, by default the most.

    Attributes
    ----------
    plan : PllPlan
        The PLL's dividers and exact frequency, from which all clocks can be had.
    dram : Dram
        The memory.
    controller : Controller
        LiteDRAM's.

    Raises
    ------
    ModuleNotFoundError
        Without LiteDRAM, which the extra ``dram`` brings.
    ValueError
        If the board has no such memory, or it does not run at that frequency.
    """

    def __init__(self, board, *, mhz=None, phases=None):
        self.board, self.dram = board, find_dram(board.name, phases)
        mhz = board.clock_mhz if mhz is None else mhz
        # All clocks are of one oscillator, whose divider for the fastest one is given.
        own = self.dram.kind == "SDR"
        plan = board.pll.plan(board.source[1], self.dram.phases * (mhz if own else self.dram.mhz))
        self.plan = PllPlan(plan.input, plan.divide, plan.multiply,
                            plan.output_divide * self.dram.phases if own
                            else round(plan.vco / mhz))
        self.controller = generate_controller(self.dram,
                                              self.plan.output if own else self.dram.mhz)
        self._clocks = None

    def clocks(self, m):
        """Return the `others` that the PLL has to make, and what is told what holds all in reset.

        What belongs to them is put into `m`.
        """
        if self.dram.kind == "SDR":
            self._clocks, others = clock_outputs(self.dram, self.plan)
            return others, lambda hold: None
        self._clocks, others, hold = ddr3_clocks(m, self.plan, self.dram)
        return others, hold

    def component(self, m, platform, bus_bytes):
        """Return the `DramMemory`, with its pins' buffers in `m`, and its Verilog in `platform`.

        `clocks` must have been called before.
        """
        platform.add_file(f"{self.controller.name}.v", self.controller.verilog)
        if self.dram.kind == "SDR":
            domain, connections = "sync", sdr_connections(m, platform, self.dram, self._clocks)
        else:
            domain, connections = DRAM_DOMAIN, self._clocks | ddr3_connections(m, platform)
        return DramMemory(self.controller, bus_bytes=bus_bytes, connections=connections,
                          domain=domain)
