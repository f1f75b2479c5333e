"""LiteDRAM's controller for a memory, as Verilog without a processor.

Beside the controller and the pins it has a native port, and the registers that start it on LiteX'
bus; `Controller` says how they are called and what has to be written into them.
"""

import re
from dataclasses import dataclass, field

__all__ = ["CSR_BITS", "Controller", "generate_controller"]

CSR_BITS = 9
"""Bits of an address on the bus of registers."""

_PAGE_BITS, _PAGES = 7, {"sdram": 0, "phy": 1}
_DDR3_PADS = ("dqs_p", 2), ("dqs_n", 2), ("clk_p", 1), ("clk_n", 1), ("odt", 1), ("reset_n", 1)

# Cycles of LiteDRAM's own, as its simulation shows them: of a command in the queue of its bank, of
# a refresh beside the chip's, and from the last command for a bank to the next bank's activation,
# which waits until a port has no command left in another one.
_QUEUED, _REFRESH, _ROW = 3, 5, 4
_REFRESH_CYCLES = 100  # LiteDRAM wants this many between two
_PHY_RESET = 1000  # cycles, as LiteX' own start program has them
_SETTLED_US = 200  # with power and clock, before the first command (JEDEC; SDR chips ask for less)


@dataclass(frozen=True)
class Controller:
    """A controller.

    Parameters
    ----------
    name, verilog : str
        Name of the top module, and the text.
    dram : Dram
        The memory.
    mhz : float
        Frequency of the controller.
    steps : tuple of (address, value, pause)
        What starts it, see `systola.hw.resident.start_sequence`.
    registers : dict of int
        Addresses of all registers by name.
    latency : int
        Cycles from a command that is taken to its word, when its row is open.
    refresh, row : int
        Cycles without a word, while commands wait, for a refresh and for the next row.
    pins : dict of int
        The chip's pins, as the module calls them, and their bits.
    timing : dict of int
        Cycles of the chip's parameters, as LiteDRAM calls them.
    """

    name: str
    verilog: str
    dram: object
    mhz: float
    steps: tuple
    registers: dict
    latency: int
    refresh: int
    row: int
    pins: dict = field(default_factory=dict)
    timing: dict = field(default_factory=dict)

    @property
    def bandwidth(self):
        """Bytes per cycle of the controller that reading in order gives, computed."""
        words = self.dram.row_bytes // self.dram.word_bytes
        return (self.dram.word_bytes * words / (words + self.row)
                * (1 - self.refresh / self.timing["tREFI"]))


def generate_controller(dram, mhz, *, simulated=False, name="dram_core"):
    """Return the `Controller` for a memory.

    Parameters
    ----------
    dram : Dram
        The memory.
    mhz : float
        Frequency of the controller; the chip runs at `dram.phases` times that.
    simulated : bool or str
        With LiteDRAM's model of chip and pins in place of the pins. It prints a line with
        ``violation`` when a command comes too early, or a refresh too late. If ``"pins"``, the pins
        are there, but registers in place of the FPGA's primitives.
    name : str
        Name of the top module.

    Raises
    ------
    ModuleNotFoundError
        Without LiteDRAM, which the extra ``dram`` brings.
    ValueError
        If the chip does not run at that frequency.
    """
    from litedram import init, modules, phy
    from litedram.common import get_default_cl
    from litedram.core import LiteDRAMCore
    from litedram.phy.model import SDRAM_VERBOSE_STD, SDRAMPHYModel
    from litex.build.io import SDRInput, SDROutput, SDRTristate
    from litex.build.lattice.common import lattice_ecp5_trellis_special_overrides
    from litex.build.xilinx.common import xilinx_special_overrides
    from litex.gen.fhdl.verilog import convert
    from litex.soc.interconnect import csr_bus
    from migen import ClockDomain, ClockSignal, Instance, Module, Record, ResetSignal, Signal

    clock, half = mhz * 1e6, dram.phases == 2
    try:
        # LiteDRAM's own choice for two phases is that for one.
        cas_latency = get_default_cl(dram.kind, 1 / (clock * dram.phases))
        chip = getattr(modules, dram.chip)(clock, f"1:{dram.phases}")
        if chip.timing_settings.tREFI < _REFRESH_CYCLES:
            raise ValueError
    except ValueError:
        raise ValueError(f"mhz must be a frequency at which the {dram.chip} runs, times "
                         f"{dram.phases}, not {mhz!r}") from None
    core, ios = Module(), set()

    def domain(label, **options):
        made = ClockDomain(label, **options)
        core.clock_domains += made
        ios.add(made.clk)
        if made.rst is not None:
            ios.add(made.rst)

    def pin(label, bits, source=None, target=None):
        signal = Signal(bits, name_override=label)
        ios.add(signal)
        core.comb += signal.eq(source) if source is not None else target.eq(signal)

    domain("sys")
    geometry = chip.geom_settings
    pads = Record([("a", geometry.addressbits), ("ba", geometry.bankbits), ("ras_n", 1),
                   ("cas_n", 1), ("we_n", 1), ("cs_n", 1), ("cke", 1), ("dm", dram.data_bits // 8),
                   ("dq", dram.data_bits), *(_DDR3_PADS if dram.kind == "DDR3" else [])],
                  name="dram")
    if dram.kind == "SDR":
        if half:
            domain("sys2x")
        made = (phy.HalfRateGENSDRPHY if half else phy.GENSDRPHY)(pads, clock, cl=cas_latency)
        overrides = {} if simulated else dict(lattice_ecp5_trellis_special_overrides)
        # The buffers are outside, where the pins are.
        split = {part: Signal(dram.data_bits, name_override=f"dram_dq_{part}")
                 for part in ("i", "o", "t")}

        class Buffer:
            @staticmethod
            def lower(bit):
                inside, at = Module(), bit.io.start
                inside.specials += [SDROutput(bit.o, split["o"][at], bit.clk),
                                    SDROutput(~bit.oe, split["t"][at], bit.clk),
                                    SDRInput(split["i"][at], bit.i, bit.clk)]
                return inside

        overrides[SDRTristate] = Buffer
        pins = {*pads.flatten(), *split.values()} - {pads.dq}
    else:
        for label in "sys4x", "sys4x_dqs":
            domain(label, reset_less=True)
        domain("iodelay")
        made = phy.A7DDRPHY(pads, memtype="DDR3", nphases=dram.phases, sys_clk_freq=clock)
        core.specials += Instance("IDELAYCTRL", i_REFCLK=ClockSignal("iodelay"),
                                  i_RST=ResetSignal("iodelay"))
        overrides, pins = xilinx_special_overrides, set(pads.flatten())
    settings = made.settings
    if simulated is True:
        core, ios = Module(), set()
        domain("sys")
        made = SDRAMPHYModel(chip, settings=_at_rest(settings), clk_freq=clock,
                             verbosity=SDRAM_VERBOSE_STD)
        pins, overrides = set(), {}
    ios |= pins
    core.submodules.phy = made
    core.submodules.sdram = sdram = LiteDRAMCore(made, geometry, chip.timing_settings, clock)
    port = sdram.crossbar.get_port()
    for label, signal in (("cmd_valid", port.cmd.valid), ("cmd_we", port.cmd.we),
                          ("cmd_addr", port.cmd.addr), ("wdata_valid", port.wdata.valid),
                          ("wdata_data", port.wdata.data), ("wdata_we", port.wdata.we)):
        pin(label, len(signal), target=signal)
    for label, signal in (("cmd_ready", port.cmd.ready), ("wdata_ready", port.wdata.ready),
                          ("rdata_valid", port.rdata.valid), ("rdata_data", port.rdata.data)):
        pin(label, len(signal), source=signal)
    core.comb += port.rdata.ready.eq(1)
    bus = csr_bus.Interface(data_width=32, address_width=CSR_BITS)
    core.submodules.csrs = csrs = csr_bus.CSRBankArray(
        core, lambda part, memory: _PAGES[part], data_width=32, address_width=CSR_BITS,
        paging=4 << _PAGE_BITS)
    core.submodules.buses = csr_bus.InterconnectShared([bus], csrs.get_buses())
    for label in "adr", "we", "re", "dat_w":
        pin(f"csr_{label}", len(getattr(bus, label)), target=getattr(bus, label))
    pin("csr_dat_r", 32, source=bus.dat_r)
    text = str(convert(core, ios, name=name, special_overrides=overrides))
    registers = {re.sub("0$", "", register.name): page << _PAGE_BITS | place
                 for _, _, page, bank in csrs.banks
                 for place, register in enumerate(bank.simple_csrs)}
    fields = {f"DFII_{kind.upper()}_{flag.name.upper()}": 1 << flag.offset
              for kind, register in (("control", sdram.dfii._control),
                                     ("command", sdram.dfii.pi0._command))
              for flag in register.fields.fields}
    sequence, _ = init.get_sdram_phy_init_sequence(settings, chip.timing_settings)
    timing = {key: value for key, value in vars(chip.timing_settings).items()
              if key.startswith("t") and value is not None}
    return Controller(name, _without_dates(text), dram, mhz,
                _steps(sequence, fields, registers, int(_SETTLED_US * mhz)), registers,
                settings.read_latency + _QUEUED,
                timing["tRP"] + timing["tRFC"] + timing["tRCD"] + _REFRESH,
                timing["tRCD"] + _ROW + (dram.phases > 1),
                dict(sorted((signal.name_override or signal.backtrace[-1][0], len(signal))
                            for signal in pins)), timing)


def _steps(sequence, fields, registers, settled):
    """Return LiteDRAM's sequence as words for its registers: of the chip's pins, then of none."""
    def flags(names):
        return sum(fields[flag] for flag in names.split("|"))

    steps = [("dfii_control", 0, settled)]
    if "rst" in registers:  # of the PHY
        steps += [("rst", 1, _PHY_RESET), ("rst", 0, _PHY_RESET)]
    for _, address, bank, names, pause in sequence:
        steps += [("dfii_pi0_address", address, 0), ("dfii_pi0_baddress", bank, 0)]
        if names.startswith("DFII_CONTROL"):
            steps.append(("dfii_control", flags(names), pause))
        else:
            steps += [("dfii_pi0_command", flags(names), 0),
                      ("dfii_pi0_command_issue", 1, pause)]
    steps.append(("dfii_control", fields["DFII_CONTROL_SEL"], 0))
    return tuple((registers[register], value, pause) for register, value, pause in steps)


def _at_rest(settings):
    """Return settings of a PHY with its phases as numbers: the model has no registers for them."""
    for phase in "rdphase", "wrphase":
        register = getattr(settings, phase)
        if not isinstance(register, int):
            setattr(settings, phase, register.reset.value)
    return settings


def _without_dates(text):
    """Return Verilog without the comments around it, which say when it was made."""
    return text[text.index("`timescale"):text.rindex("endmodule")] + "endmodule\n"
