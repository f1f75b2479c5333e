"""The accelerator behind one AXI4-Lite port alone, for a processor without a DMA engine."""

from amaranth import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.accelerator import Accelerator
from systola.hw.host.register_file import axi_lite_ports
from systola.hw.host.stream_window import StreamWindow, window_ports

__all__ = ["MappedAccelerator"]


class MappedAccelerator(wiring.Component):
    """The accelerator with its streams in registers; the top of ``systola generate --mapped``.

    Model: sim/machine/machine.py

    Parameters
    ----------
    config : AcceleratorConfig
        As of `Accelerator`.
    depth : int
        As of `StreamWindow`.

    Members
    -------
    s_axil_* : AXI4-Lite subordinate
        Registers of ``hw/contract/regmap.py`` and, from `window.BASE` on, of
        ``hw/contract/stream_registers.py``.
    irq : Out(1)
        As of `Accelerator`.
    """

    def __init__(self, config, *, depth=512):
        self.config, self.depth = config, depth
        super().__init__(window_ports() | {"irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.window = window = StreamWindow(bus_bytes=self.config.bus_bytes,
                                                    depth=self.depth)
        accelerator = Accelerator(self.config)
        m.submodules.accelerator = ResetInserter(window.reset)(accelerator)
        for name, member in window_ports().items():
            inside, outside = getattr(window, name), getattr(self, name)
            m.d.comb += inside.eq(outside) if member.flow is In else outside.eq(inside)
        for name, member in axi_lite_ports().items():
            there, here = getattr(accelerator, name), getattr(window, f"m{name[1:]}")
            m.d.comb += there.eq(here) if member.flow is In else here.eq(there)
        for kind in "data", "valid":
            m.d.comb += [
                getattr(accelerator, f"s_axis_t{kind}").eq(getattr(window, f"m_axis_t{kind}")),
                getattr(window, f"s_axis_t{kind}").eq(getattr(accelerator, f"m_axis_t{kind}"))]
        m.d.comb += [window.m_axis_tready.eq(accelerator.s_axis_tready),
                     accelerator.m_axis_tready.eq(window.s_axis_tready),
                     window.s_axis_tlast.eq(accelerator.m_axis_tlast),
                     self.irq.eq(accelerator.irq)]
        return m
