"""A LiteX system with an accelerator that reads its programs from the system's memory.

`Systola` is a module for any system of LiteX: registers on the bus, a manager that reads programs,
and a DMA engine that writes results. `SystolaSoC` is the smallest one: memory, no processor, and a
Wishbone port in its place, so that all of it can be simulated (``tests/sim/test_wishbone.py``):

    python -m systola.examples.litex.systola_soc build/litex --config tiny

writes the accelerator's Verilog and ``systola_soc.v``. With a processor, give `SystolaSoC` a
``cpu_type``, or add `Systola` to the target of a board of litex-boards, whose memory it then uses.
Needs the extra ``dram``, which brings LiteX.
"""

import argparse
from pathlib import Path

from litex.build.generic_platform import Pins
from litex.build.io import CRG
from litex.build.sim import SimPlatform
from litex.gen import LiteXModule
from litex.soc.cores.dma import WishboneDMAWriter
from litex.soc.integration.soc import SoCRegion
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import axi, stream, wishbone
from migen import ClockSignal, Instance, ResetSignal, Signal

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.generate import generate

__all__ = ["Systola", "SystolaSoC", "build"]

RAM, REGISTERS = 0x4000_0000, 0x9000_0000
"""Where the system of this example has its memory and the accelerator's registers."""


class Systola(LiteXModule):
    """The accelerator of ``systola generate --player``.

    Parameters
    ----------
    soc : SoC
        The system; its bus gets two managers (programs, results) and a subordinate (registers).
    bus_bytes : int
        ``SYSTOLA_BUS_BYTES`` of the accelerator.
    origin : int
        Address of its registers.

    Attributes
    ----------
    dma : WishboneDMAWriter
        Writes results; its registers give base, length and enable.
    irq : Signal
        Done or error, while enabled.
    """

    def __init__(self, soc, *, bus_bytes, origin=REGISTERS):
        registers = axi.AXILiteInterface(data_width=32, address_width=32)
        memory = axi.AXIInterface(data_width=8 * bus_bytes, address_width=32, id_width=1)
        results = stream.Endpoint([("data", 8 * bus_bytes)])
        self.irq = Signal()
        ports = {"i_clk": ClockSignal("sys"), "i_rst": ResetSignal("sys"), "o_irq": self.irq,
                 "o_m_axis_tdata": results.data, "o_m_axis_tvalid": results.valid,
                 "o_m_axis_tlast": results.last, "i_m_axis_tready": results.ready}
        for channel, names, way in (("aw", ("addr", "prot"), "i"), ("w", ("data", "strb"), "i"),
                                    ("b", ("resp",), "o"), ("ar", ("addr", "prot"), "i"),
                                    ("r", ("data", "resp"), "o")):
            ports |= _channel("s_axil", channel, getattr(registers, channel), names, way)
        ports |= _channel("m_axi", "ar", memory.ar, ("id", "addr", "len", "size", "burst", "cache",
                                                     "prot"), "o")
        ports |= _channel("m_axi", "r", memory.r, ("id", "data", "resp"), "i")
        ports["i_m_axi_rlast"] = memory.r.last
        self.specials += Instance("systola", **ports)
        soc.bus.add_slave("systola", registers, SoCRegion(origin=origin, size=0x100, cached=False))
        soc.bus.add_master("systola_programs", memory)
        width = soc.bus.data_width
        self.converter = stream.Converter(8 * bus_bytes, width)
        port = wishbone.Interface(data_width=width, address_width=soc.bus.address_width,
                                  addressing="word")
        # "little" would turn the bytes of each word round.
        self.dma = WishboneDMAWriter(port, endianness="big", with_csr=True)
        soc.bus.add_master("systola_results", port)
        self.comb += [results.connect(self.converter.sink),
                      self.converter.source.connect(self.dma.sink)]


def _channel(prefix, channel, endpoint, names, way):
    """Return the ports of a channel of AXI, whose payload goes `way` for the accelerator."""
    back = "o" if way == "i" else "i"
    ports = {f"{way}_{prefix}_{channel}{name}": getattr(endpoint, name) for name in names}
    return ports | {f"{way}_{prefix}_{channel}valid": endpoint.valid,
                    f"{back}_{prefix}_{channel}ready": endpoint.ready}


_HOST = wishbone.Interface(data_width=32, address_width=32, addressing="word")
_PINS = [("sys_clk", 0, Pins(1)), ("sys_rst", 0, Pins(1)), *_HOST.get_ios("host")]


class SystolaSoC(SoCMini):
    """Memory, an accelerator, and a Wishbone port ``host`` in the place of a processor."""

    def __init__(self, *, bus_bytes, ram_bytes=1 << 20, mhz=50.0):
        platform = SimPlatform("SIM", _PINS)
        SoCMini.__init__(self, platform, int(mhz * 1e6), cpu_type=None, ident="systola")
        self.crg = CRG(platform.request("sys_clk"), platform.request("sys_rst"))
        self.add_ram("main_ram", RAM, ram_bytes)
        self.systola = Systola(self, bus_bytes=bus_bytes)
        host = wishbone.Interface(data_width=32, address_width=32, addressing="word")
        self.comb += host.connect_to_pads(platform.request("host"), mode="slave")
        self.bus.add_master("host", host)


def build(config, output):
    """Write the accelerator of `config` and the system around it; return addresses of the DMA's.

    `output` gets ``systola.v``, ``systola_regs.h``, ``systola_soc.v`` and what that reads (what its
    memories hold at first); its top ``systola_soc`` has the ports ``sys_clk``, ``sys_rst`` and
    those of ``host``. The addresses are those of the registers of the DMA engine for results, by
    name; of 64 bits the upper half comes first.
    """
    output = Path(output)
    generate(config, output, top="player")
    soc = SystolaSoC(bus_bytes=config.bus_bytes)
    soc.finalize()
    made = soc.platform.get_verilog(soc, name="systola_soc")
    for name, text in {"systola_soc.v": made.main_source, **made.data_files}.items():
        (output / name).write_text(text)
    origin, found = soc.csr.regions["systola"].origin, {}
    for register in soc.csr.regions["systola"].obj:
        found[register.name] = soc.mem_map["csr"] + origin
        origin += 4 * -(-register.size // 32)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", help="folder of the Verilog")
    parser.add_argument("--config", default="tiny", help="preset or file of the accelerator")
    arguments = parser.parse_args()
    print(build(AcceleratorConfig.load(arguments.config), arguments.output))
