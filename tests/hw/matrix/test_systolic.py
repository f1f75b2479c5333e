# amaranth: UnusedElaboratable=no
import random

import numpy as np
import pytest
from amaranth import Module, Signal
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract.dsp_packing import plan_packing
from systola.hw.matrix.systolic import SystolicArray
from systola.hw.matrix.tile_loader import TileLoader
from systola.hw.parts.target import Primitives
from systola.model.operators.matmul import matmul
from systola.sim.harness import drive, run


class LoadedArray(wiring.Component):
    """The array behind its tile loader, as in the engine."""

    def __init__(self, *, rows, cols, weight_bits=8, act_bits=8, style="dsp", narrow_bits=0):
        self.array = SystolicArray(rows=rows, cols=cols, act_bits=act_bits,
                                   weight_bits=weight_bits, style=style, narrow_bits=narrow_bits)
        self.loader = TileLoader(rows=rows, cols=cols, weight_bits=weight_bits,
                                 group=self.array.group, narrow=bool(narrow_bits))
        super().__init__({"weights": In(self.loader.i.signature.flip()), "ready": Out(1),
                          "acts": In(self.array.acts.shape()), "swap": In(1), "narrow": In(1),
                          "psum": Out(self.array.psum.shape())})

    def elaborate(self, platform):
        m = Module()
        m.submodules.array, m.submodules.loader = self.array, self.loader
        wiring.connect(m, wiring.flipped(self.weights), self.loader.i)
        m.d.comb += [self.array.w.eq(self.loader.w), self.array.w_col.eq(self.loader.w_col),
                     self.array.acts.eq(self.acts), self.array.swap.eq(self.swap),
                     self.loader.swap.eq(self.swap), self.ready.eq(self.loader.ready),
                     self.psum.eq(self.array.psum)]
        if self.array.narrow:
            narrow = self.narrow
            for _ in range(self.array.latency - 1):
                before, narrow = narrow, Signal()
                m.d.sync += narrow.eq(before)
            m.d.comb += [self.array.w_narrow.eq(self.loader.w_narrow),
                         self.array.psum_narrow.eq(narrow)]
        return m


def simulate(dut, tiles, passes, weight_rng=None, act_rng=None):
    """Stream `passes` of vectors over `tiles`; return the sums and the swap cycles.

    A tile is (R, C), or (R, 2C) if it is narrow; their sums are then in pairs.
    """
    cols, half = dut.array.cols, dut.array.half
    narrow = [tile.shape[1] > cols for tile in tiles]
    stored = [tile[:, ::2] + 16 * tile[:, 1::2] if pairs else tile
              for tile, pairs in zip(tiles, narrow, strict=True)]
    words = [([int(v) & 255 for v in tile[:, c]], pairs)
             for tile, pairs in zip(stored, narrow, strict=True) for c in range(cols)]
    latency, delays = dut.array.latency, dut.array.delays
    entered, swaps, outputs = {}, [], {}

    async def weights(ctx):
        await drive(ctx, dut.weights, [{"word": word, "narrow": pairs} if half else word
                                       for word, pairs in words], weight_rng)

    async def testbench(ctx):
        cycle, pending = 0, [(p, t) for p, rows_ in enumerate(passes) for t in range(len(rows_))]
        while pending or cycle <= max(entered) + latency + cols:
            ctx.set(dut.swap, 0)
            idle = act_rng is not None and act_rng.random() < 0.3
            if pending and not idle and (pending[0][1] or ctx.get(dut.ready)):
                p, t = pending.pop(0)
                ctx.set(dut.acts, [int(v) for v in passes[p][t]])
                ctx.set(dut.swap, t == 0)
                ctx.set(dut.narrow, narrow[p])
                entered[cycle] = p, t
                swaps.extend([cycle] if t == 0 else [])
            for c in range(cols):
                if (start := cycle - latency - delays[c]) in entered:
                    outputs[*entered[start], c] = ctx.get(dut.psum[c])
            await ctx.tick()
            cycle += 1

    def sums(p, t):
        values = [outputs[p, t, c] for c in range(cols)]
        if not narrow[p]:
            return values
        return [((value >> shift) + limit) % (2 * limit) - limit
                for value in values for shift in (0, half)]

    limit = 1 << half >> 1
    run(dut, weights, testbench)
    return [np.array([sums(p, t) for t in range(len(x))]) for p, x in enumerate(passes)], swaps


def random_case(rng, rows, cols, lengths, act_bits=8, weight_bits=8, packed=False):
    tiles = [rng.integers(-2**(weight_bits - 1), 2**(weight_bits - 1), (rows, cols))
             for _ in lengths]
    passes = [rng.integers(-2**(act_bits - 1), 2**act_bits, (n, rows)) for n in lengths]
    if packed:
        tiles = [np.maximum(tile, -2**(weight_bits - 1) + 1) for tile in tiles]
        passes = [np.minimum(x, 2**(act_bits - 1)) for x in passes]
        top, bottom = 2**(act_bits - 1), -2**(act_bits - 1)
        passes[0][0], passes[3][0], tiles[0][:, 0] = top, bottom, -2**(weight_bits - 1) + 1
    else:
        passes[0][0], tiles[0][:, 0] = 2**act_bits - 1, -2**(weight_bits - 1)
    return tiles, passes


@pytest.mark.parametrize(("rows", "cols", "widths", "style"), [
    (4, 4, (8, 8), "dsp"), (5, 3, (4, 8), "lut"), (3, 5, (2, 3), "lut"), (2, 1, (8, 4), "dsp"),
    (1, 2, (8, 8), "dsp"), (8, 4, (3, 2), "lut"), (1, 1, (4, 4), "dsp"),
    (8, 4, (8, 8), "dsp_packed"), (13, 2, (8, 8), "dsp_packed"), (1, 4, (8, 4), "dsp_packed"),
    (5, 8, (4, 4), "dsp_packed"), (3, 5, (3, 3), "dsp_packed"), (9, 8, (2, 2), "dsp_packed")])
@pytest.mark.parametrize("seed", range(3))
def test_matches_product(rows, cols, widths, style, seed):
    rng, py = np.random.default_rng(seed), random.Random(seed)
    tiles, passes = random_case(rng, rows, cols, [3, 1, 1, 7, 2, 12, 1, 5], *widths,
                                packed=style == "dsp_packed")
    dut = LoadedArray(rows=rows, cols=cols, act_bits=widths[0], weight_bits=widths[1], style=style)
    stalls = [(None, None), (py, None), (py, py)][seed]
    sums, _ = simulate(dut, tiles, passes, *stalls)
    for tile, x, y in zip(tiles, passes, sums, strict=True):
        np.testing.assert_array_equal(y, matmul(x, tile.T))


@pytest.mark.parametrize(("rows", "cols", "bits"), [
    (8, 4, 4), (24, 2, 4), (13, 2, 3), (5, 4, 2), (2, 2, 4)])
@pytest.mark.parametrize("seed", range(2))
def test_narrow_tiles_between_others(rows, cols, bits, seed):
    rng, py = np.random.default_rng(seed), random.Random(seed)
    tiles, passes = random_case(rng, rows, cols, [3, 1, 1, 7, 2, 12, 1, 5], packed=True)
    most, top = 2**(bits - 1) - 1, 2**(bits - 1)
    for index in 1, 2, 4, 5, 7:
        tiles[index] = rng.integers(-most, most + 1, (rows, 2 * cols))
        tiles[index][:, 0], tiles[index][:, 1], tiles[index][:, -1] = most, -most, most
        passes[index] = rng.integers(-top, top, passes[index].shape)
        passes[index][0] = -top
    dut = LoadedArray(rows=rows, cols=cols, style="dsp_packed", narrow_bits=bits)
    sums, _ = simulate(dut, tiles, passes, *[(None, None), (py, py)][seed])
    for tile, x, y in zip(tiles, passes, sums, strict=True):
        np.testing.assert_array_equal(y, matmul(x, tile.T))


@pytest.mark.parametrize(("rows", "cols", "style"), [
    (4, 4, "dsp"), (5, 3, "dsp"), (3, 5, "dsp"), (2, 2, "dsp"), (6, 1, "dsp"),
    (4, 4, "dsp_packed"), (2, 6, "dsp_packed"), (7, 4, "dsp_packed"), (1, 2, "dsp_packed")])
def test_swaps_follow_every_max_rows_cols_cycles(rows, cols, style):
    packed = style == "dsp_packed"
    tiles, passes = random_case(np.random.default_rng(1), rows, cols, [1] * 6, packed=packed)
    sums, swaps = simulate(LoadedArray(rows=rows, cols=cols, style=style), tiles, passes)
    assert np.diff(swaps).tolist() == [max(rows, cols)] * 5
    for tile, x, y in zip(tiles, passes, sums, strict=True):
        np.testing.assert_array_equal(y, matmul(x, tile.T))


@pytest.mark.parametrize(("rows", "chains"), [(1, 1), (8, 1), (10, 1), (11, 2), (24, 3)])
def test_sums_pass_from_slice_to_slice_but_between_chains(rows, chains):
    array = SystolicArray(rows=rows, cols=4, act_bits=8, weight_bits=8, style="dsp_packed")
    text = rtlil.convert(array, platform=Primitives("xc7"), emit_src=False)
    for pin in "PCIN", "PCOUT":
        assert text.count(f"connect \\{pin} ") == 2 * (rows - chains), pin


@pytest.mark.parametrize("widths", [(4, 4), (3, 3), (2, 2)])
def test_several_vectors_a_cycle(widths):
    rows, cols, rng = 9, 4, np.random.default_rng(5)
    act_bits, weight_bits = widths
    plan = plan_packing(weight_bits, act_bits, rows, cols=cols, max_tokens=4, least_gap=2)
    assert plan.tokens > 1
    dut = SystolicArray(rows=rows, cols=cols, act_bits=act_bits, weight_bits=weight_bits,
                        style="dsp_packed", packing=plan)
    w, x = 2**(weight_bits - 1) - 1, 2**(act_bits - 1)
    tile = rng.integers(-w, w + 1, (rows, cols))
    tile[:, 0], tile[:, 1] = w, -w
    acts = rng.integers(-x, x + 1, (30, plan.tokens, rows))
    acts[:5], acts[5:10] = x, -x
    latency, seen = dut.latency, []

    async def testbench(ctx):
        for j in range(cols // plan.group):
            ctx.set(dut.w, [int(v) for v in tile[:, j * plan.group:(j + 1) * plan.group].T.flat])
            ctx.set(dut.w_col, 1 << j)
            await ctx.tick()
        ctx.set(dut.w_col, 0)
        for cycle in range(len(acts) + latency + cols):
            ctx.set(dut.swap, cycle == 0)
            if cycle < len(acts):
                ctx.set(dut.acts, [int(v) for v in acts[cycle].flat])
            seen.append([ctx.get(lane) for lane in dut.psum])
            await ctx.tick()

    run(dut, testbench)
    for t, vectors in enumerate(acts):
        for token, vector in enumerate(vectors):
            assert [seen[t + latency + dut.delays[c]][token * cols + c]
                    for c in range(cols)] == (vector @ tile).tolist()


@pytest.mark.parametrize(("change", "message"), [
    ({"style": "dsp_packed", "cols": 3}, r"^8-bit weights .* must divide 3 columns$"),
    ({"packing": plan_packing(8, 8, 4)}, r"^packing must be a plan for this array, not "),
    ({"style": "dsp_packed", "packing": plan_packing(8, 8, 5)}, r"^packing must be a plan for"),
    ({"rows": 0}, r"^rows must be a positive integer, not 0$"),
    ({"cols": "4"}, r"^cols must be a positive integer, not '4'$"),
    ({"act_bits": 9}, r"^act_bits must be an integer from 2 to 8, not 9$"),
    ({"style": None}, r"^style must be 'dsp' or 'lut' or 'dsp_packed', not None$"),
])
def test_error_names_the_parameter(change, message):
    good = {"rows": 4, "cols": 4, "act_bits": 8, "weight_bits": 8, "style": "dsp"}
    with pytest.raises(ValueError, match=message):
        SystolicArray(**{**good, **change})


def test_loader_group_divides_columns():
    with pytest.raises(ValueError, match=r"^group must divide cols \(4\), not 3$"):
        TileLoader(rows=4, cols=4, weight_bits=8, group=3)


def test_loader_error_names_the_parameter():
    with pytest.raises(ValueError, match=r"^weight_bits must be a positive integer, not 0$"):
        TileLoader(rows=4, cols=4, weight_bits=0)
