# amaranth: UnusedElaboratable=no
"""Three gates with engines of random speed keep every dependency of a random program."""

import random

import pytest
from amaranth import Module
from amaranth.lib.wiring import Component, In, Out

from systola.hw.contract.isa import Engine
from systola.hw.control.token_gate import TokenGate, connect_gates
from systola.sim.harness import drive, run


class Gates(Component):
    """Three connected gates; the payload is the instruction's number."""

    def __init__(self, **sizes):
        self.gates = [TokenGate(engine=engine, payload=16, **sizes) for engine in Engine]
        super().__init__({"clear": In(1), "busy": Out(3)})

    def elaborate(self, platform):
        m = Module()
        for gate in self.gates:
            m.submodules += gate
            m.d.comb += [gate.clear.eq(self.clear), self.busy[gate.engine].eq(gate.busy)]
        connect_gates(m, self.gates)
        return m


def random_program(rng, length):
    """Return [(engine, wait, signal)], and per instruction those that must be complete before.

    Stream order is a possible order; a wait takes the oldest open token of its pair.
    """
    program, before = [], []
    open_tokens = {(a, b): [] for a in Engine for b in Engine if a != b}
    for number in range(length):
        engine, wait, signal, needs = rng.choice(list(Engine)), 0, 0, []
        for giver in Engine:
            if giver != engine and open_tokens[giver, engine] and rng.random() < 0.6:
                wait |= 1 << giver
                needs.append(open_tokens[giver, engine].pop(0))
        if rng.random() < 0.2:
            wait |= 1 << engine
            needs += [k for k, (other, *_) in enumerate(program) if other == engine]
        for receiver in Engine:
            if receiver != engine and rng.random() < 0.3:
                signal |= 1 << receiver
                open_tokens[engine, receiver].append(number)
        program.append((engine, wait, signal))
        before.append(needs)
    return program, before


def play(program, rng=None, sizes=None, overlap=3, least=0):
    """Return the cycle in which each instruction started, and in which it was done."""
    dut = Gates(**(sizes or {}))
    started, done, now = {}, {}, [0]
    held_back = dict.fromkeys(Engine, 0)

    def feeder(engine):
        mine = [(k, wait, signal) for k, (e, wait, signal) in enumerate(program) if e == engine]

        async def feed(ctx):
            await drive(ctx, dut.gates[engine].i, [
                {"payload": k, "wait": wait, "signal": signal} for k, wait, signal in mine], rng)

        async def work(ctx):
            gate, inside, held = dut.gates[engine], [], None
            while len([k for k, *_ in mine if k in done]) < len(mine):
                ready = len(inside) < overlap and not (rng and rng.random() < 0.3)
                finish = (bool(inside) and now[0] >= started[inside[0]] + least
                          and not (rng and rng.random() < 0.7))
                ctx.set(gate.o.ready, ready)
                ctx.set(gate.done, finish)
                *_, valid, payload, waits, starts, offered, lacks = await ctx.tick().sample(
                    gate.o.valid, gate.o.p, gate.waits, gate.started, gate.i.valid,
                    gate.i.p.wait)
                assert starts == (valid and ready)
                assert waits in (0, 1, 2, 4), "more than one reason to wait"
                assert not waits or (offered and ready and not valid and waits & lacks)
                held_back[engine] += bool(waits)
                assert held is None or (valid and payload == held), "offer fell while stalled"
                held = payload if valid and not ready else None
                if finish:
                    done[inside.pop(0)] = now[0]
                if valid and ready:
                    started[payload] = now[0]
                    inside.append(payload)
            ctx.set(gate.done, 0)
        return feed, work

    async def clock(ctx):
        async for _ in ctx.tick():
            now[0] += 1

    benches = [bench for engine in Engine for bench in feeder(engine)]
    run(dut, *benches, background=[clock])
    return started, done, held_back


@pytest.mark.parametrize("seed", range(10))
def test_dependencies_hold_and_nothing_hangs(seed):
    rng = random.Random(seed)
    program, before = random_program(rng, 60)
    started, done, held_back = play(program, rng, {"depth": rng.choice([1, 2, 4])})
    assert len(done) == len(program)
    for number, needs in enumerate(before):
        assert all(done[k] < started[number] for k in needs)
    assert sum(held_back.values()) > 20


@pytest.mark.parametrize("seed", range(4))
def test_counter_that_fills_up_holds_the_giver_and_loses_nothing(seed):
    rng = random.Random(seed)
    give = (Engine.LOAD, 0, 1 << Engine.MATRIX)
    take = (Engine.MATRIX, 1 << Engine.LOAD, 0)
    program = [give] * 40 + [take] * 40
    started, done, _ = play(program, rng, {"depth": 2, "bits": 3})
    assert len(done) == 80
    # Never more than 2**3 - 1 tokens given and not taken.
    for k in range(40):
        taken = sum(started[j] <= done[k] for j in range(40, 80))
        assert k + 1 - taken <= 7


def test_own_fence_waits_for_everything_inside():
    fence = (Engine.MATRIX, 1 << Engine.MATRIX, 0)
    started, done, held_back = play([(Engine.MATRIX, 0, 0)] * 2 + [fence], least=5)
    assert held_back == {Engine.LOAD: 0, Engine.MATRIX: done[1] - started[1],
                         Engine.VECTOR: 0}
    assert started[1] == started[0] + 2
    assert started[2] == done[1] + 2
    assert started[1] <= done[0]  # the engine overlaps without the fence
    assert started[2] > done[1]


@pytest.mark.parametrize("clear", [0, 1])
def test_clear_forgets_tokens(clear):
    dut, state = Gates(), []

    async def bench(ctx):
        load, matrix = dut.gates[Engine.LOAD], dut.gates[Engine.MATRIX]
        ctx.set(load.o.ready, 1)
        await drive(ctx, load.i, [{"payload": 1, "wait": 0, "signal": 1 << Engine.MATRIX}])
        ctx.set(load.done, 1)
        await ctx.tick()
        ctx.set(load.done, 0)
        await ctx.tick()
        ctx.set(dut.clear, clear)
        await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(matrix.i.payload, {"payload": 2, "wait": 1 << Engine.LOAD, "signal": 0})
        ctx.set(matrix.i.valid, 1)
        ctx.set(matrix.o.ready, 1)
        await ctx.tick()  # offered a cycle after nothing holds it
        state.append((ctx.get(matrix.o.valid), ctx.get(matrix.waits)))

    run(dut, bench)
    assert state == [(0, 1 << Engine.LOAD) if clear else (1, 0)]


def test_errors():
    with pytest.raises(ValueError, match=r"^depth must be a positive integer, not 0$"):
        TokenGate(engine=Engine.LOAD, payload=8, depth=0)
    with pytest.raises(ValueError,
                       match=r"^bits must be an integer with 2\*\*bits above 8, not 3$"):
        TokenGate(engine=Engine.LOAD, payload=8, bits=3)
