# amaranth: UnusedElaboratable=no
"""The packing planner: exhaustive over operand extremes, and its logic proved by Yosys' `sat`."""

import functools
import itertools
import random
import subprocess

import pytest
from amaranth import Cat, Module
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.contract import dsp_packing as planner
from systola.hw.contract.dsp_packing import (
    DSP48E1,
    ECP5,
    Packing,
    PackingError,
    field_ranges,
    plan_chains,
    plan_packing,
)
from systola.hw.matrix import unwrap
from systola.hw.matrix.unwrap import next_count, pack_fields, split_fields, spread_fields
from systola.hw.verilog import find_yosys

WIDTHS = [(8, 8), (4, 8), (4, 4), (3, 3), (2, 2)]


@functools.cache
def plans(rows):
    """Return every plan for columns of `rows` slices that the planner can return, once."""
    found = {}
    for w, a in itertools.product(range(2, 9), repeat=2):
        for options in itertools.product((DSP48E1, ECP5), (1, 4), (1, 2), (None, 8, 12)):
            arguments = dict(zip(("dsp", "max_tokens", "least_gap", "cols"), options, strict=True))
            try:
                found.setdefault(plan_packing(w, a, rows, **arguments), arguments["dsp"])
            except PackingError:
                pass
    return found


def bounds(plan):
    """Return the greatest weight and activation."""
    return 2**(plan.weight_bits - 1) - 1, 2**(plan.act_bits - 1)


def unwrapped(plan, rows):
    """Return the sums of all fields, computed from a column's packed sums as the hardware does.

    `rows` has the operands of each row, ``(weights, activations)``. Integers only, nothing shared
    with the hardware's description.
    """
    total, below = 0, [0]
    for weights, acts in rows:
        total += (sum(w << p for w, p in zip(weights, plan.weight_offsets, strict=True))
                  * sum(x << q for x, q in zip(acts, plan.token_offsets, strict=True)))
        below.append(total)
    counts, sums = [], []
    for field in plan.fields[:-1]:
        top, unit = field.offset + field.width, max(field.seen, 1)
        seen = [below[n] >> top - unit & (1 << unit) - 1 for n in (field.first, *field.taps)]
        count = -(seen[0] >> unit - 1)
        for before, now in itertools.pairwise(seen):
            change = (now - before + (1 << unit - 1)) % (1 << unit) - (1 << unit - 1)
            count += (before + change) >> unit
        counts.append(count)
    for index, field in enumerate(plan.fields):
        bits = total >> field.offset
        if index < len(counts):
            bits = bits % (1 << field.width) + (counts[index] << field.width)
        sums.append(bits - (counts[index - 1] if index else 0))
    return sums


def fits(value, bits):
    return -1 << bits - 1 <= value < 1 << bits - 1


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 16, 24, 128])
def test_every_plan_is_exact_at_all_operand_extremes(rows):
    for plan, dsp in plans(rows).items():
        w, x = bounds(plan)
        offsets = [p + q for p in plan.weight_offsets for q in plan.token_offsets]
        assert sorted(offsets) == [field.offset for field in plan.fields]
        weights = itertools.product((-w, w), repeat=plan.group)
        acts = list(itertools.product((-x, x), repeat=plan.tokens))
        for ws, xs in itertools.product(weights, acts):
            a = sum(v << p for v, p in zip(ws, plan.weight_offsets, strict=True))
            b = sum(v << q for v, q in zip(xs, plan.token_offsets, strict=True))
            assert fits(a, dsp.weight_port)
            assert fits(b, dsp.act_port)
            assert fits(rows * a * b, dsp.sum_port)
            assert fits(rows * a * b, plan.packed_bits)
            assert unwrapped(plan, [(ws, xs)] * rows) == [
                rows * ws[field.weight] * xs[field.token] for field in plan.fields]


@pytest.mark.parametrize("seed", range(3))
def test_every_plan_is_exact_for_extreme_columns(seed):
    rng = random.Random(seed)
    for plan in plans(23):
        w, x = bounds(plan)
        rows, calm = [], 0
        while len(rows) < 23:  # runs of equal extremes, of any length
            calm = calm or rng.randint(1, 12)
            if not rows or calm == 1:
                ends = [rng.choice((-w, w)) for _ in range(plan.group)], [
                    rng.choice((-x, x)) for _ in range(plan.tokens)]
            rows.append(ends if rng.random() < 0.9 else (
                [rng.randint(-w, w) for _ in range(plan.group)],
                [rng.randint(-x, x) for _ in range(plan.tokens)]))
            calm -= 1
        assert unwrapped(plan, rows) == [
            sum(ws[field.weight] * xs[field.token] for ws, xs in rows) for field in plan.fields]


def test_chains_are_few_and_even():
    assert plan_chains(24, 10) == [8, 8, 8]
    assert plan_chains(16, 10) == [8, 8]
    assert plan_chains(23, 10) == [8, 8, 7]
    assert plan_chains(3, 1) == [1, 1, 1]
    for rows in range(1, 70):
        for longest in range(1, 20):
            chains = plan_chains(rows, longest)
            assert sum(chains) == rows
            assert len(chains) == -(-rows // longest)
            assert max(chains) <= longest
            assert max(chains) - min(chains) <= 1


def test_products_per_slice_as_published():
    assert [plan_packing(w, a, 24, max_tokens=4, least_gap=2).macs_per_dsp
            for w, a in WIDTHS] == [2, 2, 4, 6, 8]
    assert [plan_packing(w, a, 24, cols=8).macs_per_dsp for w, a in WIDTHS] == [2, 2, 4, 4, 8]
    # Where the fields are wide enough for the whole column, there is nothing to look at.
    assert not any(field.taps for field in plan_packing(4, 8, 1024).fields)
    assert any(field.taps for field in plan_packing(4, 8, 1400).fields)


def test_weights_of_a_slice_divide_the_columns():
    for cols in range(2, 20):
        try:
            assert cols % plan_packing(3, 3, 16, cols=cols).group == 0
        except PackingError:
            assert all(cols % group for group in range(2, 6))


@pytest.mark.parametrize(("arguments", "numbers"), [
    ({"weight_bits": 8, "act_bits": 8, "dsp": ECP5}, ["16256", "15", "23", "18"]),
    ({"weight_bits": 8, "act_bits": 8, "cols": 9}, ["9 columns"]),
    ({"weight_bits": 8, "act_bits": 8, "least_gap": 5}, ["18", "26", "25"]),
])
def test_refusal_has_the_reason_and_the_numbers(arguments, numbers):
    with pytest.raises(PackingError) as error:
        plan_packing(rows=16, **arguments)
    assert isinstance(error.value, ValueError)
    assert all(number in str(error.value) for number in numbers)


@pytest.mark.parametrize(("name", "value"), [
    ("weight_bits", 9), ("act_bits", 1), ("rows", 0), ("cols", -2), ("max_tokens", 0),
    ("least_gap", 1.5)])
def test_error_names_the_parameter(name, value):
    good = {"weight_bits": 8, "act_bits": 8, "rows": 16, "cols": 8}
    with pytest.raises(ValueError, match=rf"^{name} must be an integer from .* not {value}$"):
        plan_packing(**{**good, name: value})


class Claim(wiring.Component):
    """A statement about the free inputs `x`: ``assumed`` implies ``right``."""

    def __init__(self, widths, state):
        self.state, self.widths = state, widths
        super().__init__({"x": In(sum(widths)), "assumed": Out(1), "right": Out(1)})

    def elaborate(self, platform):
        m, values, start = Module(), [], 0
        for width in self.widths:
            values.append(self.x[start:start + width].as_signed())
            start += width
        assumed, right = self.state(values)
        m.d.comb += [self.assumed.eq(Cat(assumed).all()), self.right.eq(Cat(right).all())]
        return m


def proved(claims, folder):
    """Return whether Yosys proves all `claims`; anything but a proof or a counterexample raises."""
    script = []
    for k, claim in enumerate(claims):
        (folder / f"claim{k}.il").write_text(rtlil.convert(claim, name=f"claim{k}",
                                                           emit_src=False))
        script += [f"read_rtlil claim{k}.il", f"prep -top claim{k}",
                   f"sat -verify -set assumed 1 -prove right 1 claim{k}", "design -reset"]
    (folder / "run.ys").write_text("\n".join(script))
    done = subprocess.run([find_yosys(), "-s", "run.ys"], cwd=folder, capture_output=True,
                          text=True, check=False)
    proofs = done.stdout.count("SAT proof finished - no model found: SUCCESS!")
    if done.returncode:
        assert "proof finished - model found: FAIL!" in done.stdout, done.stdout + done.stderr
        return False
    assert proofs == len(claims)
    return True


def within(value, bound):
    return (value >= -bound) & (value <= bound)


def product(plan):
    w, x = bounds(plan)
    return w * x


def below(plan, index, rows):
    """Return what all fields below `index` together add to it at most in `rows` rows, as units."""
    total = sum(rows * product(plan) << field.offset for field in plan.fields[:index])
    return -(-total >> plan.fields[index].offset)


def signed_bits(bound):
    return bound.bit_length() + 1


def count_bits(plan, index, rows):
    low, high = plan.count_range(index, rows)
    return signed_bits(max(-low - 1, high))


def step_claims(plan):
    """State for taps: from a right count, the next one is right, whatever comes between.

    Free are the field's sum and what those below it carry into it at one look, and how the rows in
    between change both. Only the first and last tap: those between differ in the lengths of counts.
    """
    claims = []
    for index, field in enumerate(plan.fields[:-1]):
        looks = itertools.pairwise((field.first, *field.taps))
        for above, rows in {look[1]: look for look in looks if look[1] in (
                field.taps[0], field.taps[-1])}.values():
            ends = [bound for count in (above, rows - above)
                    for bound in (count * product(plan), below(plan, index, count))]

            def state(values, field=field, index=index, above=above, rows=rows, ends=ends):
                own, carry, own_change, carry_change = values
                before = own + carry
                after = before + own_change + carry_change
                seen = [(value >> field.width - field.seen)[:field.seen]
                        for value in (before, after)]
                known = (before >> field.width)[:count_bits(plan, index, above)].as_signed()
                found = next_count(known, *seen, count_bits(plan, index, rows))
                return ([within(*pair) for pair in zip(values, ends, strict=True)],
                        [found == after >> field.width])

            claims.append(Claim([signed_bits(end) for end in ends], state))
    return claims


def first_claims(plan):
    """State that the first count is the top bit of what the first look sees."""
    claims = []
    for index, field in enumerate(plan.fields[:-1]):
        ends = [field.first * product(plan), below(plan, index, field.first)]

        def state(values, field=field, ends=ends):
            total = values[0] + values[1]
            return ([within(*pair) for pair in zip(values, ends, strict=True)],
                    [(total >> field.width - 1)[:1].as_signed() == total >> field.width])

        claims.append(Claim([signed_bits(end) for end in ends], state))
    return claims


def split_claim(plan, split=split_fields):
    """State that the final counts give every field's sum."""
    reach = plan.rows * product(plan)

    def state(values):
        totals = list(itertools.accumulate(
            value << field.offset for value, field in zip(values, plan.fields, strict=True)))
        counts = [(totals[k] >> field.offset + field.width)[
            :count_bits(plan, k, plan.rows)].as_signed()
            for k, field in enumerate(plan.fields[:-1])]
        sums = split(plan, totals[-1][:plan.packed_bits].as_signed(), counts)
        return ([within(value, reach) for value in values],
                [a == b for a, b in zip(sums, values, strict=True)])

    return Claim([signed_bits(reach)] * len(plan.fields), state)


def pack_claims(plan, least=0):
    """State that what enters the multiplier is the exact sum of shifted operands.

    Weights from -W - `least` on.
    """
    w, x = bounds(plan)
    claims = []
    for offsets, bits, low, high in ((plan.weight_offsets, plan.weight_bits, -w - least, w),
                                     (plan.token_offsets, plan.act_bits + 1, -x, x)):
        def state(values, offsets=offsets, bits=bits, low=low, high=high):
            got = spread_fields(pack_fields(values, bits), offsets, offsets[-1] + bits)
            want = sum(value << offset for value, offset in zip(values, offsets, strict=True))
            return ([(value >= low) & (value <= high) for value in values], [got == want])

        claims.append(Claim([bits] * len(offsets), state))
    return claims


def required(rows=24):
    found = [plan_packing(w, a, rows, max_tokens=4, least_gap=2) for w, a in WIDTHS]
    return found + [plan_packing(w, a, rows, cols=8) for w, a in WIDTHS]


def test_range_of_the_counts():
    for plan in required():
        for index, field in enumerate(plan.fields[:-1]):
            low, high = field_ranges(plan.fields, plan.rows, product(plan))[index]
            assert plan.count_range(index, plan.rows) == (low >> field.width, high >> field.width)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [16, 24])
def test_operands_enter_exactly(rows, tmp_path):
    assert proved([claim for plan in required(rows) for claim in pack_claims(plan)], tmp_path)


@pytest.mark.parametrize("index", range(10))
def test_counts_and_split_are_exact_for_all_values(index, tmp_path):
    plan = required()[index]
    assert proved([*first_claims(plan), *step_claims(plan), split_claim(plan)], tmp_path)


def faulty(plan, **changes):
    """Return `plan` with its lowest field changed."""
    fields = [planner.Field(**{**vars(plan.fields[0]), **changes}), *plan.fields[1:]]
    return Packing(**{**vars(plan), "fields": tuple(fields)})


def test_a_weight_below_the_range_is_found(tmp_path):
    plan = plan_packing(8, 8, 24)
    assert not proved(pack_claims(plan, least=1), tmp_path)


def test_a_tap_too_far_is_found(tmp_path):
    plan = plan_packing(8, 8, 24)
    field = plan.fields[0]
    later = faulty(plan, taps=(field.first + field.taps[1] - field.taps[0] + 2, *field.taps[1:]))
    assert not proved(step_claims(later), tmp_path)


def test_a_first_look_too_late_is_found(tmp_path):
    assert not proved(first_claims(faulty(plan_packing(8, 8, 24), first=5)), tmp_path)


def test_a_wrong_wrap_is_found(tmp_path, monkeypatch):
    def deaf(count, before, now, bits):  # to steps of half the range
        return unwrap.next_count(count, before, Cat(now[:-1], now[-1] & before[-1]), bits)

    monkeypatch.setitem(globals(), "next_count", deaf)
    assert not proved(step_claims(plan_packing(8, 8, 24)), tmp_path)


def test_a_forgotten_carry_is_found(tmp_path):
    plan = plan_packing(8, 8, 24)

    def forget(plan, total, counts):
        return unwrap.split_fields(plan, total, [count & 1 for count in counts])

    assert not proved([split_claim(plan, forget)], tmp_path)
