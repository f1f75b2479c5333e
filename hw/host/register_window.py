"""Registers of a unit in one address space with those of another AXI4-Lite subordinate."""

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.regmap import ADDRESS_BITS
from systola.hw.host.axi import OKAY, SLVERR, Lite

__all__ = ["Access", "RegisterWindow"]


class Access(wiring.Signature):
    """One access to a register at a time, as the side with the bus has it.

    ``valid`` stays up with the same values until the cycle in which ``done`` is; in that cycle
    ``error`` and, of a read, ``value`` are taken.
    """

    def __init__(self, address_bits):
        super().__init__({
            "valid": Out(1), "write": Out(1), "address": Out(address_bits), "data": Out(32),
            "strobes": Out(4), "done": In(1), "error": In(1), "value": In(32)})


class RegisterWindow(wiring.Component):
    """Answers accesses from `base` on with a unit's registers, and passes on those below.

    One access at a time, a write and a read in turn if both wait. An access of the unit begins one
    cycle after address (and data) are there, and is answered one cycle after it is done.

    Model: none: moves data

    Parameters
    ----------
    base : int
        First byte offset of the unit, a power of two.
    address_bits : int
        Bits of an address.

    Members
    -------
    s_axil : In(axi.Lite(address_bits))
        From the host.
    m_axil : Out(axi.Lite())
        To the other subordinate.
    access : Out(Access(address_bits))
        To the unit.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, *, base, address_bits):
        if not isinstance(base, int) or base < 4 or base & (base - 1) or base >> ADDRESS_BITS > 1:
            raise ValueError(f"base must be a power of two from 4 to {1 << ADDRESS_BITS}, "
                             f"not {base!r}")
        if not isinstance(address_bits, int) or not base < 1 << address_bits:
            raise ValueError(f"address_bits must be more than those of base {base}, "
                             f"not {address_bits!r}")
        self.base, self.address_bits = base, address_bits
        super().__init__({"s_axil": In(Lite(address_bits)), "m_axil": Out(Lite()),
                          "access": Out(Access(address_bits))})

    def elaborate(self, platform):
        m = Module()
        access, host, other = self.access, self.s_axil, self.m_axil
        prefer_read, write, read = Signal(), Signal(), Signal()
        above = self.base.bit_length() - 1
        m.d.comb += [
            write.eq(host.awvalid & host.wvalid & ~(prefer_read & host.arvalid)),
            read.eq(host.arvalid & ~write),
            other.awaddr.eq(access.address), other.araddr.eq(access.address),
            other.wdata.eq(access.data), other.wstrb.eq(access.strobes),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [host.awready.eq(write), host.wready.eq(write), host.arready.eq(read)]
                m.d.sync += access.write.eq(write)
                with m.If(write):
                    m.d.sync += [access.address.eq(host.awaddr), access.data.eq(host.wdata),
                                 access.strobes.eq(host.wstrb), prefer_read.eq(1)]
                    m.next = "ACCESS"
                    with m.If(host.awaddr[above:] == 0):
                        m.d.sync += [other.awvalid.eq(1), other.wvalid.eq(1)]
                        m.next = "PASS_WRITE"
                with m.Elif(read):
                    m.d.sync += [access.address.eq(host.araddr), prefer_read.eq(0)]
                    m.next = "ACCESS"
                    with m.If(host.araddr[above:] == 0):
                        m.d.sync += other.arvalid.eq(1)
                        m.next = "PASS_READ"
            with m.State("ACCESS"):
                m.d.comb += access.valid.eq(1)
                m.d.sync += [host.rdata.eq(access.value), host.bresp.eq(OKAY),
                             host.rresp.eq(OKAY)]
                with m.If(access.error):
                    m.d.sync += [host.bresp.eq(SLVERR), host.rresp.eq(SLVERR), host.rdata.eq(0)]
                with m.If(access.done):
                    m.d.sync += [host.bvalid.eq(access.write), host.rvalid.eq(~access.write)]
                    m.next = "ANSWER"
            with m.State("PASS_WRITE"):
                m.d.comb += other.bready.eq(1)
                for channel in "aw", "w":
                    with m.If(getattr(other, f"{channel}ready")):
                        m.d.sync += getattr(other, f"{channel}valid").eq(0)
                with m.If(other.bvalid):
                    m.d.sync += [host.bvalid.eq(1), host.bresp.eq(other.bresp)]
                    m.next = "ANSWER"
            with m.State("PASS_READ"):
                m.d.comb += other.rready.eq(1)
                with m.If(other.arready):
                    m.d.sync += other.arvalid.eq(0)
                with m.If(other.rvalid):
                    m.d.sync += [host.rvalid.eq(1), host.rdata.eq(other.rdata),
                                 host.rresp.eq(other.rresp)]
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(Cat(host.bvalid & host.bready, host.rvalid & host.rready).any()):
                    m.d.sync += [host.bvalid.eq(0), host.rvalid.eq(0)]
                    m.next = "IDLE"
        return m
