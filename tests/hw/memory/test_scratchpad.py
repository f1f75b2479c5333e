# amaranth: UnusedElaboratable=no
"""Scratchpad against a plain array: order, visibility, masks, priority, fairness, throughput."""

import json
import random
import subprocess
from itertools import pairwise

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Fragment

from systola.boards.synthesis.rtlil import quote_indices
from systola.hw.contract.config import AcceleratorConfig
from systola.hw.memory.bank import Bank
from systola.hw.memory.scratchpad import Scratchpad
from systola.hw.parts.arbiter import Arbiter
from systola.hw.parts.credit_queue import CreditQueue
from systola.hw.parts.target import Primitives
from systola.hw.verilog import find_yosys
from systola.sim.harness import collect, drive, run

CONFIGS = {banks: AcceleratorConfig(rows=4, cols=4, lanes=1, banks=banks, bank_depth=16)
           for banks in (1, 2, 3, 5)}


class Monitor:
    """Applies accepted requests to a model memory; reads see the writes of earlier cycles.

    Of reader 0 both the word before and after the writes of its cycle are kept.
    """

    def __init__(self, dut):
        self.dut, self.expected = dut, [[] for _ in dut.r]
        self.memory = [[0] * dut.config.rows for _ in range(dut.config.scratchpad_words)]
        self.accepted = []  # per cycle: the ports that had a transfer

    async def watch(self, ctx):
        readers, ports = len(self.dut.r), [*self.dut.r, *self.dut.w]
        signals = [signal for port in ports
                   for signal in (port.req.valid, port.req.ready, port.req.payload)]
        async for _, _, *values in ctx.tick().sample(*signals):
            values = [values[k:k + 3] for k in range(0, len(values), 3)]
            moves = [(k, payload) for k, (valid, ready, payload) in enumerate(values)
                     if valid and ready]
            self.accepted.append([port for port, _ in moves])
            reads = [(port, request.addr) for port, request in moves if port < readers]
            before = [list(self.memory[addr]) for _, addr in reads]
            for port, request in moves:
                if port >= readers:
                    for lane in range(self.dut.config.rows):
                        if request.mask >> lane & 1:
                            self.memory[request.addr][lane] = request.data[lane]
            for (port, addr), word in zip(reads, before, strict=True):
                after = list(self.memory[addr]) if port == 0 else word
                self.expected[port].append((word, after))


def simulate(reads, writes, rng=None, banks=2):
    """Run address lists per reader and (address, word, mask) lists per writer."""
    dut = Scratchpad(CONFIGS[banks], len(reads), len(writes))
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
    for words, pairs in zip(got, monitor.expected, strict=True):
        assert all(list(word) in pair for word, pair in zip(words, pairs, strict=True))
    return cycles, monitor


@pytest.mark.parametrize("stalls", [True, False])
@pytest.mark.parametrize("banks", CONFIGS)
@pytest.mark.parametrize("seed", range(4))
def test_random_traffic_matches_array(seed, banks, stalls):
    rng = random.Random(f"{seed} {banks}")
    words = CONFIGS[banks].scratchpad_words
    span = rng.choice([4, words])  # few addresses: many conflicts and many reads after writes
    reads = [[rng.randrange(span) * (words // span) for _ in range(60)] for _ in range(3)]
    writes = [[(rng.randrange(span) * (words // span), [rng.randrange(256) for _ in range(4)],
                rng.choice([15, rng.randrange(16)])) for _ in range(60)] for _ in range(2)]
    simulate(reads, writes, rng if stalls else None, banks)


def test_two_reads_and_a_write_each_cycle_in_different_banks():
    words = [k % 16 for k in range(64)]
    cycles, monitor = simulate([words, words], [[(16 + k, [k] * 4, 15) for k in words]])
    assert [0, 1, 2] in monitor.accepted
    assert cycles == 64 + 6  # the latency of reader 0, then a word each cycle


@pytest.mark.parametrize("bank", range(5))
def test_reads_or_writes_alone_never_wait(bank):
    words = [16 * bank + k % 16 for k in range(64)]
    cycles, _ = simulate([[], words], [[]], banks=5)
    assert cycles == 64 + 5
    cycles, monitor = simulate([[], []], [[(k, [1] * 4, 15) for k in words]], banks=5)
    assert monitor.accepted[:64] == [[2]] * 64


@pytest.mark.parametrize(("port", "latency"), [(0, 6), (1, 5)])
def test_latency(port, latency):
    reads = [[], []]
    reads[port] = [3]
    assert simulate(reads, [[]])[0] == latency + 1  # the word is taken at the end of the cycle


def test_activations_never_wait():
    words = [k % 16 for k in range(64)]
    _, monitor = simulate([words, words], [[(k, [k] * 4, 15) for k in words]])
    assert all(0 in ports for ports in monitor.accepted[:64])


def test_read_and_write_of_one_bank_take_turns():
    words = [k % 16 for k in range(40)]
    cycles, monitor = simulate([[], words], [[(k, [k] * 4, 15) for k in words]])
    assert cycles <= 80 + 8
    taken = [ports for ports in monitor.accepted if ports]
    for port in 1, 2:
        assert 17 <= sum(port in ports for ports in taken[:40]) <= 23


@pytest.mark.parametrize("kind", ["reads", "writes"])
def test_lower_index_goes_first_and_nobody_starves(kind):
    count = 200
    addresses = [k % 16 for k in range(count)]
    if kind == "reads":
        cycles, monitor = simulate([[], addresses, addresses, addresses], [[]])
    else:
        cycles, monitor = simulate([[]], [[(k, [k] * 4, 15) for k in addresses]] * 3)
    order = [ports[0] for ports in monitor.accepted if ports][:count]
    first = min(order)
    assert order.count(first) == pytest.approx(count * 7 / 8, abs=2)
    for port in first + 1, first + 2:
        places = [k for k, other in enumerate(order) if other == port]
        assert max(after - before for before, after in pairwise(places)) <= 2 * Arbiter.turns
    assert cycles <= 3 * count + 10


def test_stalled_reader_stops_only_itself():
    for stalled, free in (0, 1), (1, 2), (2, 0):
        dut, got = Scratchpad(CONFIGS[2], 3, 1), []

        async def stuck(ctx, port=dut.r[stalled]):
            await drive(ctx, port.req, [{"addr": 0}] * Scratchpad.CREDITS)
            ctx.set(port.req.valid, 1)

        async def other(ctx, port=dut.r[free]):
            await drive(ctx, port.req, [{"addr": addr} for addr in range(16)])

        async def take(ctx, port=dut.r[free], got=got):
            got.extend(await collect(ctx, port.rsp, 16))

        assert run(dut, stuck, other, take) < 45
        assert len(got) == 16


@pytest.mark.parametrize("platform", [None, Primitives("ecp5")])
def test_bank_is_zero_where_it_is_not_read(platform):
    dut = Bank(lanes=2, depth=16)

    async def bench(ctx):
        ctx.set(dut.b_addr, 5)
        ctx.set(dut.b_data, [7, 9])
        ctx.set(dut.b_write, 3)
        ctx.set(dut.b_read, 1)
        await ctx.tick()
        assert list(ctx.get(dut.b)) == [0, 0]  # read in the cycle of the write: the old word
        ctx.set(dut.b_write, 0)
        ctx.set(dut.a_addr, 5)
        ctx.set(dut.a_read, 1)
        await ctx.tick()
        assert [list(ctx.get(port)) for port in (dut.a, dut.b)] == [[7, 9], [7, 9]]
        ctx.set(dut.b_read, 0)
        await ctx.tick()
        assert [list(ctx.get(port)) for port in (dut.a, dut.b)] == [[7, 9], [0, 0]]

    run(Fragment.get(dut, platform), bench)


def test_a_bank_on_ecp5_is_one_block_memory_a_lane_and_little_logic(tmp_path):
    text = rtlil.convert(Bank(lanes=4, depth=2048), platform=Primitives("ecp5"), emit_src=False)
    (tmp_path / "bank.il").write_text(quote_indices(text))
    script = "read_rtlil bank.il; synth_lattice -family ecp5; tee -q -o stat.json stat -json"
    subprocess.run([find_yosys(), "-q", "-p", script], cwd=tmp_path, check=True)
    cells = json.loads((tmp_path / "stat.json").read_text())["design"]["num_cells_by_type"]
    assert cells["DP16KD"] == 4
    assert cells["LUT4"] <= 4 * 8 + 4  # the output that one port cannot clear while it writes


def test_errors():
    with pytest.raises(ValueError, match=r"^readers must be a positive integer, not 0$"):
        Scratchpad(CONFIGS[1], 0, 1)
    with pytest.raises(ValueError, match=r"^clients must be a positive integer, not 0$"):
        Arbiter(0)
    with pytest.raises(ValueError, match=r"^depth must be an integer of at least 2, not 1$"):
        CreditQueue(shape=8, depth=1)
