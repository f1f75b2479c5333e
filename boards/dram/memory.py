"""An external memory as a memory for resident programs: its controller, started and adapted."""

from amaranth import ClockSignal, DomainRenamer, Instance, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from systola.boards.dram.controller import CSR_BITS
from systola.hw.parts.memory_port import MemoryPort
from systola.hw.resident.native_memory import NativeMemory, queue_entries
from systola.hw.resident.port_crossing import PortCrossing
from systola.hw.resident.read_levelling import REGISTERS, ReadLevelling
from systola.hw.resident.start_sequence import StartSequence

__all__ = ["DramMemory"]


class _Started(wiring.Component):
    """The controller, its start and its adapter, all in one clock domain."""

    def __init__(self, controller, adapter, connections):
        self.controller, self.adapter, self.connections = controller, adapter, connections
        super().__init__({"port": In(MemoryPort(bus_bytes=adapter.bus_bytes)), "works": Out(1),
                          "failed": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.adapter = adapter = self.adapter
        m.submodules.start = start = StartSequence(self.controller.steps, address_bits=CSR_BITS)
        native, taken, csr = adapter.native, Signal(), start.csr
        bus = {name: getattr(csr, name) for name in ("adr", "we", "dat_w")}
        if all(name in self.controller.registers for name in REGISTERS):
            m.submodules.levelling = levelling = ReadLevelling(
                bus_bytes=adapter.bus_bytes, lanes=self.controller.dram.data_bits // 8,
                registers=self.controller.registers, address_bits=CSR_BITS)
            bus = {name: Signal.like(value) for name, value in bus.items()}
            with m.If(start.done):
                m.d.comb += [value.eq(getattr(levelling.csr, name)) for name, value in bus.items()]
            with m.Else():
                m.d.comb += [value.eq(getattr(csr, name)) for name, value in bus.items()]
            m.d.comb += levelling.start.eq(start.done)
            done, failed = levelling.done, levelling.failed.any()
            self._share(m, adapter.port, levelling.port, done)
        else:
            done, failed = start.done, 0
            wiring.connect(m, wiring.flipped(self.port), adapter.port)
        m.d.comb += [self.failed.eq(done & failed), self.works.eq(done & ~failed),
                     self.port.data.p.error.eq(failed), native.cmd.ready.eq(taken & start.done)]
        m.submodules.controller = Instance(
            self.controller.name, i_sys_clk=ClockSignal(), i_sys_rst=ResetSignal(), i_csr_re=0,
            **{f"i_csr_{name}": value for name, value in bus.items()}, o_csr_dat_r=csr.dat_r,
            i_cmd_valid=native.cmd.valid & start.done, o_cmd_ready=taken,
            i_cmd_we=native.cmd.p.we, i_cmd_addr=native.cmd.p.addr,
            i_wdata_valid=native.wdata.valid, o_wdata_ready=native.wdata.ready,
            i_wdata_data=native.wdata.p.data, i_wdata_we=native.wdata.p.we,
            o_rdata_valid=native.rdata.valid, o_rdata_data=native.rdata.p, **self.connections)
        return m

    def _share(self, m, memory, levelling, done):
        """Give the memory to the levelling until that is `done`, then to the user."""
        for user, mine in (levelling, ~done), (self.port, done):
            for name in "read", "write":
                asked, given = getattr(user, name), getattr(memory, name)
                m.d.comb += asked.ready.eq(mine & given.ready)
                with m.If(mine):
                    m.d.comb += [given.valid.eq(asked.valid), given.p.eq(asked.p)]
            m.d.comb += [user.data.valid.eq(mine & memory.data.valid),
                         user.data.p.beat.eq(memory.data.p.beat)]
            with m.If(mine):
                m.d.comb += memory.data.ready.eq(user.data.ready)


class DramMemory(wiring.Component):
    """A controller of LiteDRAM's with what starts it, behind a `MemoryPort`.

    Requests wait until the memory is started. Its Verilog, ``controller.verilog``, has to be given
    to the tools beside this component's.

    Parameters
    ----------
    controller : Controller
        The controller.
    bus_bytes : int
        Bytes of a beat.
    entries : int, optional
        Beats, or native words if those are wider, that are read ahead; by default as many as
        bandwidth and refresh need.
    connections : dict, optional
        Connections of the controller beside its clock ``sys`` and its native port, as `Instance`
        takes them: its pins and other clocks.
    domain : str
        Clock domain of the controller, whose reset comes with that of ``sync``.

    Members
    -------
    port : In(MemoryPort(bus_bytes=bus_bytes))
        The user, in domain ``sync``.
    works : Out(1)
        The memory has been started.
    failed : Out(1)
        It could not be: its beats are errors.

    Attributes
    ----------
    size : int
        Beats of the memory.

    Raises
    ------
    ValueError
        If a parameter is out of range; the message names it.
    """

    def __init__(self, controller, *, bus_bytes, entries=None, connections=None, domain="sync"):
        word_bytes = controller.dram.word_bytes
        if entries is None:
            entries = queue_entries(bus_bytes=bus_bytes, word_bytes=word_bytes,
                                    latency=controller.latency,
                                    pause=controller.refresh + controller.row)
        self.controller, self.domain = controller, domain
        self.connections = dict(connections or {})
        self.adapter = NativeMemory(bus_bytes=bus_bytes, word_bytes=word_bytes,
                                    words=controller.dram.words, entries=entries)
        self.size = self.adapter.size
        super().__init__({"port": In(MemoryPort(bus_bytes=bus_bytes)), "works": Out(1),
                          "failed": Out(1)})

    def elaborate(self, platform):
        m = Module()
        started = _Started(self.controller, self.adapter, self.connections)
        if self.domain == "sync":
            m.submodules.started = started
            wiring.connect(m, wiring.flipped(self.port), started.port)
            m.d.comb += [self.works.eq(started.works), self.failed.eq(started.failed)]
            return m
        m.submodules.started = DomainRenamer(self.domain)(started)
        crossing = PortCrossing(bus_bytes=self.adapter.bus_bytes)
        m.submodules.crossing = DomainRenamer({"memory": self.domain})(crossing)
        wiring.connect(m, wiring.flipped(self.port), crossing.port)
        wiring.connect(m, crossing.memory, started.port)
        m.submodules.works = FFSynchronizer(started.works, self.works)
        m.submodules.failed = FFSynchronizer(started.failed, self.failed)
        return m
