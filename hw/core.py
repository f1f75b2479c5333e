"""Dispatcher, engines and memories wired together: everything that a soft reset clears."""

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from systola.hw.contract.isa import Engine, formats
from systola.hw.contract.regmap import COUNTERS
from systola.hw.control.dispatcher import Dispatcher
from systola.hw.control.token_gate import TokenGate, connect_gates
from systola.hw.control.watchdog import Watchdog, patience
from systola.hw.load.load_engine import LoadEngine
from systola.hw.matrix.matrix_engine import MatrixEngine
from systola.hw.memory.param_memory import ParamMemory
from systola.hw.memory.row_factors import RowFactors
from systola.hw.memory.scratchpad import Scratchpad
from systola.hw.parts import shapes
from systola.hw.parts.register_slice import RegisterSlice
from systola.hw.vector.vector_engine import VectorEngine

__all__ = ["Core"]


def _body_bits(engine, config):
    """Return the bits that the longest operation of `engine` has behind its header."""
    return max(sum(field.bits for field in form.fields)
               for form in formats(config).values() if form.engine is engine)


class Core(wiring.Component):
    """The accelerator without its bus: program stream in, result stream out.

    Scratchpad priority: MATRIX activations, MATRIX residual, VECTOR, LOAD for reads; MATRIX,
    VECTOR, LOAD for writes.

    Model: sim/machine/machine.py

    Parameters
    ----------
    config : AcceleratorConfig
        Sizes.

    Members
    -------
    stream : In(stream.Signature(shapes.bus_beat(config)))
        Program.
    result : Out(stream.Signature(shapes.result_beat(config)))
        Words of STORE.
    start : In(1)
        Take a program; ignored while busy or after an error.
    busy, done, error : Out(1)
        State, see the STATUS register.
    cause, index, word : Out
        The instruction with the error, see the ERROR registers.
    count_* : Out(32)
        One for every name of ``regmap.COUNTERS``, in lower case.
    trace : Out(StructLayout)
        What the engines do, see ``regmap.TRACE``.
    accesses : Out(StructLayout)
        See `access_layout`.
    """

    def __init__(self, config):
        self.config = config
        super().__init__({
            "stream": In(stream.Signature(shapes.bus_beat(config))),
            "result": Out(stream.Signature(shapes.result_beat(config))),
            "start": In(1), "busy": Out(1), "done": Out(1), "error": Out(1),
            "cause": Out(8), "index": Out(32), "word": Out(32),
            **{f"count_{name.lower()}": Out(32) for name, _ in COUNTERS},
            "trace": Out(shapes.trace_layout()), "accesses": Out(shapes.access_layout(config)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.dispatcher = dispatcher = Dispatcher(config)
        engines = {Engine.LOAD: LoadEngine(config), Engine.MATRIX: MatrixEngine(config),
                   Engine.VECTOR: VectorEngine(config)}
        for engine, unit in engines.items():
            m.submodules[engine.name.lower()] = unit
        load, matrix, vector = engines.values()

        wiring.connect(m, wiring.flipped(self.stream), dispatcher.stream)
        wiring.connect(m, wiring.flipped(self.result), load.result)
        for name in "busy", "done", "error", "cause", "index", "word":
            m.d.comb += getattr(self, name).eq(getattr(dispatcher, name))
        m.d.comb += dispatcher.start.eq(self.start)

        self._connect_memories(m, load, matrix, vector)
        self._connect_fifo(m, "stream_data", dispatcher.data, load.data, config.stream_fifo)
        weights = self._connect_fifo(m, "weights", load.weights, matrix.weights,
                                     config.weight_fifo)
        gates = [self._connect_queue(m, engine, getattr(dispatcher, engine.name.lower()), unit)
                 for engine, unit in engines.items()]
        connect_gates(m, [gate for gate, _ in gates])
        m.d.comb += [gate.clear.eq(dispatcher.begins) for gate, _ in gates]
        # A cycle late, which END, being collected and decoded, does not see.
        m.d.sync += [
            dispatcher.idle.eq(~Cat(waiting | gate.busy for gate, waiting in gates).any()),
            dispatcher.left.eq(Cat(load.weights.valid, weights.level != 0, matrix.left,
                                   *(gate.left for gate, _ in gates)).any()),
        ]
        self._watch(m, dispatcher, load, matrix, gates)
        self._trace(m, matrix, gates)
        self._count(m, dispatcher, gates)
        return m

    def _watch(self, m, dispatcher, load, matrix, gates):
        """Stop a program in which nothing moves any more."""
        # A wanted beat and an offered result move, or the host is to blame.
        events = [self.stream.ready, self.result.valid, matrix.entered,
                  *(gate.started for gate, _ in gates), *(gate.done for gate, _ in gates),
                  *(port.valid & port.ready for port in (load.data, matrix.weights)),
                  *(self.accesses[name].valid for name in self.accesses.shape().members)]
        m.submodules.watchdog = watchdog = Watchdog(limit=patience(self.config),
                                                    events=len(events))
        m.d.comb += [watchdog.busy.eq(self.busy), watchdog.events.eq(Cat(events)),
                     dispatcher.stuck.eq(watchdog.stuck)]

    def _connect_memories(self, m, load, matrix, vector):
        """Add the memories and wire the engines to them."""
        config = self.config
        m.submodules.scratchpad = scratchpad = Scratchpad(config, readers=4, writers=3)
        m.submodules.params = params = ParamMemory(config, readers=2)
        for port, reader in (scratchpad.r[0], matrix.act), (scratchpad.r[3], load.src):
            wiring.connect(m, port, reader)
        # Registers in front of the arbiter, as LOAD has them inside: no request passes to another
        # engine's readiness in a cycle.
        for name, port, reader in (("res_request", scratchpad.r[1], matrix.res),
                                   ("src_request", scratchpad.r[2], vector.src)):
            m.submodules[name] = request = RegisterSlice(reader.req.p.shape())
            wiring.connect(m, reader.req, request.i)
            wiring.connect(m, request.o, port.req)
            wiring.connect(m, port.rsp, reader.rsp)
        for port, writer in zip(scratchpad.w, (matrix.out, vector.dst, load.dst), strict=True):
            wiring.connect(m, port, writer)
        for port, reader in zip(params.r, (matrix.param, vector.param), strict=True):
            wiring.connect(m, port, reader)
        wiring.connect(m, params.w, load.param)
        wiring.connect(m, vector.table, load.table)
        if config.factor_depth:
            m.submodules.factors = factors = RowFactors(config)
            wiring.connect(m, factors.w, vector.factor)
            wiring.connect(m, factors.r, matrix.factor)
            self._access(m, "factor_w", vector.factor, vector.factor.p.addr)
            self._access(m, "factor_r", matrix.factor.req, matrix.factor.req.p)
        for kind, ports in ("r", scratchpad.r), ("w", scratchpad.w):
            for index, port in enumerate(ports):
                self._access(m, f"{kind}{index}", port.req, port.req.p.addr)
        for index, port in enumerate(params.r):
            self._access(m, f"param_r{index}", port.req, port.req.p)
        self._access(m, "param_w", params.w, params.w.p.addr)

    def _access(self, m, name, request, addr):
        """Show the requests of a stream."""
        m.d.comb += [self.accesses[name].valid.eq(request.valid & request.ready),
                     self.accesses[name].addr.eq(addr)]

    def _connect_fifo(self, m, name, source, sink, depth):
        """Put a FIFO of `depth` words between two streams of the same payload; returns it."""
        fifo = SyncFIFOBuffered(width=source.p.shape().size, depth=depth)
        m.submodules[name] = fifo
        wiring.connect(m, source, fifo.w_stream)
        wiring.connect(m, fifo.r_stream, sink)
        return fifo

    def _connect_queue(self, m, engine, source, unit):
        """Put queue and token gate before an engine; returns the gate, and whether it waits."""
        name, bits = engine.name.lower(), _body_bits(engine, self.config)
        gate = TokenGate(engine=engine, payload=shapes.engine_instruction())
        queue = SyncFIFOBuffered(width=shapes.instruction_header().size + bits,
                                 depth=self.config.queue_depth)
        m.submodules[f"{name}_queue"], m.submodules[f"{name}_gate"] = queue, gate
        payload = source.p.payload
        # Only what this engine's operations use is stored; the rest of an instruction is zero.
        m.d.comb += [
            queue.w_data.eq(Cat(payload.opcode, source.p.wait, source.p.signal,
                                payload.body[:bits])),
            queue.w_en.eq(source.valid), source.ready.eq(queue.w_rdy),
            Cat(gate.i.p.payload.opcode, gate.i.p.wait, gate.i.p.signal,
                gate.i.p.payload.body[:bits]).eq(queue.r_data),
            gate.i.valid.eq(queue.r_rdy), queue.r_en.eq(gate.i.ready),
            gate.done.eq(unit.done),
        ]
        wiring.connect(m, gate.o, unit.instr)
        return gate, queue.level != 0

    def _trace(self, m, matrix, gates):
        """Collect what the engines do."""
        trace = self.trace
        for engine, (gate, _) in zip(Engine, gates, strict=True):
            m.d.comb += [trace.started[engine].eq(gate.started), trace.done[engine].eq(gate.done),
                         trace[f"waits_{engine.name.lower()}"].eq(gate.waits)]
            if engine is Engine.MATRIX:
                m.d.comb += trace.starved.eq(gate.o.ready & ~gate.i.valid)
        m.d.comb += [
            trace.busy.eq(self.busy), trace.entered.eq(matrix.entered),
            trace.wait_weights.eq(matrix.wait_weights), trace.wait_drain.eq(matrix.wait_room),
            trace.wait_data.eq(matrix.wait_act),
        ]

    def _count(self, m, dispatcher, gates):
        """Count events: start clears the counters, they run while busy."""
        trace = self.trace
        events = {"CYCLES": 1, "STREAM_STALL": self.stream.ready & ~self.stream.valid,
                  "RESULT_STALL": self.result.valid & ~self.result.ready,
                  "INSTRUCTIONS": dispatcher.issued, "ARRAY_ACTIVE": trace.entered,
                  "ARRAY_WAIT_WEIGHTS": trace.wait_weights, "ARRAY_WAIT_DRAIN": trace.wait_drain,
                  "ARRAY_WAIT_DATA": trace.wait_data}
        for engine, (gate, _) in zip(Engine, gates, strict=True):
            others = [other for other in Engine if other is not engine]
            events[f"{engine.name}_BUSY"] = gate.busy
            events |= {f"{engine.name}_WAIT_{other.name}": gate.waits[other] for other in others}
            events[f"{engine.name}_IDLE"] = ~gate.busy & ~Cat(
                gate.waits[other] for other in others).any()
        for name, _ in COUNTERS:
            counter = getattr(self, f"count_{name.lower()}")
            step = Signal(name=f"step_{name.lower()}")  # keeps the adder off the events' paths
            m.d.sync += step.eq(events[name] & self.busy)
            with m.If(dispatcher.begins):
                m.d.sync += counter.eq(0)
            with m.Else():
                m.d.sync += counter.eq(counter + step)
