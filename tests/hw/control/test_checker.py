"""Sequential checks against the instruction model, at and beside every limit."""

import random

import pytest

from systola.hw.contract.checks import COUNT_FIELDS, When, check_steps
from systola.hw.contract.config import PRESETS, PUBLISHED, AcceleratorConfig
from systola.hw.contract.isa import FORMATS, Error, Opcode, encode, formats
from systola.hw.control.checker import Checker
from systola.sim.harness import run
from systola.sim.machine.refusals import check_instruction, limits
from systola.sw_driver.compiler.costs import check_cycles

CONFIGS = [PRESETS["digits"], PRESETS["tiny"],
           AcceleratorConfig(rows=6, cols=3, lanes=3, banks=1, bank_depth=64, param_depth=16,
                             max_row=30, x0_bits=5, attention_bits=8, act_bits=4,
                             pooling="mean", code_mult_bits=9, **PUBLISHED),
           AcceleratorConfig(rows=8, cols=4, lanes=2, banks=3, bank_depth=64, param_depth=32,
                             token_depth=16, attention="deferred", pooling="mean",
                             code_mult_bits=30),
           AcceleratorConfig(rows=4, cols=4, lanes=1, banks=1, bank_depth=128, param_depth=8,
                             token_depth=4, attention="normalised", max_row=64),
           AcceleratorConfig(rows=20, cols=4, lanes=4, banks=2, bank_depth=128, param_depth=32,
                             masks=True),
           AcceleratorConfig(rows=8, cols=4, lanes=2, banks=3, bank_depth=64, param_depth=32,
                             token_depth=16, attention="half_16", max_row=256, masks=True),
           AcceleratorConfig(rows=6, cols=3, lanes=3, banks=1, bank_depth=64, param_depth=16,
                             max_row=30, act_bits=3, norm="compared")]


def valid_fields(rng, opcode, config, step):
    """Return fields that the model accepts, mostly close to the limits.

    Strides and planes are below `step`: rows on top of each other leave other limits.
    """
    while True:
        words, rows = rng.randrange(1, 4), rng.randrange(1, 9)
        fields = {"rows": rows, "words": words, "act_words": rng.randrange(1, 4),
                  "count": rng.randrange(1, 4), "flags": rng.randrange(32),
                  "numerator": rng.randrange(1 << 31), "res_mult": rng.randrange(-9, 9),
                  "epsilon_low": rng.randrange(1 << 32), "share": rng.randrange(1 << 32)}
        fields |= {name: rng.randrange(low, high + 1)
                   for name, (low, high) in limits(opcode, config).items()}
        top = config.scratchpad_words
        for field in FORMATS[opcode].fields:
            if field.name.endswith("base"):
                fields[field.name] = rng.randrange(top) if rng.random() < 0.5 else rng.randrange(8)
            elif field.name.endswith(("stride", "plane")):
                fields[field.name] = rng.randrange(step)
        if "factor_base" in fields:
            fields["factor_base"] = rng.randrange(config.factor_depth or 1 << 16)
        if opcode is Opcode.LOAD_PARAMS:
            fields["base"] = rng.randrange(config.param_depth)
        if "param_base" in fields:
            fields["param_base"] = rng.randrange(config.param_depth)
        fields = {"key_words": words, "key_last": 1, "key_step": 0} | fields
        fields["beats"] = {Opcode.LOAD: rows * words,
                           Opcode.LOAD_PARAMS: fields["count"] * config.param_beats,
                           Opcode.LOAD_TABLE: -(-256 // config.rows),
                           Opcode.LOAD_WEIGHTS: config.cols * words}.get(opcode, 0)
        names = [field.name for field in FORMATS[opcode].fields]
        fields = {name: fields[name] for name in names}
        if check_instruction(opcode, fields, config) is Error.NONE:
            return fields


def neighbours(rng, opcode, fields, config):
    """Yield variants: each field moved to the largest and smallest value that passes, and past."""
    for field in FORMATS[opcode].fields:
        if field.signed or field.name == "flags":
            if field.name == "flags":  # each bit changes which limits count
                yield from ({**fields, "flags": 1 << bit} for bit in range(16))
            continue
        def cause(value, name=field.name):
            return check_instruction(opcode, {**fields, name: value}, config)
        low, high = fields[field.name], (1 << field.bits) - 1
        while high - low > 1:  # the last value that passes, if passing is monotonous
            middle = (low + high) // 2
            low, high = (middle, high) if cause(middle) is Error.NONE else (low, middle)
        values = {low, high, (1 << field.bits) - 1, fields[field.name] - 1, 0, 1,
                  rng.randrange(1 << field.bits)}
        for value in values:
            if value < 0 or (value == 0 and field.name in COUNT_FIELDS):
                continue  # the dispatcher's own check
            yield {**fields, field.name: value}


def expected(opcode, fields, config):
    """Return the model's cause, with the one limit that hardware sets differently."""
    cause = check_instruction(opcode, fields, config)
    if opcode is Opcode.LOAD_WEIGHTS and fields["beats"]:
        return Error.NONE  # a count that is no multiple of C is not refused
    return cause


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=["digits", "tiny", "odd", "deferred", "normalised",
                                                 "wide", "log2", "compared"])
def test_matches_model_at_every_limit(config):
    rng = random.Random(config.hash)
    cases = []
    for opcode, form in formats(config).items():
        steps = [1, max(config.scratchpad_words // 8, 2)]
        for step in steps * 2 if form.engine is not None else []:
            fields = valid_fields(rng, opcode, config, step)
            cases.append((opcode, fields))
            cases += [(opcode, other) for other in neighbours(rng, opcode, fields, config)]
    rng.shuffle(cases)
    dut, causes, slowest = Checker(config), set(), [0]

    async def bench(ctx):
        for opcode, fields in cases:
            ctx.set(dut.word, int.from_bytes(encode(opcode, **fields), "little"))
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            cycles = 1
            while not ctx.get(dut.done):
                await ctx.tick()
                cycles += 1
            cause = expected(opcode, fields, config)
            assert Error(ctx.get(dut.cause)) is cause, (opcode.name, fields)
            causes.add(cause)
            if cause is Error.NONE:
                assert cycles == check_cycles(opcode, fields, config) + Checker.LATENCY
            slowest[0] = max(slowest[0], cycles)
            await ctx.tick()

    run(dut, bench, max_cycles=200_000)
    assert causes >= {Error.NONE, Error.SCRATCHPAD_RANGE, Error.PARAM_RANGE, Error.ROW_RANGE,
                      Error.TOKEN_RANGE, Error.FIELD_RANGE, Error.BEAT_COUNT}
    assert (Error.FACTOR_RANGE in causes) == bool(config.factor_depth)
    assert slowest[0] <= 45


def test_cycles_are_those_of_the_steps_and_a_constant():
    config = PRESETS["digits"]
    dut = Checker(config)
    fields = {field.name: 1 for field in FORMATS[Opcode.MATMUL].fields} | {
        "rows": 17, "act_words": 4, "words": 12, "lanes_last": 16, "out_bits": 8, "flags": 0}
    steps = 0
    for step in check_steps(config)[Opcode.MATMUL]:
        factor = (fields[step.b] if isinstance(step.b, str) else step.b) - step.less
        if step.when in (When.RESIDUAL, When.ROW_SCALE, When.WIDE):
            factor = 0
        steps += max(-(-int(factor).bit_length() // 4), 1)

    async def bench(ctx):
        ctx.set(dut.word, int.from_bytes(encode(Opcode.MATMUL, **fields), "little"))
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        while not ctx.get(dut.done):
            await ctx.tick()
        assert ctx.get(dut.cause) == Error.NONE

    assert run(dut, bench) == steps + Checker.LATENCY
    assert steps < 27
