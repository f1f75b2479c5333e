"""Proofs of ports that are no streams: the register file's bus, and the arbiter."""

from amaranth import Cat, Mux, Signal, Value
from amaranth.lib.wiring import In

__all__ = ["arbitration", "axi_lite"]


def axi_lite(bench, hw, config):
    """Require that every read and write is answered once, and that answers stay until taken."""
    unit, m = bench.unit(hw.RegisterFile(config)), bench.m

    def port(name):
        return getattr(unit.s_axil, name)

    for path, member, signal in unit.signature.flatten(unit):
        if member.flow == In:
            free = bench.free(Value.cast(signal).shape(), "__".join(path))
            m.d.comb += Value.cast(signal).eq(free)
    moves = {name: bench.wire(port(f"{name}valid") & port(f"{name}ready"))
             for name in ("aw", "w", "ar", "b", "r")}
    for name, payload in (("b", [port("bresp")]), ("r", [port("rdata"), port("rresp")])):
        stalled = bench.before(port(f"{name}valid") & ~port(f"{name}ready"))
        now = bench.wire(Cat(payload))
        bench.rule(f"{name} holds", ~stalled | port(f"{name}valid") & (now == bench.before(now)))
    due = {}  # accepted and not answered yet
    for name, answer in (("aw", "b"), ("w", "b"), ("ar", "r")):
        due[name] = Signal(range(4), name=f"due_{name}")
        m.d.sync += due[name].eq(due[name] + moves[name] - moves[answer])
        bench.rule(f"at most two of {name} inside", due[name] <= 2)
    complete = (due["aw"] != 0) & (due["w"] != 0)
    waits = bench.wire(complete & ~port("bvalid"))
    bench.rule("a write is answered if address and word are there", ~port("bvalid") | complete)
    bench.rule("it is answered two cycles later at most", ~waits | ~bench.before(waits))
    bench.rule("a read is answered in the next cycle", port("rvalid") == (due["ar"] != 0))


def arbitration(bench, hw, clients):
    """Require one grant at most, one if any is asked for, and none that waits for too long."""
    unit, m = bench.unit(hw.Arbiter(clients)), bench.m
    m.d.comb += [unit.valid.eq(bench.free(clients, "valid")), unit.free.eq(bench.free())]
    bench.rule("one at most", (unit.grant & (unit.grant - 1)[:clients]) == 0)
    bench.rule("only who asks", (unit.grant & ~unit.valid) == 0)
    bench.rule("one whenever there may be",
               unit.grant.any() == (unit.free & unit.valid.any()))
    most = unit.turns * (clients - 1)
    for k in range(clients):
        others = Signal(range(most + 2), name=f"others_{k}")
        waits = unit.valid[k] & ~unit.grant[k]
        m.d.sync += others.eq(Mux(waits, others + (unit.grant.any() & (others <= most)), 0))
        bench.rule(f"{k} lets at most {most} others go first", others <= most)
