"""AXI4-Lite register file, built from the register map."""

from amaranth import Cat, Const, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.regmap import ADDRESS_BITS, MAGIC, REGISTERS, VERSION
from systola.hw.host.axi import OKAY, SLVERR, Lite

__all__ = ["RegisterFile"]


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
    s_axil : In(axi.Lite())
        From a manager.
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
        super().__init__({
            "s_axil": In(Lite()), "values": In(data.StructLayout(dict.fromkeys(provided, 32))),
            "start": Out(1), "reset": Out(1), "irq_enable": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        self._elaborate_write(m)
        self._elaborate_read(m)
        return m

    def _elaborate_write(self, m):
        port, control = self.s_axil, REGISTERS["CONTROL"]
        address, word, strobes = Signal(ADDRESS_BITS), Signal(32), Signal(4)
        has_address, has_word = Signal(), Signal()
        m.d.comb += [port.awready.eq(~has_address), port.wready.eq(~has_word)]
        m.d.sync += [self.start.eq(0), self.reset.eq(0)]
        with m.If(port.awvalid & port.awready):
            m.d.sync += [has_address.eq(1), address.eq(port.awaddr)]
        with m.If(port.wvalid & port.wready):
            m.d.sync += [has_word.eq(1), word.eq(port.wdata), strobes.eq(port.wstrb)]
        with m.If(port.bvalid & port.bready):
            m.d.sync += port.bvalid.eq(0)
        with m.If(has_address & has_word & ~port.bvalid):
            m.d.sync += [has_address.eq(0), has_word.eq(0), port.bvalid.eq(1),
                         port.bresp.eq(SLVERR)]
            with m.If(address[2:] == control.offset >> 2):
                m.d.sync += port.bresp.eq(OKAY)
                for field in control.fields:
                    target = getattr(self, field.name)
                    with m.If(strobes[field.lsb // 8]):
                        m.d.sync += target.eq(word[field.lsb:field.lsb + field.width])

    def _elaborate_read(self, m):
        port = self.s_axil
        enable = REGISTERS["CONTROL"].field("irq_enable")
        sources = {name: Const(value, 32) for name, value in self.constants.items()}
        sources |= {name: self.values[name] for name in self.values.shape().members}
        sources["CONTROL"] = Cat(Const(0, enable.lsb), self.irq_enable)
        m.d.comb += port.arready.eq(~port.rvalid)
        with m.If(port.rvalid & port.rready):
            m.d.sync += port.rvalid.eq(0)
        with m.If(port.arvalid & port.arready):
            m.d.sync += [port.rvalid.eq(1), port.rdata.eq(0), port.rresp.eq(SLVERR)]
            with m.Switch(port.araddr[2:]):
                for name, register in REGISTERS.items():
                    with m.Case(register.offset >> 2):
                        m.d.sync += [port.rdata.eq(sources[name]), port.rresp.eq(OKAY)]
