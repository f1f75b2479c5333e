import random

import pytest
from amaranth import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from systola.sim.harness import collect, drive, run


class Register(wiring.Component):
    """One stage; `fault` breaks a stream rule."""

    i: In(stream.Signature(data.ArrayLayout(unsigned(8), 2)))
    o: Out(stream.Signature(data.ArrayLayout(unsigned(8), 2)))

    def __init__(self, fault=None):
        self.fault = fault
        super().__init__()

    def elaborate(self, platform):
        m, i, o = Module(), self.i, self.o
        full, store = Signal(), Signal.like(i.payload.as_value())
        free = ~full | (o.valid & o.ready)
        m.d.comb += [i.ready.eq(free), o.valid.eq(full), o.payload.as_value().eq(store)]
        with m.If(free):
            m.d.sync += [full.eq(i.valid), store.eq(i.payload)]
        if self.fault == "changes":
            with m.If(~free):
                m.d.sync += store.eq(store + 1)
        elif self.fault == "drops valid":
            waited = Signal()
            m.d.sync += waited.eq(full & ~o.ready & ~waited)
            m.d.comb += o.valid.eq(full & ~waited)
        elif self.fault == "waits for ready":
            m.d.comb += o.valid.eq(full & o.ready)
        elif self.fault == "loses":
            with m.If(full & ~o.ready & i.valid):
                m.d.comb += i.ready.eq(1)
        elif self.fault == "stuck":
            m.d.comb += i.ready.eq(0)
        return m


SENT = [[k, 255 - k] for k in range(40)]


def transfer(fault, seed):
    dut, got = Register(fault), []
    rng = None if seed is None else random.Random(seed)

    async def producer(ctx):
        await drive(ctx, dut.i, SENT, rng)

    async def consumer(ctx):
        got.extend(list(word) for word in await collect(ctx, dut.o, len(SENT), rng))

    return run(dut, producer, consumer, max_cycles=500), got


def test_without_stalls_every_cycle_is_used():
    assert transfer(None, None) == (len(SENT) + 1, SENT)


def test_stalls_lose_nothing():
    cycles = [transfer(None, seed) for seed in range(8)]
    assert all(got == SENT for _, got in cycles)
    assert len({count for count, _ in cycles}) > 4
    assert transfer(None, 3) == transfer(None, 3)


@pytest.mark.parametrize(("fault", "error"), [
    ("changes", (AssertionError, "payload changed while stalled")),
    ("drops valid", (AssertionError, "valid fell while stalled")),
    ("waits for ready", (TimeoutError, "Register still busy after 500 cycles")),
    ("loses", (TimeoutError, "Register still busy after 500 cycles")),
    ("stuck", (TimeoutError, "Register still busy after 500 cycles")),
])
def test_faults_are_caught(fault, error):
    def any_seed():
        for seed in range(8):
            assert transfer(fault, seed)[1] == SENT

    with pytest.raises(error[0], match=error[1]):
        any_seed()


def test_background_benches_may_run_forever(tmp_path):
    dut, seen = Register(), []

    async def monitor(ctx):
        while True:
            *_, ready = await ctx.tick().sample(dut.i.ready)
            seen.append(ready)

    async def wait(ctx):
        await ctx.tick().repeat(5)

    assert run(dut, wait, background=[monitor], vcd=str(tmp_path / "waves.vcd")) == 5
    assert len(seen) >= 4
    assert (tmp_path / "waves.vcd").stat().st_size > 100
