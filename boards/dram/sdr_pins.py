"""From the pins of SDR memory on an ECP5 to the controller's."""

from amaranth import Instance, ResetSignal, Signal
from amaranth.lib import io

__all__ = ["DATA_NS", "chip_phase", "clock_outputs", "sdr_connections"]

_NAMES = {"clk_en": "cke", "cs": "cs_n", "ras": "ras_n", "cas": "cas_n", "we": "we_n", "a": "a",
          "ba": "ba", "dqm": "dm"}
"""What the controller calls the pins of Amaranth's resource ``sdram``."""

DATA_NS = 7.5, 11.0
"""From an edge of the chip's clock, as the FPGA makes it, until the data before it are gone from
the FPGA's registers, and until those of this edge are there. Estimates: 5 ns through an output
buffer, the board and an input buffer, and 2.5 and 6 ns of the chip (tOH, tAC of CAS latency 2)."""

_COMMAND_NS = 2.0, 1.5  # setup and hold of the chip, and what its pins differ


def chip_phase(dram, mhz):
    """Return the degrees by which the clock of SDR memory has to be behind that of its commands.

    Commands change at the edges of the controller's faster clock; the PHY takes data at one of
    these, an edge later if there are two phases. That one, and the chip's edge between commands,
    shall have as much time as there can be before and after them. At 50 MHz it is what LiteX has
    for the board, 90 degrees with one phase and 180 with two; slower ones need more, faster ones
    less.

    Raises ``ValueError`` if no phase has any time left.
    """
    period = 1e3 / (mhz * dram.phases)
    gone, there = DATA_NS
    setup, hold = _COMMAND_NS

    def margin(phase):
        behind = phase / 360 * period
        data = dram.phases * period - behind
        return min(data - there, period + gone - data, behind - setup, period - behind - hold)

    best = max(range(0, 360, 45), key=margin)
    if margin(best) <= 0:
        raise ValueError(f"mhz must leave the memory time for its data with {dram.phases} phases, "
                         f"not {mhz!r}")
    return best


def clock_outputs(dram, plan):
    """Return the signals of the clocks that a controller needs, and a PLL's `others` for them.

    `plan` is that of the controller's clock, its divider a multiple of the phases.
    """
    names = ("chip",) if dram.phases == 1 else ("chip", "double")
    clocks = {name: Signal(name=f"{name}_clock") for name in names}
    phases = {"chip": chip_phase(dram, plan.output), "double": 0}
    return clocks, [(clock, plan.output_divide // dram.phases, phases[name])
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
    data = {part: Signal(dram.data_bits, name=f"dram_dq_{part}") for part in ("i", "o", "t")}
    for k in range(dram.data_bits):
        m.submodules[f"sdram_dq_{k}"] = buffer = io.Buffer("io", ports.dq[k])
        m.d.comb += [data["i"][k].eq(buffer.i), buffer.o.eq(data["o"][k]),
                     buffer.oe.eq(~data["t"][k])]
    return made | {f"{'i' if part == 'i' else 'o'}_dram_dq_{part}": value
                   for part, value in data.items()}
