# amaranth: UnusedElaboratable=no
"""Parameter memory: what was written comes back, on both ports, together a word a cycle or two."""

import dataclasses
import random

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.memory.param_memory import ParamMemory
from systola.hw.parts.arbiter import Arbiter
from systola.sim.harness import collect, drive, run

CONFIG = AcceleratorConfig(rows=4, cols=4, lanes=2, param_depth=16)
OWN = dataclasses.replace(CONFIG, param_ports=2)


def record(rng):
    return {"bias": rng.choice([-2**31, 2**31 - 1, rng.randrange(-999, 999)]),
            "mult": rng.choice([-2**24, 2**24 - 1, rng.randrange(2**24)]),
            "shift": rng.randrange(64)}


def simulate(words, reads, rng=None, ports=(0, 1), config=CONFIG):
    """Write all of `words`, then read the addresses `reads` on `ports`; check the answers."""
    dut, got, written = ParamMemory(config), {}, []

    async def write(ctx):
        await drive(ctx, dut.w, [{"addr": k, "data": word} for k, word in enumerate(words)], rng)
        written.append(True)

    def reader(port):
        async def request(ctx):
            while not written:
                await ctx.tick()
            await drive(ctx, dut.r[port].req, reads, rng)

        async def respond(ctx):
            got[port] = await collect(ctx, dut.r[port].rsp, len(reads), rng)
        return request, respond

    cycles = run(dut, write, *(bench for port in ports for bench in reader(port)))
    for port in ports:
        assert [[{name: getattr(lane, name) for name in ("bias", "mult", "shift")}
                 for lane in word] for word in got[port]] == [words[addr] for addr in reads]
    return cycles


@pytest.mark.parametrize("config", [CONFIG, OWN])
@pytest.mark.parametrize("seed", range(4))
def test_reads_what_was_written(seed, config):
    rng = random.Random(seed)
    words = [[record(rng), record(rng)] for _ in range(16)]
    simulate(words, [rng.randrange(16) for _ in range(50)], rng, config=config)


@pytest.mark.parametrize("ports", [(0,), (1,), (0, 1)])
def test_one_word_a_cycle(ports):
    rng = random.Random(0)
    words = [[record(rng), record(rng)] for _ in range(16)]
    cycles = simulate(words, list(range(16)) * 4, ports=ports)
    assert cycles == 16 + 64 * len(ports) + 4


def test_ports_of_their_own_give_a_word_each():
    rng = random.Random(0)
    words = [[record(rng), record(rng)] for _ in range(16)]
    assert simulate(words, list(range(16)) * 4, config=OWN) == 16 + 64 + 4


def test_first_port_goes_first_and_the_second_is_served():
    dut, order = ParamMemory(CONFIG), []

    async def bench(ctx):
        for port in dut.r:
            ctx.set(port.req.valid, 1)
            ctx.set(port.rsp.ready, 1)
        await ctx.tick().repeat(4)
        for _ in range(3 * Arbiter.turns):
            order.append([ctx.get(port.rsp.valid) for port in dut.r])
            await ctx.tick()

    run(dut, bench)
    assert order == ([[1, 0]] * (Arbiter.turns - 1) + [[0, 1]]) * 3


def test_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^readers must be a positive integer, not 0$"):
        ParamMemory(CONFIG, 0)
