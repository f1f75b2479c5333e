# amaranth: UnusedElaboratable=no
"""The MATRIX engine between fake memories, against the integer models."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.isa import Flag, Opcode
from systola.hw.contract.latency import SUM_GAP, matmul_latency
from systola.hw.matrix.matrix_engine import MatrixEngine
from systola.hw.parts import shapes
from systola.model.operators.matmul import matmul
from systola.model.operators.requant import requantize
from systola.sim.harness import drive, run


def configure(rows, cols, lanes, **other):
    fields = {"token_depth": 16, "banks": 4, "bank_depth": 1024, "mult_bits": 20,
              "code_mult_bits": 16, "acc_bits": 36}
    return AcceleratorConfig(rows=rows, cols=cols, lanes=lanes, **{**fields, **other})


@dataclass
class Job:
    """One MATMUL: its fields, the words of its weights, and what it leaves in memory."""

    fields: dict
    weights: list
    expected: np.ndarray  # (rows, N)
    narrow: bool          # whether those weights are


class Setup:
    """Memory contents and jobs for one engine."""

    def __init__(self, config, seed):
        self.config, self.rng = config, np.random.default_rng(seed)
        self.memory = self.rng.integers(0, 256, (config.scratchpad_words, config.rows), np.uint8)
        self.initial = self.memory.copy()
        self.params, self.jobs, self.free = [], [], 0
        self.factors = [int(v) for v in self.rng.integers(1, 2**config.factor_bits,
                                                           config.factor_depth)]

    def _region(self, rows, words, planes=1):
        """Reserve a region with random gaps; return base, stride, plane."""
        stride = words + int(self.rng.integers(3))
        plane, base = rows * stride + int(self.rng.integers(3)), self.free
        self.free += plane * planes
        assert self.free <= len(self.memory)
        return base, stride, plane

    def _fill(self, region, planes, words):
        base, stride, plane = region
        for p, values in enumerate(planes):
            for t, row in enumerate(values):
                start = base + p * plane + t * stride
                self.initial[start:start + words] = np.resize(row, (words, self.config.rows)) & 255

    def add(self, *, rows, act_words, n, digits=1, out_bits=8, residual=False, broadcast=False,
            out_group=0, symmetric=False, row_scale=False, in_place=False, narrow=False):
        config, rng = self.config, self.rng
        r, lanes, columns = config.rows, config.lanes, config.tile_columns(narrow=narrow)
        b, weight_bits = [config.narrow_bits] * 2 if narrow else (config.act_bits,
                                                                  config.weight_bits)
        skip = out_group * lanes
        k, words, tiles = act_words * r, -(-(skip + n) // r), -(-n // columns)
        planes = rng.integers(-2**(b - 1), 2**(b - 1), (digits, rows, k))
        packed = config.pe_style == "dsp_packed"
        if digits > 1 and not narrow:
            planes[-1] = rng.integers(0, 2**(b - 1) + 1 if packed else 2**b, (rows, k))
        planes[0, 0] = -2**(b - 1)
        act = self._region(rows, act_words, digits)
        self._fill(act, planes, act_words)
        least = -2**(weight_bits - 1) + packed
        w = rng.integers(least, 2**(weight_bits - 1), (tiles * columns, k))
        if n > 1:  # the extremes, whose sums are the largest
            w[0], w[1] = 2**(weight_bits - 1) - 1, 1 - 2**(weight_bits - 1)
        stored = w[::2] + 16 * w[1::2] if narrow else w
        weights = [stored[c, q * r:(q + 1) * r] & 255 for tile in range(tiles)
                   for q in range(act_words)
                   for c in range(tile * config.cols, (tile + 1) * config.cols)]
        z = sum(matmul(plane, w[:n]) << b * i * (not narrow) for i, plane in enumerate(planes))

        groups = 1 if broadcast else -(-n // lanes)
        spread = float(np.abs(z).max() + 1)
        limit = 2**(config.code_mult_bits if out_bits <= 8 else config.mult_bits) - 1
        shift = rng.integers(18, 30, groups * lanes)
        if row_scale:  # for multipliers of up to factor_bits bits
            shift[:] = config.factor_bits + int(np.log2(spread)) - out_bits + 1
        record = {"bias": rng.integers(-int(spread), int(spread) + 1, groups * lanes),
                  "mult": np.clip(rng.choice([-1, 1], groups * lanes)
                                  * rng.uniform(0.4, 2) * 2.0**(shift + out_bits - 1) / spread,
                                  -limit, limit).astype(int),
                  "shift": shift}
        param_base = len(self.params)
        self.params += [[{name: int(v[g * lanes + j]) for name, v in record.items()}
                         for j in range(lanes)] for g in range(groups)]
        used = {name: v[:1] if broadcast else v[:n] for name, v in record.items()}
        factor_base = int(rng.integers(config.factor_depth - rows)) if row_scale else 0
        if row_scale:
            used["mult"] = np.array(self.factors[factor_base:factor_base + rows])[:, None]
        res, extra = (0, 0, 0), {}
        res_mult, res_shift = int(rng.integers(-2**19, 2**19)), int(rng.integers(18, 22))
        if residual:
            x = rng.integers(-2**15, 2**15, (rows, words * r))
            res = self._region(rows, words, 2)
            self._fill(res, [x & 255, x >> 8 & 255], words)
            extra = {"residual": x[:, skip:skip + n], "res_mult": res_mult, "res_shift": res_shift}
        y = requantize(z + used["bias"], used["mult"], used["shift"], out_bits, **extra)
        if symmetric:
            y = np.maximum(y, 1 - 2**(out_bits - 1))
        out = res if in_place else self._region(rows, words, 2 if out_bits > 8 else 1)
        flags = (Flag.RESIDUAL * residual | Flag.BROADCAST * broadcast | Flag.SYMMETRIC * symmetric
                 | Flag.UNSIGNED * (digits > 1) | Flag.ROW_SCALE * row_scale | Flag.NARROW * narrow)
        self.jobs.append(Job({
            **dict(zip(("act_base", "act_stride", "act_plane"), act, strict=True)),
            "rows": rows, "act_words": act_words, "digits": digits, "words": words,
            "lanes_last": skip + n - (words - 1) * r, "out_group": out_group,
            "factor_base": factor_base,
            **dict(zip(("out_base", "out_stride", "out_plane"), out, strict=True)),
            "out_bits": out_bits, "param_base": param_base, "flags": int(flags),
            **dict(zip(("res_base", "res_stride", "res_plane"), res, strict=True)),
            "res_mult": res_mult, "res_shift": res_shift}, weights, y, narrow))

    def final(self):
        """Return the memory after all jobs: exactly the valid lanes of the outputs change."""
        memory, r = self.initial.copy(), self.config.rows
        for job in self.jobs:
            f = job.fields
            for t, row in enumerate(job.expected):
                for n, value in enumerate(row, f["out_group"] * self.config.lanes):
                    word = f["out_base"] + t * f["out_stride"] + n // r
                    memory[word, n % r] = value & 255
                    if f["out_bits"] > 8:
                        memory[word + f["out_plane"], n % r] = value >> 8 & 255
        return memory

    def run(self, seed=None):
        """Simulate; return the accept and done cycles and the memory. Stalls if `seed`."""
        dut = MatrixEngine(self.config)
        rngs = [random.Random(f"{seed} {k}") if seed is not None else None for k in range(8)]
        memory, taken, done = self.initial.copy(), [], []
        layout = shapes.body(Opcode.MATMUL)

        async def instructions(ctx):
            await drive(ctx, dut.instr, [
                {"opcode": Opcode.MATMUL, "body": layout.const(job.fields).as_value().value}
                for job in self.jobs], rngs[0])

        async def weights(ctx):
            words = [([int(v) for v in word], job.narrow)
                     for job in self.jobs for word in job.weights]
            await drive(ctx, dut.weights, [
                {"word": word, "narrow": narrow} if self.config.narrow_bits else word
                for word, narrow in words], rngs[1])

        async def watch(ctx):
            cycle = 0
            while len(done) < len(self.jobs):
                *_, valid, ready, pulse = await ctx.tick().sample(
                    dut.instr.valid, dut.instr.ready, dut.done)
                taken.extend([cycle] * (valid and ready))
                done.extend([cycle] * pulse)
                cycle += 1

        async def writes(ctx):
            await serve_writes(ctx, dut.out, memory, rngs[2])

        def reads(port, look, rng):
            async def serve(ctx):
                await serve_reads(ctx, port, look, rng)
            return serve

        def words(request):
            return [int(v) for v in memory[request.addr]]

        factors = [reads(dut.factor, lambda request: self.factors[request], rngs[6])
                   ] if self.factors else []
        run(dut, instructions, weights, watch, max_cycles=30_000, background=[
            *factors, writes, reads(dut.act, words, rngs[3]), reads(dut.res, words, rngs[4]),
            reads(dut.param, lambda request: self.params[request], rngs[5])])
        return taken, done, memory


async def serve_reads(ctx, port, look, rng, latency=2, depth=4):
    """Answer requests in order, at the earliest `latency` cycles later; check that they hold."""
    queue, cycle, held, offered = [], 0, None, False
    while True:
        ready = len(queue) < depth and (rng is None or rng.random() < 0.7)
        offered = bool(queue) and queue[0][0] <= cycle and (
            offered or rng is None or rng.random() < 0.7)
        ctx.set(port.req.ready, ready)
        ctx.set(port.rsp.valid, offered)
        if offered:
            ctx.set(port.rsp.payload, queue[0][1])
        *_, valid, request, taken = await ctx.tick().sample(
            port.req.valid, port.req.payload, port.rsp.ready)
        assert held is None or (valid and request == held), "request changed while stalled"
        held = request if valid and not ready else None
        if offered and taken:
            queue.pop(0)
            offered = False
        if valid and ready:
            queue.append((cycle + latency, look(request)))
        cycle += 1


async def serve_writes(ctx, port, memory, rng):
    """Take writes and apply them with their masks; check that they hold."""
    held = None
    while True:
        ready = rng is None or rng.random() < 0.6
        ctx.set(port.req.ready, ready)
        *_, valid, request = await ctx.tick().sample(port.req.valid, port.req.payload)
        assert held is None or (valid and request == held), "write changed while stalled"
        held = request if valid and not ready else None
        if valid and ready:
            for lane, value in enumerate(request.data):
                if request.mask >> lane & 1:
                    memory[request.addr, lane] = value


def predict(config, jobs, columns_ready):
    """Return the cycles of every ``done``, as the engine's documentation states them.

    Instructions are offered from cycle 0 on, and the first tile of weights is ready in cycle
    `columns_ready`.
    """
    period, latency = max(config.rows, config.cols), matmul_latency(config)
    buffers = config.acc_buffers
    enter, swap, begun, drained, released, done = 3, -period, -2, -2, [0] * buffers, []
    reads = [[0]] * buffers  # of the tiles before: when the drain has read each row
    ended = -SUM_GAP
    after = 0  # earliest next group by the writes of a wide instruction
    enter, earliest = max(enter, columns_ready), [0] * buffers
    for job in jobs:
        enter = max(enter, earliest[-buffers])
        f = job.fields
        wide, residual = f["out_bits"] > 8, bool(f["flags"] & Flag.RESIDUAL)
        skip = f["out_group"] * config.lanes
        n = (f["words"] - 1) * config.rows + f["lanes_last"]
        columns = config.tile_columns(narrow=bool(f["flags"] & Flag.NARROW))
        for first in range(skip, max(n, skip + 1), columns):
            count = min(columns, n - first)
            words = (first + count - 1) // config.rows - first // config.rows + 1
            free, behind = released[-buffers] + 1, reads[-buffers]  # of the buffer, its rows
            for p in range(f["act_words"] * f["digits"]):
                swaps = p % f["digits"] == 0
                enter = max(enter, begun + SUM_GAP, ended + SUM_GAP - f["rows"] + 1,
                            min(free, behind[0]) if p == 0 else free,
                            swap + period if swaps else 0)
                swap, begun = enter if swaps else swap, enter
                for t in range(f["rows"]):
                    ahead = p == 0 and t < len(behind)
                    enter = max(enter, min(free, behind[t]) if ahead else free) + 1
                ended = enter - 1
            slots = config.requant_cycles(long=wide, residual=residual)
            # The last group has left `slots` - 1 cycles before the requantizer is done with it.
            begin = max(enter - 1 + latency + (f["rows"] == 1), drained + 1 + (slots == 1),
                        after + (10 if residual else 7))
            row = max(-(-count // config.lanes) * slots, words * (1 + (wide or residual)))
            drained = begin + f["rows"] * row - 1
            released.append(drained)
            reads.append([begin + t * row for t in range(f["rows"])])
        done.append(drained + 12 + wide)
        after = done[-1] if wide or residual else 0
        earliest.append(done[-1] + 5 if wide or residual else 0)
        enter += 1
    return done


# The simulator spends most of its time in the requantizer, a copy for each lane.
SHAPES = [(4, 4, 1), (8, 4, 4), (5, 3, 1), (6, 4, 2), (4, 1, 1), (2, 2, 2)]


@pytest.mark.parametrize(("shape", "seed"), [(shape, k % 2) for k, shape in enumerate(SHAPES)])
def test_matches_model(shape, seed):
    setup = Setup(configure(*shape), seed)
    r, c, _ = shape
    setup.add(rows=1, act_words=1, n=1)
    setup.add(rows=5, act_words=2, n=2 * r + 1, residual=True, out_bits=16)
    setup.add(rows=1, act_words=2, n=c + 1, digits=2)
    setup.add(rows=3, act_words=1, n=2 * c, broadcast=True, out_bits=5)
    setup.add(rows=r + c, act_words=1, n=r, digits=2, broadcast=True, out_bits=16)
    setup.add(rows=2, act_words=3, n=3 * r - 1, residual=True)
    setup.add(rows=2, act_words=1, n=1, out_bits=2)
    *_, memory = setup.run(seed if seed else None)
    np.testing.assert_array_equal(memory, setup.final())


@pytest.mark.slow
@pytest.mark.parametrize(("buffers", "seed"), [(3, 0), (3, 1), (4, 2), (4, 3), (8, 4)])
def test_tiles_wait_in_any_number_of_buffers(buffers, seed):
    setup = Setup(configure(4, 4, 1, acc_buffers=buffers), seed)
    for _ in range(2):  # tiles that are drained more slowly than they come, and others behind them
        setup.add(rows=1, act_words=1, n=1)
        setup.add(rows=16, act_words=1, n=17, residual=True, out_bits=16)
        setup.add(rows=5, act_words=1, n=9, digits=2)
        setup.add(rows=3, act_words=6, n=8, broadcast=True)
        for n in 4, 2, 3, 1, 4:
            setup.add(rows=1 + n, act_words=1, n=n)
    *_, memory = setup.run(seed if seed else None)
    np.testing.assert_array_equal(memory, setup.final())


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "seed"), [((4, 4, 1), 0), ((6, 4, 2), 1), ((6, 6, 3), 2)])
def test_results_begin_inside_a_word(shape, seed):
    setup = Setup(configure(*shape), seed)
    r, c, lanes = shape
    for group in range(r // lanes):
        setup.add(rows=2, act_words=1, n=1 + group % (r - group * lanes), out_group=group)
    for group, n in (r // lanes - 1, r), (1 % (r // lanes), c), (0, 2 * r), (r // lanes - 1, c + 1):
        setup.add(rows=3, act_words=1, n=n, out_group=group, residual=True, out_bits=16)
        setup.add(rows=2, act_words=2, n=n, out_group=group, broadcast=True, symmetric=True,
                  out_bits=3)
    *_, memory = setup.run(seed if seed else None)
    np.testing.assert_array_equal(memory, setup.final())


def test_a_tile_without_channels_writes_nothing():
    setup = Setup(configure(8, 4, 2), 0)
    setup.add(rows=2, act_words=1, n=1, out_group=3)
    setup.jobs[0].fields["lanes_last"] = 2  # less than the lanes before the output
    *_, memory = setup.run()
    np.testing.assert_array_equal(memory, setup.initial)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "seed"), [((8, 4, 2), 0), ((6, 4, 2), 1), ((5, 3, 1), 2)])
def test_residual_may_be_replaced_by_the_result(shape, seed):
    setup = Setup(configure(*shape), seed)
    r, _, lanes = shape
    setup.add(rows=4, act_words=1, n=2 * r + 1, residual=True, out_bits=16, in_place=True)
    setup.add(rows=1, act_words=1, n=2 * r, residual=True, out_bits=16, in_place=True,
              out_group=r // lanes - 1)
    setup.add(rows=9, act_words=2, n=r, residual=True, out_bits=16, in_place=True)
    *_, memory = setup.run(seed if seed else None)
    np.testing.assert_array_equal(memory, setup.final())


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["normalised", "deferred"])
@pytest.mark.parametrize(("shape", "seed"), [((4, 4, 1), 1), ((8, 4, 2), 0), ((5, 3, 1), 2)])
def test_rows_are_scaled_by_their_factors(shape, seed, attention):
    setup = Setup(configure(*shape, attention=attention), seed)
    r, c, lanes = shape
    setup.add(rows=7, act_words=1, n=r + c, row_scale=True, broadcast=True)
    setup.add(rows=2, act_words=1, n=c)
    setup.add(rows=16, act_words=2, n=1, row_scale=True, out_group=r // lanes - 1)
    setup.add(rows=1, act_words=1, n=2 * r, row_scale=True, out_bits=16)
    setup.add(rows=3, act_words=1, n=r, row_scale=True, residual=True, out_bits=12)
    *_, memory = setup.run(seed if seed else None)
    np.testing.assert_array_equal(memory, setup.final())


@pytest.mark.slow
@pytest.mark.parametrize(("act_bits", "weight_bits", "style"), [
    (4, 8, "lut"), (8, 3, "dsp"), (2, 2, "lut"), (5, 6, "dsp"), (8, 8, "dsp_packed"),
    (4, 4, "dsp_packed"), (8, 4, "dsp_packed")])
def test_matches_model_at_other_widths(act_bits, weight_bits, style):
    config = configure(4, 4, 1, act_bits=act_bits, weight_bits=weight_bits, pe_style=style,
                       attention="published", attention_bits=8)
    setup = Setup(config, act_bits)
    setup.add(rows=4, act_words=2, n=7, digits=config.attention_digits)
    setup.add(rows=6, act_words=1, n=5, residual=True)
    *_, memory = setup.run(act_bits)
    np.testing.assert_array_equal(memory, setup.final())


NARROW = {"pe_style": "dsp_packed", "attention": "deferred"}


@pytest.mark.parametrize(("shape", "bits", "seed"), [
    ((4, 2, 1), 4, 0), ((8, 4, 2), 4, 1), ((8, 4, 4), 3, 2), ((11, 4, 1), 2, 3),
    ((24, 2, 2), 4, 4)])
def test_two_precisions_take_turns(shape, bits, seed):
    setup = Setup(configure(*shape, narrow_bits=bits, **NARROW), seed)
    r, c, lanes = shape
    setup.add(rows=4, act_words=2, n=2 * r + 1, narrow=True)
    setup.add(rows=5, act_words=1, n=c + 1)
    setup.add(rows=1, act_words=1, n=1, narrow=True)
    setup.add(rows=3, act_words=2, n=2 * c, narrow=True, residual=True, out_bits=16)
    setup.add(rows=2, act_words=1, n=1, residual=True, out_bits=16)
    setup.add(rows=7, act_words=1, n=r, narrow=True, broadcast=True, symmetric=True, out_bits=4,
              out_group=r // lanes - 1)
    setup.add(rows=3, act_words=1, n=2 * c, row_scale=True, broadcast=True)
    setup.add(rows=2, act_words=3, n=2 * c - 1, narrow=True, row_scale=True)
    *_, memory = setup.run(seed if seed else None)
    np.testing.assert_array_equal(memory, setup.final())


def test_narrow_planes_weigh_one():
    setup = Setup(configure(4, 2, 1, narrow_bits=3, pe_style="dsp_packed"), 3)
    setup.add(rows=3, act_words=2, n=5, digits=2)
    setup.add(rows=3, act_words=2, n=5, digits=2, narrow=True)
    *_, memory = setup.run()
    np.testing.assert_array_equal(memory, setup.final())


def test_weights_of_the_other_precision_are_not_multiplied():
    setup = Setup(configure(4, 2, 1, narrow_bits=4, **NARROW), 0)
    setup.add(rows=2, act_words=1, n=2, narrow=True)
    setup.jobs[0].fields["flags"] &= ~Flag.NARROW  # but the weights are narrow
    with pytest.raises(TimeoutError, match="MatrixEngine still busy"):
        setup.run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cycles_of_two_precisions_as_documented(seed):
    config = configure(8, 4, 2, narrow_bits=4, **NARROW)
    setup, rng = Setup(config, seed), random.Random(seed)
    for _ in range(6):
        setup.add(rows=rng.randint(1, 16), act_words=rng.randint(1, 4), n=rng.randint(1, 24),
                  out_bits=rng.choice([8, 8, 16]), out_group=rng.randrange(4),
                  narrow=rng.random() < 0.6)
    _, done, _ = setup.run()
    assert done == pytest.approx(predict(config, setup.jobs, config.cols), abs=3)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "seed", "buffers"), [
    ((4, 4, 2), 0, 2), ((8, 4, 1), 1, 2), ((6, 4, 2), 2, 2), ((4, 4, 2), 3, 3), ((8, 4, 1), 4, 4),
    ((6, 4, 2), 5, 8)])
def test_cycles_as_documented(shape, seed, buffers):
    config = configure(*shape, acc_buffers=buffers)
    setup, rng = Setup(config, seed), random.Random(seed)
    for _ in range(6):
        setup.add(rows=rng.randint(1, 16), act_words=rng.randint(1, 4),
                  n=rng.randint(1, 3 * shape[0]), digits=rng.choice([1, 1, 2]),
                  residual=rng.random() < 0.3, out_bits=rng.choice([8, 8, 16]),
                  out_group=rng.randrange(shape[0] // shape[2]))
    _, done, _ = setup.run()
    assert done[0] == pytest.approx(predict(config, setup.jobs, config.cols)[0], abs=1)
    assert done == pytest.approx(predict(config, setup.jobs, config.cols), abs=3)


def test_passes_follow_without_a_bubble():
    config = configure(5, 3, 1)
    setup = Setup(config, 1)
    for _ in range(3):  # four tiles of eight passes each, longer than their drain
        setup.add(rows=5, act_words=8, n=12)
    taken, done, _ = setup.run()
    assert np.diff(done).tolist() == [4 * 8 * 5 + 1] * 2
    assert taken[0] == 0
