"""Bench around a unit for a proof: free inputs, well-behaved partners, and rules."""

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.back import rtlil
from amaranth.lib import stream
from amaranth.lib.wiring import In

__all__ = ["Bench", "keep_stream_rules", "streams"]


class Bench:
    """What drives a unit with everything it may be driven with, and says what must never happen.

    Inputs are free: any value in any cycle, and reset in any cycle. Assumptions are not stated but
    built in, for what drives the unit keeps them: so none can contradict another and make a proof
    empty. The bench's registers are reset together with the unit.
    """

    def __init__(self):
        self.m, self.inputs, self.rules = Module(), [], {}

    def free(self, shape=1, name="free"):
        """Return a signal with any value in every cycle."""
        signal = Signal(shape, name=f"{name}_{len(self.inputs)}")
        self.inputs.append(signal)
        return signal

    def constant(self, shape=1, name="constant"):
        """Return a signal with any value that stays until reset."""
        now, held, known = self.free(shape, name), Signal(shape), Signal()
        value = Signal(shape)
        self.m.d.sync += [held.eq(value), known.eq(1)]
        self.m.d.comb += value.eq(Mux(known, held, now))
        return value

    def before(self, value):
        """Return `value` one cycle earlier, zero after reset."""
        value = Value.cast(value)
        register = Signal(value.shape())
        self.m.d.sync += register.eq(value)
        return register

    def wire(self, value):
        """Return `value` as a signal."""
        value = Value.cast(value)
        signal = Signal(value.shape())
        self.m.d.comb += signal.eq(value)
        return signal

    def rule(self, name, holds):
        """Require `holds` in every cycle; a rule is known by its `name`."""
        self.rules[name] = holds

    def unit(self, component, name=None):
        """Put `component` into the bench and return it."""
        if name:
            self.m.submodules[name] = component
        else:
            self.m.submodules += component
        return component

    def offer(self, port, payload=None, when=1):
        """Offer anything at any time on the unit's input `port`, and keep the stream rules.

        `payload` is what a new offer has, anything by default; new offers come only while `when`.
        Return the strobes of a new offer and of a transfer.
        """
        shape = Value.cast(port.p).shape()
        new = self.free(shape, "payload") if payload is None else payload
        waits, held = Signal(), Signal(shape)
        start = self.wire(~waits & when & self.free(name="offer"))
        now = self.wire(Mux(waits, held, Value.cast(new)))
        self.m.d.comb += [port.valid.eq(waits | start), Value.cast(port.p).eq(now)]
        self.m.d.sync += [waits.eq(port.valid & ~port.ready), held.eq(now)]
        return start, self.wire(port.valid & port.ready)

    def accept(self, port, when=1):
        """Be ready at any time while `when` on the unit's output `port`; return its transfers."""
        if not port.signature.always_ready:
            self.m.d.comb += port.ready.eq(self.free(name="ready") & when)
        return self.wire(port.valid & port.ready)

    def holds(self, name, port):
        """Require that valid and payload of `port` stay until ready."""
        stalled = self.before(port.valid & ~port.ready)
        payload = Value.cast(port.p)
        self.rule(f"{name} holds", ~stalled | (port.valid & (payload == self.before(payload))))

    def rtlil(self):
        """Return the design for `systola.sim.formal.prover.decide`."""
        bad = Signal(len(self.rules), name="bad")
        self.m.d.comb += bad.eq(Cat(~Value.cast(rule).bool() for rule in self.rules.values()))
        return rtlil.convert(self.m, name="top", ports=[*self.inputs, bad], emit_src=False)


def streams(interface, prefix=""):
    """Yield ``(name, port, is_input)`` of every stream of `interface`, a component or port.

    Its other inputs come as ``(name, signal, None)``.
    """
    for name, member in interface.signature.members.items():
        for index, port in _items(getattr(interface, name), member.dimensions):
            at = f"{prefix}{name}{index}"
            if member.is_port:
                if member.flow == In:
                    yield at, port, None
            elif isinstance(member.signature, stream.Signature):
                yield at, port, member.flow == In
            else:
                yield from streams(port, f"{at}.")


def _items(value, dimensions):
    """Yield ``(index, element)`` of an array of ports, or ``("", value)``."""
    if not dimensions:
        yield "", value
        return
    for k in range(dimensions[0]):
        for index, element in _items(value[k], dimensions[1:]):
            yield f"{k}{index}", element


def keep_stream_rules(bench, make, strobes=(), silent=(), low=()):
    """Prove the stream rules of the unit that `make` makes, on all its streams.

    Valid and payload stay while stalled. And nobody waits for ready: a twin gets the same inputs,
    but another readiness wherever the unit does not offer anything; yet both must offer the same
    from cycle to cycle, and take the same. Inputs that are no streams are constant but `strobes`,
    and 0 if `low`; nothing comes on the streams `silent`. Memories answer at any time, but only
    what was asked.
    """
    unit, twin = bench.unit(make(), "unit"), bench.unit(make(), "twin")
    reads = {}  # memories that answer: reads not answered yet, and strobe of a new one
    for name, _, inward in streams(unit):
        if inward and name.endswith(".rsp"):
            reads[name[:-4]] = Signal(range(8), name="reads"), Signal(name="read")
    for (name, port, inward), (_, other, _) in zip(streams(unit), streams(twin), strict=True):
        left, new_read = reads.get(name[:-4], (None, None))
        if inward is None:
            value = Const(0, 1) if name in low else (
                bench.free if name in strobes else bench.constant)(Value.cast(port).shape(), name)
            bench.m.d.comb += [Value.cast(port).eq(value), Value.cast(other).eq(value)]
        elif inward:
            answer, _ = bench.offer(port, when=name not in silent and (
                1 if left is None else left != 0))
            if left is not None:
                bench.m.d.sync += left.eq(left + new_read - answer)
            bench.m.d.comb += [other.valid.eq(port.valid), Value.cast(other.p).eq(port.p)]
            bench.rule(f"{name} is taken whatever waits",
                       ~port.valid | (port.ready == other.ready))
        else:
            transfer = bench.accept(port, when=1 if left is None else left != 7)
            if left is not None:
                bench.m.d.comb += new_read.eq(transfer)
            bench.holds(name, port)
            bench.rule(f"{name} waits for no ready", port.valid == other.valid)
            if not port.signature.always_ready:
                bench.m.d.comb += other.ready.eq(
                    Mux(port.valid, port.ready, bench.free(name="idle")))
