# amaranth: UnusedElaboratable=no
"""Scratchpad against a plain array: order, visibility, masks, priority, throughput."""

import random

import pytest

from systola.hw.config import AcceleratorConfig
from systola.hw.credit import CreditQueue
from systola.hw.scratchpad import Scratchpad
from systola.sim.harness import collect, drive, run

CONFIG = AcceleratorConfig(rows=4, cols=4, lanes=1, banks=2, bank_depth=16)
WORDS = CONFIG.scratchpad_words


def pack(word):
    return int.from_bytes(bytes(word), "little")


class Monitor:
    """Applies accepted requests to a model memory; reads see the writes of earlier cycles only."""

    def __init__(self, dut):
        self.dut, self.expected = dut, [[] for _ in dut.r]
        self.memory = [[0] * CONFIG.rows for _ in range(WORDS)]
        self.most = 0  # largest number of transfers in a cycle

    async def watch(self, ctx):
        ports = [*self.dut.r, *self.dut.w]
        signals = [signal for port in ports
                   for signal in (port.req.valid, port.req.ready, port.req.payload)]
        async for _, _, *values in ctx.tick().sample(*signals):
            values = [values[k:k + 3] for k in range(0, len(values), 3)]
            moves = [(k, payload) for k, (valid, ready, payload) in enumerate(values)
                     if valid and ready]
            self.most = max(self.most, len(moves))
            for port, request in moves:
                if port < len(self.dut.r):
                    self.expected[port].append(list(self.memory[request.addr]))
            for port, request in moves:
                if port >= len(self.dut.r):
                    for lane in range(CONFIG.rows):
                        if request.mask >> lane & 1:
                            self.memory[request.addr][lane] = request.data[lane]


def simulate(reads, writes, rng=None):
    """Run address lists per reader and (address, word, mask) lists per writer."""
    dut = Scratchpad(CONFIG, len(reads), len(writes))
    monitor, got = Monitor(dut), [None] * len(reads)

    def reader(port):
        async def request(ctx):
            await drive(ctx, dut.r[port].req, [{"addr": addr} for addr in reads[port]], rng)

        async def respond(ctx):
            got[port] = await collect(ctx, dut.r[port].rsp, len(reads[port]), rng)
        return request, respond

    def writer(port):
        async def request(ctx):
            await drive(ctx, dut.w[port].req, [
                {"addr": addr, "data": word, "mask": mask} for addr, word, mask in writes[port]],
                rng)
        return request

    benches = [bench for port in range(len(reads)) for bench in reader(port)]
    benches += [writer(port) for port in range(len(writes))]
    cycles = run(dut, *benches, background=[monitor.watch])
    assert [[list(word) for word in words] for words in got] == monitor.expected
    return cycles, monitor


@pytest.mark.parametrize("seed", range(8))
def test_random_traffic_matches_array(seed):
    rng = random.Random(seed)
    span = rng.choice([4, WORDS])  # few addresses: many conflicts and many reads after writes
    reads = [[rng.randrange(span) * (WORDS // span) for _ in range(60)] for _ in range(3)]
    writes = [[(rng.randrange(span) * (WORDS // span), [rng.randrange(256) for _ in range(4)],
                rng.choice([15, rng.randrange(16)])) for _ in range(60)] for _ in range(2)]
    simulate(reads, writes, rng)


def test_every_bank_serves_a_read_and_a_write_each_cycle():
    low, high = [list(range(k, k + 16)) for k in (0, 16)]
    cycles, monitor = simulate([low * 4, high * 4], [
        [(addr, [addr] * 4, 15) for addr in span * 4] for span in (low, high)])
    assert monitor.most == 4
    assert cycles == 64 + 2  # two cycles of latency, then a word each cycle


def test_lower_index_goes_first_and_the_other_waits():
    dut, order = Scratchpad(CONFIG, 2, 1), []

    async def bench(ctx):
        for port in dut.r:
            ctx.set(port.req.valid, 1)
            ctx.set(port.rsp.ready, 1)
        for _ in range(3):
            order.append([ctx.get(port.req.ready) for port in dut.r])
            await ctx.tick()
        ctx.set(dut.r[0].req.valid, 0)
        order.append([ctx.get(port.req.ready) for port in dut.r])

    run(dut, bench)
    assert order == [[1, 0]] * 3 + [[0, 1]]


def test_stalled_reader_stops_only_itself():
    dut, got = Scratchpad(CONFIG, 2, 1), []

    async def stuck(ctx):
        await drive(ctx, dut.r[0].req, [{"addr": 0}] * 4)
        ctx.set(dut.r[0].req.valid, 1)

    async def other(ctx):
        await drive(ctx, dut.r[1].req, [{"addr": addr} for addr in range(16)])

    async def take(ctx):
        got.extend(await collect(ctx, dut.r[1].rsp, 16))

    assert run(dut, stuck, other, take) < 30
    assert len(got) == 16


def test_errors():
    with pytest.raises(ValueError, match=r"^readers must be a positive integer, not 0$"):
        Scratchpad(CONFIG, 0, 1)
    with pytest.raises(ValueError, match=r"^depth must be an integer of at least 2, not 1$"):
        CreditQueue(shape=8, depth=1)
