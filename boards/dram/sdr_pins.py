"""From the pins of SDR memory on an ECP5 to the controller's."""

from amaranth import Instance, ResetSignal, Signal
from amaranth.lib import io

__all__ = ["clock_outputs", "sdr_connections"]

_NAMES = {"clk_en": "cke", "cs": "cs_n", "ras": "ras_n", "cas": "cas_n", "we": "we_n", "a": "a",
          "ba": "ba", "dqm": "dm"}
"""What the controller calls the pins of Amaranth's resource ``sdram``."""

_ADVANCE = {1: 90, 2: 180}
"""Degrees by which the chip's clock is behind that of its commands. Its data arrive at an edge that
the PHY counts on, so much later that the way out and back is in it: a quarter of a long cycle, half
of a short one."""


def clock_outputs(dram, divide):
    """Return the signals of the clocks that a controller needs, and a PLL's `others` for them.

    `divide` is the divider of the PLL's output that the controller has, a multiple of the phases.
    """
    names = ("chip",) if dram.phases == 1 else ("chip", "double")
    clocks = {name: Signal(name=f"{name}_clock") for name in names}
    fast = divide // dram.phases
    return clocks, [(clock, fast, _ADVANCE[dram.phases] if name == "chip" else 0)
                    for name, clock in clocks.items()]


def sdr_connections(m, platform, dram, clocks):
    """Return the connections of `DramMemory` to the resource ``sdram``, with buffers in `m`."""
    ports, made = platform.request("sdram", dir="-"), {}
    for name, pin in _NAMES.items():
        port = getattr(ports, name)
        m.submodules[f"sdram_{name}"] = buffer = io.Buffer("o", port)
        made[f"o_dram_{pin}"] = value = Signal(len(port), name=f"dram_{pin}")
        # The controller's level is that of the pin; a buffer inverts what is active low.
        inverted = sum(invert << k for k, invert in enumerate(port.invert))
        m.d.comb += buffer.o.eq(value ^ inverted)
    m.submodules.sdram_clk = buffer = io.Buffer("o", ports.clk)
    m.submodules.sdram_clock = Instance(
        "ODDRX1F", i_SCLK=clocks["chip"], i_RST=0, i_D0=1, i_D1=0, o_Q=buffer.o)
    if dram.phases == 2:
        made |= {"i_sys2x_clk": clocks["double"], "i_sys2x_rst": ResetSignal()}
    # Each pin has a register of its own for its direction, which fits beside the pin.
    data = {part: Signal(dram.data_bits, name=f"dram_dq_{part}") for part in ("i", "o", "oe")}
    for k in range(dram.data_bits):
        m.submodules[f"sdram_dq_{k}"] = buffer = io.Buffer("io", ports.dq[k])
        m.d.comb += [data["i"][k].eq(buffer.i), buffer.o.eq(data["o"][k]),
                     buffer.oe.eq(data["oe"][k])]
    return made | {f"{'i' if part == 'i' else 'o'}_dram_dq_{part}": value
                   for part, value in data.items()}
