"""The accelerator as simulations have it when its program comes from a memory."""

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.accelerator import Accelerator
from systola.hw.host import axi
from systola.hw.parts import shapes
from systola.hw.resident.player import Player

__all__ = ["ResidentTop"]


class ResidentTop(wiring.Component):
    """Accelerator, player and memory, with the accelerator's ports.

    Model: sim/machine/machine.py

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    memory : component
        As of `systola.hw.linked.LinkedAccelerator`.

    Members
    -------
    s_axil_*, s_axis_*, m_axis_*, irq, trace
        As of `Accelerator`, with the player's registers.
    loading : In(1)
        Beats of ``s_axis`` go into memory, from beat `place` on.
    place : In(32)
        Taken while `loading` is low.
    """

    def __init__(self, config, memory):
        self.accelerator, self.memory = Accelerator(config, trace=True), memory
        self.player = Player(bus_bytes=config.bus_bytes, size=memory.size)
        self._stream = axi.Stream(config.bus_bytes)
        super().__init__(axi.ports(s_axil=In(axi.Lite()), s_axis=In(self._stream),
                                   m_axis=Out(self._stream)) | {
            "irq": Out(1), "trace": Out(shapes.trace_layout()), "loading": In(1), "place": In(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.accelerator, m.submodules.player = accelerator, player = (
            self.accelerator, self.player)
        m.submodules.memory = self.memory
        wiring.connect(m, axi.bundle(self, "s_axil", axi.Lite()), player.host_axil)
        wiring.connect(m, player.host_result, axi.bundle(self, "m_axis", self._stream.flip()))
        wiring.connect(m, player.memory, self.memory.port)
        axi.connect_flat(m, player, accelerator)
        at, put = Signal(32), player.put
        m.d.comb += [
            self.irq.eq(accelerator.irq), self.trace.eq(accelerator.trace),
            put.p.address.eq(at), put.p.beat.eq(self.s_axis_tdata),
            put.valid.eq(self.s_axis_tvalid & self.loading),
            player.host_send.tdata.eq(self.s_axis_tdata),
            player.host_send.tvalid.eq(self.s_axis_tvalid & ~self.loading),
        ]
        with m.If(self.loading):
            m.d.comb += self.s_axis_tready.eq(put.ready)
            with m.If(put.valid & put.ready):
                m.d.sync += at.eq(at + 1)
        with m.Else():
            m.d.comb += self.s_axis_tready.eq(player.host_send.tready)
            m.d.sync += at.eq(self.place)
        return m
