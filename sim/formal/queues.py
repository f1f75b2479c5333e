"""Proofs that queues lose, invent and reorder nothing, and that tokens are counted right."""

from amaranth import Cat, Mux, Signal

from systola.hw.contract.isa import Engine

__all__ = ["count_tokens", "credit_queue", "fifo", "keep_order", "register_slice", "row_queue",
           "tile_columns"]


def keep_order(bench, entered, value, left, result, *, room, waits, late=0):
    """Require that what enters leaves: all of it, once, in order, unchanged.

    `entered` and `left` are strobes of `value` and `result`. One value, any of them, is marked, and
    followed by the number of those ahead of it. At most `room` are inside, and where there are any
    the output does not wait (`waits`) for more than `late` cycles.
    """
    m = bench.m
    inside, ahead = Signal(range(room + 2)), Signal(range(room + 2))
    marked, kept, waited = Signal(), Signal.like(value), Signal(range(late + 2))
    passes = inside == 0  # what enters now and leaves now is the same
    m.d.sync += [inside.eq(inside + entered - left),
                 waited.eq(Mux((inside != 0) & waits, waited + (waited <= late), 0))]
    with m.If(~marked & entered & ~(passes & left) & bench.free(name="mark")):
        m.d.sync += [marked.eq(1), kept.eq(value), ahead.eq(inside - left)]
    with m.Elif(marked & left):
        m.d.sync += [ahead.eq(ahead - 1), marked.eq(ahead != 0)]
    bench.rule("nothing leaves that did not enter", ~left | (inside != 0) | entered)
    bench.rule("no more inside than there is room", inside <= room)
    bench.rule("the marked one leaves in its turn, unchanged",
               ~(marked & left & (ahead == 0)) | (result == kept))
    bench.rule("what passes is unchanged", ~(passes & entered & left) | (result == value))
    bench.rule("nothing stays inside for ever", waited <= late)


def register_slice(bench, hw, forward):
    """Require that a register slice is a queue of two entries, or of one that also passes on."""
    unit = bench.unit(hw.RegisterSlice(3, forward=forward))
    _, entered = bench.offer(unit.i)
    left = bench.accept(unit.o)
    keep_order(bench, entered, unit.i.p, left, unit.o.p, room=1 + forward, waits=~unit.o.valid)


def fifo(bench, hw, kind, depth, late=0):
    """Require that a FIFO of Amaranth, by name, is one."""
    unit = bench.unit(getattr(hw, kind)(width=2, depth=depth))
    bench.m.d.comb += [unit.w_en.eq(bench.free()), unit.w_data.eq(bench.free(2)),
                       unit.r_en.eq(bench.free())]
    entered, left = (bench.wire(a & b) for a, b in ((unit.w_en, unit.w_rdy),
                                                    (unit.r_en, unit.r_rdy)))
    keep_order(bench, entered, unit.w_data, left, unit.r_data, room=depth, waits=~unit.r_rdy,
               late=late)


def credit_queue(bench, hw):
    """Take reads while there is room; let their words come at any time later, in order."""
    depth = 3
    unit, m = bench.unit(hw.CreditQueue(shape=3, depth=depth)), bench.m
    asked = Signal(range(depth + 2))
    m.d.comb += [unit.take.eq(unit.room & bench.free()),
                 unit.push.eq((asked != 0) & bench.free()), unit.data.eq(bench.free(3))]
    left = bench.accept(unit.o)
    keep_order(bench, unit.push, unit.data, left, unit.o.p, room=depth, waits=~unit.o.valid)
    total = Signal(range(depth + 2))
    m.d.sync += [asked.eq(asked + unit.take - unit.push), total.eq(total + unit.take - left)]
    bench.rule("room is what is neither asked for nor inside", unit.room == (total < depth))


def row_queue(bench, hw):
    """Require that the row buffer repeats the elements as they came."""
    unit = bench.unit(hw.RowMaximum(lanes=1, max_row=2, in_bits=2, slots=2))
    value = bench.free(2)
    last = bench.free()
    shape = unit.i.p.shape()
    _, entered = bench.offer(unit.i, payload=Cat(value, 1, last))
    assert [shape[name].offset for name in ("x", "keep", "last")] == [0, 2, 3]
    left = bench.accept(unit.o)
    bench.holds("o", unit.o)
    keep_order(bench, entered, Cat(unit.i.p.x[0], unit.i.p.last), left,
               Cat(unit.o.p.x[0], unit.o.p.last), room=unit.depth + 1, waits=0)


def tile_columns(bench, hw):
    """Require that columns of tiles reach the array in order, each at its place."""
    cols = 2
    unit, m = bench.unit(hw.TileLoader(rows=3, cols=cols, weight_bits=2)), bench.m
    _, entered = bench.offer(unit.i)
    m.d.comb += unit.swap.eq(unit.ready & bench.free(name="swap"))
    left = bench.wire(unit.w_col.any())
    value = bench.wire(Cat(lane[:2] for lane in unit.i.payload))
    keep_order(bench, entered, value, left, unit.w.as_value(), room=cols + 1, waits=0)
    place = Signal(range(cols))
    with m.If(left):
        m.d.sync += place.eq(Mux(place == cols - 1, 0, place + 1))
    bench.rule("columns are loaded from left to right", ~left | (unit.w_col == 1 << place))


def count_tokens(bench, hw):
    """Count the tokens of three gates beside them, with bits to spare, under any program.

    Engines are ready at any time, and done with an instruction at any time after they took it.
    """
    bits, depth, m = 3, 2, bench.m
    gates = [bench.unit(hw.TokenGate(engine=engine, payload=1, depth=depth, bits=bits),
                        engine.name.lower()) for engine in Engine]
    hw.connect_gates(m, gates)
    offered = Cat(gate.i.valid | gate.busy for gate in gates).any()
    clear = bench.wire(bench.free(name="clear") & ~offered)  # as the dispatcher does
    for gate in gates:
        bench.offer(gate.i)
        bench.accept(gate.o)
        bench.holds(f"{gate.engine.name} o", gate.o)
        inside = Signal(range(depth + 2))
        m.d.comb += [gate.clear.eq(clear),
                     gate.done.eq((inside != 0) & bench.free(name="done"))]
        m.d.sync += inside.eq(inside + gate.started - gate.done)
        bench.rule(f"{gate.engine.name} takes no more than it holds", inside <= depth)
        bench.rule(f"{gate.engine.name} is busy as long as one is inside",
                   gate.busy == (inside != 0))
    for giver in gates:
        for gate in gates:
            if giver is gate:
                continue
            pair = f"tokens from {giver.engine.name} to {gate.engine.name}"
            tokens = Signal(bits + 2, name=f"open_{giver.engine}_{gate.engine}")
            taken = bench.wire(gate.started & gate.i.p.wait[giver.engine])
            m.d.sync += tokens.eq(Mux(clear, 0, tokens + giver.give[gate.engine] - taken))
            bench.rule(f"{pair} never underflow", ~taken | (tokens != 0))
            bench.rule(f"{pair} never overflow", tokens < 1 << bits)
            owed = Signal(range(depth + 3), name=f"owed_{giver.engine}_{gate.engine}")
            signals = bench.wire(giver.started & giver.i.p.signal[gate.engine])
            m.d.sync += owed.eq(owed + signals - giver.give[gate.engine])
            bench.rule(f"{pair}: one for each signal, a cycle after it is done",
                       giver.busy | bench.before(giver.busy) | (owed == 0))
