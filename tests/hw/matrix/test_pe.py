# amaranth: UnusedElaboratable=no
import random

import pytest
from amaranth import Const, Instance, Module
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from systola.hw.contract.dsp_packing import plan_packing
from systola.hw.matrix import pe
from systola.hw.matrix.pe import PackedElement, ProcessingElement
from systola.hw.parts.target import Primitives
from systola.sim.harness import run

WIDTHS = [(8, 8), (2, 2), (4, 4), (2, 8), (8, 2), (3, 5), (5, 3), (7, 6)]


def simulate(style, act_bits, weight_bits, steps):
    """Return psum_out and act_out of every cycle; a step is (act, psum, w, load, swap)."""
    dut = ProcessingElement(act_bits=act_bits, weight_bits=weight_bits,
                            psum_bits=act_bits + weight_bits + 3, style=style)
    seen = []

    async def testbench(ctx):
        for act, psum, w, load, swap in [*steps, *[(0, 0, 0, 0, 0)] * 3]:
            for port, value in zip((dut.act, dut.psum, dut.w, dut.load, dut.swap),
                                   (act, psum, w, load, swap), strict=True):
                ctx.set(port, value)
            seen.append((ctx.get(dut.psum_out), ctx.get(dut.act_out)))
            await ctx.tick()

    run(dut, testbench)
    return seen


@pytest.mark.parametrize("style", ["dsp", "lut"])
@pytest.mark.parametrize(("act_bits", "weight_bits"), WIDTHS)
def test_matches_multiply_accumulate(style, act_bits, weight_bits):
    rng = random.Random(act_bits * 10 + weight_bits)
    acts = [-2**(act_bits - 1), 2**act_bits - 1, 2**(act_bits - 1) - 1, -1, 0, 1]
    weights = [-2**(weight_bits - 1), 2**(weight_bits - 1) - 1, -1, 0, 1]
    psum = 2**(act_bits + weight_bits + 1)
    steps = [(act, edge, w, 1, 1) for w in weights for act in acts for edge in (-psum, psum)]
    steps += [(rng.randint(acts[0], acts[1]), rng.randint(-psum, psum),
               rng.randint(weights[0], weights[1]), rng.random() < 0.5, rng.random() < 0.3)
              for _ in range(300)]
    seen = simulate(style, act_bits, weight_bits, steps)
    shadow = active = 0
    for cycle, (act, _, w, load, swap) in enumerate(steps):
        active = shadow if swap else active
        shadow = w if load else shadow
        if cycle + 2 < len(steps):
            assert seen[cycle + 3][0] == steps[cycle + 2][1] + act * active, cycle
        assert seen[cycle + 1][1] == act


@pytest.mark.parametrize(("change", "message"), [
    ({"act_bits": 1}, r"^act_bits must be an integer from 2 to 8, not 1$"),
    ({"weight_bits": 9}, r"^weight_bits must be an integer from 2 to 8, not 9$"),
    ({"psum_bits": 15}, r"^psum_bits must be an integer of at least 16, not 15$"),
    ({"style": "fast"}, r"^style must be 'dsp' or 'lut', not 'fast'$"),
])
def test_error_names_the_parameter(change, message):
    good = {"act_bits": 8, "weight_bits": 8, "psum_bits": 20, "style": "dsp"}
    with pytest.raises(ValueError, match=message):
        ProcessingElement(**{**good, **change})


PLANS = [plan_packing(8, 8, 24), plan_packing(3, 3, 8, max_tokens=3, least_gap=2)]


def _side_by_side(values, offsets):
    return sum(value << offset for value, offset in zip(values, offsets, strict=True))


def simulate_packed(plan, steps, link):
    """Return the sum, act_out of every cycle; a step is (acts, psum, weights, load, swap)."""
    dut = PackedElement(plan, link=link, passes=link == "cascade")
    total = dut.cascade if link == "cascade" else dut.psum_out
    seen = []
    mask = (1 << plan.act_bits + 1) - 1

    async def testbench(ctx):
        idle = [[0] * plan.tokens, 0, [0] * plan.group, 0, 0]
        for acts, psum, weights, load, swap in [*steps, *[idle] * 3]:
            bits, exact = plan.act_bits + 1, _side_by_side(acts, plan.token_offsets)
            ctx.set(dut.act, sum((exact >> p & (1 << bits) - 1) << k * bits
                                 for k, p in enumerate(plan.token_offsets)))
            for port, value in ((dut.w, _side_by_side(weights, plan.weight_offsets)),
                                (dut.psum, psum), (dut.load, load), (dut.swap, swap)):
                ctx.set(port, value)
            seen.append((ctx.get(total), ctx.get(dut.act_out) & mask))
            await ctx.tick()

    run(dut, testbench)
    return seen


@pytest.mark.parametrize("link", ["none", "cascade", "fabric"])
@pytest.mark.parametrize("plan", PLANS, ids=["8x8", "3x3"])
def test_packed_matches_multiply_accumulate(plan, link):
    rng = random.Random(link)
    w, x = 2**(plan.weight_bits - 1) - 1, 2**(plan.act_bits - 1)
    limit = sum((plan.rows - 1) * w * x << field.offset for field in plan.fields)
    steps = [([rng.choice((-x, x, 0, rng.randint(-x, x))) for _ in range(plan.tokens)],
              rng.randint(-limit, limit),
              [rng.choice((-w, w, 0, rng.randint(-w, w))) for _ in range(plan.group)],
              rng.random() < 0.5, rng.random() < 0.3) for _ in range(400)]
    seen = simulate_packed(plan, steps, link)
    shadow = active = [0] * plan.group
    for cycle, (acts, _, weights, load, swap) in enumerate(steps):
        active = shadow if swap else active
        shadow = weights if load else shadow
        if cycle + 2 < len(steps):
            assert seen[cycle + 3][0] == (0 if link == "none" else steps[cycle + 2][1]) + sum(
                active[field.weight] * acts[field.token] << field.offset
                for field in plan.fields), cycle
        assert seen[cycle + 1][1] == acts[0] & 2 * (2 * x) - 1


class Seen(wiring.Component):
    """A cell whose `cascade` is seen as far as the sums of a column reach."""

    def __init__(self, cell):
        self.cell = cell
        super().__init__({**cell.signature.members, **(
            {"cascade": Out(cell.packing.packed_bits)} if cell.passes else {})})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cell = self.cell
        for name, member in self.cell.signature.members.items():
            own, inner = getattr(self, name), getattr(self.cell, name)
            m.d.comb += own.eq(inner) if member.flow == Out else inner.eq(own)
        return m


def equivalent(cell, prove):
    """Return whether the primitive, by its vendor's model, equals the plain logic."""
    plain, primitive = (rtlil.convert(Seen(cell), name=name, platform=platform, emit_src=False)
                        for name, platform in (("plain", None), ("slice", Primitives("xc7"))))
    assert [text.count("cell \\DSP48E1") for text in (plain, primitive)] == [0, 1]
    return prove(plain, primitive, "+/xilinx/cells_sim.v")


@pytest.mark.parametrize("passes", [False, True])
@pytest.mark.parametrize("link", ["none", "cascade", "fabric"])
@pytest.mark.parametrize("plan", PLANS, ids=["8x8", "3x3"])
def test_slice_equals_plain_logic(plan, link, passes, equal_to_plain):
    assert equivalent(PackedElement(plan, link=link, passes=passes), equal_to_plain)


@pytest.mark.parametrize(("link", "fault"), [
    ("fabric", {"p_AREG": 1}), ("fabric", {"p_BREG": 2}), ("fabric", {"p_CREG": 1}),
    ("fabric", {"i_OPMODE": Const(0b0000101, 7)}), ("cascade", {"i_OPMODE": Const(0b0110101, 7)}),
    ("fabric", {"i_OPMODE": Const(0b0010101, 7)}), ("none", {"i_OPMODE": Const(0b0100101, 7)})])
def test_a_wrong_slice_is_found(link, fault, equal_to_plain, monkeypatch):
    class Faulty(Instance):
        def __init__(self, kind, **members):
            super().__init__(kind, **{**members, **(fault if kind == "DSP48E1" else {})})

    monkeypatch.setattr(pe, "Instance", Faulty)
    assert not equivalent(PackedElement(PLANS[0], link=link), equal_to_plain)


@pytest.mark.parametrize("link", ["none", "cascade", "fabric"])
def test_only_the_sum_is_cascaded(link):
    text = rtlil.convert(PackedElement(PLANS[0], link=link), platform=Primitives("xc7"),
                         emit_src=False)
    assert "connect \\C " in text
    assert ("connect \\PCIN " in text) == (link == "cascade")
    for name in "ACIN", "BCIN", "CARRYCASCIN", "MULTSIGNIN", "PCOUT":
        assert f"connect \\{name} " not in text


def test_pins_that_a_tool_might_leave_open_are_driven():
    """By a register that Yosys leaves alone, though it never changes."""
    text = rtlil.convert(PackedElement(PLANS[0]), platform=Primitives("xc7"), emit_src=False)
    lines = [line.strip() for line in text.replace(" [0]", "").splitlines()]
    start = next(k for k, line in enumerate(lines) if line.startswith("cell \\FDRE "))
    assert lines[start - 1] == "attribute \\keep 1"
    assert {"connect \\D \\low", "connect \\Q \\low"} <= set(lines[start:])
    assert "connect \\INMODE { \\low \\low \\low \\low \\low }" in lines
    assert "connect \\ALUMODE { \\low \\low 2'00 }" in lines
    assert "connect \\OPMODE { \\low 6'110101 }" in lines


def test_link_is_refused():
    with pytest.raises(ValueError, match=r"^link must be 'none' or 'cascade' or 'fabric', not 'C'"):
        PackedElement(PLANS[0], link="C")


def test_family_of_primitives():
    with pytest.raises(ValueError, match=r"^family must be 'xc7' or 'ecp5', not 'ice40'$"):
        Primitives("ice40")
