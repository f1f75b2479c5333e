"""LOAD engine against the instruction model, with the real scratchpad behind it."""

import random

import numpy as np
import pytest
from amaranth import Module
from amaranth.lib.wiring import Component, In, Out, connect

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.isa import (
    FEEDERS,
    FORMATS,
    WEIGHT_STREAMS,
    Flag,
    Opcode,
    encode,
    formats,
)
from systola.hw.load.load_engine import LoadEngine
from systola.hw.load.region_walker import ChannelTile
from systola.hw.memory.scratchpad import Scratchpad
from systola.hw.parts import shapes
from systola.sim.harness import collect, drive, run
from systola.sim.machine.memories import Memories

CONFIGS = {
    "divides": {"rows": 8, "cols": 4, "lanes": 2, "pe_style": "dsp_packed", "narrow_bits": 3,
                "weight_codes": True, "copies": True},
    "square": {"rows": 4, "cols": 4, "lanes": 1, "weight_codes": True, "copies": True},
    "straddles": {"rows": 4, "cols": 3, "lanes": 1},
    "no power of two": {"rows": 6, "cols": 4, "lanes": 2, "mult_bits": 31},
}
SIZES = {"banks": 2, "bank_depth": 64, "param_depth": 32}


class Bench(Component):
    """The engine with a scratchpad on its ports; the last of each kind are the testbench's."""

    def __init__(self, config):
        self.engine, self.memory = LoadEngine(config), Scratchpad(config, 3, 2)
        engine = self.engine.signature.members
        super().__init__({name: engine[name] for name in
                          ("instr", "done", "data", "result", "weights", "param", "table")}
                         | {"r": In(shapes.ReadPort(config)), "w": In(shapes.WritePort(config)),
                            "dones": Out(16), "now": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine, m.submodules.memory = engine, memory = self.engine, self.memory
        connect(m, engine.src, memory.r[1])
        connect(m, engine.dst, memory.w[0])
        for inner, outer in (memory.r[2].req, self.r.req), (memory.w[1].req, self.w.req), (
                engine.instr, self.instr), (engine.data, self.data):
            m.d.comb += [inner.valid.eq(outer.valid), inner.payload.eq(outer.payload),
                         outer.ready.eq(inner.ready)]
        for inner, outer in (memory.r[2].rsp, self.r.rsp), (engine.result, self.result), (
                engine.weights, self.weights), (engine.param, self.param), (
                engine.table, self.table):
            m.d.comb += [outer.valid.eq(inner.valid), outer.payload.eq(inner.payload),
                         inner.ready.eq(outer.ready)]
        m.d.comb += self.done.eq(engine.done)
        m.d.sync += [self.dones.eq(self.dones + engine.done), self.now.eq(self.now + 1)]
        return m


def instruction(opcode, **fields):
    word = encode(opcode, **fields)
    return {"opcode": opcode, "body": int.from_bytes(word[2:], "little")}


def region(rng, config, **extra):
    """Return the fields of a random region inside the scratchpad."""
    rows, words = rng.choice([1, 2, config.rows, rng.randrange(1, 20)]), rng.randrange(1, 4)
    stride = words + rng.randrange(3)
    base = rng.randrange(config.scratchpad_words - rows * stride)
    return {"base": base, "stride": stride, "rows": rows, "words": words, **extra}


def apart(rng, config, source):
    """Return the destination of a COPY whose words are not those of its `source`."""
    def addresses(base, stride):
        return {base + row * stride + word for row in range(source["rows"])
                for word in range(source["words"])}
    while True:  # there is room: the source has at most 40 of 128 words
        stride = source["words"] + rng.randrange(3)
        base = rng.randrange(config.scratchpad_words - source["rows"] * stride)
        if not addresses(base, stride) & addresses(source["base"], source["stride"]):
            return {"to_base": base, "to_stride": stride}


def random_operation(rng, config, opcode=None):
    """Return an opcode, its fields and its beats (n, bus bytes)."""
    opcode = rng.choice([
        Opcode.LOAD, Opcode.LOAD_PARAMS, Opcode.FETCH, Opcode.FETCH, Opcode.FETCH, Opcode.STORE,
        *(other for other in (*WEIGHT_STREAMS, Opcode.COPY, Opcode.COPY)
          if other in formats(config))
    ]) if opcode is None else opcode
    names = {field.name for field in FORMATS[opcode].fields}
    fields = region(rng, config, lanes_last=rng.randrange(1, config.rows + 1),
                    flags=rng.randrange(2), table=rng.randrange(2))
    if opcode is Opcode.COPY:
        fields |= {"rows": rng.randrange(1, 9)}
        fields |= apart(rng, config, fields)
    if opcode is Opcode.LOAD_PARAMS:
        base = rng.randrange(config.param_depth)
        fields = {"base": base, "count": min(rng.randrange(1, 5), config.param_depth - base)}
    fields["beats"] = {
        Opcode.LOAD: fields.get("rows", 0) * fields.get("words", 0),
        Opcode.LOAD_PARAMS: fields.get("count", 0) * config.param_beats,
        Opcode.LOAD_TABLE: -(-256 // config.rows),
        **dict.fromkeys(WEIGHT_STREAMS, rng.randrange(1, 20))}.get(opcode, 0)
    beats = [[rng.randrange(256) for _ in range(config.bus_bytes)] for _ in range(fields["beats"])]
    return opcode, {name: value for name, value in fields.items() if name in names}, beats


def model(program, config, memory):
    """Return what the engine must send on each output for `program`."""
    out = {"result": [], "weights": [], "param": [], "table": []}
    for opcode, fields, beats in program:
        beats = np.array(beats, np.uint8).reshape(-1, config.bus_bytes)
        if opcode is Opcode.LOAD:
            memory.load(fields, beats)
        elif opcode is Opcode.COPY:
            memory.copy(fields)
        elif opcode is Opcode.LOAD_PARAMS:
            memory.load_params(fields, beats)
            for word in range(fields["base"], fields["base"] + fields["count"]):
                out["param"].append((word, list(zip(
                    *(array[word].tolist() for array in (memory.bias, memory.mult, memory.shift)),
                    strict=True))))
        elif opcode is Opcode.LOAD_TABLE:
            entries = beats[:, :config.rows].reshape(-1)[:256].view(np.int8).tolist()
            out["table"] += [(*entry, fields["table"]) for entry in enumerate(entries)]
        elif opcode in FEEDERS:
            words = (memory.fetch(fields) if opcode is Opcode.FETCH
                     else memory.codes(beats) if opcode is Opcode.LOAD_CODES
                     else beats[:, :config.rows])
            out["weights"] += [(word, opcode is Opcode.LOAD_NARROW) for word in words.tolist()]
        else:
            words = memory.store(fields).tolist()
            out["result"] += [(word, k == len(words) - 1) for k, word in enumerate(words)]
    return out


def observe(name, payload):
    """Return a payload of output `name` as plain lists and integers."""
    if name == "weights":
        narrow = hasattr(payload, "narrow")
        return list(payload.word if narrow else payload), narrow and bool(payload.narrow)
    if name == "result":
        return list(payload.word), bool(payload.last)
    if name == "table":
        return payload.addr, payload.data, payload.table
    return payload.addr, [(lane.bias, lane.mult, lane.shift) for lane in payload.data]


def simulate(config, program, rng=None, seed=0):
    """Run `program` on noise, check every output and the memory afterwards; give the cycles."""
    dut, memory = Bench(config), Memories(config, np.random.default_rng(seed))
    start, got, span = memory.words.tolist(), {}, []
    expected = model(program, config, memory)
    outputs = {name: words for name, words in expected.items() if words}
    finished = set()

    async def fill(ctx):
        await drive(ctx, dut.w.req, [{"addr": k, "data": word, "mask": (1 << config.rows) - 1}
                                     for k, word in enumerate(start)])
        finished.add("fill")
        span.append(ctx.get(dut.now))

    async def until_filled(ctx):
        while "fill" not in finished:
            await ctx.tick()

    async def issue(ctx):
        await until_filled(ctx)
        await drive(ctx, dut.instr, [instruction(op, **fields) for op, fields, _ in program], rng)
        while ctx.get(dut.dones) < len(program):
            await ctx.tick()
        span.append(ctx.get(dut.now))

    async def data(ctx):
        await until_filled(ctx)
        await drive(ctx, dut.data, [beat for *_, beats in program for beat in beats], rng)

    def collector(name):
        async def take(ctx):
            got[name] = [observe(name, payload) for payload in await collect(
                ctx, getattr(dut, name), len(outputs[name]), rng)]
        return take

    async def request(ctx):
        while len(span) < 2:
            await ctx.tick()
        await drive(ctx, dut.r.req, [{"addr": k} for k in range(config.scratchpad_words)])

    async def check(ctx):
        words = await collect(ctx, dut.r.rsp, config.scratchpad_words)
        assert [list(word) for word in words] == memory.words.tolist()

    run(dut, fill, issue, data, request, check, *map(collector, outputs), max_cycles=4_000)
    assert got == outputs
    return span[1] - span[0]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_random_operations_match_model(name, seed):
    config = AcceleratorConfig(**CONFIGS[name], **SIZES)
    rng = random.Random(seed)
    program = [random_operation(rng, config) for _ in range(9)]
    if seed == 0:  # 256 cycles and more: once is enough
        program.insert(rng.randrange(10), random_operation(rng, config, Opcode.LOAD_TABLE))
    simulate(config, program, rng, seed)


@pytest.mark.parametrize("flags", [0, Flag.TRANSPOSE])
@pytest.mark.parametrize("name", ["straddles", "no power of two"])
def test_fetch_of_every_width(name, flags):
    config = AcceleratorConfig(**CONFIGS[name], **SIZES)
    program = [(Opcode.FETCH, {"base": 3, "stride": words + 1, "rows": rows, "words": words,
                               "lanes_last": last, "flags": flags}, [])
               for words in (1, 2, 3) for last in range(1, config.rows + 1)
               for rows in (1, config.rows, config.rows + 1)]
    simulate(config, program)


@pytest.mark.slow
def test_throughput_is_about_a_word_a_cycle():
    config = AcceleratorConfig(**CONFIGS["divides"], **SIZES)
    fields = {"base": 0, "stride": 3, "rows": 40, "words": 3}
    beats = [[1] * 8] * 120
    assert simulate(config, [(Opcode.LOAD, {**fields, "beats": 120}, beats)]) <= 120 + 8
    assert simulate(config, [(Opcode.STORE, fields, [])]) <= 120 + 13
    copy = {"base": 0, "stride": 1, "rows": 15, "words": 4, "to_base": 64, "to_stride": 4}
    assert simulate(config, [(Opcode.COPY, copy, [])]) <= 60 + 15  # of one bank into the other
    fetch = {**fields, "lanes_last": 8, "flags": 0}
    assert simulate(config, [(Opcode.FETCH, fetch, [])]) <= 120 + 13
    # Tiles of 4 of a word's 8 channels: twice the words are read as are there.
    fetch["flags"] = Flag.TRANSPOSE
    # A pause between the 6 tiles of channels.
    assert simulate(config, [(Opcode.FETCH, fetch, [])]) <= 240 + 5 * ChannelTile.SETTLE + 24
    assert simulate(config, [(Opcode.LOAD_WEIGHTS, {"beats": 120}, beats)]) <= 120 + 4


@pytest.mark.parametrize("rows", [4, 6, 8, 16, 24])
def test_codes_of_every_entry(rows):
    """The codebook is stored anew by every operation, and two words leave for every beat."""
    config = AcceleratorConfig(rows=rows, cols=2, lanes=1, weight_codes=True, **SIZES)
    rng = random.Random(rows)
    program = []
    for size in 1, 4, 9:
        book = [[rng.randrange(256) for _ in range(config.bus_bytes)]
                for _ in range(config.codebook_beats)]
        codes = [[(k + lane) % 16 | (k + 3 * lane + 7) % 16 << 4
                  for lane in range(config.bus_bytes)] for k in range(size)]
        program.append((Opcode.LOAD_CODES, {"beats": len(book) + size}, book + codes))
    cycles = simulate(config, program)
    # An entry a cycle, then a word a cycle, and a few between operations.
    assert cycles <= 3 * 16 + 2 * (1 + 4 + 9) + 3 * 8


def test_copies_leave_the_results_alone():
    config = AcceleratorConfig(**CONFIGS["square"], **SIZES)
    store = Opcode.STORE, {"base": 5, "stride": 2, "rows": 3, "words": 2}, []
    copy = Opcode.COPY, {"base": 3, "stride": 2, "rows": 4, "words": 2, "to_base": 40,
                         "to_stride": 5}, []
    simulate(config, [copy, store, copy, store], random.Random(1))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_a_copy_is_done_when_its_last_word_is_written(share):
    """However long the scratchpad lets it wait: others go first there."""
    config = AcceleratorConfig(**CONFIGS["square"], **SIZES)
    dut, rng = LoadEngine(config), random.Random(share)
    memory = [[rng.randrange(256) for _ in range(config.rows)] for _ in range(64)]
    fields = {"base": 3, "stride": 3, "rows": 4, "words": 2, "to_base": 40, "to_stride": 5}
    wanted = [(40 + 5 * row + word, memory[3 + 3 * row + word]) for row in range(4)
              for word in range(2)]
    written, results = [], []

    async def read(ctx):
        answers = []
        while True:
            ctx.set(dut.src.req.ready, 1)
            ctx.set(dut.src.rsp.valid, bool(answers))
            if answers:
                ctx.set(dut.src.rsp.p, answers[0])
            *_, asked, address, taken = await ctx.tick().sample(
                dut.src.req.valid, dut.src.req.p.addr, dut.src.rsp.ready)
            if answers and taken:
                answers.pop(0)
            if asked:
                answers.append(memory[address])

    async def write(ctx):
        while True:
            ready = rng.random() < share
            ctx.set(dut.dst.req.ready, ready)
            *_, valid, request = await ctx.tick().sample(dut.dst.req.valid, dut.dst.req.p)
            if valid and ready:
                written.append((request.addr, list(request.data)))

    async def watch(ctx):
        while True:
            ctx.set(dut.result.ready, 1)
            *_, valid = await ctx.tick().sample(dut.result.valid)
            results.extend([valid] * bool(valid))

    async def program(ctx):
        await drive(ctx, dut.instr, [instruction(Opcode.COPY, **fields)])
        while True:
            *_, done = await ctx.tick().sample(dut.done)
            if done:
                assert written == wanted
                return

    run(dut, program, background=(read, write, watch), max_cycles=2_000)
    assert results == []
