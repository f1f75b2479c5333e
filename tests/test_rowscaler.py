"""Requantization of rows by parameters from memory."""

import random

import numpy as np
import pytest

from systola.hw.config import AcceleratorConfig
from systola.hw.rowscaler import RowScaler
from systola.sim.harness import collect, drive, run
from systola.sim.requant import requantize

CONFIG = AcceleratorConfig(rows=4, cols=4, lanes=2, mult_bits=20)


def simulate(how, rows, params, rng=None):
    """Return the cycles, the beats out and the addresses requested."""
    dut, asked, pending, beats = RowScaler(CONFIG), [], [], []
    sent = [{"x": row[k:k + 2], "keep": 3, "last": int(k + 2 >= len(row))}
            for row in rows for k in range(0, len(row), 2)]

    async def producer(ctx):
        ctx.set(dut.scaling, how)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        await drive(ctx, dut.i, sent, rng)

    async def memory(ctx):
        req, rsp, valid = dut.param.req, dut.param.rsp, 0
        while True:
            ready = rng is None or rng.random() < 0.7
            ctx.set(req.ready, ready)
            valid = bool(pending) and (valid or rng is None or rng.random() < 0.7)
            ctx.set(rsp.valid, valid)
            if valid:
                ctx.set(rsp.payload, params[pending[0]])
            *_, request, address, taken = await ctx.tick().sample(req.valid, req.payload, rsp.ready)
            if valid and taken:
                pending.pop(0)
                valid = 0
            if request and ready:
                pending.append(address)
                asked.append(address)

    async def consumer(ctx):
        beats.extend((list(p.x), p.last) for p in await collect(ctx, dut.o, len(sent), rng))

    return run(dut, producer, consumer, background=[memory]), beats, asked


def make(rng, broadcast):
    params = [[{"bias": rng.randrange(-2**20, 2**20), "mult": rng.randrange(-2**20, 2**20),
                "shift": rng.randrange(20, 40)} for _ in range(2)] for _ in range(30)]
    how = {"base": rng.randrange(10), "broadcast": int(broadcast), "bits": rng.randint(2, 8)}
    rows = [[rng.randrange(-2**31, 2**31) >> rng.randrange(20) for _ in range(2 * count)]
            for count in (1, 7, 3, 20, 20)]
    return how, rows, params


@pytest.mark.parametrize("broadcast", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_matches_model(broadcast, seed):
    rng = random.Random(seed)
    how, rows, params = make(rng, broadcast)
    _, beats, asked = simulate(how, rows, params, rng)
    want = []
    for row in rows:
        records = [r for word in params[how["base"]:] for r in word][:len(row)]
        if broadcast:
            records = [params[how["base"]][0]] * len(row)
        bias, mult, shift = (np.array([r[name] for r in records])
                             for name in ("bias", "mult", "shift"))
        y = requantize(np.array(row) + bias, mult, shift, how["bits"]).tolist()
        want += [(y[k:k + 2], int(k + 2 == len(y))) for k in range(0, len(y), 2)]
    assert beats == want
    # No parameter is fetched that is not used.
    assert asked == ([how["base"]] if broadcast else [
        how["base"] + k for row in rows for k in range(len(row) // 2)])


@pytest.mark.parametrize("broadcast", [False, True])
def test_one_beat_a_cycle(broadcast):
    how, _, params = make(random.Random(1), broadcast)

    def cycles(rows):
        return simulate(how, [[0] * 20] * rows, params)[0]

    assert cycles(12) - cycles(4) == 8 * 10
