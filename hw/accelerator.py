"""The accelerator with its bus ports: AXI4-Lite registers, AXI4-Stream in and out."""

from amaranth import Module, ResetInserter
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.regmap import COUNTERS
from systola.hw.core import Core
from systola.hw.host import axi
from systola.hw.host.register_file import RegisterFile
from systola.hw.parts import shapes

__all__ = ["Accelerator"]


class Accelerator(wiring.Component):
    """Runs integer Vision Transformers from a program stream; the top of the generated Verilog.

    Registers: ``hw/contract/regmap.py``. Program: ``hw/contract/isa.py``.

    Model: sim/machine/machine.py

    Parameters
    ----------
    config : AcceleratorConfig
        Everything that can be chosen.
    trace : bool
        Whether to bring out what the engines and memories do, for simulations.

    Members
    -------
    s_axil_* : AXI4-Lite subordinate
        32-bit registers.
    s_axis_* : AXI4-Stream in
        Program, ``config.bus_bytes`` wide, every beat full; TLAST is ignored.
    m_axis_* : AXI4-Stream out
        Results, as wide; a scratchpad word in the lowest R bytes, the rest zero. TLAST ends every
        STORE.
    irq : Out(1)
        Done or error, while enabled.
    trace : Out(StructLayout)
        With `trace`, see ``regmap.TRACE``.
    accesses : Out(StructLayout)
        With `trace`, see `shapes.access_layout`.
    """

    def __init__(self, config, *, trace=False):
        self.config, self.has_trace = config, trace
        stream = axi.Stream(config.bus_bytes)
        super().__init__(axi.ports(s_axil=In(axi.Lite()), s_axis=In(stream), m_axis=Out(stream)) | {
            "irq": Out(1),
        } | ({"trace": Out(shapes.trace_layout()), "accesses": Out(shapes.access_layout(config))}
             if trace else {}))

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterFile(self.config)
        core = Core(self.config)
        m.submodules.core = ResetInserter(registers.reset)(core)
        wiring.connect(m, axi.bundle(self, "s_axil", axi.Lite()), registers.s_axil)
        m.d.comb += [
            core.start.eq(registers.start),
            core.stream.p.eq(self.s_axis_tdata), core.stream.valid.eq(self.s_axis_tvalid),
            self.s_axis_tready.eq(core.stream.ready),
            self.m_axis_tdata.eq(core.result.p.word), self.m_axis_tlast.eq(core.result.p.last),
            self.m_axis_tvalid.eq(core.result.valid), core.result.ready.eq(self.m_axis_tready),
            self.irq.eq(registers.irq_enable & (core.done | core.error)),
            registers.values.STATUS.eq(core.busy | core.done << 1 | core.error << 2),
            registers.values.ERROR.eq(core.cause), registers.values.ERROR_INDEX.eq(core.index),
            registers.values.ERROR_WORD.eq(core.word),
        ]
        m.d.comb += [registers.values[name].eq(getattr(core, f"count_{name.lower()}"))
                     for name, _ in COUNTERS]
        if self.has_trace:
            m.d.comb += [self.trace.eq(core.trace), self.accesses.eq(core.accesses)]
        return m
