"""Requantization of rows by parameters from memory."""

import random

import numpy as np
import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.vector.row_scaler import RowScaler
from systola.model.operators.requant import requantize
from systola.sim.harness import collect, drive, run

CONFIGS = [AcceleratorConfig(rows=4, cols=4, lanes=lanes, vector_lanes=norm, norm_lanes=norm,
                             mult_bits=20, code_mult_bits=bits)
           for lanes, norm, bits in ((2, 2, 15), (4, 1, 12), (4, 2, 20), (1, 1, 31))]


def simulate(config, jobs, params, rng=None):
    """Run ``(how, rows)``, one after the other on the same scaler.

    Returns for each job the beats out and the cycles in which they came; and all the addresses
    requested.
    """
    dut, asked, pending, done = RowScaler(config), [], [], []
    lanes = config.norm_lanes

    def beats(rows):
        return [{"x": row[k:k + lanes], "keep": (1 << lanes) - 1,
                 "last": int(k + lanes >= len(row))}
                for row in rows for k in range(0, len(row), lanes)]

    async def producer(ctx):
        for k, (how, rows) in enumerate(jobs):
            ctx.set(dut.scaling, how)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await drive(ctx, dut.i, beats(rows), rng)
            while len(done) == k:
                await ctx.tick()

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
        for _, rows in jobs:
            cycles = []
            out = await collect(ctx, dut.o, len(beats(rows)), rng, cycles=cycles)
            done.append(([(list(p.x), p.last) for p in out], cycles))

    run(dut, producer, consumer, background=[memory])
    return done, asked


def make(rng, config, broadcast):
    """Return a scaling, and rows, of which some end inside a parameter word."""
    how = {"base": rng.randrange(10), "broadcast": int(broadcast), "bits": rng.choice([2, 5, 7, 8])}
    rows = [[rng.randrange(-2**31, 2**31) >> rng.randrange(20)
             for _ in range(config.norm_lanes * count)] for count in (1, 7, 3, 20, 20)]
    return how, rows


def make_params(rng, config):
    """Return parameter words."""
    width = min(config.mult_bits, config.code_mult_bits)
    return [[{"bias": rng.randrange(-2**20, 2**20),
              "mult": rng.randrange(-2**width, 2**width), "shift": rng.randrange(20, 40)}
             for _ in range(config.lanes)] for _ in range(50)]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("seed", range(2))
def test_matches_model(config, seed):
    rng = random.Random(seed)
    params = make_params(rng, config)
    jobs = [make(rng, config, broadcast) for broadcast in (0, 1, 1, 0)]
    done, asked = simulate(config, jobs, params, rng)
    fetched, lanes = [], config.norm_lanes
    for (how, rows), (beats, _) in zip(jobs, done, strict=True):
        want, broadcast = [], how["broadcast"]
        for row in rows:
            records = [r for word in params[how["base"]:] for r in word][:len(row)]
            if broadcast:
                records = [params[how["base"]][0]] * len(row)
            bias, mult, shift = (np.array([r[name] for r in records])
                                 for name in ("bias", "mult", "shift"))
            y = requantize(np.array(row) + bias, mult, shift, how["bits"]).tolist()
            want += [(y[k:k + lanes], int(k + lanes == len(y))) for k in range(0, len(y), lanes)]
        assert beats == want
        fetched += [how["base"]] if broadcast else [
            how["base"] + k for row in rows for k in range(-(-len(row) // config.lanes))]
    # No parameter is fetched that is not used, and none twice for a row.
    assert asked == fetched


@pytest.mark.parametrize("config", CONFIGS)
def test_throughput(config):
    rng = random.Random(1)
    jobs = [(make(rng, config, broadcast)[0], [[0] * 10 * config.norm_lanes] * 12)
            for broadcast in (False, True)]
    for _, cycles in simulate(config, jobs, make_params(rng, config))[0]:
        rows = cycles[9::10]
        assert rows[11] - rows[3] == 8 * 10 * config.requant_cycles(long=False)
