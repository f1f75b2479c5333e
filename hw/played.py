"""The accelerator and a player that reads its programs over AXI4, for systems with a memory."""

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.accelerator import Accelerator
from systola.hw.host import axi
from systola.hw.resident.axi_memory import AxiMemory
from systola.hw.resident.player import Player

__all__ = ["PlayedAccelerator"]


class PlayedAccelerator(wiring.Component):
    """Plays programs from the system's memory; the top of ``systola generate --player``.

    The processor writes a program once, and inputs into their slots before each run; it starts the
    accelerator (CONTROL) and then the player (``hw/contract/player_registers.py``), and takes the
    results from ``m_axis``, for which a DMA engine from stream to memory is enough.

    Model: sim/machine/machine.py

    Parameters
    ----------
    config : AcceleratorConfig
        As of `Accelerator`.
    address_bits, burst, depth : int
        As of `AxiMemory`.

    Members
    -------
    s_axil_* : AXI4-Lite subordinate
        Registers of ``hw/contract/regmap.py`` and of ``hw/contract/player_registers.py``.
    m_axi_* : AXI4, read channels of a manager
        As wide as the stream, ``config.bus_bytes``.
    m_axis_* : AXI4-Stream out
        Results, as of `Accelerator`.
    irq : Out(1)
        As of `Accelerator`.
    """

    def __init__(self, config, *, address_bits=32, burst=16, depth=64):
        self.config = config
        self.memory = AxiMemory(bus_bytes=config.bus_bytes, address_bits=address_bits, burst=burst,
                                depth=depth)
        self._bus, self._results = self.memory.bus.signature, axi.Stream(config.bus_bytes)
        super().__init__(axi.ports(s_axil=In(axi.Lite()), m_axi=Out(self._bus),
                                   m_axis=Out(self._results)) | {"irq": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.player = player = Player(bus_bytes=self.config.bus_bytes,
                                              size=self.memory.size)
        m.submodules.memory, m.submodules.accelerator = memory, accelerator = (
            self.memory, Accelerator(self.config))
        wiring.connect(m, axi.bundle(self, "s_axil", axi.Lite()), player.host_axil)
        wiring.connect(m, player.host_result, axi.bundle(self, "m_axis", self._results.flip()))
        wiring.connect(m, player.memory, memory.port)
        wiring.connect(m, memory.bus, axi.bundle(self, "m_axi", self._bus.flip()))
        axi.connect_flat(m, player, accelerator)
        m.d.comb += self.irq.eq(accelerator.irq)
        return m
