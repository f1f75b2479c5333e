"""The accelerator behind a UART: what a board adds to it is clock, reset and pins."""

from amaranth import Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.accelerator import Accelerator
from systola.hw.contract.frame import BUFFER
from systola.hw.host import axi
from systola.hw.host.bridge import Bridge
from systola.hw.host.channel import Channel
from systola.hw.host.uart import Receiver, Transmitter
from systola.hw.resident.player import Player

__all__ = ["LinkedAccelerator"]


class LinkedAccelerator(wiring.Component):
    """UART, channel, bridge and accelerator; with a memory, a player of resident programs as well.

    A new session (``hw/contract/frame.py``) resets bridge and accelerator together, with everything
    that may be under way between them, and nothing else: what the player plays goes nowhere from
    then on, and the memory keeps what it has.

    Model: sim/machine/device.py

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    divisor : int
        Clock cycles of a bit, see `systola.hw.host.uart.baud_divisor`.
    accelerator : component, optional
        Something else with the accelerator's ports.
    memory : component, optional
        Memory for resident programs: its ``port`` is a `MemoryPort`, ``size`` its beats.
    buffer : int
        Bytes of each buffer of the channel.

    Members
    -------
    rx, tx : In(1), Out(1)
        The UART's wires; ``rx`` is not synchronised.
    status : Out(32)
        STATUS, as the bridge read it last.
    """

    def __init__(self, config, *, divisor, accelerator=None, memory=None, buffer=BUFFER):
        self.accelerator, self.memory = accelerator or Accelerator(config), memory
        self.receiver, self.transmitter = Receiver(divisor), Transmitter(divisor)
        size = memory.size if memory else 0
        self.player = Player(bus_bytes=config.bus_bytes, size=size) if memory else None
        self.bridge = Bridge(bus_bytes=config.bus_bytes, memory=size)
        self.channel = Channel(bus_bytes=config.bus_bytes, config_hash=config.hash, memory=size,
                               buffer=buffer)
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "status": Out(32)})

    def elaborate(self, platform):
        m = Module()
        accelerator, bridge, channel = self.accelerator, self.bridge, self.channel
        m.submodules.receiver, m.submodules.transmitter = receiver, transmitter = (
            self.receiver, self.transmitter)
        m.submodules.channel = channel
        reset = Signal()  # a register of its own: it goes everywhere
        m.d.sync += reset.eq(channel.reset)
        m.submodules.bridge = ResetInserter(reset)(bridge)
        m.submodules.accelerator = ResetInserter(reset)(accelerator)
        m.d.comb += [
            receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
            channel.rx.valid.eq(receiver.o.valid), channel.rx.p.eq(receiver.o.p),
            self.status.eq(bridge.status), channel.status.eq(bridge.status),
        ]
        for source, sink in ((channel.tx, transmitter.i), (channel.o, bridge.rx),
                             (bridge.tx, channel.i)):
            wiring.connect(m, source, sink)
        if self.player is None:
            axi.connect_flat(m, bridge, accelerator)
            return m
        m.submodules.player, m.submodules.memory = player, memory = self.player, self.memory
        for source, sink in ((bridge.m_axil, player.host_axil), (bridge.m_axis, player.host_send),
                             (player.host_result, bridge.s_axis), (bridge.put, player.put),
                             (player.memory, memory.port)):
            wiring.connect(m, source, sink)
        m.d.comb += player.stop.eq(reset)
        axi.connect_flat(m, player, accelerator)
        return m
