"""Walk over groups of lanes against loops over tiles, rows and groups."""

import random

import pytest
from amaranth import ResetInserter, Signal

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.isa import FORMATS, Flag, Opcode
from systola.hw.matrix.group_walker import GroupWalker
from systola.sim.harness import collect, drive, run


def configure(rows, cols, lanes, attention="deferred"):
    return AcceleratorConfig(rows=rows, cols=cols, lanes=lanes, token_depth=16, banks=4,
                             bank_depth=1024, attention=attention)


def random_fields(rng, config):
    groups = config.rows // config.lanes
    fields = {field.name: rng.randrange(1000) for field in FORMATS[Opcode.MATMUL].fields}
    return fields | {
        "rows": rng.choice([1, 2, 16]), "words": rng.choice([1, 2, 3]),
        "lanes_last": rng.randrange(1, config.rows + 1), "out_group": rng.randrange(groups),
        "out_bits": rng.choice([8, 16]), "flags": rng.randrange(32), "res_shift": rng.randrange(64)}


def expected(fields, config):
    """Return the notes, and the addresses of parameters, residual words and factors."""
    lanes, per_word = config.lanes, config.rows // config.lanes
    end = (fields["words"] - 1) * config.rows + fields["lanes_last"]
    first = fields["out_group"] * lanes
    starts = list(range(first, max(end, first + 1), lanes))
    flag = {name: bool(fields["flags"] & name) for name in Flag}
    notes, asked = [], {"param": [], "residual": [], "factor": []}
    tile = config.cols // lanes
    for k in range(0, len(starts), tile):
        for t in range(fields["rows"]):
            here = starts[k:k + tile]
            for j, lane in enumerate(here):
                word, lane_in_word = divmod(lane, config.rows)
                row_end, whole = j + 1 == len(here), lane_in_word // lanes == per_word - 1
                tile_end = row_end and t + 1 == fields["rows"]
                final = tile_end and k + tile >= len(starts)
                notes.append((
                    lane_in_word, sum((lane + i < end) << i for i in range(lanes)),
                    fields["out_base"] + t * fields["out_stride"] + word & 65535,
                    row_end or whole, fields["out_bits"] > 8, final, fields["out_bits"],
                    flag[Flag.SYMMETRIC], flag[Flag.BROADCAST], flag[Flag.RESIDUAL],
                    flag[Flag.ROW_SCALE], row_end, tile_end))
                step = 0 if flag[Flag.BROADCAST] else k + j
                asked["param"].append(fields["param_base"] + step)
                if flag[Flag.RESIDUAL] and (j == 0 or lane_in_word == 0):
                    asked["residual"].append(
                        fields["res_base"] + t * fields["res_stride"] + word & 65535)
                if flag[Flag.ROW_SCALE] and j == 0:
                    asked["factor"].append(fields["factor_base"] + t)
    return notes, asked


_BEGUN = 15
"""Cycles until the reset of a job that is interrupted."""


def observe(note):
    tag = note.tag
    return (tag.lane, tag.mask, tag.addr, tag.flush, tag.wide, tag.end, note.bits, note.symmetric,
            note.broadcast, note.use_res, note.row_scale, note.row_end, note.tile_end)


def simulate(jobs, config, rng=None, interrupted=None):
    """Walk over all `jobs`; every instruction is reported done as its last note is taken.

    With a job `interrupted`, that is begun first, and a reset comes while it is worked on.

    Only notes are stalled: none may be taken before what it asks for. As long as an instruction
    needs its held values, they must be its own.
    """
    dut, got, reset = GroupWalker(config), {}, Signal()
    held = dut.out_plane, dut.res_plane, dut.res_mult, dut.res_shift
    wanted = [expected(fields, config) for fields in jobs]
    ports = ["param", "residual"] + ["factor"] * bool(config.factor_depth)
    asked = {name: [a for _, lists in wanted for a in lists[name]] for name in ports}
    notes = [note for lists, _ in wanted for note in lists]

    async def begun(ctx):
        for _ in range(bool(interrupted) * _BEGUN):
            await ctx.tick()

    async def feed(ctx):
        if interrupted:
            ctx.set(dut.instr.payload, interrupted)
            ctx.set(dut.instr.valid, 1)
            await begun(ctx)
            ctx.set(dut.instr.valid, 0)
        await drive(ctx, dut.instr, jobs, rng)

    async def restart(ctx):
        for cycle in range(bool(interrupted) * _BEGUN):
            ctx.set(reset, cycle == _BEGUN - 1)
            await ctx.tick()
        ctx.set(reset, 0)

    async def take(ctx):
        await begun(ctx)
        got["note"] = [observe(note) for note in await collect(ctx, dut.note, len(notes), rng)]

    async def complete(ctx):
        index = 0
        await begun(ctx)
        async for _, _, valid, ready, note, *values in ctx.tick().sample(
                dut.note.valid, dut.note.ready, dut.note.payload, *held):
            if valid and (note.use_res or note.tag.wide):
                assert values == [jobs[index][signal.name] for signal in held]
            index += (end := bool(valid and ready and note.tag.end))
            ctx.set(dut.done, end)

    def taker(name):
        async def take_port(ctx):
            await begun(ctx)
            got[name] = list(await collect(ctx, getattr(dut, name), len(asked[name])))
        return take_port

    cycles = run(ResetInserter(reset)(dut), feed, restart, take,
                 *(taker(name) for name in ports), background=[complete])
    assert got["note"] == notes
    assert {name: got[name] for name in ports} == asked
    return cycles


@pytest.mark.parametrize("seed", range(4))
def test_a_reset_leaves_nothing_behind(seed):
    config, rng = configure(6, 4, 2), random.Random(seed)
    first, *jobs = (random_fields(rng, config) for _ in range(3))
    simulate(jobs, config, interrupted=first | {"rows": 16, "words": 3})


@pytest.mark.parametrize("shape", [(4, 4, 1), (8, 4, 4), (6, 4, 2), (5, 3, 1), (12, 8, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_matches_loops(shape, seed):
    config = configure(*shape, attention="deferred" if seed else "published")
    rng = random.Random(f"{seed} {shape}")
    simulate([random_fields(rng, config) for _ in range(8)], config, rng if seed else None)


def test_a_group_a_cycle_after_five():
    config = configure(8, 4, 2)
    fields = random_fields(random.Random(0), config) | {
        "rows": 16, "words": 2, "lanes_last": 8, "out_group": 0, "flags": 0, "out_bits": 8}
    assert simulate([fields], config) == 5 + 16 * 8
