"""AXI4-Lite register file, built from the register map."""

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.regmap import ADDRESS_BITS, MAGIC, REGISTERS, VERSION

__all__ = ["PREFIX", "RegisterFile", "axi_lite_ports"]

PREFIX = "s_axil_"
"""Prefix of the AXI4-Lite ports, also of the generated Verilog's."""

_OKAY, _SLVERR = 0, 2


def axi_lite_ports(prefix=PREFIX):
    """Return the members of an AXI4-Lite subordinate with 32 data bits, flat, by port name."""
    return {prefix + name: shape for name, shape in {
        "awaddr": In(ADDRESS_BITS), "awprot": In(3), "awvalid": In(1), "awready": Out(1),
        "wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1),
        "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
        "araddr": In(ADDRESS_BITS), "arprot": In(3), "arvalid": In(1), "arready": Out(1),
        "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1),
    }.items()}


class RegisterFile(wiring.Component):
    """Registers of ``hw/contract/regmap.py`` behind AXI4-Lite.

    Address and data of a write are accepted in any order and acknowledged 1 cycle after both are
    there; a read answers 1 cycle after its address. One write and one read are in flight at most.
    A write to a register without writable fields, and any access to another address, answers
    SLVERR (and reads as zero). Byte strobes are honoured.

    Model: none: moves data

    Parameters
    ----------
    config : AcceleratorConfig
        Gives the configuration hash.

    Members
    -------
    s_axil_* : AXI4-Lite subordinate
        See `axi_lite_ports`.
    values : In(StructLayout)
        32 bits for every register that hardware provides, by name.
    start, reset : Out(1)
        One cycle high after 1 was written to the field.
    irq_enable : Out(1)
        Field of CONTROL.
    """

    def __init__(self, config):
        self.constants = {"ID": MAGIC, "VERSION": VERSION,
                          "HASH_LOW": config.hash & 0xFFFFFFFF, "HASH_HIGH": config.hash >> 32}
        provided = [name for name in REGISTERS if name not in {*self.constants, "CONTROL"}]
        super().__init__(axi_lite_ports() | {
            "values": In(data.StructLayout(dict.fromkeys(provided, 32))),
            "start": Out(1), "reset": Out(1), "irq_enable": Out(1),
        })

    def port(self, name):
        """Return the AXI4-Lite port `name`."""
        return getattr(self, PREFIX + name)

    def elaborate(self, platform):
        m = Module()
        self._elaborate_write(m)
        self._elaborate_read(m)
        return m

    def _elaborate_write(self, m):
        port, control = self.port, REGISTERS["CONTROL"]
        address, word, strobes = Signal(ADDRESS_BITS), Signal(32), Signal(4)
        has_address, has_word = Signal(), Signal()
        m.d.comb += [port("awready").eq(~has_address), port("wready").eq(~has_word)]
        m.d.sync += [self.start.eq(0), self.reset.eq(0)]
        with m.If(port("awvalid") & port("awready")):
            m.d.sync += [has_address.eq(1), address.eq(port("awaddr"))]
        with m.If(port("wvalid") & port("wready")):
            m.d.sync += [has_word.eq(1), word.eq(port("wdata")), strobes.eq(port("wstrb"))]
        with m.If(port("bvalid") & port("bready")):
            m.d.sync += port("bvalid").eq(0)
        with m.If(has_address & has_word & ~port("bvalid")):
            m.d.sync += [has_address.eq(0), has_word.eq(0), port("bvalid").eq(1),
                         port("bresp").eq(_SLVERR)]
            with m.If(address[2:] == control.offset >> 2):
                m.d.sync += port("bresp").eq(_OKAY)
                for field in control.fields:
                    target = getattr(self, field.name)
                    with m.If(strobes[field.lsb // 8]):
                        m.d.sync += target.eq(word[field.lsb:field.lsb + field.width])

    def _elaborate_read(self, m):
        port = self.port
        enable = REGISTERS["CONTROL"].field("irq_enable")
        sources = {name: Const(value, 32) for name, value in self.constants.items()}
        sources |= {name: self.values[name] for name in self.values.shape().members}
        sources["CONTROL"] = Cat(Const(0, enable.lsb), self.irq_enable)
        m.d.comb += port("arready").eq(~port("rvalid"))
        with m.If(port("rvalid") & port("rready")):
            m.d.sync += port("rvalid").eq(0)
        with m.If(port("arvalid") & port("arready")):
            m.d.sync += [port("rvalid").eq(1), port("rdata").eq(0), port("rresp").eq(_SLVERR)]
            with m.Switch(port("araddr")[2:]):
                for name, register in REGISTERS.items():
                    with m.Case(register.offset >> 2):
                        m.d.sync += [port("rdata").eq(sources[name]), port("rresp").eq(_OKAY)]
