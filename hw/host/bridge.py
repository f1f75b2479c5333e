"""From bytes to the accelerator's buses and back: the FPGA's end of ``hw/contract/link.py``."""

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.link import COUNT_MAX, FOLLOWING, LOWER_CASE, Command, Reply, Status
from systola.hw.contract.regmap import REGISTERS
from systola.hw.host.axi import Lite, Stream
from systola.hw.parts.arguments import check_least
from systola.hw.parts.memory_port import write_request

__all__ = ["Bridge"]

_REPLY_BYTES = 1 + max(FOLLOWING.values())


class Bridge(wiring.Component):
    """Carries out commands that come as bytes, one at a time, and sends replies and results.

    Between commands it reads STATUS, so that ``status`` can drive LEDs. Bytes and results wait
    until it has time; a reply goes before a result. At most a byte a cycle each way.

    Model: sim/machine/device.py

    Parameters
    ----------
    bus_bytes : int
        Bytes of a stream beat.
    poll : int
        Cycles between two readings of STATUS.
    memory : int
        Beats of the memory for resident programs, 0 without one.

    Members
    -------
    rx, tx : In(stream of 8 bits), Out(stream of 8 bits)
        Bytes from and to the host.
    m_axil : Out(axi.Lite())
        To the registers.
    m_axis, s_axis : Out(axi.Stream(bus_bytes)), In(axi.Stream(bus_bytes))
        To the accelerator's input, from its output. No TLAST is sent.
    put : Out(stream of `systola.hw.parts.memory_port.write_request`)
        With `memory`, beats for it.
    status : Out(32)
        STATUS, as of the last reading.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, bus_bytes, poll=1024, memory=0):
        check_least(bus_bytes=(bus_bytes, 1), poll=(poll, 1), memory=(memory, 0))
        self.bus_bytes, self.poll, self.memory = bus_bytes, poll, memory
        super().__init__({
            "rx": In(stream.Signature(8)), "tx": Out(stream.Signature(8)), "status": Out(32),
            "m_axil": Out(Lite()), "m_axis": Out(Stream(bus_bytes)),
            "s_axis": In(Stream(bus_bytes)),
        } | ({"put": Out(stream.Signature(write_request(bus_bytes)))} if memory else {}))

    def elaborate(self, platform):
        m = Module()
        reply = {"valid": Signal(), "taken": Signal(), "tag": Signal(8), "refused": Signal(),
                 "data": Signal(32)}
        self._elaborate_commands(m, reply)
        self._elaborate_sender(m, reply)
        return m

    def _elaborate_commands(self, m, reply):
        command, address, left = Signal(8), Signal(8), Signal(9)
        data, beat = Signal(32), self.m_axis.tdata
        polling, idle = Signal(), Signal(range(self.poll + 1))
        refused = reply["refused"]
        m.d.comb += [
            reply["tag"].eq(command | LOWER_CASE), reply["data"].eq(data),
            self.m_axil.awaddr.eq(address), self.m_axil.araddr.eq(address),
            self.m_axil.wdata.eq(data), self.m_axil.wstrb.eq(15),
        ]
        byte, take = self.rx.p, self.rx.valid
        with m.FSM():
            with m.State("COMMAND"):
                m.d.comb += self.rx.ready.eq(1)
                m.d.sync += [command.eq(byte), polling.eq(0)]
                with m.If(take):
                    with m.Switch(byte):
                        with m.Case(Command.READ, Command.WRITE, Command.SEND,
                                    *([Command.PUT] if self.memory else [])):
                            m.next = "ADDRESS"
                        with m.Default():
                            m.d.sync += [command.eq(Reply.UNKNOWN), refused.eq(0)]
                            m.next = "REPLY"
                with m.Elif(idle == self.poll):
                    m.d.sync += [idle.eq(0), polling.eq(1),
                                 address.eq(REGISTERS["STATUS"].offset)]
                    m.d.sync += self.m_axil.arvalid.eq(1)
                    m.next = "READ"
                with m.Else():
                    m.d.sync += idle.eq(idle + 1)
            with m.State("ADDRESS"):  # or the count of a SEND or PUT
                m.d.comb += self.rx.ready.eq(1)
                with m.If(take):
                    m.d.sync += address.eq(byte)
                    with m.Switch(command):
                        with m.Case(Command.READ):
                            m.d.sync += self.m_axil.arvalid.eq(1)
                            m.next = "READ"
                        with m.Case(Command.WRITE, Command.PUT):
                            m.d.sync += left.eq(3)
                            m.next = "DATA"
                        with m.Default():
                            m.d.sync += left.eq(self.bus_bytes - 1)
                            m.next = "BEAT"
            with m.State("DATA"):
                m.d.comb += self.rx.ready.eq(1)
                with m.If(take):
                    m.d.sync += [data.eq(Cat(data[8:], byte)), left.eq(left - 1)]
                    with m.If(left == 0):
                        write = command == Command.WRITE
                        m.d.sync += [self.m_axil.awvalid.eq(write), self.m_axil.wvalid.eq(write)]
                        m.next = "WRITE"
                        if self.memory:
                            with m.If(command == Command.PUT):
                                m.next = "PLACE"
            if self.memory:
                self._elaborate_put(m, data, address, left, refused)
            with m.State("BEAT"):
                m.d.comb += self.rx.ready.eq(1)
                with m.If(take):
                    m.d.sync += [beat.eq(Cat(beat, byte)[8:]), left.eq(left - 1)]
                    with m.If(left == 0):
                        m.d.sync += self.m_axis.tvalid.eq(command == Command.SEND)
                        m.next = "SEND"
                        if self.memory:
                            with m.If(command == Command.PUT):
                                m.next = "PUT"
            with m.State("READ"):
                self._read(m, data, refused, polling)
            with m.State("WRITE"):
                self._write(m, refused)
            with m.State("SEND"):
                with m.If(self.m_axis.tready):
                    m.d.sync += [self.m_axis.tvalid.eq(0), left.eq(self.bus_bytes - 1),
                                 address.eq(address - 1), refused.eq(0)]
                    m.next = "BEAT"
                    with m.If(address == 1):
                        m.next = "REPLY"
            with m.State("REPLY"):
                m.d.comb += reply["valid"].eq(1)
                with m.If(reply["taken"]):
                    m.next = "COMMAND"

    def _elaborate_put(self, m, place, count, left, refused):
        """Add the states of a PUT of `count` beats (0 is 256) to `place`."""
        put, end = self.put, Signal(len(place) + 1)
        m.d.comb += [put.p.address.eq(place), put.p.beat.eq(self.m_axis.tdata)]
        with m.State("PLACE"):
            m.d.sync += end.eq(place + Mux(count == 0, COUNT_MAX, count))
            m.next = "CHECK"
        with m.State("CHECK"):
            m.d.sync += [refused.eq(end > self.memory), left.eq(self.bus_bytes - 1)]
            m.next = "BEAT"
        with m.State("PUT"):
            m.d.comb += put.valid.eq(~refused)
            with m.If(put.ready | refused):
                m.d.sync += [place.eq(place + 1), count.eq(count - 1),
                             left.eq(self.bus_bytes - 1)]
                m.next = "BEAT"
                with m.If(count == 1):
                    m.next = "REPLY"

    def _read(self, m, data, refused, polling):
        """Keep the address up until it is taken, and take the word for a reply or for `status`."""
        m.d.comb += self.m_axil.rready.eq(1)
        with m.If(self.m_axil.arready):
            m.d.sync += self.m_axil.arvalid.eq(0)
        with m.If(self.m_axil.rvalid):
            m.d.sync += [data.eq(self.m_axil.rdata), refused.eq(self.m_axil.rresp != 0)]
            m.next = "REPLY"
            with m.If(polling):
                m.d.sync += self.status.eq(self.m_axil.rdata)
                m.next = "COMMAND"

    def _write(self, m, refused):
        """Keep address and word up until each is taken, and take the answer for a reply."""
        m.d.comb += self.m_axil.bready.eq(1)
        with m.If(self.m_axil.awready):
            m.d.sync += self.m_axil.awvalid.eq(0)
        with m.If(self.m_axil.wready):
            m.d.sync += self.m_axil.wvalid.eq(0)
        with m.If(self.m_axil.bvalid):
            m.d.sync += refused.eq(self.m_axil.bresp != 0)
            m.next = "REPLY"

    def _elaborate_sender(self, m, reply):
        size = max(_REPLY_BYTES, 1 + self.bus_bytes)
        shift, left = Signal(8 * size), Signal(range(size + 1))
        free, status = Signal(), Signal(8)
        m.d.comb += [
            free.eq(left == 0), reply["taken"].eq(free & reply["valid"]),
            status.eq(Mux(reply["refused"], Status.REFUSED, 0)),
            self.s_axis.tready.eq(free & ~reply["valid"]),
            self.tx.valid.eq(~free), self.tx.payload.eq(shift[:8])]
        with m.If(self.tx.valid & self.tx.ready):
            m.d.sync += [shift.eq(shift >> 8), left.eq(left - 1)]
        with m.If(reply["taken"]):
            m.d.sync += [shift.eq(Cat(reply["tag"], status, reply["data"])), left.eq(2)]
            with m.If(reply["tag"] == Reply.READ):
                m.d.sync += left.eq(1 + FOLLOWING[Reply.READ])
        with m.Elif(self.s_axis.tready & self.s_axis.tvalid):
            tag = Signal(8)
            m.d.comb += tag.eq(Reply.BEAT)
            with m.If(self.s_axis.tlast):
                m.d.comb += tag.eq(Reply.LAST)
            m.d.sync += [shift.eq(Cat(tag, self.s_axis.tdata)), left.eq(1 + self.bus_bytes)]
