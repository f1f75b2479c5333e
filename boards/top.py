"""The design that goes onto a board: accelerator with its link, clock, reset, LEDs."""

from amaranth import Module, Signal
from amaranth.hdl import Elaboratable, Fragment
from amaranth.lib import io

from systola.boards.board_clock import add_clock
from systola.boards.board_memory import BoardMemory
from systola.hw.contract.regmap import REGISTERS
from systola.hw.host.uart import baud_divisor
from systola.hw.linked import LinkedAccelerator
from systola.hw.parts.target import Primitives

__all__ = ["LEDS", "BoardTop", "plan_clock"]

LEDS = "busy", "done", "error", "heartbeat"
"""What the first LEDs show; the heartbeat blinks about once a second while the clock runs."""


def plan_clock(board, mhz=None, baud=None):
    """Return the `PllPlan` for `mhz` and the divisor of the UART for `baud`, or the board's.

    Raises ``ValueError`` if the PLL cannot make the frequency, or the UART not its baud rate of it.
    """
    plan = board.pll.plan(board.source[1], board.clock_mhz if mhz is None else mhz)
    return plan, baud_divisor(plan.output * 1e6, board.baud if baud is None else baud)


class BoardTop(Elaboratable):
    """A `LinkedAccelerator` behind pins, everything in one clock domain from the PLL.

    Reset is held while the PLL has no lock or the button is pressed, and released synchronously.

    Parameters
    ----------
    board : Board
        Where it goes.
    config : AcceleratorConfig
        The accelerator.
    mhz : float, optional
        Frequency instead of the board's.
    baud : int, optional
        Bits per second instead of the board's.
    memory : component or BoardMemory, optional
        As of `LinkedAccelerator`, or the memory beside the FPGA.
    accelerator : component, optional
        Something else with the accelerator's ports.

    Attributes
    ----------
    plan : PllPlan
        The PLL's dividers and exact frequency.

    Raises
    ------
    ValueError
        If the PLL cannot make the frequency, or the UART's baud rate not out of it.
    """

    def __init__(self, board, config, *, mhz=None, baud=None, memory=None, accelerator=None):
        self.board, self.config = board, config
        self.plan, self.divisor = plan_clock(board, mhz, baud)
        self.accelerator, self.memory = accelerator, memory
        if isinstance(memory, BoardMemory):
            self.plan = memory.plan
            self.divisor = baud_divisor(self.plan.output * 1e6, baud or board.baud)

    @property
    def link(self):
        """What a host needs to know: its ``baud``, and the ``memory_bytes`` for programs."""
        memory = self.memory
        if isinstance(memory, BoardMemory):
            size = memory.dram.bytes
        else:
            size = memory.size * self.config.bus_bytes if memory else 0
        return {"baud": round(self.plan.output * 1e6 / self.divisor), "memory_bytes": size}

    def elaborate(self, platform):
        m = Module()
        memory = self.memory
        if isinstance(memory, BoardMemory):
            others, hold = memory.clocks(m)
            hold(self._elaborate_clock(m, platform, others))
            memory = memory.component(m, platform, self.config.bus_bytes)
        else:
            self._elaborate_clock(m, platform, [])
        linked = LinkedAccelerator(self.config, divisor=self.divisor, memory=memory,
                                   accelerator=self.accelerator)
        # The units know families, not platforms of boards.
        m.submodules.linked = Fragment.get(linked, Primitives(self.board.family))
        pins = platform.request("uart", dir="-")
        m.d.comb += [linked.rx.eq(self._pin(m, "i", pins.rx, "rx")),
                     self._pin(m, "o", pins.tx, "tx").eq(linked.tx)]
        self._elaborate_leds(m, platform, linked.status)
        return m

    def _pin(self, m, direction, port, name):
        """Return the buffered signal of a pin."""
        m.submodules[f"{name}_pin"] = buffer = io.Buffer(direction, port)
        return buffer.i if direction == "i" else buffer.o

    def _elaborate_clock(self, m, platform, others):
        return add_clock(m, platform, self.board, self.plan, others)

    def _elaborate_leds(self, m, platform, status):
        second = Signal(range(int(self.plan.output * 1e6)))
        m.d.sync += second.eq(second + 1)
        fields = REGISTERS["STATUS"]
        for number, name in enumerate(LEDS):
            pin = self._pin(m, "o", platform.request("led", number, dir="-"), name)
            m.d.comb += pin.eq(second[-1] if name == "heartbeat"
                               else status[fields.field(name).lsb])
        for resource, number, subsignal in self.board.high:
            port = getattr(platform.request(resource, number, dir="-"), subsignal)
            m.d.comb += self._pin(m, "o", port, f"{resource}_{subsignal}").eq(1)
