"""The accelerator behind one AXI4-Lite port alone, for a processor without a DMA engine."""

from amaranth import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.accelerator import Accelerator
from systola.hw.contract.stream_registers import SIZE_BITS
from systola.hw.host import axi
from systola.hw.host.stream_window import StreamWindow

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
        super().__init__(axi.ports(s_axil=In(axi.Lite(SIZE_BITS))) | {"irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.window = window = StreamWindow(bus_bytes=self.config.bus_bytes,
                                                    depth=self.depth)
        accelerator = Accelerator(self.config)
        m.submodules.accelerator = ResetInserter(window.reset)(accelerator)
        wiring.connect(m, axi.bundle(self, "s_axil", axi.Lite(SIZE_BITS)), window.s_axil)
        axi.connect_flat(m, window, accelerator)
        m.d.comb += self.irq.eq(accelerator.irq)
        return m
