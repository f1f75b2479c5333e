"""The VECTOR engine between fake memories, against the integer models."""

import random

import numpy as np
import pytest

from systola.hw.contract.config import PUBLISHED, AcceleratorConfig, digit_count
from systola.hw.contract.isa import Opcode
from systola.hw.parts import shapes
from systola.hw.vector.vector_engine import VectorEngine
from systola.model.operators.deferred import deferred_softmax, exp_table, row_factors
from systola.model.operators.layernorm import layernorm_requant
from systola.model.operators.log2_exponentials import decoded, nearest_codes, packed
from systola.model.operators.norm_codes import norm_codes
from systola.model.operators.normalised import normalised_softmax
from systola.model.operators.requant import requantize
from systola.model.operators.row_mean import row_mean
from systola.model.operators.shiftgelu import shiftgelu
from systola.model.operators.shiftmax import shiftmax
from systola.sim.harness import drive, run

BASE = {"rows": 6, "cols": 4, "lanes": 2, "vector_lanes": 2, "norm_lanes": 2, "banks": 2,
        "bank_depth": 256, "param_depth": 64, "max_row": 40, "mult_bits": 24, "x0_bits": 7,
        **PUBLISHED}


class Fake:
    """Scratchpad, parameter memory and instructions of one engine, and what it should leave."""

    def __init__(self, seed, **fields):
        self.config = AcceleratorConfig(**{**BASE, **fields})
        self.rng = np.random.default_rng(seed)
        size = self.config.scratchpad_words, self.config.rows
        self.memory = self.rng.integers(0, 256, size)
        self.initial, self.expected = self.memory.copy(), {}
        self.params = [[self._record() for _ in range(self.config.lanes)]
                       for _ in range(self.config.param_depth)]
        self.table = self.rng.integers(-128, 128, 256)
        unit = -int(self.rng.integers(3, 60))
        self.exponentials = (nearest_codes(unit, self.config.attention) if self.config.levels else
                             exp_table(unit, 8 * max(self.config.exponential_tables, 1)))
        self.instructions, self.factors, self.free = [], [], 0

    def _record(self):
        bits = self.config.code_mult_bits  # of all results, those of 16 bits, too
        mult = int(self.rng.integers(1 << bits - 1, 1 << bits)) * int(self.rng.choice([-1, 1]))
        return {"bias": int(self.rng.integers(-2**31, 2**31)) >> int(self.rng.integers(1, 31)),
                "mult": mult, "shift": int(self.rng.integers(bits + 4, bits + 25))}

    def _region(self, rows, words, planes):
        stride = words + int(self.rng.integers(3))
        plane, base = rows * stride + int(self.rng.integers(3)), self.free
        self.free += plane * planes
        assert self.free <= len(self.memory)
        return {"base": base, "stride": stride, "plane": plane}

    def _addresses(self, region, plane, rows, n):
        """Return (rows, n) flat lane addresses of a plane."""
        words, lane = np.divmod(np.arange(n), self.config.rows)
        first = region["base"] + plane * region["plane"] + region["stride"] * np.arange(rows)
        return (first[:, None] + words) * self.config.rows + lane

    def add(self, opcode, rows, n, *, in_place=False, **fixed):
        """Place an instruction on `rows` rows of `n` random codes, or over what it reads.

        `fixed` are some of the fields of MEAN, or those of masks.
        """
        config, rng = self.config, self.rng
        mean = {} if opcode != Opcode.MEAN else self._mean_fields(rows) | fixed
        scaled = opcode in (Opcode.SHIFTGELU, Opcode.LAYERNORM)
        most = config.largest_norm_bits if opcode == Opcode.LAYERNORM else 8
        out_bits = int(rng.integers(2, most + 1)) if scaled else mean.get("out_bits", 0)
        words, wide = -(-n // config.rows), opcode == Opcode.LAYERNORM or mean.get("wide", 0)
        source = self._region(rows, words, 2 if wide else 1)
        bits = 16 if wide else 8
        x = rng.integers(-1 << bits - 1, 1 << bits - 1, (rows, n)) >> rng.integers(bits, size=(
            rows, 1))
        for plane in range(2 if wide else 1):
            self.initial.flat[self._addresses(source, plane, rows, n)] = x >> 8 * plane & 255
        packs = opcode == Opcode.SHIFTMAX and bool(config.levels)
        planes = config.attention_digits if opcode == Opcode.SHIFTMAX else 1
        planes += out_bits > 8
        if in_place:  # the first planes are the same rows
            target = {**source, "plane": self.free - source["base"]}
            self.free += target["plane"] * (planes - 1)
        else:
            target = self._region(1 if mean else rows,
                                  config.attention_words(words) if packs else words, planes)
        fields = {"rows": rows, "words": words, "lanes_last": n - (words - 1) * config.rows,
                  **{f"src_{name}": value for name, value in source.items()},
                  **{f"dst_{name}": value for name, value in target.items()}}
        if opcode == Opcode.SHIFTMAX:
            fields |= {"numerator": int(rng.integers(1 << 31)) >> int(rng.integers(12)),
                       "factor_base": int(rng.integers(100))}
        if opcode == Opcode.SHIFTMAX and config.masks:
            first = int(rng.integers(1, n + 4))
            fields |= {"key_words": -(-first // config.rows), "key_step": int(rng.integers(2)),
                       "key_last": (first - 1) % config.rows + 1, **fixed}
        if opcode in (Opcode.SHIFTMAX, Opcode.SHIFTGELU):
            fields["unit"] = int(rng.integers(1, 1 << config.x0_bits))
        if scaled:
            fields |= {"out_bits": out_bits,
                       "param_base": int(rng.integers(config.param_depth - 20))}
        if opcode == Opcode.LAYERNORM and config.compared_norm:
            fields["share"] = int(rng.integers(1 << 32)) >> int(rng.integers(2, 16))
        if opcode == Opcode.LAYERNORM and config.fine_norm:
            epsilon = int(rng.integers(1 << 52)) >> int(rng.integers(53))
            fields |= {"epsilon_low": epsilon % 2**32, "epsilon_high": epsilon >> 32}
        fields |= mean
        if mean and in_place and rows > 1 and rng.integers(2):  # over another row than the first
            target["base"] += target["stride"] * int(rng.integers(rows))
            fields["dst_base"] = target["base"]
        self.instructions.append((opcode, fields))
        self.expected |= {
            int(address): int(value) & 255
            for plane, y in enumerate(self._outputs(opcode, fields, x))
            for address, value in zip(
                self._addresses(target, plane, len(y), y.shape[1]).flat, y.flat, strict=True)}

    def _add_factors(self, fields, sums):
        factors = row_factors(sums, fields["numerator"], self.config.factor_bits)
        self.factors += [(fields["factor_base"] + k, int(f)) for k, f in enumerate(factors)]

    def _mean_fields(self, rows):
        """Return the fields of MEAN, with which few results saturate."""
        rng, config = self.rng, self.config
        wide, bits = int(rng.integers(2)), int(rng.integers(2, 17))
        mult = int(rng.integers(1, 1 << config.mean_mult_bits))
        shift = mult.bit_length() + rows.bit_length() + 8 + 8 * wide - bits - int(rng.integers(4))
        return {"wide": wide, "out_bits": bits, "mult": mult, "shift": max(shift, 0)}

    def _outputs(self, opcode, fields, x):
        """Return the planes of the expected result."""
        config, n = self.config, x.shape[1]
        if opcode == Opcode.MEAN:
            y = row_mean(x, fields["mult"], fields["shift"], fields["out_bits"])[None]
            return [y, y >> 8][:1 + (fields["out_bits"] > 8)]
        if opcode == Opcode.SHIFTMAX and config.levels:
            _, sums = self._by_row(fields, x, lambda row: deferred_softmax(
                row, decoded(self.exponentials, config.levels)))
            self._add_factors(fields, sums)
            codes, _ = self._by_row(fields, x, lambda row: deferred_softmax(
                row, self.exponentials))
            # A last word without a second one holds anything in the lanes beyond the row.
            whole, words = packed(codes, config.rows), -(-n // config.rows)
            return [whole[:, :whole.shape[1] - words % 2 * (words * config.rows - n)]]
        if opcode == Opcode.SHIFTMAX and config.attention != "published":
            deferred = config.attention == "deferred"
            codes, sums = self._by_row(fields, x, lambda row: (
                deferred_softmax if deferred else normalised_softmax)(row, self.exponentials))
            self._add_factors(fields, sums)
            return [codes] if deferred else digits_of(codes, config.act_bits,
                                                      config.attention_digits)
        if opcode == Opcode.SHIFTMAX:
            codes, _ = self._by_row(fields, x, lambda row: (
                shiftmax(row, -fields["unit"], 15, config.attention_bits), np.zeros(1, int)))
            return digits_of(codes, config.act_bits, config.attention_digits)
        if opcode == Opcode.SHIFTGELU and config.gelu == "table":
            return [self.table[x + 128]]
        first = self.params[fields["param_base"]]
        if opcode == Opcode.SHIFTGELU:
            p = first[0]
            return [requantize(shiftgelu(x, -fields["unit"], 23) + p["bias"], p["mult"], p["shift"],
                               fields["out_bits"])]
        records = [record for word in self.params[fields["param_base"]:] for record in word][:n]
        bias, mult, shift = (np.array([record[name] for record in records])
                             for name in ("bias", "mult", "shift"))
        epsilon = fields.get("epsilon_low", 0) + (fields.get("epsilon_high", 0) << 32)
        if config.compared_norm:
            return [norm_codes(x, fields["share"], fields["out_bits"], epsilon)]
        y = layernorm_requant(x, bias, mult, shift, fields["out_bits"], config.norm, epsilon)
        return [y, y >> 8][:1 + (fields["out_bits"] > 8)]


    def _by_row(self, fields, x, function):
        """Return codes and sums of the rows of `x`, each by `function` of the keys it has."""
        codes, sums, (rows, n) = np.zeros_like(x), [], x.shape
        for t in range(rows):
            keys = n
            if self.config.masks:
                first = (fields["key_words"] - 1) * self.config.rows + fields["key_last"]
                keys = min(first + t * fields["key_step"], n)
            codes[t, :keys], total = function(x[t:t + 1, :keys])
            sums += list(total)
        return codes, np.array(sums)


def digits_of(values, bits, count):
    """Balanced digits by repeated division, the definition: independent of the hardware's way."""
    planes = []
    for _ in range(count - 1):
        digit = (values + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
        planes.append(digit)
        values = (values - digit) >> bits
    return [*planes, values]


async def responder(ctx, req, rsp, answer, rng, busy=0.3, latency=3):
    """Answer requests in order after `latency` cycles or more; any number may be under way."""
    queue, cycle = [], 0
    while True:
        ready = rng is None or rng.random() >= busy
        ctx.set(req.ready, ready)
        answers = bool(queue) and queue[0][0] <= cycle
        ctx.set(rsp.valid, answers)
        if answers:
            ctx.set(rsp.payload, queue[0][1])
        *_, asked, what, taken = await ctx.tick().sample(req.valid, req.payload, rsp.ready)
        if answers and taken:
            queue.pop(0)
        if asked and ready:
            value = answer(what)
            queue.append((cycle + latency, value))
        cycle += 1


def simulate(fake, rng=None, max_cycles=30_000):
    """Run all instructions; return the cycle of each completion."""
    dut, config, completions = VectorEngine(fake.config), fake.config, []
    factors, written = [], []  # and how many were written at each completion
    memory = fake.initial.copy()
    read_rng, param_rng, write_rng = (
        rng and random.Random(rng.random()) for _ in range(3))

    async def source(ctx):
        await responder(ctx, dut.src.req, dut.src.rsp,
                        lambda p: [int(v) for v in memory[p.addr]], read_rng)

    async def params(ctx):
        await responder(ctx, dut.param.req, dut.param.rsp, lambda p: fake.params[p], param_rng)

    async def writes(ctx):
        req, held = dut.dst.req, None
        while True:
            ready = write_rng is None or write_rng.random() < 0.7
            ctx.set(req.ready, ready)
            *_, valid, p = await ctx.tick().sample(req.valid, req.payload)
            assert held is None or (valid and p == held), "write changed while stalled"
            held = p if valid and not ready else None
            if valid and ready:
                for lane in range(config.rows):
                    if p.mask >> lane & 1:
                        memory[p.addr][lane] = p.data[lane]

    async def program(ctx):
        exponentials = (fake.exponentials >> 8 * byte & 255 for byte in range(
            config.last_table))
        size = 256 if config.last_table or config.gelu == "table" else 3  # that are dropped
        for table, entries in enumerate((fake.table, *(part.astype(np.int8)
                                                       for part in exponentials))):
            for k, value in enumerate(entries[:size]):
                await drive(ctx, dut.table, [{"addr": k, "data": int(value), "table": table}])
        for opcode, fields in fake.instructions:
            layout = shapes.body(opcode)
            await drive(ctx, dut.instr, [{
                "opcode": int(opcode), "body": layout.const(fields).as_value().value}], rng)

    async def completion(ctx):
        cycle = 0
        while len(completions) < len(fake.instructions):
            if config.factor_depth:
                *_, done, valid, p = await ctx.tick().sample(
                    dut.done, dut.factor.valid, dut.factor.p)
                if valid:
                    factors.append((p.addr, p.factor))
            else:
                *_, done = await ctx.tick().sample(dut.done)
            if done:
                completions.append(cycle)
                written.append(len(factors))
            cycle += 1

    run(dut, program, completion, background=(source, params, writes), max_cycles=max_cycles)
    rows = [fields["rows"] * (opcode == Opcode.SHIFTMAX and bool(config.factor_depth))
            for opcode, fields in fake.instructions]
    assert factors == fake.factors
    assert written == np.cumsum(rows).tolist()
    got = {address: int(memory.flat[address]) for address in fake.expected}
    assert got == fake.expected
    # Nothing else has changed but lanes beyond the rows, in words that were written.
    changed = {int(a) // config.rows for a in np.flatnonzero(memory != fake.initial)}
    assert changed <= {address // config.rows for address in fake.expected}
    return completions


ALL = [Opcode.SHIFTMAX, Opcode.SHIFTGELU, Opcode.LAYERNORM]
CONFIGS = [
    {}, {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3},
    {"rows": 6, "cols": 3, "lanes": 3, "vector_lanes": 3, "norm_lanes": 3, "act_bits": 4},
    {"rows": 4, "cols": 4, "lanes": 4, "vector_lanes": 4, "norm_lanes": 4, "gelu": "table",
     "norm": "leading_one"},
    {"attention": "deferred", "gelu": "table"},
    {"attention": "normalised", "gelu": "table", "mult_bits": 31},
    {"attention": "half_16", "gelu": "table"},
    {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3, "pooling": "mean",
     "attention": "sqrt2_16", "norm": "normalised"},
    {"rows": 4, "cols": 4, "lanes": 4, "vector_lanes": 4, "norm_lanes": 4,
     "attention": "single_16", "gelu": "table"},
    {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3, "act_bits": 3,
     "attention": "normalised", "mult_bits": 12, "code_mult_bits": 12},
    {"attention_bits": 8, "mult_bits": 31}, {"act_bits": 2, "weight_bits": 2, "gelu": "table"},
    {"rows": 8, "lanes": 4, "vector_lanes": 4, "norm_lanes": 2, "code_mult_bits": 16},
    {"rows": 8, "lanes": 4, "norm_lanes": 1, "code_mult_bits": 16, "attention": "deferred",
     "norm_roots": 1},
    {"norm": "normalised"},
    {"rows": 8, "lanes": 4, "vector_lanes": 4, "norm_lanes": 2, "code_mult_bits": 16,
     "norm": "normalised", "pooling": "mean"},
    # Results of 4 bits and fewer: with and without a requantizer, of fewer lanes and of as many.
    {"norm": "compared", "act_bits": 4, "gelu": "table"}, {"norm": "compared", "act_bits": 3},
    {"rows": 8, "lanes": 4, "vector_lanes": 4, "norm_lanes": 2, "norm": "compared", "act_bits": 4},
    {"rows": 8, "lanes": 4, "vector_lanes": 4, "norm_lanes": 1, "norm": "compared", "act_bits": 2,
     "gelu": "table", "pooling": "mean"},
    {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3, "norm": "compared",
     "act_bits": 4, "pooling": "mean", "attention": "normalised"},
]
WIDE_NORMS = [
    {"norm": "normalised"}, {"gelu": "table", "attention": "deferred", "norm_roots": 1},
    {"rows": 8, "lanes": 4, "vector_lanes": 4, "norm_lanes": 2, "code_mult_bits": 16,
     "norm": "normalised", "pooling": "mean", "attention": "half_16", "gelu": "table"},
    {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3, "act_bits": 3,
     "attention": "normalised", "mult_bits": 12, "code_mult_bits": 12, "norm": "normalised"},
    {"rows": 8, "lanes": 4, "norm_lanes": 1, "attention_bits": 8, "pooling": "mean"},
]
MEANS = [
    {"bank_depth": 512}, {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3,
                          "attention_bits": 8},
    {"rows": 4, "cols": 4, "lanes": 4, "vector_lanes": 4, "norm_lanes": 4, "gelu": "table"},
    {"rows": 8, "lanes": 4, "vector_lanes": 4, "norm_lanes": 2, "code_mult_bits": 16,
     "attention": "deferred", "gelu": "table"},
    {"rows": 8, "lanes": 4, "vector_lanes": 2, "norm_lanes": 1, "act_bits": 4,
     "code_mult_bits": 12, "gelu": "table", "attention": "normalised"},
]


@pytest.mark.parametrize("fields", CONFIGS)
def test_matches_models(fields):
    rng = random.Random(str(fields))
    fake = Fake(rng.randrange(10**6), **fields)
    for opcode in rng.sample(ALL * 2, 5):
        fake.add(opcode, rng.randint(1, 3), rng.choice([1, 2, 5, 13, rng.randint(1, 40)]),
                 in_place=rng.random() < 0.5)
    simulate(fake, rng)


MASKED = [
    {}, {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3, "act_bits": 4},
    {"rows": 6, "cols": 3, "lanes": 3, "vector_lanes": 3, "norm_lanes": 3, "gelu": "table"},
    {"rows": 4, "cols": 4, "lanes": 4, "vector_lanes": 4, "norm_lanes": 4, "attention_bits": 8},
    {"attention": "deferred", "gelu": "table"},
    {"rows": 8, "lanes": 4, "vector_lanes": 1, "attention": "normalised", "gelu": "table",
     "norm_lanes": 1},
    {"attention": "half_16", "gelu": "table"},
    {"rows": 4, "lanes": 1, "vector_lanes": 1, "norm_lanes": 1, "cols": 3, "pooling": "mean",
     "attention": "sqrt2_16"},
]


@pytest.mark.parametrize("fields", MASKED)
def test_rows_with_some_of_the_keys(fields):
    """One more each row or as many as the first, within a word and beyond; in place or not."""
    rng = random.Random(str(fields))
    fake = Fake(rng.randrange(10**6), masks=True, bank_depth=512, **fields)
    for opcode in rng.sample([Opcode.SHIFTMAX] * 4 + ALL[1:], 6):
        fake.add(opcode, rng.randint(1, 6), rng.choice([1, 2, 5, 13, rng.randint(1, 40)]),
                 in_place=rng.random() < 0.5)
    simulate(fake, rng)


@pytest.mark.slow
def test_masked_rows_take_the_cycles_of_whole_ones():
    fake = Fake(1, bank_depth=1024, masks=True)
    for rows in 2, 5, 13:
        fake.add(Opcode.SHIFTMAX, rows, 40, key_words=1, key_last=1, key_step=1)
    first, second, third = simulate(fake)
    assert (third - second) - (second - first) == pytest.approx(8 * 21, abs=1)


@pytest.mark.parametrize("fields", WIDE_NORMS)
def test_norms_of_16_bits_between_other_operations(fields):
    rng = random.Random(str(fields))
    fake = Fake(rng.randrange(10**6), norm_bits=16, bank_depth=512, **fields)
    operations = [*ALL, *[Opcode.LAYERNORM] * 5, *[Opcode.MEAN] * ("pooling" in fields)]
    for opcode in rng.sample(operations, len(operations)):
        fake.add(opcode, rng.randint(1, 3), rng.choice([1, 2, 5, 13, rng.randint(1, 40)]),
                 in_place=opcode != Opcode.LAYERNORM and rng.random() < 0.5)
    simulate(fake, rng)
    bits = [values["out_bits"] for opcode, values in fake.instructions
            if opcode == Opcode.LAYERNORM]
    assert min(bits) <= 8 < max(bits)


@pytest.mark.slow
@pytest.mark.parametrize("fields", MEANS)
def test_means_between_other_operations(fields):
    rng = random.Random(str(fields))
    fake = Fake(rng.randrange(10**6), pooling="mean", **fields)
    for opcode in rng.sample(ALL + [Opcode.MEAN] * 6, 9):
        fake.add(opcode, rng.randint(1, 4), rng.choice([1, 2, 5, 13, rng.randint(1, 40)]),
                 in_place=rng.random() < 0.5)
    simulate(fake, rng)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "wide", "out_bits"), [(1, 0, 8), (3, 1, 8), (3, 0, 16),
                                                        (1, 1, 16), (3, 1, 16)])
def test_mean_in_place(rows, wide, out_bits):
    """Over the rows it reads, without stalls: each result follows its operands closely."""
    fake = Fake(rows, pooling="mean", code_mult_bits=12)
    for n in 3, 12, 40:
        fake.add(Opcode.MEAN, rows, n, in_place=True, wide=wide, out_bits=out_bits)
    simulate(fake)


@pytest.mark.slow
@pytest.mark.parametrize(("opcode", "cycles"), [
    (Opcode.SHIFTMAX, 21), (Opcode.SHIFTGELU, 21), (Opcode.LAYERNORM, 35.5)])
def test_without_stalls_and_cycles_per_row(opcode, cycles):
    """A beat a cycle, for ShiftGELU one more a row; four roots share the LayerNorms.

    The last word of a row is two beats, and takes three cycles to write in two planes.
    """
    fake = Fake(1, bank_depth=1024, code_mult_bits=16)
    for rows, n in (2, 7), (5, 40), (5, 40), (13, 40):
        fake.add(opcode, rows, n)
    *_, before, first, second = simulate(fake)
    assert (second - first) - (first - before) == pytest.approx(8 * cycles, abs=1)


@pytest.mark.slow
def test_normalised_rows_take_the_cycles_of_their_beats():
    fake = Fake(2, bank_depth=1024, code_mult_bits=16, norm="normalised")
    for rows in 2, 5, 13:
        fake.add(Opcode.LAYERNORM, rows, 40)
    first, second, third = simulate(fake)
    assert (third - second) - (second - first) == pytest.approx(8 * 20, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "cycles"), [(6, 42), (40, 42), (96, 48)])
def test_compared_rows_take_the_cycles_of_their_beats_or_edges(n, cycles):
    """Of 2 elements; the edges of 4 bits take 42 cycles."""
    fake = Fake(3, bank_depth=2048, norm="compared", act_bits=4, gelu="table", max_row=96)
    for rows in 2, 5, 13:
        fake.add(Opcode.LAYERNORM, rows, n)
    first, second, third = simulate(fake)
    assert (third - second) - (second - first) == pytest.approx(8 * cycles, abs=1)


@pytest.mark.parametrize(("bits", "count"), [(8, 2), (4, 4), (5, 4), (2, 8)])
def test_reference_digits_are_in_range(bits, count):
    assert digit_count(16, bits) == count
    values = np.arange(2**15)
    planes = digits_of(values, bits, count)
    assert (sum(plane << bits * k for k, plane in enumerate(planes)) == values).all()
    assert all(-(1 << bits - 1) <= p.min() and p.max() < 1 << bits - 1 for p in planes[:-1])
    assert planes[-1].min() >= 0
    assert planes[-1].max() < 1 << bits
