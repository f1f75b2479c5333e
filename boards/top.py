"""The design that goes onto a board: accelerator, clock, reset, LEDs, serial link."""

from amaranth import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.hdl import Elaboratable, Fragment
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In

from systola.boards.pll import pll_instance
from systola.hw.accelerator import Accelerator
from systola.hw.bridge import Bridge
from systola.hw.csr import PREFIX, axi_lite_ports
from systola.hw.regmap import REGISTERS
from systola.hw.target import Primitives
from systola.hw.uart import Receiver, Transmitter, baud_divisor

__all__ = ["LEDS", "BoardTop", "plan_clock"]

LEDS = "busy", "done", "error", "heartbeat"
"""What the first LEDs show; the heartbeat blinks about once a second while the clock runs."""


def plan_clock(board, mhz=None):
    """Return the `PllPlan` for `mhz` (by default the board's) and the divisor of the UART.

    Raises ``ValueError`` if the PLL cannot make the frequency, or the UART not its baud rate of it.
    """
    plan = board.pll.plan(board.source[1], board.clock_mhz if mhz is None else mhz)
    return plan, baud_divisor(plan.output * 1e6, board.baud)


class BoardTop(Elaboratable):
    """An accelerator behind a UART, everything in one clock domain from the PLL.

    Reset is held while the PLL has no lock or the button is pressed, and released synchronously.

    Parameters
    ----------
    board : Board
        Where it goes.
    config : AcceleratorConfig
        The accelerator.
    mhz : float, optional
        Frequency instead of the board's.
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

    def __init__(self, board, config, *, mhz=None, accelerator=None):
        self.board, self.config = board, config
        self.plan, self.divisor = plan_clock(board, mhz)
        self.accelerator = accelerator or Accelerator(config)

    def elaborate(self, platform):
        m = Module()
        self._elaborate_clock(m, platform)
        accelerator = self.accelerator
        # The units know families, not platforms of boards.
        m.submodules.accelerator = Fragment.get(accelerator, Primitives(self.board.family))
        m.submodules.bridge = bridge = Bridge(bus_bytes=self.config.bus_bytes)
        for name, member in axi_lite_ports().items():
            inside = getattr(accelerator, name)
            outside = getattr(bridge, "m_axil_" + name.removeprefix(PREFIX))
            m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        m.d.comb += [
            accelerator.s_axis_tdata.eq(bridge.m_axis_tdata),
            accelerator.s_axis_tvalid.eq(bridge.m_axis_tvalid),
            bridge.m_axis_tready.eq(accelerator.s_axis_tready),
            bridge.s_axis_tdata.eq(accelerator.m_axis_tdata),
            bridge.s_axis_tvalid.eq(accelerator.m_axis_tvalid),
            bridge.s_axis_tlast.eq(accelerator.m_axis_tlast),
            accelerator.m_axis_tready.eq(bridge.s_axis_tready),
        ]
        self._elaborate_uart(m, platform, bridge)
        self._elaborate_leds(m, platform, bridge)
        return m

    def _pin(self, m, direction, port, name):
        """Return the buffered signal of a pin."""
        m.submodules[f"{name}_pin"] = buffer = io.Buffer(direction, port)
        return buffer.i if direction == "i" else buffer.o

    def _elaborate_clock(self, m, platform):
        m.domains.sync = ClockDomain()
        source = self._pin(m, "i", platform.request(self.board.source[0], dir="-"), "clock")
        button = self._pin(m, "i", platform.request(*self.board.reset, dir="-"), "reset")
        output, feedback, locked, hold = Signal(), Signal(), Signal(), Signal()
        m.submodules.pll = pll_instance(self.board.family, self.plan, source=source,
                                        output=output, feedback=feedback, locked=locked)
        if self.board.family == "xc7":
            m.submodules.clock_buffer = Instance("BUFG", i_I=output, o_O=ClockSignal())
        else:  # nextpnr promotes the net
            m.d.comb += ClockSignal().eq(output)
        m.d.comb += hold.eq(~locked | button)
        m.submodules.reset = ResetSynchronizer(hold)

    def _elaborate_uart(self, m, platform, bridge):
        pins = platform.request("uart", dir="-")
        m.submodules.receiver = receiver = Receiver(self.divisor)
        m.submodules.transmitter = transmitter = Transmitter(self.divisor)
        m.d.comb += [
            receiver.rx.eq(self._pin(m, "i", pins.rx, "rx")),
            self._pin(m, "o", pins.tx, "tx").eq(transmitter.tx),
            bridge.broken.eq(receiver.broken), bridge.rx.valid.eq(receiver.o.valid),
            bridge.rx.payload.eq(receiver.o.payload),
            transmitter.i.valid.eq(bridge.tx.valid), transmitter.i.payload.eq(bridge.tx.payload),
            bridge.tx.ready.eq(transmitter.i.ready),
        ]

    def _elaborate_leds(self, m, platform, bridge):
        second = Signal(range(int(self.plan.output * 1e6)))
        m.d.sync += second.eq(second + 1)
        status = REGISTERS["STATUS"]
        for number, name in enumerate(LEDS):
            pin = self._pin(m, "o", platform.request("led", number, dir="-"), name)
            m.d.comb += pin.eq(second[-1] if name == "heartbeat"
                               else bridge.status[status.field(name).lsb])
        for resource, number, subsignal in self.board.high:
            port = getattr(platform.request(resource, number, dir="-"), subsignal)
            m.d.comb += self._pin(m, "o", port, f"{resource}_{subsignal}").eq(1)
