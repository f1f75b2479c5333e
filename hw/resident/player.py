"""The player: streams a program that lies in memory into the accelerator."""

import functools
import operator

from amaranth import Cat, Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.crc.catalog import CRC32_ETHERNET
from amaranth.lib.wiring import In, Out

from systola.hw.contract.player_registers import (
    PLAYER_BASE,
    PLAYER_MAGIC,
    PLAYER_REGISTERS,
    Target,
)
from systola.hw.contract.regmap import ADDRESS_BITS
from systola.hw.host.axi import Lite, Stream
from systola.hw.host.register_window import RegisterWindow
from systola.hw.parts.arguments import check_integers
from systola.hw.parts.memory_port import MemoryPort, write_request

__all__ = ["Player"]


class Player(wiring.Component):
    """Between a host and its accelerator; what it does is in ``hw/contract/player_registers.py``.

    Without a play under way, the host's stream goes to the accelerator and its results to the host.
    While one is, the accelerator's input is the memory's (or, if it is played to the host, the
    host's results are), and what else wants to go there waits. A beat goes on in the cycle in which
    the memory gives it.

    Beats that the host puts into memory and that the play under way has not reached wait until it
    has: so the inputs of the next run may be sent during this one, into the same places. They are
    written 3 cycles after they are offered.

    Model: sim/machine/device.py

    Parameters
    ----------
    bus_bytes, size : int
        Bytes of a beat, and beats of the memory.

    Members
    -------
    host_axil : In(axi.Lite())
        Registers: its own, and the accelerator's.
    host_send, host_result : In(axi.Stream(bus_bytes)), Out(axi.Stream(bus_bytes))
        The host's streams.
    put : In(stream of `write_request`)
        What the host writes.
    stop : In(1)
        Lets go of the play under way, as the field of PLAY_CONTROL does, and forgets an access to
        registers that is under way. A beat that was offered and not taken is taken back: host and
        accelerator are to be reset at the same time.
    m_axil, m_axis, s_axis : Out(axi.Lite()), Out(axi.Stream(...)), In(axi.Stream(...))
        The accelerator's ports.
    memory : Out(MemoryPort(bus_bytes=bus_bytes))
        Memory of `size` beats.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, size):
        check_integers(bus_bytes=(bus_bytes, 1, 128), size=(size, 1, 2**32 - 1))
        if bus_bytes & (bus_bytes - 1):
            raise ValueError(f"bus_bytes must be a power of two, not {bus_bytes!r}")
        self.bus_bytes, self.size = bus_bytes, size
        beats = Stream(bus_bytes)
        super().__init__({
            "host_axil": In(Lite()), "host_send": In(beats), "host_result": Out(beats),
            "put": In(stream.Signature(write_request(bus_bytes))), "stop": In(1),
            "m_axil": Out(Lite()), "m_axis": Out(beats), "s_axis": In(beats),
            "memory": Out(MemoryPort(bus_bytes=bus_bytes)),
        })

    def elaborate(self, platform):
        m = Module()
        window = RegisterWindow(base=PLAYER_BASE, address_bits=ADDRESS_BITS)
        # What is behind it forgets an access under way as well.
        m.submodules.window = ResetInserter(self.stop)(window)
        wiring.connect(m, wiring.flipped(self.host_axil), window.s_axil)
        wiring.connect(m, window.m_axil, wiring.flipped(self.m_axil))
        # One more than the largest address, for ends.
        bits = self.size.bit_length() + 1
        start, stop = Signal(), Signal()
        play = {"left": Signal(bits), "end": Signal(bits), "target": Signal(Target),
                "busy": Signal(), "failed": Signal(), "stopped": Signal()}
        given = self._elaborate_play(m, play, start, stop)
        crc = self._elaborate_crc(m, given, start)
        self._elaborate_registers(m, window.access, play, start, stop, crc)
        self._elaborate_put(m, play)
        return m

    def _elaborate_play(self, m, play, start, stop):
        """Ask the memory for beats and pass them on; returns whether one is given now."""
        memory, left, target = self.memory, play["left"], play["target"]
        over, drop, offered, given = Signal(), Signal(), Signal(), Signal()
        to_accelerator, to_host = Signal(), Signal()
        data = memory.data
        m.d.comb += [
            over.eq(play["failed"] | play["stopped"]),
            drop.eq(over | data.p.error | self.stop), offered.eq(data.valid & ~drop),
            to_accelerator.eq(play["busy"] & ~over & (target == Target.ACCELERATOR)),
            to_host.eq(play["busy"] & ~over & (target == Target.HOST)),
            self.m_axis.tdata.eq(self.host_send.tdata),
            self.m_axis.tlast.eq(self.host_send.tlast),
            self.host_result.tdata.eq(self.s_axis.tdata),
            self.host_result.tlast.eq(self.s_axis.tlast),
            data.ready.eq(1), given.eq(offered & data.ready),
        ]
        with m.If(to_accelerator):
            m.d.comb += [self.m_axis.tvalid.eq(offered), self.m_axis.tdata.eq(data.p.beat),
                         self.m_axis.tlast.eq(0), data.ready.eq(self.m_axis.tready | drop)]
        with m.Else():
            m.d.comb += [self.m_axis.tvalid.eq(self.host_send.tvalid),
                         self.host_send.tready.eq(self.m_axis.tready)]
        with m.If(to_host):
            m.d.comb += [self.host_result.tvalid.eq(offered),
                         self.host_result.tdata.eq(data.p.beat),
                         self.host_result.tlast.eq(left == 1),
                         data.ready.eq(self.host_result.tready | drop)]
        with m.Else():
            m.d.comb += [self.host_result.tvalid.eq(self.s_axis.tvalid),
                         self.s_axis.tready.eq(self.host_result.tready)]
        ending = Signal(2)  # until the checksum is there
        m.d.sync += ending.eq(ending[:1] << 1)
        with m.If(memory.read.valid & memory.read.ready):
            m.d.sync += memory.read.valid.eq(0)
        with m.If(data.valid & data.ready):
            m.d.sync += left.eq(left - 1)
            with m.If(data.p.error & ~play["stopped"]):
                m.d.sync += play["failed"].eq(1)
            with m.If(left == 1):
                m.d.sync += ending.eq(1)
        with m.If(ending[-1]):
            m.d.sync += play["busy"].eq(0)
        with m.If((stop | self.stop) & (left != 0)):
            m.d.sync += play["stopped"].eq(1)
        with m.If(start):
            m.d.sync += [play["busy"].eq(1), play["failed"].eq(0), play["stopped"].eq(0),
                         memory.read.valid.eq(1)]
        return given

    def _elaborate_crc(self, m, given, start):
        """Return the checksum of what was given, two cycles after it was."""
        m.submodules.crc = crc = CRC32_ETHERNET(data_width=32).create()
        beat, folded, some = self.memory.data.p.beat, Signal(32), Signal()
        words = [beat[at:at + 32] for at in range(0, len(beat), 32)]
        m.d.sync += [folded.eq(functools.reduce(operator.xor, words)), some.eq(given)]
        m.d.comb += [crc.data.eq(folded), crc.valid.eq(some), crc.start.eq(start)]
        return crc.crc

    def _elaborate_registers(self, m, access, play, start, stop, crc):
        """Answer accesses to the registers."""
        address, beats = Signal(32), Signal(32)
        registers, bits = PLAYER_REGISTERS, len(play["left"])
        control = registers["PLAY_CONTROL"]
        fits = Signal()
        m.d.sync += fits.eq((beats != 0) & (beats <= self.size)
                            & (address <= (self.size - beats[:bits])[:bits]))
        values = {"PLAY_ID": PLAYER_MAGIC, "PLAY_SIZE": self.size, "PLAY_ADDRESS": address,
                  "PLAY_BEATS": beats, "PLAY_CONTROL": 0, "PLAY_CRC": crc,
                  "PLAY_STATUS": Cat(play["busy"], play["failed"], play["stopped"])}
        m.d.comb += [access.done.eq(access.valid), access.error.eq(1),
                     self.memory.read.p.address.eq(address), self.memory.read.p.beats.eq(beats)]
        with m.Switch(access.address[2:]):
            for name, register in registers.items():
                with m.Case(register.offset >> 2):
                    m.d.comb += [access.value.eq(values[name]),
                                 access.error.eq(access.write & (not register.writable))]
        chosen = control.field("target")
        target = access.data[chosen.lsb:chosen.lsb + chosen.width]
        with m.If(access.valid & access.write):
            for name, value in ("PLAY_ADDRESS", address), ("PLAY_BEATS", beats):
                with m.If(access.address[2:] == registers[name].offset >> 2):
                    m.d.comb += access.error.eq(play["busy"] | ~access.strobes.all())
                    with m.If(~access.error):
                        m.d.sync += value.eq(access.data)
            with m.If((access.address[2:] == control.offset >> 2) & access.strobes[0]):
                m.d.comb += stop.eq(access.data[control.field("stop").lsb])
                with m.If(access.data[control.field("start").lsb]):
                    m.d.comb += access.error.eq(play["busy"] | ~fits | (target > max(Target)))
                    with m.If(~access.error):
                        m.d.comb += start.eq(1)
                        m.d.sync += [play["target"].eq(target), play["left"].eq(beats),
                                     play["end"].eq(address + beats)]

    def _elaborate_put(self, m, play):
        """Write what the host puts, once the play under way has passed its place."""
        put, write, left = self.put, self.memory.write, play["left"]
        to_end, ahead = Signal.like(left), Signal()
        m.d.comb += [write.p.eq(put.p), ahead.eq((to_end != 0) & (to_end <= left))]
        m.d.sync += to_end.eq(play["end"] - put.p.address)
        with m.FSM():
            with m.State("LOOK"):
                with m.If(put.valid):
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                m.next = "LOOK"
                with m.If(~ahead):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [write.valid.eq(put.valid), put.ready.eq(write.ready)]
                with m.If(put.ready | ~put.valid):
                    m.next = "LOOK"
