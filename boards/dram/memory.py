"""An external memory as a memory for resident programs: its controller, started and adapted."""

from amaranth import ClockSignal, Instance, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.boards.dram.controller import CSR_BITS
from systola.hw.resident.memory_port import MemoryPort
from systola.hw.resident.native_memory import NativeMemory, queue_entries
from systola.hw.resident.start_sequence import StartSequence

__all__ = ["DramMemory"]


class DramMemory(wiring.Component):
    """A controller of LiteDRAM's with what starts it, behind a `MemoryPort`.

    Requests wait until the memory works. Its Verilog, ``core.verilog``, has to be given to the
    tools beside this component's.

    Parameters
    ----------
    core : Controller
        The controller.
    bus_bytes : int
        Bytes of a beat.
    entries : int, optional
        Beats, or native words if those are wider, that are read ahead; by default as many as
        bandwidth and refresh need.
    connections : dict, optional
        Connections of the controller beside its clock ``sys`` and its native port, as `Instance`
        takes them: its pins and other clocks.

    Members
    -------
    port : In(MemoryPort(bus_bytes=bus_bytes))
        The user.
    works : Out(1)
        The memory has been started.

    Attributes
    ----------
    size : int
        Beats of the memory.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, core, *, bus_bytes, entries=None, connections=None):
        word_bytes = core.dram.word_bytes
        if entries is None:
            entries = queue_entries(bus_bytes=bus_bytes, word_bytes=word_bytes,
                                    latency=core.latency, pause=core.refresh + core.row)
        self.core, self.connections = core, dict(connections or {})
        self.adapter = NativeMemory(bus_bytes=bus_bytes, word_bytes=word_bytes,
                                    words=core.dram.words, entries=entries)
        self.size = self.adapter.size
        super().__init__({"port": In(MemoryPort(bus_bytes=bus_bytes)), "works": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.adapter = adapter = self.adapter
        m.submodules.start = start = StartSequence(self.core.steps, address_bits=CSR_BITS)
        wiring.connect(m, wiring.flipped(self.port), adapter.port)
        native, csr = adapter.native, start.csr
        taken = native.cmd.ready.like(native.cmd.ready, name="taken")
        m.d.comb += [self.works.eq(start.done), native.cmd.ready.eq(taken & start.done)]
        m.submodules.core = Instance(
            self.core.name, i_sys_clk=ClockSignal(), i_sys_rst=ResetSignal(),
            i_csr_adr=csr.adr, i_csr_re=csr.re, i_csr_we=csr.we, i_csr_dat_w=csr.dat_w,
            o_csr_dat_r=csr.dat_r,
            i_cmd_valid=native.cmd.valid & start.done, o_cmd_ready=taken,
            i_cmd_we=native.cmd.p.we, i_cmd_addr=native.cmd.p.addr,
            i_wdata_valid=native.wdata.valid, o_wdata_ready=native.wdata.ready,
            i_wdata_data=native.wdata.p.data, i_wdata_we=native.wdata.p.we,
            o_rdata_valid=native.rdata.valid, o_rdata_data=native.rdata.p, **self.connections)
        return m
