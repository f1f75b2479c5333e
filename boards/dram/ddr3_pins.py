"""From the pins of DDR3 memory on a Xilinx 7-series to the controller's."""

from amaranth import ClockDomain, ClockSignal, Instance, ResetSignal, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

__all__ = ["DRAM_DOMAIN", "ddr3_clocks", "ddr3_connections"]

DRAM_DOMAIN = "dram"
"""Clock domain of the controller."""

_NAMES = {"rst": "reset_n", "clk_en": "cke", "cs": "cs_n", "ras": "ras_n", "cas": "cas_n",
          "we": "we_n", "a": "a", "ba": "ba", "dm": "dm", "odt": "odt"}
"""What the controller calls the pins of Amaranth's resource ``ddr3`` that need a buffer only."""

_DELAY_MHZ = 200  # what the delays of the pins are counted in


def ddr3_clocks(m, plan, dram):
    """Make the clock domains of a controller in `m`.

    `plan` is that of any output of the PLL, whose oscillator has to reach the frequencies by whole
    dividers. Returns connections of `DramMemory`, the `others` of the PLL, and what is to be called
    with the signal that holds everything in reset.
    """
    fast = dram.mhz * dram.phases
    wanted = {"sys": (dram.mhz, 0), "sys4x": (fast, 0), "sys4x_dqs": (fast, 90),
              "iodelay": (_DELAY_MHZ, 0)}
    clocks, others = {}, []
    for name, (mhz, phase) in wanted.items():
        divide = round(plan.vco / mhz)
        if abs(plan.vco / divide / mhz - 1) > 1e-6:
            raise ValueError(f"mhz must be of an oscillator that also gives {mhz:g} MHz, not "
                             f"{plan.output:g} of one at {plan.vco:g} MHz")
        made, clocks[name] = Signal(name=f"{name}_pll"), Signal(name=f"{name}_clock")
        others.append((made, divide, phase))
        m.submodules[f"{name}_buffer"] = Instance("BUFG", i_I=made, o_O=clocks[name])
    m.domains += ClockDomain(DRAM_DOMAIN), ClockDomain("iodelay")
    m.d.comb += [ClockSignal(DRAM_DOMAIN).eq(clocks["sys"]),
                 ClockSignal("iodelay").eq(clocks["iodelay"])]

    def hold(reset):
        for name in DRAM_DOMAIN, "iodelay":
            m.submodules[f"{name}_reset"] = ResetSynchronizer(reset, domain=name)

    connections = {f"i_{name}_clk": clocks[name] for name in ("sys4x", "sys4x_dqs", "iodelay")}
    return connections | {"i_iodelay_rst": ResetSignal("iodelay")}, others, hold


def ddr3_connections(m, platform):
    """Return the connections of `DramMemory` to the resource ``ddr3``, with buffers in `m`."""
    ports, made = platform.request("ddr3", dir="-"), {}
    for name, pin in _NAMES.items():
        port = getattr(ports, name)
        m.submodules[f"ddr3_{name}"] = buffer = io.Buffer("o", port)
        made[f"o_dram_{pin}"] = value = Signal(len(port), name=f"dram_{pin}")
        # The controller's level is that of the pin; a buffer inverts what is active low.
        inverted = sum(invert << k for k, invert in enumerate(port.invert))
        m.d.comb += buffer.o.eq(value ^ inverted)
    # These have their buffers in the controller.
    return made | {"io_dram_dq": ports.dq.io, "io_dram_dqs_p": ports.dqs.p,
                   "io_dram_dqs_n": ports.dqs.n, "io_dram_clk_p": ports.clk.p,
                   "io_dram_clk_n": ports.clk.n}
