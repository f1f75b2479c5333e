"""Dispatcher: framing, routing, data, refusals that drain the stream, END and restart."""

import random

import pytest

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.isa import (
    FORMATS,
    INSTRUCTION_BYTES,
    Engine,
    Error,
    Opcode,
    encode,
    formats,
)
from systola.hw.control.dispatcher import Dispatcher
from systola.sim.harness import drive, run

CONFIGS = {"tiny": PRESETS["tiny"], "digits": PRESETS["digits"],
           "wide bus": AcceleratorConfig(rows=66, cols=6, lanes=6, pooling="mean")}


def valid_instruction(rng, opcode, config):
    """Return the bytes of a small valid instruction, and its number of data beats."""
    fields = {field.name: 0 for field in FORMATS[opcode].fields}
    ones = {"rows", "words", "act_words", "digits", "count", "lanes_last", "unit", "mult"}
    fields |= dict.fromkeys(ones & fields.keys(), 1)
    fields |= {name: rng.randrange(8) for name in fields if name.endswith("base")}
    if "out_bits" in fields:
        fields["out_bits"] = 8
    if "beats" in fields:
        fields["beats"] = {Opcode.LOAD_PARAMS: config.param_beats, Opcode.LOAD: 1,
                           Opcode.LOAD_TABLE: -(-256 // config.rows)}.get(opcode, 5)
    word = encode(opcode, wait=rng.randrange(8), signal=rng.randrange(8), **fields)
    return word, fields.get("beats", 0)


def frame(word, config):
    """Return the beats of an instruction as integers."""
    size = config.bus_bytes
    word = word.ljust(-(-INSTRUCTION_BYTES // size) * size, b"\xa5")  # upper bytes are ignored
    return [int.from_bytes(word[k:k + size], "little") for k in range(0, len(word), size)]


def random_program(rng, config, length):
    """Return the stream's beats, what each queue gets as 64-byte words, and the data beats."""
    stream, queues, data = frame(encode(Opcode.BEGIN, config_hash=config.hash), config), {}, []
    for opcode in rng.choices([o for o, form in formats(config).items()
                               if form.engine is not None], k=length):
        word, beats = valid_instruction(rng, opcode, config)
        body = [rng.randrange(1 << 8 * config.bus_bytes) for _ in range(beats)]
        queues.setdefault(FORMATS[opcode].engine, []).append(word)
        data += body
        stream += frame(word, config) + body
    return stream, queues, data


class Host:
    """Testbench around a dispatcher: feeds programs, records everything that comes out."""

    def __init__(self, config, rng=None):
        self.dut, self.rng = Dispatcher(config), rng
        self.queues, self.data, self.taken = {}, [], 0

    def beats(self, payload):
        size = len(self.dut.stream.p)
        return [payload >> 8 * k & 255 for k in range(size)]

    async def record(self, ctx):
        dut = self.dut
        outputs = {Engine.LOAD: dut.load, Engine.MATRIX: dut.matrix, Engine.VECTOR: dut.vector,
                   None: dut.data}
        while True:
            signals = []
            for port in outputs.values():
                ctx.set(port.ready, not self.rng or self.rng.random() < 0.6)
                signals += [port.valid, port.ready, port.p]
            *_, valid, ready = values = await ctx.tick().sample(
                *signals, dut.stream.valid, dut.stream.ready)
            self.taken += valid & ready
            for k, engine in enumerate(outputs):
                valid, ready, payload = values[2 + 3 * k:5 + 3 * k]
                if not (valid and ready):
                    continue
                if engine is None:
                    self.data.append(sum(byte << 8 * i for i, byte in enumerate(payload)))
                    continue
                header = payload.payload.opcode | payload.wait << 8 | payload.signal << 11
                word = header | payload.payload.body << 16
                self.queues.setdefault(engine, []).append(word.to_bytes(64, "little"))

    async def start(self, ctx):
        ctx.set(self.dut.start, 1)
        await ctx.tick()
        ctx.set(self.dut.start, 0)

    async def send(self, ctx, stream):
        await drive(ctx, self.dut.stream, map(self.beats, stream), self.rng)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("seed", range(2))
def test_routes_instructions_and_data_twice(name, seed):
    rng = random.Random(seed)
    config = CONFIGS[name]
    host = Host(config, rng)

    async def bench(ctx):
        dut = host.dut
        for _ in range(2):
            stream, queues, data = random_program(rng, config, 12)
            host.queues, host.data, host.taken = {}, [], 0
            ctx.set(dut.idle, 0)
            await host.start(ctx)
            await host.send(ctx, stream + frame(encode(Opcode.END), config))
            for _ in range(10):
                await ctx.tick()
            assert (host.queues, host.data) == (queues, data)
            assert (ctx.get(dut.busy), ctx.get(dut.done), ctx.get(dut.error)) == (1, 0, 0)
            ctx.set(dut.idle, 1)
            for _ in range(2):
                await ctx.tick()
            assert (ctx.get(dut.busy), ctx.get(dut.done)) == (0, 1)
            assert ctx.get(dut.index) == 14  # BEGIN, twelve, END
            assert not ctx.get(dut.stream.ready)

    run(host.dut, bench, background=[host.record])


def refused(config, rng):
    """Yield (stream, cause, index) for refusals of every kind the dispatcher decides itself."""
    begin = frame(encode(Opcode.BEGIN, config_hash=config.hash), config)
    good = random_program(rng, config, 3)[0]
    load = {"base": 0, "stride": 0, "rows": 1, "words": 1, "beats": 1}
    yield frame(bytes(64), config), Error.BAD_OPCODE, 0
    yield good + frame(b"\xff" * 64, config), Error.BAD_OPCODE, 4
    yield frame(encode(Opcode.END), config), Error.BAD_OPCODE, 0
    yield good + begin, Error.BAD_OPCODE, 4
    yield frame(encode(Opcode.BEGIN, config_hash=config.hash ^ 1 << 63), config), \
        Error.CONFIG_HASH, 0
    yield good + frame(encode(Opcode.LOAD, **load | {"words": 0}), config), Error.ZERO_COUNT, 4
    yield good + frame(encode(Opcode.LOAD, **load | {"base": 65535}), config), \
        Error.SCRATCHPAD_RANGE, 4
    yield begin + frame(encode(Opcode.LOAD, **load | {"beats": 2}), config), Error.BEAT_COUNT, 1
    mean, _ = valid_instruction(rng, Opcode.MEAN, config)
    yield begin + frame(mean, config), Error.BAD_OPCODE, 1


@pytest.mark.parametrize("case", range(9))
def test_refusal_issues_nothing_more_and_drains_the_stream(case):
    config, rng = CONFIGS["tiny"], random.Random(case)
    stream, cause, index = list(refused(config, rng))[case]
    host = Host(config, rng)
    rest = [rng.randrange(1 << 32) for _ in range(100)]

    async def bench(ctx):
        dut = host.dut
        await host.start(ctx)
        await host.send(ctx, stream)
        issued = None
        while not ctx.get(dut.error):
            await ctx.tick()
        issued = {engine: len(words) for engine, words in host.queues.items()}
        assert sum(issued.values()) == max(index - 1, 0)
        await host.send(ctx, rest)
        await host.start(ctx)  # ignored
        await ctx.tick()
        assert {engine: len(words) for engine, words in host.queues.items()} == issued
        assert host.taken == len(stream) + len(rest)
        assert (ctx.get(dut.cause), ctx.get(dut.index)) == (cause, index)
        size = -(-INSTRUCTION_BYTES // config.bus_bytes)
        assert ctx.get(dut.word) == stream[-size]
        assert (ctx.get(dut.busy), ctx.get(dut.done)) == (0, 0)

    run(host.dut, bench, background=[host.record])


def test_data_moves_a_beat_a_cycle():
    config = CONFIGS["tiny"]
    host, cycles = Host(config), []
    load = encode(Opcode.LOAD_WEIGHTS, beats=200)

    async def bench(ctx):
        await host.start(ctx)
        await host.send(ctx, frame(encode(Opcode.BEGIN, config_hash=config.hash), config))
        await host.send(ctx, frame(load, config))
        await host.send(ctx, [1] * 200)

    cycles.append(run(host.dut, bench, background=[host.record]))
    assert cycles[0] <= 200 + 2 * 16 + 17


@pytest.mark.parametrize("where", ["queue", "data", "end"])
def test_gives_up_when_nothing_moves(where):
    """The index is that of the instruction that cannot be handed on, data included."""
    config, rng = CONFIGS["tiny"], random.Random(where)
    host = Host(config)
    word, _ = valid_instruction(rng, Opcode.LOAD_WEIGHTS, config)
    opcode = Opcode.END if where == "end" else Opcode.LOAD_WEIGHTS
    last = encode(Opcode.END) if where == "end" else word

    async def bench(ctx):
        dut = host.dut
        ctx.set(dut.load.ready, 1)
        ctx.set(dut.data.ready, 1)
        await host.start(ctx)
        await host.send(ctx, random_program(random.Random(0), config, 0)[0] + frame(word, config))
        await host.send(ctx, range(5))
        ctx.set(dut.load.ready, where != "queue")
        ctx.set(dut.data.ready, 0)
        await host.send(ctx, frame(last, config))
        for _ in range(60):
            await ctx.tick()
        assert (ctx.get(dut.busy), ctx.get(dut.error)) == (1, 0)
        ctx.set(dut.stuck, 1)
        await ctx.tick()
        assert (ctx.get(dut.busy), ctx.get(dut.error), ctx.get(dut.done)) == (0, 1, 0)
        assert (ctx.get(dut.cause), ctx.get(dut.index)) == (Error.DEADLOCK, 2)
        assert ctx.get(dut.word) & 0xFF == opcode
        ctx.set(dut.stuck, 0)
        await host.send(ctx, [0] * 50)  # discarded
        assert ctx.get(dut.error)

    run(host.dut, bench)


def test_leftovers_at_end_are_an_error():
    config = CONFIGS["tiny"]
    host = Host(config)

    async def bench(ctx):
        dut = host.dut
        ctx.set(dut.left, 1)
        await host.start(ctx)
        await host.send(ctx, frame(encode(Opcode.BEGIN, config_hash=config.hash), config)
                        + frame(encode(Opcode.END), config))
        for _ in range(10):
            await ctx.tick()
        assert (ctx.get(dut.busy), ctx.get(dut.error)) == (1, 0)  # what is left may yet be taken
        ctx.set(dut.idle, 1)
        await ctx.tick()
        assert (ctx.get(dut.busy), ctx.get(dut.error), ctx.get(dut.done)) == (0, 1, 0)
        assert (ctx.get(dut.cause), ctx.get(dut.index)) == (Error.LEFTOVER, 1)

    run(host.dut, bench)
