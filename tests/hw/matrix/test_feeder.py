"""Activation words of a MATMUL against loops over tiles, words, digits and rows."""

import random

import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.isa import FORMATS, Flag, Opcode
from systola.hw.matrix.feeder import Feeder
from systola.model.operators.log2_exponentials import decoded
from systola.sim.harness import collect, drive, run


def random_fields(rng, config):
    fields = {field.name: rng.randrange(65536) for field in FORMATS[Opcode.MATMUL].fields}
    return fields | {
        "rows": rng.choice([1, 2, 7, 16]), "act_words": rng.choice([1, 2, 3]),
        "digits": rng.choice([1, config.attention_digits]), "words": rng.choice([1, 2, 3]),
        "lanes_last": rng.randrange(1, config.rows + 1),
        "out_group": rng.randrange(config.rows // config.lanes), "flags": rng.randrange(32),
        "out_bits": 8, "res_shift": 0}


def expected(fields, config):
    """Return, for every word, its address, digit flags and what the accumulators are told."""
    first = fields["out_group"] * config.lanes
    end = (fields["words"] - 1) * config.rows + fields["lanes_last"]
    words = []
    for _ in range(first, max(end, first + 1), config.cols):
        for k in range(fields["act_words"]):
            for digit in range(fields["digits"]):
                for t in range(fields["rows"]):
                    top = digit + 1 == fields["digits"] and bool(fields["flags"] & Flag.UNSIGNED)
                    codes = bool(config.levels and fields["flags"] & Flag.UNSIGNED)
                    words.append({
                        "addr": (fields["act_base"] + digit * fields["act_plane"]
                                 + t * fields["act_stride"] + (k >> codes)) % 65536,
                        "nibble": k % 2 if codes else None,
                        "top": top, "t": t, "digit": digit, "swap": t == 0 and digit == 0,
                        "start": t == digit == k == 0, "first": digit == 0 and k == 0,
                        "last": (k + 1, digit + 1, t + 1) == tuple(
                            fields[name] for name in ("act_words", "digits", "rows"))})
    return words


def entered_acts(values, word, config):
    """Return what enters the array of the bytes of a word."""
    if word["nibble"] is not None:
        codes = [value >> 4 if word["nibble"] else value & 15 for value in values]
        return decoded(codes, config.levels).tolist()
    return [v if word["top"] or v < 128 else v - 256 for v in values]


@pytest.mark.parametrize("attention", ["normalised", "half_16", "sqrt2_16"])
@pytest.mark.parametrize("shape", [(4, 4, 1), (8, 4, 4), (6, 4, 2), (12, 8, 4)])
@pytest.mark.parametrize("seed", range(2))
def test_matches_loops(shape, seed, attention):
    config = AcceleratorConfig(rows=shape[0], cols=shape[1], lanes=shape[2], token_depth=16,
                               banks=4, bank_depth=1024, acc_buffers=2 + seed,
                               attention=attention)
    rng = random.Random(f"{seed} {shape}")
    jobs = [random_fields(rng, config) for _ in range(5)]
    words = [word for job in jobs for word in expected(job, config)]
    bytes_of = [[rng.randrange(256) for _ in range(config.rows)] for _ in words]
    dut, asked, entered = Feeder(config), [], []

    async def instructions(ctx):
        ctx.set(dut.swap_ready, 1)
        await drive(ctx, dut.instr, jobs)

    async def requests(ctx):
        asked.extend(item.addr for item in await collect(ctx, dut.act.req, len(words),
                                                         rng if seed else None))

    async def memory(ctx):
        await drive(ctx, dut.act.rsp, bytes_of, rng if seed else None)

    async def watch(ctx):
        async for _, _, valid, *signals in ctx.tick().sample(
                dut.valid, dut.acts, dut.swap, dut.start, dut.control):
            if valid:
                entered.append(signals)

    run(dut, instructions, requests, memory, background=[watch])
    assert asked == [word["addr"] for word in words]
    assert len(entered) == len(words)
    buffer = 0
    for word, values, (acts, swap, start, control) in zip(words, bytes_of, entered, strict=True):
        assert list(acts) == entered_acts(values, word, config)
        assert (swap, start) == (word["swap"], word["start"])
        assert ((control.t, control.digit, control.first, control.last, control.buffer)
                == (word["t"], word["digit"], word["first"], word["last"], buffer))
        buffer = (buffer + word["last"]) % config.acc_buffers
